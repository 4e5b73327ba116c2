"""The FastAPI dependency: each request has its tenant's cache, in background tasks too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest

try:
    from fastapi import BackgroundTasks, Depends, FastAPI
except ImportError:  # its compiled parts have no wheels for every build without the GIL
    pytest.skip("FastAPI's compiled parts have no wheel here", allow_module_level=True)

from flowcache import CacheClosedError, Namespace, TenantNotSetError, create_cache
from flowcache.contrib.asgi import TenantMiddleware
from flowcache.contrib.fastapi import tenant_cache
from flowcache.tenancy import current_tenant, tenant

crm: Any = create_cache()
TenantCache = Annotated[Namespace[Any], Depends(tenant_cache(crm))]


@crm.for_current_tenant().cached()
async def me() -> str:
    await asyncio.sleep(0)
    return f"I am of {current_tenant.get()}"


def application() -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with create_cache() as app.state.cache:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/contacts")
    async def contacts(cache: TenantCache) -> str:
        async def load() -> str:
            await asyncio.sleep(0)
            return f"contacts of {current_tenant.get()}"

        found: str = await cache.afetch("contacts", load)
        return found

    @app.get("/plain")
    def plain(cache: TenantCache) -> str:
        found: str = cache.fetch("plain", lambda: f"plain of {current_tenant.get()}")
        return found

    @app.post("/later")
    async def later(cache: TenantCache, tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: cache.set("later", cache.path))

    @app.get("/me")
    async def who() -> str:
        answer: str = await me()
        return answer

    return app


async def ask(app: Any, where: str, name: str, method: str = "GET") -> Any:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.request(method, where, headers={"X-Tenant-ID": name})
    assert answer.status_code == 200
    return answer.json()


@pytest.fixture
def app() -> Any:
    crm.clear()
    return TenantMiddleware(application(), header="X-Tenant-ID")


@pytest.mark.parametrize("where", ["contacts", "plain"])
def test_two_tenants_interleaved_see_their_own(app: Any, where: str) -> None:
    async def work(name: str) -> None:
        for _ in range(15):
            assert await ask(app, f"/{where}", name) == f"{where} of {name}"

    async def all_of_them() -> None:
        await asyncio.gather(*(work(name) for name in ("acme", "beta") * 2))

    asyncio.run(all_of_them())
    for name in ("acme", "beta"):
        assert list(crm.namespace(f"tenant:{name}")) == [where]


def test_a_function_without_arguments_is_cached_for_each_tenant(app: Any) -> None:
    """fastapi-cache #103: the response to one user's /me is served to the next."""

    async def all_of_them() -> None:
        answers = await asyncio.gather(*(ask(app, "/me", name) for name in ("acme", "beta") * 5))
        assert answers == ["I am of acme", "I am of beta"] * 5

    asyncio.run(all_of_them())


def test_a_background_task_keeps_the_cache_of_its_request(app: Any) -> None:
    asyncio.run(ask(app, "/later", "acme", "POST"))
    assert crm.namespace("tenant:acme").get("later") == ("tenant:acme",)
    assert current_tenant.get(None) is None


def test_a_request_without_the_middleware_is_told_of_it() -> None:
    with pytest.raises(TenantNotSetError, match="TenantMiddleware outermost"):
        asyncio.run(ask(application(), "/contacts", "acme"))


def test_the_path_is_the_one_that_is_given() -> None:
    async def run() -> None:
        with tenant("acme"):
            found = await tenant_cache(crm, lambda name: ("t", name))()
            assert found.path == ("t", "acme")

    asyncio.run(run())
    with pytest.raises(TypeError, match=r"^path: "):
        tenant_cache(crm, 7)  # type: ignore[arg-type]


def test_a_cache_that_lives_as_long_as_the_application() -> None:
    async def run() -> None:
        app = application()
        async with app.router.lifespan_context(app):
            cache = app.state.cache
            cache.set("k", 1)
        with pytest.raises(CacheClosedError):
            cache.get("k")

    asyncio.run(run())
