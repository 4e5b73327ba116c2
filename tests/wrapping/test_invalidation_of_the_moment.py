"""The awaitable calls of a cached function act on the tenant for which they were made.

An invalidation that acted on the tenant that is current at the await would remove the results of
another tenant, and leave those that it was meant for to be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.tenancy import tenant

TENANTS = ("acme", "beta")
Make = Callable[[Any], Awaitable[Any]]


class Service:
    """A class with a cached method, which `method` sets."""

    plan: Any


def function(mine: Any) -> Any:
    return mine.cached(lambda: "plan")


def async_function(mine: Any) -> Any:
    async def plan() -> str:
        return "plan"

    return mine.cached(plan)


def method(mine: Any) -> Any:
    Service.plan = mine.cached(lambda self: "plan")
    return Service().plan


def keyed(mine: Any) -> Any:
    return mine.cached(key="plan")(lambda: "plan")


KINDS = {one.__name__: one for one in (function, async_function, method, keyed)}
CALLS: dict[str, Make] = {
    "ainvalidate": lambda cached: cached.ainvalidate(),
    "acache_clear": lambda cached: cached.acache_clear(),
}


async def loaded(cached: Any) -> None:
    for one in TENANTS:
        with tenant(one):
            made = cached()
            if not isinstance(made, str):
                await made


@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("under", ["beta", None])
def test_it_reaches_the_tenant_of_the_call(
    kind: Callable[[Any], Any], make: Make, under: str | None
) -> None:
    async def run() -> None:
        with create_cache() as cache:
            cached = kind(cache.for_current_tenant())
            await loaded(cached)
            with tenant("acme"):
                awaitable = make(cached)
            if under is None:
                await awaitable
            else:
                with tenant(under):
                    await awaitable
            held = []
            for one in TENANTS:
                with tenant(one):
                    held.append(cached.cache_contains())
            assert held == [False, True]

    asyncio.run(run())


def test_the_tenant_is_needed_at_the_call_and_missed_at_the_await() -> None:
    async def run() -> None:
        with create_cache() as cache:
            cached = function(cache.for_current_tenant())
            awaitable = cached.ainvalidate()  # made with no tenant
            with tenant("beta"), pytest.raises(LookupError):
                await awaitable

    asyncio.run(run())


def test_an_argument_that_names_the_tenant_does_so_wherever_it_is_awaited() -> None:
    async def run() -> None:
        with create_cache() as cache:

            @cache.cached(tenant="who")
            def plan(who: str) -> str:
                return who

            for one in TENANTS:
                plan(one)
            awaitable = plan.acache_clear(tenant="acme")
            with tenant("beta"):
                await awaitable
            assert [plan.cache_contains(one) for one in TENANTS] == [False, True]

    asyncio.run(run())
