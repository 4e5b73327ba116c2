"""Litestar's store, beyond its own tests, and an application of two tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

litestar = pytest.importorskip("litestar", reason="Litestar's compiled parts have no wheel here")

from litestar import Litestar, Request, get  # noqa: E402
from litestar.middleware.base import DefineMiddleware  # noqa: E402
from litestar.testing import TestClient  # noqa: E402

from flowcache import TenantNotSetError, create_cache  # noqa: E402
from flowcache.contrib.asgi import TenantMiddleware  # noqa: E402
from flowcache.contrib.litestar import FlowStore  # noqa: E402
from flowcache.tenancy import current_tenant, tenant  # noqa: E402


def on_a_clock(**options: Any) -> tuple[FlowStore, list[float]]:
    now = [1_000.0]
    return FlowStore(create_cache(clock=lambda: now[0]), **options), now


def test_expiry_and_renewal() -> None:
    async def run() -> None:
        store, now = on_a_clock()
        await store.set("ever", "text")
        await store.set("soon", b"bytes", 10)
        await store.set("delta", b"bytes", timedelta(seconds=20))
        await store.set("past", b"bytes", -1)
        await store.set("over", b"bytes", timedelta(seconds=-1))
        names = ("ever", "soon", "delta", "past", "over")
        assert [await store.expires_in(name) for name in names] == [-1, 10, 20, None, None]
        await store.set("none", b"bytes")
        await store.set("none", b"bytes", 0)
        assert not await store.exists("none")
        now[0] += 9.5
        assert [await store.expires_in(name) for name in names] == [-1, 0, 10, None, None]
        assert await store.get("soon", renew_for=30) == b"bytes"
        assert await store.get("ever", renew_for=30) == b"text"
        assert await store.get("absent", renew_for=30) is None
        now[0] += 11
        assert [await store.expires_in(name) for name in names] == [-1, 19, None, None, None]
        assert await store.get("soon", renew_for=-1) == b"bytes"
        assert not await store.exists("soon")

    asyncio.run(run())


def test_namespaces_and_tenants_are_apart() -> None:
    async def run() -> None:
        store, _ = on_a_clock(tenant="current")
        a, b = store.with_namespace("a"), store.with_namespace("a").with_namespace("b")
        flat = store.with_namespace("a][b")
        for name in ("acme", "beta"):
            with tenant(name):
                for one in (store, a, b, flat):
                    await one.set("k", name)
        with tenant("acme"):
            await a.delete_all()
            assert [await one.get("k") for one in (store, a, b, flat)] == [
                b"acme",
                None,
                None,
                b"acme",
            ]
            assert await store.with_namespace("a][b").exists("k")
            await store.delete_all()
            assert not await flat.exists("k")
        with tenant("beta"):
            assert [await one.get("k") for one in (store, a, b, flat)] == [b"beta"] * 4
        with pytest.raises(TenantNotSetError):
            await store.get("k")

    asyncio.run(run())


def test_memory_does_not_grow_for_ever() -> None:
    """litestar #5085: an expired value is dropped only by its own look-up, or never."""

    async def run() -> None:
        store = FlowStore(create_cache(max_entries=100), tenant="current")
        for name in ("acme", "beta"):
            with tenant(name):
                for number in range(1_000):
                    await store.set(str(number), b"value", 60)
        held = 0
        for name in ("acme", "beta"):
            with tenant(name):
                held += sum([await store.exists(str(number)) for number in range(1_000)])
        assert held == 100

    asyncio.run(run())


@pytest.fixture
def application() -> Iterator[Any]:
    made: list[str] = []

    @get("/page", cache=60)
    async def page(request: Request[Any, Any, Any]) -> str:
        made.append(current_tenant.get())
        return f"page of {current_tenant.get()}"

    app = Litestar(
        [page],
        stores={"response_cache": FlowStore(tenant="current")},
        middleware=[DefineMiddleware(TenantMiddleware, header="X-Tenant-ID")],
    )
    with TestClient(app) as client:
        yield client, made


def test_responses_of_two_tenants_are_apart(application: Any) -> None:
    client, made = application
    for _ in range(3):
        for name in ("acme", "beta"):
            assert client.get("/page", headers={"X-Tenant-ID": name}).text == f"page of {name}"
    assert made == ["acme", "beta"]


@pytest.mark.parametrize(
    ("options", "message"), [({"tenant": 7}, "^tenant: "), ({"on_no_tenant": 1}, "^on_no_tenant: ")]
)
def test_an_unsound_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FlowStore(**options)
