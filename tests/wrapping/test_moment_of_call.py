"""A cached async function works for the tenant of the call, wherever its awaitable is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.tenancy import current_tenant, tenant
from harness.loading_support import until
from harness.support import new_cache

TENANTS = ("acme", "beta")
Call = Callable[[], Awaitable[str]]


async def whose(*_: object) -> str:
    await asyncio.sleep(0)
    return current_tenant.get("none")


def function(mine: Any) -> Call:
    cached: Call = mine.cached()(whose)
    return cached


def wrapped(mine: Any) -> Call:
    cached: Call = mine.wrap(whose, ttl=60)
    return cached


def with_options(mine: Any) -> Call:
    @mine.cached(key=lambda *_: "k", tags=lambda *_: ("t",), refresh_ahead=0.5)
    async def cached(argument: int) -> str:
        return await whose()

    return lambda: cached(1)


def method(mine: Any) -> Call:
    class Service:
        @mine.cached()
        async def plan(self) -> str:
            return await whose()

    call: Call = Service().plan
    return call


def bound(mine: Any) -> Call:
    class Service:
        async def plan(self) -> str:
            return await whose()

    call: Call = mine.wrap(Service().plan)
    return call


def class_method(mine: Any) -> Call:
    class Service:
        @mine.cached()
        @classmethod
        async def plan(cls) -> str:
            return await whose()

    call: Call = Service.plan
    return call


def static_method(mine: Any) -> Call:
    class Service:
        @mine.cached()
        @staticmethod
        async def plan() -> str:
            return await whose()

    call: Call = Service.plan
    return call


def refresh(mine: Any) -> Call:
    call: Call = mine.cached()(whose).refresh
    return call


def refresh_of_a_method(mine: Any) -> Call:
    class Service:
        @mine.cached()
        async def plan(self) -> str:
            return await whose()

    call: Call = Service().plan.refresh
    return call


KINDS = [
    function,
    wrapped,
    with_options,
    method,
    bound,
    class_method,
    static_method,
    refresh,
    refresh_of_a_method,
]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_several_tenants_may_be_awaited_together(kind: Callable[[Any], Call]) -> None:
    cache = create_cache(require_namespace=True)
    mine = cache.for_current_tenant()
    call = kind(mine)

    async def main() -> list[str]:
        calls = []
        for name in TENANTS:
            with tenant(name):
                calls.append(call())
        return await asyncio.gather(*calls)

    with tenant("admin"):
        assert asyncio.run(main()) == list(TENANTS)
    for name in TENANTS:
        with tenant(name):
            assert list(mine.values()) == [name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_one_namespace_runs_in_the_context_of_the_call(
    kind: Callable[[Any], Call],
) -> None:
    call = kind(create_cache().namespace("shared"))

    async def main() -> str:
        with tenant("acme"):
            asked = call()
        with tenant("beta"):
            return await asked

    assert asyncio.run(main()) == "acme"


def test_a_load_behind_a_stale_result_is_that_of_the_call() -> None:
    cache, clock = new_cache(default_ttl=10)
    mine = cache.for_current_tenant()
    seen: list[str] = []

    @mine.cached(stale=True)
    async def plan() -> str:
        seen.append(current_tenant.get("none"))
        return seen[-1]

    async def main() -> None:
        with tenant("acme"):
            await plan()
            clock.advance(11)
            asked = plan()
        with tenant("beta"):
            assert await asked == "acme"
            await until(lambda: cache.stats().loads == 2)

    asyncio.run(main())
    assert seen == ["acme", "acme"]
