"""Loading with asyncio: one load for all tasks and loops, cancellation, loops that end early."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import math
import random
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from flowcache import (
    LoadTimeoutError,
    Namespace,
    RecursiveLoadError,
    TooManyLoadsError,
    create_cache,
)
from flowcache.loading.load import TaskWaiter
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    LoopThread,
    assert_nothing_left,
    loop_thread,
    settle,
    until,
    wait_until,
)
from harness.support import logged, new_cache, run_isolated

Main = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Main], None]


async def never() -> Any:
    raise AssertionError("this loader is not to be called")


def joined(namespace: Namespace[Any]) -> int:
    return namespace.stats().coalesced


def loop_factories() -> list[Any]:
    """Every kind of loop and of tasks that this Python has."""
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if sys.version_info >= (3, 12):

        def eager() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

        kinds.append(pytest.param(eager, id="eager"))
    # Not made for Windows, nor for every build without the GIL.
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        kinds.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
    return kinds


@pytest.fixture(params=loop_factories())
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test's coroutine on a loop of its own; any complaint of that loop is a failure."""

    def run(main: Main) -> None:
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, about: complaints.append(about))
            runner.run(main())
            gc.collect()  # "Task exception was never retrieved" comes from a finalizer.
        assert complaints == []

    return run


# One load


