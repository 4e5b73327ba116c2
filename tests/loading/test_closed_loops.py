"""A loader whose event loop is closed under it ends at once, in the context of its own call."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowcache import Namespace
from flowcache.tenancy import current_tenant, tenant
from harness.loading_support import assert_nothing_left
from harness.support import logged, new_cache

Ask = Callable[[Namespace[Any], Callable[..., Any]], Awaitable[Any]]


async def behind(mine: Namespace[Any], load: Callable[..., Any]) -> Any:
    assert await mine.afetch("stale", load, stale=True) == "old"


CALLS: dict[str, Ask] = {
    "afetch": lambda mine, load: mine.afetch("k", load),
    "arefresh": lambda mine, load: mine.arefresh("k", load),
    "timeout": lambda mine, load: mine.afetch("k", load, timeout=60),
    "afetch_many": lambda mine, load: mine.afetch_many(["k"], load),
    "cached": lambda mine, load: mine.cached(load)(),
    "behind": behind,
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("ending", ["works", "raises", "awaits", "exits"])
def test_the_end_of_a_closed_loop_s_loader_runs_as_its_own_tenant(
    ask: Ask, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, clock = new_cache()
    mine = cache.for_current_tenant()
    ran: list[str] = []

    async def load(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ran.append(current_tenant.get())
            mine.set("export", "acme's")
            if ending == "raises":
                raise OSError("at the end")
            if ending == "exits":
                raise SystemExit
            if ending == "awaits":
                await asyncio.sleep(0)

    async def call() -> Any:
        return await ask(mine, load)

    loop = asyncio.new_event_loop()
    with tenant("acme"):
        mine.set("stale", "old", ttl=1, stale=True)
        clock.advance(2)
        asked = loop.create_task(call())
        loop.run_until_complete(asyncio.sleep(0.01))
    with tenant("beta"):
        loop.close()
        assert ran == ["acme"]
        del asked, loop
        gc.collect()
        assert current_tenant.get() == "beta"
        assert "export" not in mine
    assert ran == ["acme"]
    assert cache.namespace("tenant:acme").get("export") == "acme's"
    told = [record for record in logged(caplog) if "its closed event loop" in record.getMessage()]
    assert len(told) == (ending == "exits")
    caplog.clear()  # Its tracebacks hold the loads.
    assert_nothing_left(cache)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_load_ends_with_the_loop_that_it_began_on_and_with_no_other() -> None:
    cache, _ = new_cache()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    ended: list[str] = []

    async def load(key: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(key)

    async def call(key: str) -> Any:
        return await cache.afetch(key, lambda: load(key))

    asked = []
    for number, key in enumerate("abab"):
        loop = loops[number % 2]
        asked.append(loop.create_task(call(f"{key}{number}")))
        loop.run_until_complete(asyncio.sleep(0.01))
    for loop, left, keys in ((loops[0], 2, ["a0", "a2"]), (loops[1], 0, ["b1", "b3"])):
        loop.close()
        assert sorted(ended[-2:]) == keys
        assert cache.stats().pending == left
    asked.clear()
    loops.clear()
    del loop
    gc.collect()
    assert_nothing_left(cache)
