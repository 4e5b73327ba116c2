"""Who may not wait: loads that wait for each other in a ring would wait for ever.

Each loader runs in a context that names its load. When it asks for another key it waits for that
key's load: an edge. An edge that would close a ring is refused, in the call that asked for it. A
thread that blocks on an event loop's own thread holds up all that this loop runs, so the loads that
a loop's task runs wait for what blocks the loop.

The one lock here is taken only by a loader that waits, or by a thread that would block an event
loop. It is re-entrant, because a finalizer may ask for a key while it is held; no loader, listener
or other code of a user runs under it.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar

from flowcache.errors import RecursiveLoadError
from flowcache.reports import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from contextvars import Token

    from .load import Load

__all__ = [
    "Scope",
    "current_load",
    "enter_scope",
    "leave_scope",
    "may_wait",
    "stop_waiting",
    "wait_for",
]


class Scope:
    """Names the load that a context runs for.

    Emptied at its end: contexts outlive loads (a task that the loader started keeps a copy) and
    must not keep its value alive.
    """

    __slots__ = ("load",)

    def __init__(self, load: Load) -> None:
        self.load: Load | None = load


_scope: ContextVar[Scope | None] = ContextVar("flowcache_load", default=None)
_lock = threading.RLock()
_blocked: dict[asyncio.AbstractEventLoop, list[Load]] = {}


def _forked() -> None:
    global _lock  # noqa: PLW0603  a thread may have held it that is not here to let it go
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def current_load() -> Load | None:
    """Return the load that the calling code is part of, or None."""
    scope = _scope.get()
    return None if scope is None else scope.load


def enter_scope(load: Load) -> tuple[Scope, Token[Scope | None]]:
    """Make `load` the current load of this context."""
    scope = Scope(load)
    return scope, _scope.set(scope)


def leave_scope(scope: Scope, token: Token[Scope | None] | None) -> None:
    """End what `enter_scope` began; without the token where the context ends as well."""
    scope.load = None
    if token is not None:
        _scope.reset(token)


def may_wait(
    waiting: Load | None, target: Load, blocking: asyncio.AbstractEventLoop | None
) -> bool:
    """Enter the edges to `target` from `waiting` and from the loop that the wait would block.

    Returns False, with nothing entered, if `target` needs that very loop to go on. Raises
    `RecursiveLoadError` if an edge would close a ring. To be undone by `stop_waiting`. Costs
    nothing but a test when both are None.
    """
    if waiting is None and blocking is None:
        return True
    with _lock:
        closes_ring, needs_loop = _search(waiting, target, blocking)
        if not closes_ring and not needs_loop:
            if waiting is not None:
                waiting.waits.append(target)
            if blocking is not None:
                _blocked.setdefault(blocking, []).append(target)
    if closes_ring:
        assert waiting is not None
        raise RecursiveLoadError(
            f"key: the loader of {shown(waiting.key)} asks for its own key"
            if target is waiting
            else f"key: the loader of {shown(waiting.key)} waits for {shown(target.key)}, "
            "whose loader waits for it"
        )
    return not needs_loop


def _search(
    waiting: Load | None, target: Load, blocking: asyncio.AbstractEventLoop | None
) -> tuple[bool, bool]:
    """Follow the edges from `target`: do they reach `waiting`, or a load that needs `blocking`?"""
    needs_loop = False
    seen = {target}
    ahead = [target]
    while ahead:
        load = ahead.pop()
        if load is waiting:
            return True, needs_loop
        if load.outcome is not None:
            continue
        after = list(load.waits)
        loop = load.run.loop
        if loop is not None and loop is blocking:
            needs_loop = True
        elif loop is not None:
            after += _blocked.get(loop, ())
        ahead += [one for one in after if one not in seen]
        seen.update(after)
    return False, needs_loop


def stop_waiting(
    waiting: Load | None, target: Load, blocking: asyncio.AbstractEventLoop | None
) -> None:
    """Take back what `may_wait` entered."""
    if waiting is None and blocking is None:
        return
    with _lock:
        if waiting is not None:
            waiting.waits.remove(target)
        if blocking is not None:
            blockers = _blocked[blocking]
            blockers.remove(target)
            if not blockers:
                del _blocked[blocking]


def wait_for(waiting: Load, target: Load) -> None:
    """Enter the edge of a load that cannot end before `target` does."""
    with _lock:
        waiting.waits.append(target)
