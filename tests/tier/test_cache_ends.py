"""The end of a cache with a tier, and what it tells meanwhile."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import Any

import pytest

from flowcache import (
    create_cache,
)
from flowcache.cache import Cache
from flowcache.tier import ValkeyTier
from harness.fleet import PATIENT, Make, confirmed, confirmed_on_loop
from harness.servers import Server, wait_until


def test_a_cache_that_is_dropped_leaves_the_fleet(new_server: Server, make: Make) -> None:
    cache: Any = create_cache(tier=ValkeyTier(new_server.url, **PATIENT), name="dropped")
    confirmed(cache.connect)
    tier = weakref.ref(cache.tier)
    store = weakref.ref(cache._store())
    del cache

    def is_gone() -> bool:
        gc.collect()
        return store() is None and tier() is None

    wait_until(is_gone)  # The bus holds it for a moment at each beat.
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "flowcache-bus"])


def test_a_cache_is_closed_from_a_loop(new_server: Server) -> None:
    tier = ValkeyTier(new_server.url, **PATIENT)

    async def use() -> None:
        async with create_cache(tier=tier, name="aclosed") as cache:
            await confirmed_on_loop(cache.aconnect)
            await cache.namespace("tenant:acme").aset("k", 1)
            assert await cache.namespace("tenant:acme").aget("k") == 1
        assert cache._is_closed()

    asyncio.run(use())
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "flowcache-bus"])


def test_a_subclass_of_cache_may_have_a_tier(new_server: Server) -> None:
    class Mine(Cache[Any]):
        """A cache with a call of its own."""

        def twice(self, key: Any) -> Any:
            return self.get(key) * 2

    with Mine(tier=ValkeyTier(new_server.url, **PATIENT), name="mine") as mine:
        mine.set("k", 2)
        assert mine.twice("k") == 4
        assert isinstance(mine, Mine)
        assert type(mine).__name__ == "Mine"
        assert repr(mine) == "<flowcache.Cache 'mine'>"
    with Mine() as plain:
        assert type(plain) is Mine
        assert plain.tier is None


def test_a_logger_hears_of_an_outage_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = make(
        "valkey://127.0.0.1:1/0", connects=False, tier={"soft_timeout": 0.01, "hard_timeout": 0.01}
    )
    for _ in range(5):
        cache.namespace("tenant:acme").get("k")
    time.sleep(0.3)
    assert len([one for one in caplog.records if "cannot be reached" in one.message]) == 1
