"""A cache with a tier on event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from flowcache import (
    TierUnavailableError,
    WouldBlockError,
    _core,
)
from flowcache.tier.namespace import READS, WRITES
from harness.fleet import Make
from harness.servers import server


def test_a_blocking_call_on_a_loops_thread_names_its_twin(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", 1, tags=("t",), wait="fleet")
    assert other.get("k") == 1
    arguments: dict[str, tuple[Any, ...]] = {
        "set": ("k", 2),
        "add": ("k", 2),
        "setdefault": ("k", 2),
        "set_many": ({"k": 2},),
        "delete_many": (["k"],),
        "get_many": (["m"],),
        "clear": (),
        "invalidate_tag": ("t",),
        "invalidate_tags": (["t"],),
        "invalidate_prefix": ("k",),
        "ttl": ("m",),
        "get": ("m",),
        "refresh": ("k", lambda: 2),
        "fetch": ("m", lambda: 2),
        "fetch_many": (["m"], lambda keys: {}),
    }

    async def use() -> None:
        for name in (*READS, *WRITES, "get", "refresh", "fetch", "fetch_many"):
            with pytest.raises(WouldBlockError, match=rf"^{name}: .*await a{name}\("):
                getattr(one, name)(*arguments.get(name, ("k",)))
        with pytest.raises(WouldBlockError, match="await aget"):
            one["m"]
        with pytest.raises(WouldBlockError, match="await aset"):
            one["k"] = 2
        # What is held here needs no wait.
        assert (one.get("k"), one["k"], one.get_many(["k"])) == (1, 1, {"k": 1})
        assert one.fetch("k", lambda: 2) == 1
        assert one.ttl("k") > 0

    asyncio.run(use())
    assert "k" in other


def test_cancelling_does_not_stop_a_write(pair: tuple[Any, Any]) -> None:
    one, other = pair

    async def use() -> None:
        writing = asyncio.ensure_future(one.aset("k", 1))
        while not one.stats().sets and "k" not in one and not writing.done():
            await asyncio.sleep(0)
            writing.cancel()
            break
        with pytest.raises(asyncio.CancelledError):
            await writing
        await one_cache.tier.finish_writes()

    one_cache = one_of(one)
    asyncio.run(use())
    assert other.get("k") in (1, None)


def test_an_end_on_one_loop_does_not_wait_for_a_write_of_another(make: Make) -> None:
    with server() as running, ThreadPoolExecutor(1) as threads:
        cache = make(running)
        namespace, began = cache.namespace("tenant:acme"), threading.Event()

        async def write() -> None:
            task = asyncio.ensure_future(namespace.aset("k", 1))
            while not cache.tier._writes:
                await asyncio.sleep(0)
            began.set()
            with suppress(TierUnavailableError):
                await task

        with running.stopped():
            writing = threads.submit(asyncio.run, write())
            began.wait()
            asyncio.run(cache.tier.finish_writes())
            assert not writing.done()
        writing.result()
        cache.close()


def one_of(namespace: Any) -> Any:
    """Return the cache of a namespace, which has no way up of its own."""

    root = _core._root_of(namespace._store())

    class Rooted:
        tier = root._store().tier

    return Rooted


def test_a_write_that_is_not_awaited_warns(pair: tuple[Any, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pair[0].aset("k", 1)
        gc.collect()
    assert any("never awaited" in str(one.message) for one in caught)
    assert pair[1].get("k") is None


def test_several_loops_use_one_cache(pair: tuple[Any, Any]) -> None:
    def use(number: int) -> None:
        async def write() -> None:
            for turn in range(20):
                await pair[0].aset(f"{number}:{turn}", turn)
                assert await pair[1].aget(f"{number}:{turn}") == turn

        asyncio.run(write())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pair[1].get("3:19") == 19
