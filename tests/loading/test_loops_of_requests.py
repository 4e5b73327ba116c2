"""Where each request has an event loop of its own, a background load ends with the request.

Such a load is not begun again and again: the next caller loads, and waits.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache
from harness.loading_support import Caller, assert_nothing_left, wait_until
from harness.support import VirtualClock, new_cache


class Upstream:
    """An async loader that takes longer than a request does after its answer."""

    def __init__(self) -> None:
        self.begun = 0
        self.finished = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.begun += 1
        for _ in range(30):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.finished += 1
        return f"new {self.finished}"


Ask = Callable[[Cache[Any], Upstream], Any]


async def of_many(cache: Cache[Any], upstream: Upstream) -> str:
    async def load(keys: list[str]) -> dict[str, str]:
        return {"k": await upstream()}

    found: dict[str, str] = await cache.afetch_many(["k"], load, ttl=10, stale=1000)
    return found["k"]


CALLS: dict[str, Ask] = {
    "afetch": lambda cache, upstream: cache.afetch("k", upstream, ttl=10, stale=1000),
    "fetch": lambda cache, upstream: cache.fetch("k", upstream, ttl=10, stale=1000),
    "cached": lambda cache, upstream: cache.cached(key="k", ttl=10, stale=1000)(upstream)(),
    "afetch_many": of_many,
}


def request(cache: Cache[Any], upstream: Upstream, ask: Ask) -> str:
    """One request, on a loop of its own."""

    async def handle() -> str:
        answer: str = await ask(cache, upstream)
        await asyncio.sleep(0)
        return answer

    return asyncio.run(handle())


def stale_cache() -> tuple[Cache[Any], VirtualClock]:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=1000)
    clock.advance(11)
    return cache, clock


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS)
def test_one_load_is_cut_off_and_the_next_caller_loads(ask: Ask) -> None:
    cache, clock = stale_cache()
    upstream = Upstream()
    assert [request(cache, upstream, ask) for _ in range(4)] == ["old", "new 1", "new 1", "new 1"]
    assert (upstream.begun, upstream.finished) == (2, 1)
    clock.advance(11)
    assert [request(cache, upstream, ask) for _ in range(3)] == ["new 1", "new 2", "new 2"]
    assert (upstream.begun, upstream.finished) == (4, 2)
    assert_nothing_left(cache)


def test_so_it_is_with_a_refresh_ahead() -> None:
    cache, clock = new_cache()
    upstream = Upstream()
    cache.set("k", "old", ttl=10)
    clock.advance(9)
    ask: Ask = lambda cache, upstream: cache.afetch("k", upstream, ttl=10, refresh_ahead=0.5)  # noqa: E731
    assert [request(cache, upstream, ask) for _ in range(3)] == ["old", "new 1", "new 1"]
    assert (upstream.begun, upstream.finished) == (2, 1)


def test_a_load_that_is_cut_off_before_its_first_step_counts_as_well() -> None:
    cache, _ = stale_cache()
    upstream = Upstream()

    async def main() -> None:
        assert await one(cache, upstream) == "old"
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())
    assert upstream.begun == 0
    assert asyncio.run(one(cache, upstream)) == "new 1"


async def one(cache: Cache[Any], upstream: Upstream) -> Any:
    return await cache.afetch("k", upstream, ttl=10, stale=1000)


@pytest.mark.parametrize("close", [True, False], ids=["closed", "stopped"])
def test_a_loop_that_is_closed_or_stands_cuts_off_as_well(close: bool) -> None:
    cache, _ = stale_cache()
    upstream = Upstream()
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(one(cache, upstream)) == "old"
    left = asyncio.all_tasks(loop)
    if close:
        loop.close()
        del loop
        gc.collect()
        assert cache.stats().pending == 0
        assert asyncio.run(one(cache, upstream)) == "new 1"
    else:
        assert asyncio.run(one(cache, upstream)) == "old"
        assert asyncio.run(one(cache, upstream)) == "new 1"
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]


def test_a_load_in_its_place_that_fails_is_covered_by_the_old_value() -> None:
    cache, clock = stale_cache()
    upstream = Upstream()
    ask = CALLS["afetch"]
    upstream.error = OSError("down")
    assert request(cache, upstream, ask) == "old"
    assert request(cache, upstream, ask) == "old"
    assert (upstream.begun, cache.stats().load_failures) == (2, 1)
    assert request(cache, upstream, ask) == "old", "the key backs off"
    assert upstream.begun == 2
    upstream.error = None
    clock.advance(2)
    assert [request(cache, upstream, ask) for _ in range(3)] == ["old", "new 1", "new 1"]


def test_requests_at_one_time_wait_for_one_load() -> None:
    cache, _ = stale_cache()
    upstream = Upstream()
    ask = CALLS["afetch"]
    assert request(cache, upstream, ask) == "old"
    begun, go = threading.Event(), threading.Event()

    async def load() -> str:
        begun.set()
        await asyncio.to_thread(go.wait, 60)
        return "new"

    callers = [Caller(lambda: asyncio.run(call(cache, load)))]
    assert begun.wait(30)
    callers += [Caller(lambda: asyncio.run(call(cache, load))) for _ in range(5)]
    wait_until(lambda: cache.stats().misses == 6)
    go.set()
    assert [caller.result() for caller in callers] == ["new"] * 6
    assert cache.stats().loads == 1


async def call(cache: Cache[Any], load: Any) -> Any:
    return await cache.afetch("k", load, ttl=10, stale=1000)


def test_a_value_that_was_stored_since_is_served_stale_again() -> None:
    cache, clock = stale_cache()
    upstream = Upstream()
    ask = CALLS["afetch"]
    assert request(cache, upstream, ask) == "old"
    cache.set("k", "set", ttl=10, stale=1000)
    clock.advance(11)
    assert request(cache, upstream, ask) == "set"


def test_a_thread_s_call_still_loads_behind() -> None:
    cache, _ = stale_cache()
    assert request(cache, Upstream(), CALLS["afetch"]) == "old"
    assert cache.fetch("k", lambda: "by a thread", ttl=10, stale=1000) == "old"
    wait_until(lambda: cache.peek("k") == "by a thread")
