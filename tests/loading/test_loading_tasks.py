"""Loads of tasks: one for all callers, rings, batches."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from flowcache import (
    RecursiveLoadError,
    TooManyLoadsError,
    create_cache,
)
from harness.loading_support import (
    AsyncGate,
    Caller,
    Run,
    assert_nothing_left,
    async_never,
    joined,
    loop_thread,
    settle,
    until,
    wait_until,
)
from harness.support import logged, run_isolated

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
        callers += [second.call(cache.afetch("k", async_never)) for _ in range(5)]
        callers += [first.call(cache.afetch("k", async_never)) for _ in range(5)]
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


# Rings


def test_a_ring_of_tasks_on_two_loops_raises_in_the_call_that_would_close_it() -> None:
    cache = create_cache()
    with loop_thread() as first, loop_thread() as second:
        holds_a, holds_b = threading.Event(), threading.Event()

        async def load_a() -> str:
            holds_a.set()
            await until(holds_b.is_set)
            return "a" + await cache.afetch("b", async_never)

        async def load_b() -> str:
            holds_b.set()
            await until(holds_a.is_set)
            await until(lambda: joined(cache) == 1)
            with pytest.raises(RecursiveLoadError):
                await cache.afetch("a", async_never)
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
            cache.afetch("a", async_never),
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
        single = asyncio.ensure_future(cache.afetch("b", async_never))
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
            await room.afetch(3, async_never)
        gate.open.set()
        assert await asyncio.gather(*running) == ["loaded"] * 4
        assert await room.afetch(3, gate) == "loaded"

    run(main)
    assert_nothing_left(room)


def test_an_afetch_that_is_dropped_on_a_miss_has_done_nothing() -> None:
    cache = create_cache()
    call: Any = cache.afetch("k", async_never)
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
