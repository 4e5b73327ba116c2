"""The functions and types that the compiled core calls, by their names in this module."""

from __future__ import annotations

from .coroutines import check_sync, is_async, plain_result
from .events import dispatch, subscribe
from .inspection import Advice, Child, Children, Inspection
from .limits import Limits
from .listing import Items, KeysView, Values
from .loading import (
    ABANDONED,
    Loaded,
    Outcome,
    aanswer,
    afetch,
    afetch_many,
    afetch_rest,
    arefresh,
    fetch,
    fetch_many,
    fetch_rest,
    finish_led,
    forget_failures,
    is_backing_off,
    load_anew,
    load_missing,
    refresh,
    run_of,
    settle_led,
    unpack_checked,
    wake,
    was_cut_off,
)
from .stats import Stats
from .tenancy import for_current_tenant, names_in
from .wrapping import cached, wrap

__all__ = [
    "ABANDONED",
    "Advice",
    "Child",
    "Children",
    "Inspection",
    "Items",
    "KeysView",
    "Limits",
    "Loaded",
    "Outcome",
    "Stats",
    "Values",
    "aanswer",
    "afetch",
    "afetch_many",
    "afetch_rest",
    "arefresh",
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
    "is_backing_off",
    "load_anew",
    "load_missing",
    "names_in",
    "plain_result",
    "refresh",
    "run_of",
    "settle_led",
    "subscribe",
    "unpack_checked",
    "wake",
    "was_cut_off",
    "wrap",
]
