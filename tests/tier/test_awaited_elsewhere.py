"""Calls of a cache with a tier act for the tenant for which they were made, wherever awaited.

The user's code that a call runs (a callable TTL, a weigher, a loader) sees that tenant as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowcache.tenancy import current_tenant, tenant
from harness.fleet import Make, run
from harness.servers import Server

Call = Callable[[Any], Awaitable[Any]]


def whose(_: object = None) -> str:
    return current_tenant.get("none")


async def awhose() -> str:
    return whose()


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
    "aclear": (lambda mine: mine.aclear(), None),
    "afetch": (lambda mine: mine.afetch("new", awhose), "acme"),
    "arefresh": (lambda mine: mine.arefresh("new", awhose), "acme"),
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
