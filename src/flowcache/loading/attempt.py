"""One attempt of a call, in a thread or a task: look up, lead or join a load, wait, conclude.

Every call takes the same path. It looks up the entry. It registers a load of the key, or receives
the running one. The call that registered the load runs the loader (`run`). All calls wait for it
(`load`), unless the wait would close a ring (`deadlock`). An abandoned load sends its waiters back
to the start. The sync and the async path differ only in how they run and how they wait.
"""

from __future__ import annotations

import threading

from flowcache.errors import LoadTimeoutError, RecursiveLoadError, TooManyLoadsError
from flowcache.reports import shown

from . import backoff, deadlock, pool
from .load import (
    ABANDONED,
    ABSENT,
    Load,
    Outcome,
    TaskWaiter,
    leave,
    running_loop,
    wait_in_task,
    wait_in_thread,
)
from .options import covers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from .options import Call
    from .run import Run

    Answer = tuple[Any]
    """A value, in a tuple of one: None means that there is none."""

__all__ = [
    "attempt_in_task",
    "attempt_in_thread",
    "begin",
    "conclude",
    "load_behind",
    "look_up",
    "settle_in_task",
    "settle_in_thread",
]


def look_up(
    namespace: Any, key: Hashable, call: Call, *, in_task: bool = False
) -> tuple[Any, bool] | None:
    """Return what is held if it answers the call, and whether it is to be loaded behind it."""
    found = namespace._look_up(key, call.options, in_task)
    if found:
        answer: tuple[Any, bool] = found
        return answer
    if found is False:
        call.in_place = {*call.in_place, key}
    if call.on_miss is not None:
        call.on_miss()
    return None


def fall_back(run: Run, key: Hashable, *, timed_out: bool) -> Answer | None:
    """Return the old value if it may stand in for a load that raised or takes too long."""
    answer: Answer | None = run.namespace._stand_in(key, run.call.options, timed_out)
    return answer


def load_behind(run: Run, keys: list[Hashable]) -> None:
    """Start a load that no call waits for, of those keys that are neither backing off nor loading.

    It runs in a task of the run's loop, or without one in a thread of the pool.
    """
    try:
        for key in keys:
            try:
                load = run.begin(key)
                while isinstance(load, Load) and load.run is not run and load.run.is_left():
                    load.run.cut_off()
                    load = run.begin(key)
            except TooManyLoadsError:
                break
        if not run.loads:
            return
        if run.loop is None:
            pool.submit(run)
        else:
            run.start_task()
    except BaseException:
        run.withdraw()
        raise


def attempt_in_thread(run: Run, key: Hashable, deadline: float | None) -> Outcome | None:
    """Lead or join one load, and block until it is settled; None: `deadline` came first."""
    try:
        return settle_in_thread(run, begin(run, key), deadline)
    except BaseException:
        run.withdraw()
        raise


async def attempt_in_task(run: Run, key: Hashable, deadline: float | None) -> Outcome | None:
    """Lead or join one load, and suspend until it is settled; None: `deadline` came first."""
    try:
        load = begin(run, key)
        if (
            isinstance(load, Outcome)
            or load.run is not run
            or deadline is not None
            or deadlock.current_load() is not None
        ):
            return await settle_in_task(run, load, deadline)
        # It leads, and no loader waits for it: all else is of no use here.
        run.start_task()
        assert run.loop is not None
        waiter = TaskWaiter(run.loop)
        load.waiters[waiter] = None
        try:
            if load.outcome is None:
                await waiter.future
        finally:
            leave(load, waiter)
        return load.outcome
    except BaseException:
        run.withdraw()
        raise


def begin(run: Run, key: Hashable) -> Load | Outcome:
    """Register a load for the run, or find the one to join; an outcome if it needs none."""
    while True:
        try:
            load = run.begin(key)
        except TooManyLoadsError as full:
            if not covers(run.call.options, full):
                raise
            answer = fall_back(run, key, timed_out=False)
            if answer is None:
                raise
            return Outcome(answer[0])
        if not isinstance(load, Load):
            # Another load has ended since the look-up.
            assert load is not None
            return Outcome(load[0])
        if load.run is run:
            return load
        if load.run.may_be_joined():
            count_joined(run, key)
            return load


