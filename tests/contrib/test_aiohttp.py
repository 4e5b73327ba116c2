"""The recipe for aiohttp: a request has its tenant until its last byte is sent."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

try:
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer
except ImportError:  # it has compiled parts, and these no wheels for every build without the GIL
    pytest.skip("aiohttp's compiled parts have no wheel here", allow_module_level=True)

from contrib.interleaving import TENANTS
from contrib.running import FRAMEWORKS
from flowcache import CacheClosedError
from flowcache.tenancy import current_tenant


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FRAMEWORKS))
    yield importlib.import_module("aiohttp_app")
    del sys.modules["aiohttp_app"]


async def stream(request: web.Request) -> web.Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield f"{current_tenant.get()} ".encode()

    return web.Response(body=parts())


async def later(request: web.Request) -> web.Response:
    async def work() -> None:
        await asyncio.sleep(0)
        told.append(current_tenant.get())

    running.append(asyncio.create_task(work()))
    return web.Response()


told: list[str] = []
running: list[Any] = []


def test_two_tenants_interleaved_see_their_own(recipe: Any) -> None:
    async def run() -> None:
        app = recipe.application()
        app.add_routes([web.get("/stream", stream)])
        async with TestClient(TestServer(app)) as client:

            async def ask(where: str, name: str, method: str = "GET") -> Any:
                headers = {recipe.HEADER: name}
                async with client.request(method, where, headers=headers) as answer:
                    assert answer.status == 200
                    return await answer.text()

            async def work(name: str) -> None:
                for _ in range(10):
                    assert f'"report 1 of {name}"' in await ask("/report", name)
                    assert await ask("/stream", name) == f"{name} " * 3

            await asyncio.gather(*(work(name) for name in TENANTS * 2))
            assert await ask("/changed", "acme", "POST") == '{"removed": 1}'
            assert '"report 2 of acme"' in await ask("/report", "acme")
            assert '"report 1 of beta"' in await ask("/report", "beta")

    asyncio.run(run())
    assert current_tenant.get(None) is None


def test_a_task_of_a_request_keeps_its_tenant(recipe: Any) -> None:
    async def run() -> None:
        app = recipe.application()
        app.add_routes([web.get("/later", later)])
        async with TestClient(TestServer(app)) as client:
            for name in TENANTS:
                await client.get("/later", headers={recipe.HEADER: name})
            await asyncio.gather(*running)

    told.clear()
    running.clear()
    asyncio.run(run())
    assert sorted(told) == sorted(TENANTS)


@pytest.mark.parametrize(
    "given", [[], [""], [" acme "], ["acme", "beta"], ["acme,beta"], ["a" * 257]], ids=repr
)
def test_a_request_without_a_sound_tenant_reaches_no_handler(recipe: Any, given: Any) -> None:
    async def run() -> None:
        async with TestClient(TestServer(recipe.application())) as client:
            headers = [(recipe.HEADER, one) for one in given]
            answer = await client.get("/report", headers=headers)
            # A server strips the white space around a header's value.
            expected = 200 if given == [" acme "] else 400
            assert (answer.status, len(client.app[recipe.LOADS])) == (expected, expected == 200)

    asyncio.run(run())


def test_the_cache_is_closed_with_the_application(recipe: Any) -> None:
    async def run() -> None:
        async with TestClient(TestServer(recipe.application())) as client:
            await client.get("/report", headers={recipe.HEADER: "acme"})
            cache = client.app[recipe.CACHE]
        with recipe.tenant("acme"), pytest.raises(CacheClosedError):
            cache.get("report")

    asyncio.run(run())


def test_the_page_shows_the_recipe(recipe: Any) -> None:
    page = FRAMEWORKS.parents[1] / "docs" / "integrations" / "aiohttp.md"
    for shown in (recipe.tenant_middleware, recipe.cache_of_application):
        assert inspect.getsource(shown) in page.read_text(encoding="utf-8")
