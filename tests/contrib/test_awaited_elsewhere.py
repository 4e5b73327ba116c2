"""The async calls of the integrations work for the tenant for which they were made.

Each is made under one tenant and awaited where another one is current.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.core.cache import caches

from contrib.django_project import CURRENT, caches_of
from flowcache import create_cache
from flowcache.tenancy import current_tenant, tenant

Make = Callable[[Any], Awaitable[Any]]


async def elsewhere(make: Make, store: Any) -> Any:
    with tenant("acme"):
        awaitable = make(store)
    with tenant("beta"):
        return await awaitable


async def loads() -> str:
    return current_tenant.get("none")


DJANGO: dict[str, tuple[Make, Any]] = {
    "aget": (lambda c: c.aget("k"), "acme"),
    "aget_many": (lambda c: c.aget_many(["k"]), {"k": "acme"}),
    "ahas_key": (lambda c: c.ahas_key("only acme"), True),
    "aget_or_set": (lambda c: c.aget_or_set("new", loads), "acme"),
    "aadd": (lambda c: c.aadd("only beta", 1), True),
    "aincr": (lambda c: c.aincr("n"), 11),
    "adecr": (lambda c: c.adecr("n"), 9),
    "aincr_version": (lambda c: c.aincr_version("only acme"), 2),
    "adecr_version": (lambda c: c.adecr_version("only acme"), 0),
    "atouch": (lambda c: c.atouch("only acme", 60), True),
    "adelete": (lambda c: c.adelete("only acme"), True),
    "ainvalidate_tag": (lambda c: c.ainvalidate_tag("t"), 1),
    "adelete_pattern": (lambda c: c.adelete_pattern("only ac?e"), 1),
    "aset": (lambda c: c.aset("k", "new"), None),
    "aset_many": (lambda c: c.aset_many({"k": "new"}), []),
    "adelete_many": (lambda c: c.adelete_many(["k"]), None),
    "aclear": (lambda c: c.aclear(), None),
}


@pytest.mark.filterwarnings("ignore::django.core.cache.backends.base.CacheKeyWarning")
@pytest.mark.parametrize(("make", "answer"), DJANGO.values(), ids=DJANGO)
def test_django(make: Make, answer: Any) -> None:
    async def run() -> None:
        store = caches["default"]
        for one, number in (("acme", 10), ("beta", 20)):
            with tenant(one):
                await store.aset_many({"k": one, "n": number})
                await store.aset(f"only {one}", one, tags=("t",) if one == "acme" else ())
        assert await elsewhere(make, store) == answer
        with tenant("beta"):
            assert await store.aget_many(["k", "n", "only beta", "only acme", "new"]) == {
                "k": "beta",
                "n": 20,
                "only beta": "beta",
            }

    with caches_of(default=CURRENT):
        asyncio.run(run())


LITESTAR: dict[str, tuple[Make, Any]] = {
    "get": (lambda s: s.get("k"), b"acme"),
    "exists": (lambda s: s.exists("only acme"), True),
    "expires_in": (lambda s: s.expires_in("only acme"), -1),
    "set": (lambda s: s.set("k", b"new"), None),
    "delete": (lambda s: s.delete("k"), None),
    "delete_all": (lambda s: s.delete_all(), None),
}


@pytest.mark.parametrize(("make", "answer"), LITESTAR.values(), ids=LITESTAR)
def test_litestar(make: Make, answer: Any) -> None:
    pytest.importorskip("litestar", reason="Litestar's compiled parts have no wheel here")
    from flowcache.contrib.litestar import FlowStore

    async def run() -> None:
        store = FlowStore(create_cache(), tenant="current").with_namespace("sessions")
        for one in ("acme", "beta"):
            with tenant(one):
                await store.set("k", one)
                await store.set(f"only {one}", one)
        assert await elsewhere(make, store) == answer
        with tenant("beta"):
            assert [await store.get(key) for key in ("k", "only beta")] == [b"beta", b"beta"]

    asyncio.run(run())
