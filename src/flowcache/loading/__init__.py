"""Loading: one run of a loader for all callers, in threads, tasks and several event loops.

Each module imports only those that stand before it:

- `options`: a call, and the results of its loader
- `around`: the context manager around a loader
- `copying`: an exception for each caller
- `load`: the outcome of a load; waiting for it
- `deadlock`: loads that would wait for each other
- `backoff`: keys whose background load failed
- `overdue`: threads that callers left behind
- `run`: one run of a loader, for one key or for many
- `pool`: the threads of background loads
- `attempt`: one attempt of a call to be answered
- `single`, `batch`: the calls for one key, and for many
"""

from .backoff import forget_failures, is_backing_off, was_cut_off
from .batch import afetch_many, afetch_rest, fetch_many, fetch_rest
from .load import ABANDONED, Outcome, wake
from .options import MISSING, Loaded, unpack_checked
from .run import run_of
from .single import (
    aanswer,
    afetch,
    arefresh,
    fetch,
    finish_led,
    load_anew,
    load_missing,
    refresh,
    settle_led,
)

__all__ = [
    "ABANDONED",
    "MISSING",
    "Loaded",
    "Outcome",
    "aanswer",
    "afetch",
    "afetch_many",
    "afetch_rest",
    "arefresh",
    "fetch",
    "fetch_many",
    "fetch_rest",
    "finish_led",
    "forget_failures",
    "is_backing_off",
    "load_anew",
    "load_missing",
    "refresh",
    "run_of",
    "settle_led",
    "unpack_checked",
    "wake",
    "was_cut_off",
]
