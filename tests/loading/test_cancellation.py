"""Tasks that are cancelled while they load, or while they wait."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flowcache import (
    create_cache,
)
from flowcache.loading.load import TaskWaiter
from harness.loading_support import (
    AsyncGate,
    Caller,
    Run,
    as_coroutine,
    assert_nothing_left,
    async_never,
    joined,
    settle,
    until,
)
from harness.support import new_cache


def test_the_first_caller_s_cancellation_is_its_own(run: Run) -> None:
    """async-lru #697."""
    cache = create_cache()
    gate = AsyncGate()

    async def main() -> None:
        first = asyncio.ensure_future(cache.afetch("k", gate))
        await gate.begun.wait()
        others = [asyncio.ensure_future(cache.afetch("k", async_never)) for _ in range(3)]
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
        caller = asyncio.ensure_future(cache.afetch("k", async_never))
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
        late = asyncio.ensure_future(cache.afetch("k", async_never))
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
            await asyncio.wait_for(cache.afetch("k", gate), 0.2)  # The loader begins before.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
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
