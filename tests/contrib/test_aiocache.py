"""The recipe for aiocache: tenants, its namespaces, its locks and its decorators."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from aiocache import Cache, cached, caches
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
from aiocache.serializers import PickleSerializer

from contrib.interleaving import TENANTS, in_step
from contrib.running import FRAMEWORKS
from flowcache import TenantNotSetError
from flowcache.tenancy import current_tenant, tenant


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FRAMEWORKS))
    yield importlib.import_module("aiocache_backend")
    del sys.modules["aiocache_backend"]


def test_two_tenants_interleaved_over_threads_see_their_own(recipe: Any) -> None:
    cache = Cache(recipe.FlowCache)

    async def turn(name: str, number: int) -> None:
        with tenant(name):
            await cache.set("k", f"{name} {number}")
            await cache.multi_set([("a", name), ("b", [name])])
            await asyncio.sleep(0)
            assert await cache.get("k") == f"{name} {number}"
            assert await cache.multi_get(["a", "b"]) == [name, [name]]
            assert await cache.increment("n") == number + 1

    def work(name: str, step: Callable[[], Any]) -> None:
        with asyncio.Runner() as runner:
            for number in range(50):
                step()
                runner.run(turn(name, number))

    in_step(work, *TENANTS)


def test_two_tenants_interleaved_over_tasks_see_their_own(recipe: Any) -> None:
    @cached(cache=recipe.FlowCache, namespace="functions")
    async def whose() -> str:
        await asyncio.sleep(0)
        return str(current_tenant.get())

    async def work(name: str) -> None:
        with tenant(name):
            for _ in range(25):
                assert await whose() == name
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(work(name) for name in TENANTS * 2))

    asyncio.run(all_of_them())


def test_a_call_without_a_tenant_raises(recipe: Any) -> None:
    async def run() -> None:
        for call in (cache.get("k"), cache.set("k", 1), cache.clear()):
            with pytest.raises(TenantNotSetError):
                await call

    cache = Cache(recipe.FlowCache)
    asyncio.run(run())
    assert list(recipe.store.namespaces()) == []


def test_a_clear_reaches_no_other_namespace_or_tenant(recipe: Any) -> None:
    """aiocache #1081: a clear of one namespace empties those whose names begin alike."""

    async def run() -> None:
        short, long = (Cache(recipe.FlowCache, namespace=name) for name in ("foo", "foobar"))
        for name in TENANTS:
            with tenant(name):
                for cache in (short, long):
                    await cache.set("k", name)
                await short.set("bar:k", name)
        with tenant("acme"):
            await short.clear()
            assert await short.get("k") is None
            assert await long.get("k") == "acme"
            await short.clear(namespace="foobar")
            assert await long.exists("k") is False
        with tenant("beta"):
            assert await short.get("k") == await long.get("k") == "beta"
            everything = Cache(recipe.FlowCache)
            await everything.clear()
            assert await short.get("k") is None

    asyncio.run(run())


def test_locks_of_two_tenants_are_two(recipe: Any) -> None:
    async def run() -> None:
        cache = Cache(recipe.FlowCache)
        inside = dict.fromkeys(TENANTS, 0)

        async def work(name: str) -> None:
            with tenant(name):
                async with RedLock(cache, "k", lease=60):
                    inside[name] += 1
                    while not all(inside.values()):
                        await asyncio.sleep(0)

        # With one lock for both, the second tenant waits for the first, which waits for it.
        async with asyncio.timeout(30):
            await asyncio.gather(*(work(name) for name in TENANTS))

    asyncio.run(run())


def test_a_lock_finds_that_the_value_has_changed(recipe: Any) -> None:
    async def run() -> None:
        cache = Cache(recipe.FlowCache)
        with tenant("acme"):
            await cache.set("k", 1)
            async with OptimisticLock(cache, "k") as lock:
                assert await lock.cas(2) is True
            async with OptimisticLock(cache, "k") as lock:
                await cache.set("k", 3)
                with pytest.raises(OptimisticLockError):
                    await lock.cas(4)
            assert await cache.get("k") == 3

    asyncio.run(run())


def test_time_to_live_and_return_values_are_those_of_aiocache(recipe: Any) -> None:
    class Key(Enum):
        ONE = "one"

    async def run() -> None:
        cache = Cache(recipe.FlowCache, serializer=PickleSerializer(), namespace="n", ttl=60)
        with tenant("acme"):
            place = recipe.store.namespace("tenant:acme", "[n]")
            await cache.set(Key.ONE, [1])
            assert 59 < (place.ttl("one") or 0) <= 60
            assert await cache.get("one") == [1]
            assert await cache.expire("one", 0) is True
            assert place.ttl("one") is None
            await cache.set("one", 2, ttl=0)
            assert place.ttl("one") is None
            with pytest.raises(ValueError, match="already exists"):
                await cache.add("one", 3)
            assert [await cache.delete("one"), await cache.delete("one")] == [1, 0]
            assert await cache.expire("one", 5) is False
            built = Cache(recipe.FlowCache, key_builder=lambda key, namespace: f"{namespace}/{key}")
            await built.set("k", 1, namespace="m")
            assert recipe.store.namespace("tenant:acme", "[m]").get("m/k") == 1

    asyncio.run(run())


def test_an_alias_of_aiocache_names_the_class(recipe: Any) -> None:
    known = caches.get_config()
    configured = {"cache": "aiocache_backend.FlowCache", "namespace": "pages"}
    caches.set_config({**known, "pages": configured})
    try:

        async def run() -> None:
            with tenant("acme"):
                await caches.get("pages").set("k", 1)
            assert recipe.store.namespace("tenant:acme", "[pages]").get("k") == 1

        asyncio.run(run())
    finally:
        caches.set_config(known)


def test_keys_without_end_stay_within_the_bound(recipe: Any) -> None:
    """rucio #5152: aiocache's memory grows for ever."""

    async def run() -> None:
        cache = Cache(recipe.FlowCache)
        with tenant("acme"):
            for batch in range(60):
                await cache.multi_set([(f"{batch}:{number}", 1) for number in range(1_000)])

    asyncio.run(run())
    assert recipe.store.stats().entries == 50_000


def test_the_page_shows_the_recipe(recipe: Any) -> None:
    page = FRAMEWORKS.parents[1] / "docs" / "integrations" / "aiocache.md"
    assert inspect.getsource(recipe.FlowCache) in page.read_text(encoding="utf-8")
