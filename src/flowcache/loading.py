"""Loading: what `fetch` and its like do when a hit alone does not answer, in threads and tasks.

Every call goes the same way. It looks at what is held; it registers a load of the key, or is given
the one that runs; whoever registered it runs the loader (`jobs`), everybody waits for it
(`waiting`), unless the wait would close a ring (`rings`). A load that is abandoned sends its
waiters back to the start. The sync and the async path differ in how they run and how they wait, and
in nothing else.
"""

from __future__ import annotations

import threading
from contextvars import copy_context

from . import background, rings
from .calls import Call, Held, Loaded
from .coroutines import is_async
from .errors import LoadTimeoutError, RecursiveLoadError, TooManyLoadsError
from .jobs import Job
from .waiting import (
    ABANDONED,
    ABSENT,
    Outcome,
    own_loop,
    running_loop,
    wait_in_task,
    wait_in_thread,
)

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop as Loop
    from collections.abc import Awaitable, Callable, Hashable, Iterable
    from contextvars import Context
    from typing import Any

    from .waiting import Running

    Loader = Callable[[], Any]
    BatchLoader = Callable[[list[Any]], Any]
    Answer = tuple[Any]
    """A value, in a tuple of one: None means that there is none."""


def fetch_miss(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Answer a `fetch` that compiled code did not: from a stale value, or by a load."""
    call = Call("fetch", loader, options)
    held = look_up(namespace, key, call)
    if held is None:
        return load_in_thread(namespace, key, loader, call)
    if call.is_due(held):
        load_behind(Job(namespace, loader, call, background=True), [key])
    return held.value


def fetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Answer a `fetch` that compiled code has not looked at: `refresh_ahead=`, wrong arguments."""
    if is_async(loader):
        return afetch(namespace, key, loader, **options)
    return fetch_miss(namespace, key, loader, **options)


def afetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Answer an `afetch` that compiled code did not. Bad options raise before it is awaited.

    The context is taken here, as the namespace is: the awaitable may be awaited in another one.
    """
    call = Call("afetch", loader, options)
    context = copy_context()

    async def afetch() -> Any:
        loop = own_loop()
        held = context.run(look_up, namespace, key, call)
        if held is None:
            return await load_in_task(namespace, key, loader, call, context)
        if call.is_due(held):
            job = Job(namespace, loader, call, loop=loop, context=context, background=True)
            load_behind(job, [key])
        return held.value

    return afetch()


afetch_miss = afetch


def refresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Load the key though it be fresh, or join the load that runs. `async def`: `arefresh`."""
    if is_async(loader):
        return arefresh(namespace, key, loader, **options)
    call = Call("refresh", loader, options)
    return load_in_thread(namespace, key, loader, call, is_refresh=True)


def arefresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Load the key though it be fresh, or join the load that runs."""
    call = Call("arefresh", loader, options)
    return load_in_task(namespace, key, loader, call, copy_context(), is_refresh=True)


def fetch_many(
    namespace: Any, keys: Iterable[Hashable], loader: BatchLoader, /, **options: Any
) -> Any:
    """Return a dict of `keys`; `loader` is called once, with those that nobody else is loading."""
    if is_async(loader):
        return afetch_many(namespace, keys, loader, **options)
    batch = Batch(namespace, keys, loader, Call("fetch_many", loader, options))
    deadline = batch.call.deadline()
    batch.look_up_all(None)
    while batch.missing:
        job = batch.new_job(None)
        loads: list[Running] = []
        try:
            batch.begin_all(job, loads)
            while loads:
                runner = job if loads[-1].job is job else batch.new_job(None)
                batch.take(runner, loads[-1].key, settle_in_thread(runner, loads[-1], deadline))
                loads.pop()
        except BaseException:
            job.withdraw()
            raise
        finally:
            loads.clear()  # A traceback would keep this frame, and so their values.
    return batch.result()


def afetch_many(
    namespace: Any, keys: Iterable[Hashable], loader: BatchLoader, /, **options: Any
) -> Awaitable[dict[Any, Any]]:
    """Await a dict of `keys`; `loader` is called once, with those that nobody else is loading."""
    batch = Batch(namespace, keys, loader, Call("afetch_many", loader, options), copy_context())

    async def afetch_many() -> dict[Any, Any]:
        loop = own_loop()
        deadline = batch.call.deadline()
        batch.look_up_all(loop)
        while batch.missing:
            job = batch.new_job(loop)
            loads: list[Running] = []
            try:
                batch.begin_all(job, loads)
                while loads:
                    runner = job if loads[-1].job is job else batch.new_job(loop)
                    settled = settle_in_task(runner, loads[-1], deadline)
                    batch.take(runner, loads[-1].key, await settled)
                    loads.pop()
            except BaseException:
                job.withdraw()
                raise
            finally:
                loads.clear()
        return batch.result()

    return afetch_many()


# What is held


def held_for(namespace: Any, key: Hashable) -> Held | None:
    found = namespace._held(key)
    if found is None:
        return None
    value, left, ttl, keep, serves = found
    return Held(value, left, ttl, keep, keep if serves else 0.0)


def look_up(namespace: Any, key: Hashable, call: Call) -> Held | None:
    """Return what is held if it answers the call; count what it was."""
    held = held_for(namespace, key)
    if held is None or (held.left <= 0 and not call.takes_stale(held)):
        namespace._count("misses", 1)
        namespace._emit("miss", key, None, None, None, 0.0)
        if call.on_miss is not None:
            call.on_miss()
        return None
    kind = "hit" if held.left > 0 else "stale_hit"
    namespace._count(kind + "s", 1)
    namespace._touch_hit(key)
    namespace._emit(kind, key, None, held.value, None, 0.0)
    return held


def fall_back(job: Job, key: Hashable, *, timed_out: bool) -> Answer | None:
    """Return what may stand in for a load that raised or takes too long."""
    held = held_for(job.namespace, key)
    if held is None or not job.call.falls_back_on(held, timed_out=timed_out):
        return None
    return (held.value,)


# One load


def load_behind(job: Job, keys: list[Hashable]) -> None:
    """Start a load that nobody waits for, of those keys that are neither resting nor loading.

    It runs in a task of the job's loop, or without one in a thread of the pool.
    """
    try:
        for key in keys:
            if background.is_resting(job.namespace, key):
                continue
            try:
                load = job.begin(key)
                while load.job.is_left():
                    load.job.end()
                    load = job.begin(key)
            except TooManyLoadsError:
                break
            # Another load may have ended between the look-up and the registration.
            if load.job is job:
                held = held_for(job.namespace, key)
                if held is None or not job.call.is_due(held):
                    job.give_up(load)
        if not job.loads:
            return
        if job.loop is None:
            background.submit(job)
        else:
            job.start()
    except BaseException:
        job.withdraw()
        raise


def load_in_thread(
    namespace: Any, key: Hashable, loader: Loader, call: Call, *, is_refresh: bool = False
) -> Any:
    """Lead or join a load of the key, and block until there is an answer."""
    deadline = call.deadline()
    while True:
        # No local here, nor in what raises, holds an outcome: its traceback would hold it in turn.
        job = Job(namespace, loader, call, is_refresh=is_refresh)
        answer = conclude(job, key, attempt_in_thread(job, key, deadline))
        if answer is not None:
            return answer[0]


async def load_in_task(
    namespace: Any,
    key: Hashable,
    loader: Loader,
    call: Call,
    context: Context,
    *,
    is_refresh: bool = False,
) -> Any:
    """Lead or join a load of the key, and suspend until there is an answer.

    The loader runs in a copy of `context`, which is that of the call.
    """
    loop = own_loop()
    deadline = call.deadline()
    while True:
        job = Job(namespace, loader, call, loop=loop, context=context, is_refresh=is_refresh)
        answer = conclude(job, key, await attempt_in_task(job, key, deadline))
        if answer is not None:
            return answer[0]


def attempt_in_thread(job: Job, key: Hashable, deadline: float | None) -> Outcome | None:
    """Lead or join one load, and block until it is settled; None: `deadline` came first."""
    try:
        return settle_in_thread(job, begin(job, key), deadline)
    except BaseException:
        job.withdraw()
        raise


async def attempt_in_task(job: Job, key: Hashable, deadline: float | None) -> Outcome | None:
    """Lead or join one load, and suspend until it is settled; None: `deadline` came first."""
    try:
        return await settle_in_task(job, begin(job, key), deadline)
    except BaseException:
        job.withdraw()
        raise


def begin(job: Job, key: Hashable) -> Running | Outcome:
    """Register a load for the job, or find the one to join; an outcome if it needs none."""
    while True:
        try:
            load = job.begin(key)
        except TooManyLoadsError:
            answer = fall_back(job, key, timed_out=False)
            if answer is None:
                raise
            return Outcome(answer[0])
        if load.job is job:
            # Another load may have ended between the look-up and the registration.
            held = None if job.is_refresh else job.namespace._held(key)
            if held is not None and held[1] > 0:
                job.give_up(load)
                return Outcome(held[0])
            return load
        if load.job.may_be_joined():
            count_joined(job, key)
            return load


def count_joined(job: Job, key: Hashable) -> None:
    """Count a miss that joins a running load, once however often it has to start again."""
    joined = job.call.joined
    if not job.is_refresh and key not in joined:
        joined.add(key)
        job.namespace._count("coalesced", 1)


def settle_in_thread(job: Job, load: Running | Outcome, deadline: float | None) -> Outcome | None:
    """Run the job if the load is its own, or wait for who runs it; None: `deadline` came first."""
    if isinstance(load, Outcome):
        return load
    waiting, here = rings.current_load(), running_loop()
    seen = 0 if load.job is job else load.losses
    beside = None
    if not rings.may_wait(waiting, load, here):
        # This thread's loop would have to run meanwhile: load it here, beside that one, which waits
        # for us now.
        beside, load, seen = load, job.begin_beside(load), 0
        rings.wait_for(beside, load)
        rings.may_wait(waiting, load, here)
    try:
        if load.job is job and not job.is_started:
            if deadline is None:
                job.run()
                return load.outcome
            job.run_in_thread()
        refuse_own_thread(job, load)
        return wait_in_thread(load, deadline, seen)
    finally:
        rings.stop_waiting(waiting, load, here)
        if beside is not None:
            rings.stop_waiting(beside, load, None)
        del beside, load  # The loader's frame, and so its error's traceback, holds this frame.


def refuse_own_thread(job: Job, load: Running) -> None:
    """Raise if what leads the load is a call below this one on the same thread.

    A loader's own calls were told apart before, by the context. What is left is code that runs
    between the steps of a call: the key's own methods, a finalizer, a handler of a signal.
    """
    leader = load.job
    if leader is not job and leader.thread == threading.get_ident() and load.outcome is None:
        raise RecursiveLoadError(
            f"key: the call that loads {load.key!r} is the one that this call interrupts"
        )


async def settle_in_task(
    job: Job, load: Running | Outcome, deadline: float | None
) -> Outcome | None:
    """Start the job if the load is its own, and wait for it; None: `deadline` came first."""
    if isinstance(load, Outcome):
        return load
    waiting = rings.current_load()
    seen = 0 if load.job is job else load.losses
    rings.may_wait(waiting, load, None)
    try:
        if load.job is job and not job.is_started:
            job.start()
        refuse_own_thread(job, load)
        return await wait_in_task(load, deadline, seen)
    finally:
        rings.stop_waiting(waiting, load, None)


def conclude(job: Job, key: Hashable, outcome: Outcome | None) -> Answer | None:
    """Return what a load's outcome is to one of its callers, by the caller's own options.

    None: nothing, start again (or leave the key out, if the job ran and it was absent). Raises what
    the loader raised, or `LoadTimeoutError`.
    """
    if outcome is None:
        answer = fall_back(job, key, timed_out=True)
        if answer is None:
            raise LoadTimeoutError(
                f"timeout: key {key!r} was not loaded within {job.call.timeout:g} s; "
                "the load goes on"
            )
        return answer
    if outcome is ABANDONED or outcome is ABSENT:
        if job.struck is not None:
            raise job.struck
        return None
    error = outcome.error
    if error is None:
        return (outcome.value,)
    answer = fall_back(job, key, timed_out=False) if isinstance(error, Exception) else None
    if answer is not None:
        return answer
    error = outcome.error_for(job)
    try:
        raise error
    finally:
        del error, outcome  # The traceback holds this frame.


# Many keys


class Batch:
    """One call of `fetch_many`: what it has, and what it still has to find."""

    def __init__(
        self,
        namespace: Any,
        keys: Iterable[Hashable],
        loader: BatchLoader,
        call: Call,
        context: Context | None = None,
    ) -> None:
        self.namespace = namespace
        self.loader = loader
        self.call = call
        self.context = context
        """That of an async call, in which the loader runs; None: that of the running code."""
        self.keys = list(dict.fromkeys(keys))
        self.missing: dict[Hashable, None] = {}
        self.found: dict[Hashable, Any] = {}

    def new_job(self, loop: Loop | None, *, is_background: bool = False) -> Job:
        return Job(
            self.namespace,
            self.loader,
            self.call,
            loop=loop,
            context=self.context,
            many=True,
            background=is_background,
        )

    def look_up_all(self, loop: Loop | None) -> None:
        """Find what is held; what is due is loaded behind it, by one more call of the loader."""
        due = []
        for key in self.keys:
            if self.context is None:
                held = look_up(self.namespace, key, self.call)
            else:
                held = self.context.run(look_up, self.namespace, key, self.call)
            if held is None:
                self.missing[key] = None
            else:
                self.found[key] = held.value
                if self.call.is_due(held):
                    due.append(key)
        if due:
            load_behind(self.new_job(loop, is_background=True), due)

    def begin_all(self, job: Job, loads: list[Running]) -> None:
        """Put the loads to wait for into `loads`: first those of others, last the job's own.

        The job's own are led together. They come last because the last is waited for first.
        """
        others = []
        for key in list(self.missing):
            load = begin(job, key)
            if isinstance(load, Outcome):
                self.take(job, key, load)
            elif load.job is job:
                if loads:
                    rings.wait_for(load, loads[0])
                loads.append(load)
            else:
                others.append(load)
        loads[:0] = others

    def take(self, job: Job, key: Hashable, outcome: Outcome | None) -> None:
        """Take one key's result, or leave it missing, to be tried again."""
        answer = conclude(job, key, outcome)
        if answer is not None or (outcome is ABSENT and job.is_started):
            del self.missing[key]
            if answer is not None:
                self.found[key] = answer[0]

    def result(self) -> dict[Any, Any]:
        return {key: self.found[key] for key in self.keys if key in self.found}
