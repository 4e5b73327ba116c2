"""Refused waits: loads that wait for each other in a ring would wait for ever.

Each loader runs in a context that names its load. When it asks for another key it waits for that
key's load: an edge. An edge that would close a ring is refused, in the call that asked for it. A
thread that blocks an event loop's own thread delays all tasks of this loop. So the loads of these
tasks wait for the load that blocks the loop.

The one lock here is taken only by a loader that waits, or by a thread that would block an event
loop. It is re-entrant, because a finalizer may fetch a key while it is held. No loader, listener or
other code of a user runs under it.
"""

from __future__ import annotations

import os
import threading

from flowcache import _core
from flowcache.errors import RecursiveLoadError
from flowcache.reports import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

    from .load import Load

__all__ = [
    "current_load",
    "enter_load",
    "leave_load",
    "may_wait",
    "stop_waiting",
    "wait_for",
]


current_load = _core.current_load
enter_load = _core.enter_load
leave_load = _core.leave_load

_lock = threading.RLock()
_blocked: dict[asyncio.AbstractEventLoop, list[Load]] = _core.blocked_loops


def _forked() -> None:
    global _lock  # noqa: PLW0603  a thread may have held it that is not here to let it go
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def may_wait(
    waiting: Load | None, target: Load, blocking: asyncio.AbstractEventLoop | None
) -> bool:
    """Enter the edges to `target` from `waiting` and from the loop that the wait would block.

    Returns False, with nothing entered, if `target` needs that very loop to go on. Raises
    `RecursiveLoadError` if an edge would close a ring. To be undone by `stop_waiting`. If both are
    None it costs one test.
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
    """Remove the edges that `may_wait` entered."""
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
