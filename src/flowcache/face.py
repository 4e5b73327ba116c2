"""The functions and types that the compiled core calls, by their names in this module."""

from __future__ import annotations

from .coroutines import check_sync, is_async, plain_result
from .events import dispatch, subscribe
from .inspection import Child, Children, Inspection
from .limits import Limits
from .listing import Items, KeysView, Values
from .loading import (
    ABANDONED,
    Loaded,
    aanswer,
    afetch,
    afetch_many,
    afetch_rest,
    arefresh,
    block_loop,
    fetch,
    fetch_many,
    fetch_rest,
    finish_led,
    forget_failures,
    load_anew,
    load_missing,
    refresh,
    run_of,
    settle_led,
    unblock_loop,
    wake,
)
from .stats import Stats
from .tenancy import for_current_tenant, names_in
from .wrapping import cached, wrap

__all__ = [
    "ABANDONED",
    "Child",
    "Children",
    "Inspection",
    "Items",
    "KeysView",
    "Limits",
    "Loaded",
    "Stats",
    "Values",
    "aanswer",
    "afetch",
    "afetch_many",
    "afetch_rest",
    "arefresh",
    "block_loop",
    "cached",
    "check_sync",
    "dispatch",
    "fetch",
    "fetch_many",
    "fetch_rest",
    "finish_led",
    "for_current_tenant",
    "forget_failures",
    "is_async",
    "load_anew",
    "load_missing",
    "names_in",
    "plain_result",
    "refresh",
    "run_of",
    "settle_led",
    "subscribe",
    "unblock_loop",
    "wake",
    "wrap",
]
