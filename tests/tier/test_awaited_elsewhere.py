"""Calls of a cache with a tier act for the tenant for which they were made, wherever awaited.

The user's code that a call runs (a callable TTL, a weigher, a loader) sees that tenant as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flowcache import CacheClosedError
from flowcache.tenancy import current_tenant, tenant
from harness.fleet import Make, run
from harness.servers import Server

Call = Callable[[Any], Awaitable[Any]]


def whose(_: object = None) -> str:
    return current_tenant.get("none")


async def awhose() -> str:
    return whose()


async def awhose_many(keys: list[str]) -> dict[str, str]:
    return dict.fromkeys(keys, whose())


async def elsewhere(mine: Any, call: Call) -> Any:
    with tenant("acme"):
        awaitable = call(mine)
    with tenant("beta"):
        return await awaitable


CALLS: dict[str, tuple[Call, Any]] = {
    "aget": (lambda mine: mine.aget("k"), "acme"),
    "aget_many": (lambda mine: mine.aget_many(["k"]), {"k": "acme"}),
    "apop": (lambda mine: mine.apop("k"), "acme"),
    "adelete": (lambda mine: mine.adelete("k"), True),
    "aincr": (lambda mine: mine.aincr("n"), 11),
    "asetdefault": (lambda mine: mine.asetdefault("k", "new"), "acme"),
    "aadd": (lambda mine: mine.aadd("k", "new"), False),
    "aset": (lambda mine: mine.aset("k", "new"), None),
    "aset_many": (lambda mine: mine.aset_many({"k": "new"}), None),
    "ainvalidate_tag": (lambda mine: mine.ainvalidate_tag("t"), None),
    "ainvalidate_tags": (lambda mine: mine.ainvalidate_tags(["t"], match="all"), None),
    "ainvalidate_prefix": (lambda mine: mine.ainvalidate_prefix("k"), None),
    "adelete_many": (lambda mine: mine.adelete_many(["k", "n"]), 2),
    "atouch": (lambda mine: mine.atouch("k", 1e-9), None),
    "aexpire": (lambda mine: mine.aexpire("k"), True),
    "aexpire_tag": (lambda mine: mine.aexpire_tag("t"), None),
    "aclear": (lambda mine: mine.aclear(), None),
    "afetch": (lambda mine: mine.afetch("new", awhose), "acme"),
    "arefresh": (lambda mine: mine.arefresh("new", awhose), "acme"),
    "afetch_many": (
        lambda mine: mine.afetch_many(["k", "new"], awhose_many),
        {"k": "acme", "new": "acme"},
    ),
}


@pytest.mark.parametrize(("call", "answer"), CALLS.values(), ids=CALLS)
def test_it_reaches_the_tenant_of_the_call(
    new_server: Server, make: Make, call: Call, answer: Any
) -> None:
    mine: Any = make(new_server).for_current_tenant()

    async def main() -> None:
        for one, number in (("acme", 10), ("beta", 20)):
            with tenant(one):
                await mine.aset("k", one, tags=("t",))
                await mine.aset("n", number)
        result = await elsewhere(mine, call)
        assert answer is None or result == answer
        with tenant("beta"):
            assert await mine.aget_many(["k", "n", "new"]) == {"k": "beta", "n": 20}

    run(main())


@pytest.mark.parametrize("call", [call for call, _ in CALLS.values()], ids=CALLS)
def test_it_may_be_made_on_one_loop_and_awaited_once_on_another(
    new_server: Server, make: Make, call: Call
) -> None:
    mine: Any = make(new_server).namespace("tenant:acme")
    mine.set_many({"k": "acme", "n": 10}, tags="t")

    async def made() -> Awaitable[Any]:
        return call(mine)

    async def awaited(twice: Awaitable[Any]) -> None:
        await twice
        with pytest.raises(RuntimeError, match="already awaited"):
            await twice

    with ThreadPoolExecutor(1) as threads:
        threads.submit(run, awaited(run(made()))).result()


@pytest.mark.parametrize("call", [call for call, _ in CALLS.values()], ids=CALLS)
def test_it_reaches_nothing_once_the_cache_is_closed(
    new_server: Server, make: Make, call: Call
) -> None:
    cache, other = make(new_server), make(new_server)
    there = other.namespace("tenant:acme")
    there.set_many({"k": "acme", "n": 10}, tags="t")

    async def main() -> None:
        awaitable = call(cache.namespace("tenant:acme"))
        await cache.aclose()
        with pytest.raises(CacheClosedError):
            await awaitable

    run(main())
    assert there.get_many(["k", "n", "new"]) == {"k": "acme", "n": 10}


def test_the_user_s_code_sees_the_tenant_of_the_call(new_server: Server, make: Make) -> None:
    seen: list[str] = []

    def ttl(_: Any) -> float:
        seen.append(whose())
        return 60

    mine: Any = make(new_server).for_current_tenant()

    async def main() -> None:
        await elsewhere(mine, lambda mine: mine.aset("k", 1, ttl=ttl))
        await elsewhere(mine, lambda mine: mine.aadd("l", 1, ttl=ttl))
        await elsewhere(mine, lambda mine: mine.aset_many({"m": 1}, ttl=ttl))

    run(main())
    assert set(seen) == {"acme"} and len(seen) >= 3


def test_the_weigher_of_what_is_read_sees_the_tenant_of_the_call(
    new_server: Server, make: Make
) -> None:
    seen: list[str] = []

    def weigh(_: object, __: object) -> int:
        seen.append(whose())
        return 1

    there: Any = make(new_server).for_current_tenant()
    mine: Any = make(new_server, weigher=weigh, max_weight=1000).for_current_tenant()

    async def main() -> None:
        with tenant("acme"):
            for key, value in (("k", 1), ("l", 2), ("m", 3)):
                await there.aset(key, value, wait="fleet")  # No message fences the reads.
        assert await elsewhere(mine, lambda mine: mine.aget("k")) == 1
        assert await elsewhere(mine, lambda mine: mine.afetch("l", awhose)) == 2
        assert await elsewhere(mine, lambda mine: mine.afetch_many(["m"], awhose_many)) == {"m": 3}

    run(main())
    assert seen == ["acme"] * 3


def plan(_: object) -> str:
    """Return what names its tenant; a function that travels."""
    return whose()


def test_an_invalidation_of_a_cached_function_does_so_in_the_fleet(
    new_server: Server, make: Make
) -> None:
    mine: Any = make(new_server).for_current_tenant()
    cached = mine.wrap(plan)
    assert cached._travels()

    async def main() -> None:
        for make_it in (
            lambda _: cached.ainvalidate("x"),
            lambda _: cached.acache_clear(),
        ):
            for one in ("acme", "beta"):
                with tenant(one):
                    await mine.aset(cached.cache_key("x"), one, tags=(cached._own_tag,))
            await elsewhere(mine, make_it)
            with tenant("acme"):
                assert await mine.aget(cached.cache_key("x")) is None
            with tenant("beta"):
                assert await mine.aget(cached.cache_key("x")) == "beta"

    run(main())