def count_joined(run: Run, key: Hashable) -> None:
    """Count a miss that joins a running load, once for any number of attempts."""
    if not run.is_refresh and run.call.joins(key):
        run.namespace._join()


def settle_in_thread(run: Run, load: Load | Outcome, deadline: float | None) -> Outcome | None:
    """Run the run if the load is its own, or wait for another; None: `deadline` came first."""
    if isinstance(load, Outcome):
        return load
    waiting, here = deadlock.current_load(), running_loop()
    seen = 0 if load.run is run else load.losses
    beside = None
    if load.run.is_in_other_greenlet() or not deadlock.may_wait(waiting, load, here):
        # This thread's loop, or a greenlet of this thread, would have to run meanwhile: load it
        # here, beside that one, which waits for us now.
        beside, load, seen = load, run.begin_beside(load), 0
        deadlock.wait_for(beside, load)
        deadlock.may_wait(waiting, load, here)
    try:
        if load.run is run and not run.is_started:
            if deadline is None:
                run.execute()
                return load.outcome
            run.execute_in_thread()
        refuse_own_thread(run, load)
        return wait_in_thread(load, deadline, seen)
    finally:
        deadlock.stop_waiting(waiting, load, here)
        if beside is not None:
            deadlock.stop_waiting(beside, load, None)
        del beside, load  # The loader's frame, and so its error's traceback, holds this frame.


def refuse_own_thread(run: Run, load: Load) -> None:
    """Raise if the leading call is below this one on the same thread.

    The context told a loader's own calls apart before. The remaining case is code that runs between
    the steps of a call: the key's own methods, a finalizer, a handler of a signal.
    """
    leader = load.run
    if (
        leader is not run
        and leader.thread == threading.get_ident()
        and not leader.is_in_other_greenlet()
        and load.outcome is None
    ):
        raise RecursiveLoadError(
            f"key: the call that loads {shown(load.key)} is the one that this call interrupts"
        )


async def settle_in_task(run: Run, load: Load | Outcome, deadline: float | None) -> Outcome | None:
    """Start the run if the load is its own, and wait for it; None: `deadline` came first."""
    if isinstance(load, Outcome):
        return load
    loop = run.loop
    assert loop is not None
    waiting = deadlock.current_load()
    seen = 0 if load.run is run else load.losses
    deadlock.may_wait(waiting, load, None)
    try:
        if load.run is run and not run.is_started:
            run.start_task()
        else:
            refuse_own_thread(run, load)
        return await wait_in_task(load, loop, deadline, seen)
    finally:
        deadlock.stop_waiting(waiting, load, None)


def conclude(run: Run, key: Hashable, outcome: Outcome | None) -> Answer | None:
    """Return the answer to one caller of a load, by its outcome and the caller's own options.

    None: no answer, start again (or leave the key out, if the run ran and it was absent). Raises
    the loader's exception, or `LoadTimeoutError`.
    """
    if outcome is None:
        answer = fall_back(run, key, timed_out=True)
        if answer is None:
            raise LoadTimeoutError(
                f"timeout: key {shown(key)} was not loaded within {run.call.options.timeout:g} s; "
                "the load goes on"
            )
        return answer
    if outcome is ABANDONED or outcome is ABSENT:
        if run.interrupted is not None:
            raise run.interrupted
        return None
    error = outcome.error
    if error is None:
        return (outcome.value,)
    answer = None
    if isinstance(error, Exception):
        # In place of a background load its failure counts as that of one.
        in_place = key in run.call.in_place
        if in_place or covers(run.call.options, error):
            answer = fall_back(run, key, timed_out=in_place)
        if answer is not None and outcome.was_raised_by(run) and not in_place:
            # The old value serves for a while, before the key is tried again.
            backoff.note_failure(run.namespace, key)
    if answer is not None:
        return answer
    error = outcome.error_for(run)
    try:
        raise error
    finally:
        del error, outcome  # The traceback holds this frame.
