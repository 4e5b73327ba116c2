"""The live page: how a cache fares, for its operators and for each of its tenants.

page = CachePage(cache, authorize=who_asks)      # an ASGI application; `page.wsgi` is one for WSGI
shown = show(cache, "/run/crm")                  # for `flowcache top`, and for pages of others
"""

from __future__ import annotations

from .app import ADMIN, CachePage, Request, show

__all__ = ["ADMIN", "CachePage", "Request", "show"]
