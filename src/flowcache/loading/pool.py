"""The threads that run the background loads of threads."""

from __future__ import annotations

import contextvars
import os
import threading
from queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context

    from .run import Run

__all__ = ["submit"]

THREADS = 4


class Pool:
    """A few daemon threads, made when they are first needed. They never hold up the exit."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Context, Run]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Re-entrant: a finalizer that fetches may run while it is held.
        self._lock = threading.RLock()

    def submit(self, run: Run) -> None:
        """Run the run in a copy of the caller's context; `RuntimeError` if no thread starts."""
        with self._lock:
            if len(self._threads) < THREADS:
                name = f"flowcache-refresh-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                # In an empty context: a thread that keeps its starter's has it as long as it lives.
                contextvars.Context().run(thread.start)
                self._threads.append(thread)
        run.offer()
        self._queue.put((contextvars.copy_context(), run))

    def _work(self) -> None:
        while True:
            context, run = self._queue.get()
            if run.claim():
                context.run(run.execute_apart)
            # Not kept alive until the next one comes.
            del context, run


_pool = Pool()


def _forked() -> None:
    global _pool  # noqa: PLW0603  its threads are the parent's
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def submit(run: Run) -> None:
    """Have a thread of the pool run the run, in a copy of the caller's context."""
    try:
        _pool.submit(run)
    except RuntimeError:
        run.end()  # The interpreter is on its way out.
