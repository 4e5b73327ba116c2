"""The outcome of a load, and waiting for it.

A load is settled once, with an outcome; its waiters are then woken. No function here takes a lock:
a finalizer or a signal handler may fetch the same key at any instant, on the same thread. Instead,
one order is kept everywhere:

- a waiter first adds itself to `waiters`, then looks whether there is an outcome;
- the end of a load first publishes the outcome, then wakes all `waiters`.

In either order, no waiter sleeps on. A second wake-up has no effect, so after an interrupt in the
middle the whole step is repeated.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from contextvars import Context

from flowcache import _core

from .copying import copy_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from types import TracebackType
    from typing import Any, Protocol

    class Leader(Protocol):
        """The run of a loader that leads a load, as far as the load knows it."""

        detached: bool
        loop: asyncio.AbstractEventLoop | None
        loads: list[Load]
        namespace: Any
        stands_in_for: Load | None
        thread: int | None

        def cut_off(self) -> None: ...
        def forsake(self) -> None: ...
        def is_in_other_greenlet(self) -> bool: ...
        def is_left(self) -> bool: ...
        def end(self) -> None: ...
        def may_be_joined(self) -> bool: ...


__all__ = [
    "ABANDONED",
    "ABSENT",
    "Load",
    "Outcome",
    "leave",
    "outcome_for",
    "own_loop",
    "running_loop",
    "wait_in_task",
    "wait_in_thread",
    "wake",
]


class Outcome:
    """The outcome of a load: a value, or an error."""

    loss = 0
    """The number, in the load, of the first invalidation of a tag that covers it; 0: none."""
    error: BaseException | None = None
    """As it was raised by the loader: a copy of it, which is not raised itself.

    Without the exception that its leader was handling when it called.
    """
    _original: BaseException | None = None
    _leader: Leader | None = None
    _traceback: TracebackType | None = None

    def __init__(
        self,
        value: Any = None,
        error: BaseException | None = None,
        loss: int = 0,
        *,
        leader: Leader | None = None,
        handled: BaseException | None = None,
    ) -> None:
        self.value = value
        if loss:
            self.loss = loss
        if error is not None:
            self.error = copy_error(error, handled)
            self._original = error
            self._leader = leader
            # If it cannot be copied, `error` is the exception that callers raise, and it grows
            # itself.
            self._traceback = error.__traceback__

    def was_raised_by(self, run: Leader) -> bool:
        """True if the run is the one whose loader raised the error."""
        return run is self._leader

    def error_for(self, run: Leader) -> BaseException:
        """Return the error for a caller to raise: the loader's own for its leader, else a copy."""
        assert self.error is not None
        error = self._original if run is self._leader else copy_error(self.error)
        assert error is not None
        return error.with_traceback(self._traceback)


ABANDONED = Outcome()
"""The outcome of a load that is not run any more: its waiters start again; one of them leads."""

ABSENT = Outcome()
"""The same for a key that a batch loader left out; the call of the batch does not try again."""


Load = _core.Load


def outcome_for(load: Load, seen: int) -> Outcome | None:
    """Return the outcome for a call that joined after `seen` noted invalidations of tags.

    A loader may name its tags only at its end. A call that joined after one of them was invalidated
    must not receive the earlier value: for it the load is abandoned.
    """
    outcome = load.outcome
    return ABANDONED if outcome is not None and 0 < outcome.loss <= seen else outcome


def leave(load: Load, waiter: ThreadWaiter | TaskWaiter) -> None:
    """Stop waiting. The last one to leave an async load that is not done has it cancelled."""
    load.waiters.pop(waiter, None)
    if load.outcome is None:
        load.run.forsake()


class ThreadWaiter:
    """A thread that blocks until it is woken."""

    __slots__ = ("_asleep",)
    loop = None

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):  # Woken before.
            self._asleep.release()

    def wait(self, deadline: float | None) -> bool:
        """Block until woken or until `deadline` on `time.monotonic`; False: it passed."""
        if deadline is None:
            return self._asleep.acquire()
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        return self._asleep.acquire(timeout=left)


TaskWaiter = _core.TaskWaiter


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs on this thread, or None."""
    # No loop runs if asyncio was not imported, and its import would take longer than all of ours.
    # Another thread may be in the middle of that import.
    ask = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    loop: asyncio.AbstractEventLoop | None = None if ask is None else ask()
    return loop


def own_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs the calling task; `RuntimeError` where none does."""
    loop = running_loop()
    if loop is not None:
        # In trio's guest mode a loop of asyncio runs as well, and trio's tasks cannot wait for it.
        trio = sys.modules.get("trio")
        in_trio_task = trio and getattr(getattr(trio, "lowlevel", None), "in_trio_task", None)
        if not (in_trio_task and in_trio_task()):
            return loop
    raise RuntimeError(
        "a load that is awaited runs on an event loop of asyncio (uvloop, or anyio on asyncio), "
        "and none runs here; on trio, and anyio on trio, call fetch() in a thread: "
        "trio.to_thread.run_sync(...)"
    )


def wake(waiters: dict[ThreadWaiter | TaskWaiter, None]) -> None:
    """Wake all waiters, those of another loop through one call to it, and empty the dict."""
    here = running_loop()
    elsewhere: dict[asyncio.AbstractEventLoop, list[TaskWaiter]] = {}
    for waiter in list(waiters):  # In one step, which tuple() is not.
        if isinstance(waiter, ThreadWaiter) or waiter.loop is here:
            waiter.wake()
        else:
            elsewhere.setdefault(waiter.loop, []).append(waiter)
    for loop, group in elsewhere.items():
        with suppress(RuntimeError):  # That loop is closed: no waiter is left there.
            Context().run(loop.call_soon_threadsafe, wake_group, group)
    waiters.clear()


def wake_group(group: list[TaskWaiter]) -> None:
    for waiter in group:
        waiter.wake()


def wait_in_thread(load: Load, deadline: float | None, seen: int) -> Outcome | None:
    """Block until the load is settled; None: `deadline` on `time.monotonic` came first."""
    waiter = ThreadWaiter()
    load.waiters[waiter] = None
    try:
        if load.outcome is None and not waiter.wait(deadline):
            # A call that times out still wants the result in the cache.
            load.run.detached = True
    finally:
        leave(load, waiter)
    return outcome_for(load, seen)


async def wait_in_task(
    load: Load, loop: asyncio.AbstractEventLoop, deadline: float | None, seen: int
) -> Outcome | None:
    """Suspend until the load is settled; None: `deadline` on `time.monotonic` came first."""
    waiter = TaskWaiter(loop)
    load.waiters[waiter] = None
    timer = None
    try:
        if load.outcome is None:
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                # In an empty context: a loop may keep a timer long after it was cancelled.
                timer = Context().run(loop.call_later, left, waiter.expire)
            if not await waiter.future:
                load.run.detached = True
    finally:
        if timer is not None:
            timer.cancel()
        leave(load, waiter)
    return outcome_for(load, seen)
