"""What the compiled core calls of the Python half. It is given this module, and knows the names."""

from __future__ import annotations

from .coroutines import check_sync, is_async, plain_result
from .events import dispatch, subscribe
from .inspection import Child, Children, Inspection
from .limits import Limits
from .listing import Items, KeysView, Values
from .loading import afetch, afetch_many, arefresh, fetch, fetch_many, fetch_miss, refresh
from .stats import Stats
from .tenancy import for_current_tenant, names_in
from .wrapping import cached, wrap

__all__ = [
    "Child",
    "Children",
    "Inspection",
    "Items",
    "KeysView",
    "Limits",
    "Stats",
    "Values",
    "afetch",
    "afetch_many",
    "arefresh",
    "cached",
    "check_sync",
    "dispatch",
    "fetch",
    "fetch_many",
    "fetch_miss",
    "for_current_tenant",
    "is_async",
    "names_in",
    "plain_result",
    "refresh",
    "subscribe",
    "wrap",
]
