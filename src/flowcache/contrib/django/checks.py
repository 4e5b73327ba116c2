"""System checks for settings that work in development, and lose or mix data in production."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.utils.module_loading import import_string

from .backend import FlowCache
from .middleware import TenantMiddleware

__all__ = ["check_order_of_middleware", "check_sessions"]

SESSION_ENGINES = {
    "django.contrib.sessions.backends.cache": (
        "Each process has its own sessions: a request to another process is logged out."
    ),
    "django.contrib.sessions.backends.cached_db": (
        "Each process keeps its own copy of a session. A change or a log-out that another "
        "process served is not seen until the copy expires."
    ),
}
CACHING_MIDDLEWARE = (
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
    "django.middleware.cache.CacheMiddleware",
)


def check_sessions(**_: Any) -> list[CheckMessage]:
    """Warn of sessions in a cache that a process shares with no other."""
    consequence = SESSION_ENGINES.get(settings.SESSION_ENGINE)
    alias = settings.SESSION_CACHE_ALIAS
    cache = settings.CACHES.get(alias, {})
    if consequence is None or not is_class(cache.get("BACKEND"), FlowCache):
        return []
    if isinstance(given := cache.get("OPTIONS"), Mapping) and given.get("TIER") is not None:
        return []
    return [
        CheckWarning(
            f"SESSION_ENGINE keeps sessions in CACHES[{alias!r}], the memory of one process. "
            + consequence,
            hint="Give that cache OPTIONS['TIER'], let SESSION_CACHE_ALIAS name another that all "
            "processes share, or set "
            "SESSION_ENGINE to 'django.contrib.sessions.backends.db'.",
            id="flowcache.W001",
        )
    ]


def check_order_of_middleware(**_: Any) -> list[CheckMessage]:
    """Refuse middleware that caches responses before a request's tenant is known."""
    before: list[str] = []
    for path in settings.MIDDLEWARE:
        if is_class(path, TenantMiddleware):
            break
        before.append(path)
    else:
        return []
    return [
        Error(
            f"MIDDLEWARE: {path} stands before TenantMiddleware, so it keeps the responses of all "
            "tenants in one place.",
            hint="Put flowcache.contrib.django.TenantMiddleware before it.",
            id="flowcache.E001",
        )
        for path in before
        if path in CACHING_MIDDLEWARE
    ]


def is_class(path: Any, wanted: type) -> bool:
    """Tell whether a dotted path leads to a class or one made from it."""
    try:
        found = import_string(path) if isinstance(path, str) else None
    except ImportError:
        return False  # Django's own start tells of it.
    return isinstance(found, type) and issubclass(found, wanted)
