"""Event loops that end during a load, and time-outs of tasks."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import (
    LoadTimeoutError,
    create_cache,
)
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    LoopThread,
    Run,
    as_coroutine,
    assert_nothing_left,
    async_never,
    joined,
    loop_factories,
    loop_thread,
    settle,
    until,
    wait_until,
)
from harness.support import new_cache

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
    future = asyncio.run_coroutine_threadsafe(
        as_coroutine(cache.afetch("k", async_never)), thread.loop
    )
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
            await cache.afetch("k", async_never, timeout=0)
        late = asyncio.ensure_future(cache.afetch("k", async_never))
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