def test_a_thousand_gathered_tasks_cause_one_load(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        asked = asyncio.gather(*[cache.afetch("k", gate) for _ in range(1000)])
        await until(lambda: joined(cache) == 999)
        gate.open.set()
        assert await asked == ["loaded"] * 1000

    run(main)
    stats = cache.stats()
    assert (gate.calls, stats.loads, stats.misses, stats.coalesced) == (1, 1, 1000, 999)
    assert_nothing_left(cache)


def test_a_thread_and_tasks_of_two_loops_cause_one_load() -> None:
    cache = create_cache()
    with loop_thread() as first, loop_thread() as second:
        gate = AsyncGate()
        callers = [first.call(cache.afetch("k", gate))]
        wait_until(gate.begun.is_set)
        callers += [second.call(cache.afetch("k", never)) for _ in range(5)]
        callers += [first.call(cache.afetch("k", never)) for _ in range(5)]
        callers += [Caller(lambda: cache.fetch("k", lambda: "mine")) for _ in range(5)]
        wait_until(lambda: joined(cache) == 15)
        first.loop.call_soon_threadsafe(gate.open.set)
        assert [caller.result() for caller in callers] == ["loaded"] * 16
    assert (gate.calls, cache.stats().loads) == (1, 1)
    assert_nothing_left(cache)


def test_two_loops_that_share_a_cache_never_meet_each_other_s_futures() -> None:
    """async-lru #611, cashews #221: each load is led on one loop and awaited on the other too."""
    cache = create_cache()
    rounds = 100

    async def ask(which: int) -> list[Any]:
        async def load(key: int) -> int:
            await asyncio.sleep(0)
            return key

        got = []
        for key in range(rounds):
            together = [cache.afetch(key, lambda key=key: load(key)) for _ in range(3)]  # type: ignore[misc]
            got += await asyncio.gather(*together)
        return got

    with loop_thread() as first, loop_thread() as second:
        callers = [first.call(ask(1)), second.call(ask(2))]
        expected = [key for key in range(rounds) for _ in range(3)]
        assert [caller.result() for caller in callers] == [expected] * 2
    assert cache.stats().loads == rounds
    assert_nothing_left(cache)


def test_a_load_sees_the_first_caller_s_context_and_leaves_it_alone(run: Run) -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    cache = create_cache()

    async def load() -> str:
        seen = who.get()
        who.set("the loader")
        return seen

    async def main() -> None:
        who.set("the first")
        assert await cache.afetch("k", load) == "the first"
        assert who.get() == "the first"

    run(main)


def test_an_error_reaches_every_task_and_is_not_stored(run: Run) -> None:
    cache = create_cache()
    error = OSError("down")
    gate = AsyncGate(error)

    async def main() -> None:
        asked = asyncio.gather(
            *[cache.afetch("k", gate) for _ in range(10)], return_exceptions=True
        )
        await until(lambda: joined(cache) == 9)
        gate.open.set()
        raised = await asked
        assert [(type(one), one.args) for one in raised] == [(OSError, ("down",))] * 10
        assert raised[0] is error
        assert len(set(map(id, raised))) == 10
        assert await cache.afetch("k", lambda: "up") == "up"

    run(main)
    assert (gate.calls, cache.stats().load_failures) == (1, 1)
    assert_nothing_left(cache)


def test_a_failed_load_of_a_task_leaves_nothing_for_the_collector() -> None:
    cache = create_cache()

    class Thing:
        pass

    watched: list[weakref.ref[Thing]] = []

    async def load() -> None:
        thing = Thing()
        watched.append(weakref.ref(thing))
        await asyncio.sleep(0)
        raise OSError

    async def attempt() -> None:
        with suppress(OSError):
            await cache.afetch("k", load)

    async def main() -> None:
        await attempt()
        await settle()
        assert watched[0]() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_an_error_without_a_waiting_call_is_no_complaint(run: Run) -> None:
    """Its only caller has left before: the error is logged, and not reported to the loop."""
    cache = create_cache()
    told: list[BaseException | None] = []
    cache.subscribe(lambda event: told.append(event.error), "load_error")
    error = OSError("on the way out")

    async def load() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def main() -> None:
        caller = asyncio.ensure_future(cache.afetch("k", load))
        await settle()
        caller.cancel()
        await until(lambda: cache.stats().pending == 0)

    run(main)
    assert told == [error]
    assert_nothing_left(cache)


def test_what_leaves_during_its_cancellation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cache = create_cache()

    async def load() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("on the way out")

    async def main() -> None:
        caller = asyncio.ensure_future(cache.afetch("k", load))
        await settle()
        caller.cancel()
        await until(lambda: cache.stats().pending == 0)

    asyncio.run(main())
    assert len(logged(caplog)) == 1
    assert "on the way out" in caplog.text


# Cancellation


def test_the_first_caller_s_cancellation_is_its_own(run: Run) -> None:
    """async-lru #697."""
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        first = asyncio.ensure_future(cache.afetch("k", gate))
        await gate.begun.wait()
        others = [asyncio.ensure_future(cache.afetch("k", never)) for _ in range(3)]
        await until(lambda: joined(cache) == 3)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        assert await asyncio.gather(*others) == ["loaded"] * 3
        assert cache.peek("k") == "loaded"

    run(main)
    assert (gate.calls, gate.cancelled) == (1, 0)
    assert_nothing_left(cache)


def test_any_waiter_s_cancellation_is_its_own(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        callers = [asyncio.ensure_future(cache.afetch("k", gate)) for _ in range(5)]
        await until(lambda: joined(cache) == 4)
        for caller in callers[1:4]:
            caller.cancel()
        gate.open.set()
        got = await asyncio.gather(*callers, return_exceptions=True)
        assert [got[0], got[4]] == ["loaded"] * 2
        assert all(isinstance(one, asyncio.CancelledError) for one in got[1:4])

    run(main)
    assert_nothing_left(cache)


def test_the_last_waiter_to_leave_cancels_the_load(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        callers = [asyncio.ensure_future(cache.afetch("k", gate)) for _ in range(3)]
        await until(lambda: joined(cache) == 2)
        callers[0].cancel()
        callers[1].cancel()
        await settle()
        assert gate.cancelled == 0
        callers[2].cancel()
        await until(lambda: cache.stats().pending == 0)
        assert gate.cancelled == 1
        await asyncio.gather(*callers, return_exceptions=True)
        assert await cache.afetch("k", lambda: "again") == "again"

    run(main)
    stats = cache.stats()
    assert (stats.loads, stats.load_failures) == (1, 0)
    assert_nothing_left(cache)


def test_a_load_cancelled_before_its_first_step_leaves_nothing() -> None:
    cache = create_cache()

    async def main() -> None:
        caller = asyncio.ensure_future(cache.afetch("k", never))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await until(lambda: cache.stats().pending == 0)

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_call_that_joins_a_load_being_cancelled_leads_next(run: Run) -> None:
    cache = create_cache()
    cleaning, cleaned = asyncio.Event(), asyncio.Event()
    running = Counter[str]()

    async def slow_to_go() -> None:
        running["now"] += 1
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()
            running["now"] -= 1

    async def second() -> str:
        assert running["now"] == 0, "it ran beside the one that was still being cancelled"
        return "second"

    async def main() -> None:
        first = asyncio.ensure_future(cache.afetch("k", slow_to_go))
        await settle()
        first.cancel()
        await cleaning.wait()
        late = asyncio.ensure_future(cache.afetch("k", second))
        await settle()
        assert not late.done()
        cleaned.set()
        assert await late == "second"

    run(main)
    assert_nothing_left(cache)


def test_a_loader_that_does_not_let_itself_be_cancelled_is_heard(run: Run) -> None:
    cache = create_cache()
    refused, go_on = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            refused.set()
        await go_on.wait()
        return "after all"

    async def main() -> None:
        first = asyncio.ensure_future(cache.afetch("k", stubborn))
        await settle()
        first.cancel()
        await refused.wait()
        late = asyncio.ensure_future(cache.afetch("k", never))
        await settle()
        go_on.set()
        assert await late == "after all"
        assert cache.peek("k") == "after all"

    run(main)
    assert_nothing_left(cache)


def test_a_loader_s_own_cancelled_error_is_its_leader_s_alone(run: Run) -> None:
    """It awaited something that was cancelled. The others lead, one by one, and await that too."""
    cache = create_cache()

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def load() -> Any:
            return await future

        callers = [asyncio.ensure_future(cache.afetch("k", load)) for _ in range(3)]
        await until(lambda: joined(cache) == 2)
        future.cancel()
        got = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in got)
        assert cache.stats().load_failures == 0

    run(main)
    assert_nothing_left(cache)


def test_wait_for_timeout_and_task_groups(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.afetch("k", gate), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await cache.afetch("k", gate)
        await until(lambda: cache.stats().pending == 0)
        assert gate.cancelled == 2

        async def fail() -> None:
            await gate.begun.wait()
            raise OSError("a sibling")

        gate.begun.clear()
        with pytest.raises(ExceptionGroup):  # noqa: PT012
            async with asyncio.TaskGroup() as group:
                group.create_task(as_coroutine(cache.afetch("k", gate)))
                group.create_task(fail())
        await until(lambda: cache.stats().pending == 0)
        gate.open.set()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(as_coroutine(cache.afetch("k", gate))) for _ in range(3)]
        assert [task.result() for task in tasks] == ["loaded"] * 3

    run(main)
    assert_nothing_left(cache)


def test_a_load_for_which_there_is_no_task_is_given_up() -> None:
    cache, _ = new_cache()

    def refuse(loop: Any, coroutine: Any, **named: Any) -> Any:
        raise RuntimeError("no more tasks")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(refuse)
        with pytest.raises(RuntimeError, match="no more tasks"):
            await cache.afetch("k", AsyncGate())
        loop.set_task_factory(None)
        assert await cache.afetch("k", lambda: "loaded") == "loaded"

    asyncio.run(main())
    assert_nothing_left(cache)


async def as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def test_a_thread_keeps_an_async_load_alive_and_its_leaving_ends_it() -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        task = asyncio.ensure_future(cache.afetch("k", gate))
        await gate.begun.wait()
        thread = Caller(lambda: cache.fetch("k", lambda: "mine"))
        await until(lambda: joined(cache) == 1)
        task.cancel()
        await settle()
        assert gate.cancelled == 0
        gate.open.set()
        await until(lambda: not thread.is_alive())
        assert thread.result() == "loaded"

    asyncio.run(main())
    assert_nothing_left(cache)


def test_ten_thousand_tasks_cancelled_at_random_lose_nothing_and_leave_nothing(run: Run) -> None:
    chance = random.Random(20)
    cache = create_cache(default_ttl=None)
    keys = range(50)
    calls: Counter[int] = Counter()
    gates = {key: asyncio.Event() for key in keys}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop_tasks = len(asyncio.all_tasks())

        def loader(key: int) -> Callable[[], Coroutine[Any, Any, tuple[int, int]]]:
            async def load() -> tuple[int, int]:
                calls[key] += 1
                nth = calls[key]
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                await gates[key].wait()
                return key, nth

            return load

        asked: list[tuple[int, asyncio.Future[Any]]] = []
        for n in range(10_000):
            key = chance.choice(keys)
            asked.append((key, asyncio.ensure_future(cache.afetch(key, loader(key)))))
            if n % 7 == 0:
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                chance.choice(asked[-300:])[1].cancel()
            if n == 5_000:
                for event in gates.values():
                    event.set()
            if n % 1000 == 999:
                cache.delete(chance.choice(keys))
        got = await asyncio.gather(*[future for _, future in asked], return_exceptions=True)
        await until(lambda: cache.stats().pending == 0)
        await settle()
        cancelled = 0
        for (key, future), result in zip(asked, got, strict=True):
            if future.cancelled():
                cancelled += 1
            else:
                assert result[0] == key, result
                assert 1 <= result[1] <= calls[key]
        assert 1_000 < cancelled < 6_000
        assert len(asyncio.all_tasks()) == loop_tasks
        # Futures: none waits any more for a settled load.
        del got
        asked.clear()
        gc.collect()
        waiters = [one for one in gc.get_objects() if type(one) is TaskWaiter]
        assert not [waiter for waiter in waiters if waiter.loop is loop]

    run(main)
    assert_nothing_left(cache)
    cache._check()


# Loops that end early


def test_a_loop_that_ends_with_a_load_pending_strands_no_thread_and_no_other_loop() -> None:
    """asyncio.run cancels what is left; the load's task is among that."""
    cache = create_cache()
    with loop_thread() as other:
        callers: list[Caller] = []

        async def main() -> None:
            gate = AsyncGate()
            asyncio.ensure_future(cache.afetch("k", gate))  # noqa: RUF006  it is to be left behind
            await gate.begun.wait()
            callers.append(Caller(lambda: cache.fetch("k", lambda: "led by another")))
            callers.append(other.call(cache.afetch("k", lambda: "led by another")))
            await until(lambda: joined(cache) == 2)

        asyncio.run(main())
        assert [caller.result() for caller in callers] == ["led by another"] * 2
    assert cache.stats().loads == 1
    assert_nothing_left(cache)


@pytest.mark.parametrize("new_loop", loop_factories())
def test_a_loop_that_is_closed_over_a_load_strands_no_call(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """close() runs no callback and cancels nothing; the tasks are destroyed as they are."""
    cache = create_cache()
    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
    waiting: list[asyncio.Future[Any]] = []
    callers: list[Caller] = []

    async def begin() -> None:
        gate = AsyncGate()
        waiting.append(asyncio.ensure_future(cache.afetch("k", gate)))
        await gate.begun.wait()
        callers.append(Caller(lambda: cache.fetch("k", lambda: "led by a thread")))
        await until(lambda: joined(cache) == 1)

    loop.run_until_complete(begin())
    loop.close()
    assert callers[0].result() == "led by a thread"
    del waiting[0]
    gc.collect()
    assert cache.stats().loads == 1
    assert_nothing_left(cache)


def test_waiters_of_a_closed_loop_disturb_no_other() -> None:
    cache = create_cache()
    gate = Gate()
    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    thread = LoopThread()
    thread.loop.set_exception_handler(lambda *_: None)
    future = asyncio.run_coroutine_threadsafe(as_coroutine(cache.afetch("k", never)), thread.loop)
    wait_until(lambda: joined(cache) == 1)
    thread.close()
    gate.open.set()
    assert leader.result() == "loaded"
    assert not future.done()
    del future
    gc.collect()
    assert_nothing_left(cache)


def test_a_keyboard_interrupt_in_a_task_s_loader_ends_the_loop_and_lets_a_thread_lead() -> None:
    cache = create_cache()
    callers: list[Caller] = []

    async def main() -> None:
        gate = AsyncGate(KeyboardInterrupt())
        asking = asyncio.ensure_future(cache.afetch("k", gate))
        await gate.begun.wait()
        callers.append(Caller(lambda: cache.fetch("k", lambda: "led by a thread")))
        await until(lambda: joined(cache) == 1)
        gate.open.set()
        await asking

    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(settle())
    loop.close()
    assert callers[0].result() == "led by a thread"
    assert cache.stats().load_failures == 0


def test_a_cache_that_is_dropped_while_it_loads_goes_when_the_load_ends(run: Run) -> None:
    async def main() -> None:
        cache = create_cache()
        store = weakref.ref(cache._store())
        gate = AsyncGate()
        asking = asyncio.ensure_future(cache.afetch("k", gate))
        await gate.begun.wait()
        del cache
        assert store() is not None
        gate.open.set()
        assert await asking == "loaded"
        del asking
        await settle()
        gc.collect()
        assert store() is None

    run(main)


# Time-outs


def test_timeout_bounds_the_wait_of_a_task_and_not_the_load(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        with pytest.raises(LoadTimeoutError):
            await cache.afetch("k", gate, timeout=0.01)
        with pytest.raises(LoadTimeoutError):
            await cache.afetch("k", never, timeout=0)
        late = asyncio.ensure_future(cache.afetch("k", never))
        await until(lambda: joined(cache) == 2)
        late.cancel()  # The call that timed out still wants it stored.
        await settle()
        assert gate.cancelled == 0
        gate.open.set()
        await until(lambda: cache.peek("k") == "loaded")
        assert await cache.afetch_many([*"kj"], lambda missing: dict.fromkeys(missing, 1)) == {
            "k": "loaded",
            "j": 1,
        }

    run(main)
    assert_nothing_left(cache)


def test_a_batch_of_tasks_that_times_out_falls_back_key_by_key(run: Run) -> None:
    cache, clock = new_cache()
    gate = AsyncGate({"a": 2, "b": 2})
    cache.set("a", 1, ttl=10, stale=1000)
    cache.set("b", 1, ttl=10, stale=50)
    clock.advance(20)

    async def main() -> None:
        ask = cache.afetch_many([*"ab"], lambda missing: gate(), stale=False, timeout=0.01)
        with pytest.raises(LoadTimeoutError):
            await ask
        gate.open.set()
        await until(lambda: cache.peek("b") == 2)

    run(main)
    assert_nothing_left(cache)


def test_an_endless_timeout_is_none(run: Run) -> None:
    cache = create_cache()

    async def main() -> None:
        assert await cache.afetch("k", lambda: 1, timeout=1e9) == 1
        assert await cache.afetch("j", lambda: 1, timeout=math.inf) == 1

    run(main)


# Rings


def test_a_ring_of_tasks_on_two_loops_raises_in_the_call_that_would_close_it() -> None:
    cache = create_cache()
    with loop_thread() as first, loop_thread() as second:
        holds_a, holds_b = threading.Event(), threading.Event()

        async def load_a() -> str:
            holds_a.set()
            await until(holds_b.is_set)
            return "a" + await cache.afetch("b", never)

        async def load_b() -> str:
            holds_b.set()
            await until(holds_a.is_set)
            await until(lambda: joined(cache) == 1)
            with pytest.raises(RecursiveLoadError):
                await cache.afetch("a", never)
            return "b"

        one = first.call(cache.afetch("a", load_a))
        two = second.call(cache.afetch("b", load_b))
        assert (one.result(), two.result()) == ("ab", "b")
    assert_nothing_left(cache)


def test_a_loader_that_leaves_a_wait_is_free_to_be_waited_for(run: Run) -> None:
    """The edge ends with the wait: a wait that was given up closes no ring."""
    cache = create_cache()
    gate = AsyncGate("b")

    async def load_a() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.afetch("b", gate), 0.01)
        await until(lambda: cache.stats().pending == 1)
        return "a"

    async def main() -> None:
        gate.open.clear()
        assert await cache.afetch("a", load_a) == "a"

        async def load_b() -> str:
            return "b" + await cache.arefresh("a", lambda: "a")

        assert await cache.afetch("b", load_b) == "ba"

    run(main)
    assert_nothing_left(cache)


# Others


def test_two_batches_of_tasks_that_overlap_load_each_key_once(run: Run) -> None:
    cache = create_cache()
    asked: list[list[str]] = []

    def loader(delay: int) -> Any:
        async def load(missing: list[str]) -> dict[str, int]:
            asked.append(missing)
            for _ in range(delay):
                await asyncio.sleep(0)
            return {key: ord(key) for key in missing}

        return load

    async def main() -> None:
        got = await asyncio.gather(
            cache.afetch_many([*"abc"], loader(5)),
            cache.afetch_many([*"dcb"], loader(1)),
            cache.afetch("a", never),
        )
        assert got == [
            {"a": 97, "b": 98, "c": 99},
            {"d": 100, "c": 99, "b": 98},
            97,
        ]

    run(main)
    assert asked == [["a", "b", "c"], ["d"]]
    assert_nothing_left(cache)


def test_a_caller_that_leaves_a_batch_cancels_it_only_if_no_call_wants_a_key(run: Run) -> None:
    cache = create_cache()
    gate = AsyncGate({"a": 1, "b": 2})

    async def main() -> None:
        batch = asyncio.ensure_future(cache.afetch_many([*"ab"], lambda missing: gate()))
        await gate.begun.wait()
        single = asyncio.ensure_future(cache.afetch("b", never))
        await until(lambda: joined(cache) == 1)
        batch.cancel()
        await settle()
        assert gate.cancelled == 0
        gate.open.set()
        assert await single == 2
        assert cache.peek("a") == 1

    run(main)
    assert_nothing_left(cache)


def test_too_many_loads_of_tasks_are_refused(run: Run) -> None:
    room = create_cache().namespace("room", max_pending=2)
    gate = AsyncGate()

    async def main() -> None:
        running = [asyncio.ensure_future(room.afetch(n, gate)) for n in (1, 2, 1, 2)]
        await until(lambda: room.stats().pending == 2)
        with pytest.raises(TooManyLoadsError):
            await room.afetch(3, never)
        gate.open.set()
        assert await asyncio.gather(*running) == ["loaded"] * 4
        assert await room.afetch(3, gate) == "loaded"

    run(main)
    assert_nothing_left(room)


def test_an_afetch_that_is_dropped_on_a_miss_has_done_nothing() -> None:
    cache = create_cache()
    call: Any = cache.afetch("k", never)
    call.close()
    stats = cache.stats()
    assert (stats.misses, stats.pending) == (0, 0)


def test_the_interpreter_exits_while_loads_are_pending_everywhere() -> None:
    output = run_isolated(
        """
        import asyncio, threading
        from flowcache import LoadTimeoutError, create_cache

        cache = create_cache()
        forever = threading.Event()
        cache.set("s", "old", ttl=0.001, stale=True)
        while cache.get("s"):
            pass
        print(cache.fetch("s", forever.wait))
        try:
            cache.fetch("t", forever.wait, timeout=0)
        except LoadTimeoutError:
            print("late")

        async def main():
            asyncio.ensure_future(cache.afetch("k", asyncio.Event().wait))
            await asyncio.sleep(0.01)

        asyncio.run(main())
        print(cache.stats().pending)
        """
    )
    assert output.split() == ["old", "late", "2"]
