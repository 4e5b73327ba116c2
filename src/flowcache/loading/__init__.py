"""Loading: one run of a loader for all who ask, in threads, tasks and several event loops.

Each module imports only those that stand before it:

- `options`: the options of a call, and their meaning for a value that is held
- `copying`: an exception for each caller
- `load`: one running load of one key; waiting for it
- `deadlock`: loads that would wait for each other
- `backoff`: keys whose background load failed
- `run`: one run of a loader, for one key or for many
- `pool`: the threads of background loads
- `attempt`: one attempt of a call to be answered
- `single`, `batch`: the calls for one key, and for many
"""

from .batch import afetch_many, fetch_many
from .options import Loaded
from .single import afetch, afetch_miss, arefresh, fetch, fetch_miss, refresh

__all__ = [
    "Loaded",
    "afetch",
    "afetch_many",
    "afetch_miss",
    "arefresh",
    "fetch",
    "fetch_many",
    "fetch_miss",
    "refresh",
]
