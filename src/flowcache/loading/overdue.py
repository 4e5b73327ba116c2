"""Threads of `fetch(timeout=)` whose callers have left: how many of them a tenant may leave behind.

A sync loader cannot be stopped, so that each call that runs out of patience leaves a thread that
runs on. While an upstream hangs, those would be as many as there were calls.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flowcache.errors import TooManyLoadsError
from flowcache.reports import shown

if TYPE_CHECKING:
    from typing import Protocol

    class Run(Protocol):
        """The run of a loader, as far as its thread is known here."""

        namespace: Any

        def is_overdue(self) -> bool: ...

    Tenant = tuple[str, ...]

__all__ = ["enter_thread", "leave_thread", "refuse_more"]

PER_TENANT = 64
"""Threads that the calls of one tenant may leave behind before it gets no more."""
MOST = 512
"""The same, of one cache. A tenant that has left none behind may still have one."""

_threads: WeakKeyDictionary[object, dict[Run, Tenant]] = WeakKeyDictionary()


def _forked() -> None:
    _threads.clear()  # In the child of a fork there are none.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def enter_thread(run: Run) -> None:
    """Note that a thread of its own is about to run the run."""
    store = run.namespace._store()
    _threads.setdefault(store, {})[run] = store.tenant_of(run.namespace.path)


def leave_thread(run: Run) -> None:
    """Note that its thread is at its end, or could not be started."""
    runs = _threads.get(run.namespace._store())
    if runs is not None:
        runs.pop(run, None)


def refuse_more(namespace: Any) -> None:
    """Raise `TooManyLoadsError` if calls of this tenant have left too many threads behind."""
    store = namespace._store()
    runs = _threads.get(store)
    if runs is None or len(runs) < min(PER_TENANT, MOST):
        return
    tenant = store.tenant_of(namespace.path)
    overdue = [of for run, of in list(runs.items()) if run.is_overdue()]
    own = overdue.count(tenant)
    if own >= PER_TENANT or (own and len(overdue) >= MOST):
        raise TooManyLoadsError(
            f"timeout: {own} threads still run the loaders of calls in namespace {shown(tenant)} "
            "that did not wait for their end"
        )
