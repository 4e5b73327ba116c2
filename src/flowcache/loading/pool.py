"""The threads for background loads that no event loop runs, for each cache on its own.

A thread is started when there is a load to run, takes others while there are any, and ends. The
tenants of a cache take turns, and each has a few threads at most. A thread whose load is older than
`max_pending_age` counts as lost, and another one takes its place. Each tenant has a few lost
threads at most. An application may give an executor, whose threads then do the same work.
"""

from __future__ import annotations

import contextvars
import os
import threading
import weakref
from collections import deque

from flowcache.reports import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import Any, Protocol

    from .run import Run

    class Executor(Protocol):
        """The protocol of a user's executor."""

        def submit(self, function: Callable[[], None], /) -> Any: ...

    Tenant = tuple[str, ...]


__all__ = ["Pool", "open_pool", "submit"]

PER_TENANT = 4
"""Background loads of one tenant that run at a time."""
THREADS = 16
"""Background loads of one cache that run at a time, but for the first one of each tenant."""
LOST = 8
"""Threads of one tenant that may be lost before it has no background loads any more."""
MOST_LOST = 64
"""The same, of one cache."""
QUEUED = 100
"""The most background loads of one tenant that wait for a thread; no more are begun."""


class Pool:
    """The background loads of one cache: those that wait, and those that run."""

    def __init__(self, max_pending_age: float, executor: Executor | None = None) -> None:
        self._max_pending_age = max_pending_age
        self._executor = executor
        self.forked()

    def forked(self) -> None:
        """Forget the threads: in the child of a fork there are none."""
        # Re-entrant: a finalizer that fetches may run while it is held.
        self._lock = threading.RLock()
        self._queues: dict[Tenant, deque[tuple[Context, Run]]] = {}
        self._running: dict[Tenant, dict[Run, float]] = {}
        self._now = 0.0
        self._started = 0

    def submit(self, run: Run) -> None:
        """Run the run in a copy of the caller's context as soon as its tenant's turn comes.

        It is ended instead if too many wait. `RuntimeError` if there is no thread.
        """
        tenant = run.namespace._store().tenant_of(run.namespace.path)
        now = run.namespace._now()
        item = contextvars.copy_context(), run
        run.offer()
        with self._lock:
            self._now = max(self._now, now)
            queue = self._queues.setdefault(tenant, deque())
            superseded = [other for other in queue if other[1].is_superseded()]
            for other in superseded:
                queue.remove(other)
            is_full = len(queue) >= QUEUED
            if not is_full:
                queue.append(item)
            starts = self._next_tenant() is not None
        for _, other_run in superseded:
            other_run.withdraw()
        if is_full:
            run.withdraw()
        if starts:
            try:
                self._start()
            except BaseException:
                self._take_back(tenant, item)
                raise

    def _start(self) -> None:
        if self._executor is not None:
            try:
                self._executor.submit(self._work)
            except RuntimeError as error:
                report(
                    "WARNING",
                    "the executor refused a background load",
                    event="executor_refused",
                    error=error,
                )
                raise
            return
        self._started += 1
        name = f"flowcache-refresh-{self._started}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        # In an empty context: a thread with its starter's context would keep it alive.
        contextvars.Context().run(thread.start)

    def _take_back(self, tenant: Tenant, item: tuple[Context, Run]) -> None:
        with self._lock:
            queue = self._queues.get(tenant, deque())
            if item in queue:
                queue.remove(item)

    def _next_tenant(self) -> Tenant | None:
        """Return the tenant whose load is to run next, or None. Expects the lock."""
        oldest = self._now - self._max_pending_age
        active = lost = 0
        of: dict[Tenant, tuple[int, int]] = {}
        for tenant, runs in self._running.items():
            gone = sum(started < oldest for started in runs.values())
            of[tenant] = len(runs) - gone, gone
            active += len(runs) - gone
            lost += gone
        is_full = active >= THREADS or lost >= MOST_LOST
        for tenant, queue in self._queues.items():
            own_active, own_lost = of.get(tenant, (0, 0))
            if not queue or own_active >= PER_TENANT or own_lost >= LOST:
                continue
            # A tenant with no thread gets one, however many hang for the others.
            if not is_full or (own_active == 0 and own_lost == 0):
                return tenant
        return None

    def _next(self) -> tuple[Tenant, Context, Run] | None:
        with self._lock:
            tenant = self._next_tenant()
            if tenant is None:
                return None
            queue = self._queues.pop(tenant)
            context, run = queue.popleft()
            if queue:
                self._queues[tenant] = queue  # At the end: the others come first.
            self._running.setdefault(tenant, {})[run] = run.started()
            return tenant, context, run

    def _work(self) -> None:
        while (item := self._next()) is not None:
            tenant, context, run = item
            try:
                if run.is_superseded():
                    run.withdraw()
                elif run.claim():
                    context.run(run.execute_apart)
            finally:
                with self._lock:
                    runs = self._running.get(tenant, {})
                    runs.pop(run, None)
                    if not runs:
                        self._running.pop(tenant, None)
            # Not kept alive until the next one comes.
            del item, context, run


_pools: weakref.WeakKeyDictionary[object, Pool] = weakref.WeakKeyDictionary()


def open_pool(store: object, max_pending_age: float, executor: Executor | None) -> None:
    """Give a cache its pool; `store` is the object that the cache's views share."""
    _pools[store] = Pool(max_pending_age, executor)


def _forked() -> None:
    for pool in list(_pools.values()):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def submit(run: Run) -> None:
    """Have a thread of the cache's pool run the run, in a copy of the caller's context."""
    try:
        _pools[run.namespace._store()].submit(run)
    except RuntimeError:
        run.end()  # No thread can be started, or the interpreter is exiting.
