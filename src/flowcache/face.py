"""What the compiled core calls of the Python half. It is given this module, and knows the names."""

from __future__ import annotations

from .coroutines import is_async
from .events import dispatch, subscribe
from .limits import Limits
from .listing import Items, KeysView, Values
from .loading import afetch, afetch_many, arefresh, fetch, fetch_many, fetch_miss, refresh
from .stats import Stats
from .tenancy import for_current_tenant
from .wrapping import cached, wrap

__all__ = [
    "Items",
    "KeysView",
    "Limits",
    "Stats",
    "Values",
    "afetch",
    "afetch_many",
    "arefresh",
    "cached",
    "dispatch",
    "fetch",
    "fetch_many",
    "fetch_miss",
    "for_current_tenant",
    "is_async",
    "refresh",
    "subscribe",
    "wrap",
]
