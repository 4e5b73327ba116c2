"""dogpile, cachelib, Flask-Caching, Litestar and FastAPI with a tier, on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE, CachedValue
from fastapi import Depends, FastAPI
from flask import Flask
from flask_caching import Cache as FlaskCache

from contrib.fleets import new_server, patience, patient, threads_of_tiers
from contrib.interleaving import TENANTS, in_step
from flowcache import ConfigurationError, create_cache
from flowcache.contrib import cachelib
from flowcache.contrib.asgi import TenantMiddleware
from flowcache.contrib.dogpile import TenantInvalidation
from flowcache.contrib.fastapi import tenant_cache
from flowcache.tenancy import current_tenant, tenant
from flowcache.tier import JsonCodec, MsgpackCodec, PickleCodec, ValkeyTier
from harness.fleet import confirmed
from harness.servers import Server, server, wait_until

__all__ = ["new_server", "patience"]

SIGNED = PickleCodec([b"of the tests, sixteen bytes and more"])
OF_DOGPILE = MsgpackCodec(types=[CachedValue])
NOWHERE = "valkey://127.0.0.1:1"


@pytest.fixture(autouse=True)
def connections_end() -> Iterator[None]:
    yield
    wait_until(lambda: not threads_of_tiers())


@contextmanager
def fleet(target: Any, name: str, codec: Any = None, many: int = 2) -> Iterator[list[Any]]:
    """Yield the caches of some processes of one fleet."""
    made = [create_cache(name=name, tier=patient(target, codec=codec)) for _ in range(many)]
    try:
        for one in made:
            confirmed(one.connect)
        yield made
    finally:
        for one in made:
            one.close()


class TestDogpile:
    @pytest.fixture
    def regions(
        self, new_server: Server, request: pytest.FixtureRequest
    ) -> Iterator[list[CacheRegion]]:
        """A region as two processes have it."""
        with fleet(new_server, request.node.name, OF_DOGPILE) as caches:
            yield [region_of(cache=one) for one in caches]

    def test_what_one_process_made_the_other_finds(self, regions: list[CacheRegion]) -> None:
        one, other = regions
        with tenant("acme"):
            assert one.get_or_create("k", lambda: {"made": [1]}) == {"made": [1]}
            assert other.get_or_create("k", pytest.fail) == {"made": [1]}
            one.set_multi({"a": 1, "b": 2})
            assert other.get_multi(["a", "b", "c"]) == [1, 2, NO_VALUE]
            one.delete("k")
            wait_until(lambda: other.get("k") is NO_VALUE)
            one.delete_multi(["a", "b"])
            wait_until(lambda: other.get("a") is NO_VALUE)
        with tenant("beta"):
            assert other.get("b") is NO_VALUE

    def test_a_mutex_is_one_of_all_processes(self, regions: list[CacheRegion]) -> None:
        with tenant("acme"):
            one, other = (region.backend.get_mutex("k") for region in regions)
        with tenant("beta"):
            apart = regions[0].backend.get_mutex("k")
        for _ in range(3):
            assert one.acquire(False)
            assert other.locked()
            assert other.acquire(False) is False
            assert apart.acquire(False)
            apart.release()
            one.release()
            assert other.acquire()
            assert one.acquire(False) is False
            other.release()
            wait_until(lambda: not one.locked())
        with pytest.raises(RuntimeError, match="not acquired"):
            one.release()

    def test_one_process_at_a_time_makes_a_value(self, regions: list[CacheRegion]) -> None:
        made: list[int] = []
        together = threading.Barrier(4, timeout=60)

        def create() -> str:
            made.append(1)
            return "value"

        def ask(number: int) -> list[str]:
            together.wait()
            with tenant("acme"):
                return [regions[number % 2].get_or_create(f"k{turn}", create) for turn in range(10)]

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [["value"] * 10] * 4
        assert len(made) == 10

    def test_a_mutex_whose_holder_died_is_free_after_its_time(self, new_server: Server) -> None:
        with fleet(new_server, "mutexes", OF_DOGPILE) as caches:
            dead, other = (
                region_of(cache=one, tenant=None, lock_timeout=seconds, lock_sleep=0.01)
                for one, seconds in zip(caches, (0.2, 60), strict=True)
            )
            late = dead.backend.get_mutex("k")
            assert late.acquire()
            mine = other.backend.get_mutex("k")
            assert mine.acquire()
            late.release()
            assert dead.backend.get_mutex("k").acquire(False) is False, "it is the other's still"
            mine.release()

    def test_without_the_server_a_mutex_is_one_of_the_process(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with server() as running, fleet(running, "away", OF_DOGPILE, many=1) as (only,):
            region = region_of(cache=only, tenant=None)
            mutex, another = (region.backend.get_mutex("k") for _ in range(2))
            assert mutex.acquire()
            running.kill()
            mutex.release()
            assert mutex.acquire()
            assert another.acquire(False) is False
            mutex.release()
            assert "a mutex of this process alone" in caplog.text

    def test_an_invalidation_of_a_region_is_this_processs(self, regions: list[CacheRegion]) -> None:
        one, other = regions
        one.region_invalidator = TenantInvalidation(one)
        with tenant("acme"):
            one.set("k", "old")
            one.invalidate()
            assert one.get("k") is NO_VALUE
            assert other.get("k") == "old"
            assert one.get_or_create("k", lambda: "new") == "new"
            wait_until(lambda: other.get("k") == "new")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tier": NOWHERE}, "^name: is needed with tier"),
            ({"tier": 7, "name": "crm"}, "^tier: must be a ValkeyTier or a URL"),
            ({"tier": ValkeyTier(NOWHERE), "name": "crm"}, "^tier: .*CachedValue"),
            (
                {"tier": ValkeyTier(NOWHERE, codec=JsonCodec()), "name": "crm"},
                "^tier: .*CachedValue",
            ),
            ({"lock_timeout": 0}, "^lock_timeout: "),
            ({"lock_timeout": "1"}, "^lock_timeout: "),
            ({"lock_sleep": -1}, "^lock_sleep: "),
        ],
    )
    def test_an_unsound_argument_is_named(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            region_of(**arguments)

    def test_a_cache_whose_tier_takes_no_value_is_refused(self) -> None:
        with (
            create_cache(tier=NOWHERE) as cache,
            pytest.raises(ConfigurationError, match=r"^cache: .*CachedValue"),
        ):
            region_of(cache=cache)

    @pytest.mark.parametrize("codec", [None, SIGNED], ids=["url", "pickled"])
    def test_a_region_has_a_cache_of_its_own(self, new_server: Server, codec: Any) -> None:
        tier = new_server.url if codec is None else patient(new_server, codec=codec)
        region = region_of(tier=tier, name=f"own {codec}", tenant=None)
        try:
            confirmed(region.backend._namespaces.root.connect)
            region.set("k", (1, "a"))
            assert region.backend._fixed.stats().tier_stores == 1
        finally:
            region.backend._namespaces.root.close()


def region_of(**arguments: Any) -> CacheRegion:
    region = make_region(key_mangler=str)
    return region.configure("flowcache", arguments={"tenant": "current", **arguments})


class TestCachelib:
    def test_what_one_process_stored_the_other_finds(self, new_server: Server) -> None:
        with fleet(new_server, "cachelib", SIGNED) as caches:
            one, other = (cachelib.FlowCache(cache=cache, tenant="current") for cache in caches)

            def work(name: str, step: Callable[[], Any]) -> None:
                with tenant(name):
                    for turn in range(10):
                        step()
                        one.set("k", [name, turn])
                        wait_until(lambda turn=turn: other.get("k") == [name, turn])  # type: ignore[misc]

            in_step(work, *TENANTS)
            with tenant("acme"):
                assert other.has("k")
                assert other.add("k", 1) is False
                assert one.inc("n", 3) == 3
                assert other.inc("n") == 4
                assert one.set_many({"a": 1, "b": None}) == ["a", "b"]
                assert other.get_many("a", "b") == [1, None]
                assert other.has("b")
                assert one.delete("k") is True
                wait_until(lambda: not other.has("k"))
                other.clear()
                wait_until(lambda: not one.has("a"))
            with tenant("beta"):
                assert one.get("k") == ["beta", 9]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tier": NOWHERE, "name": "crm"}, "^tier: a URL names no key"),
            ({"tier": 7, "name": "crm"}, "^tier: must be a ValkeyTier or a URL"),
            ({"tier": ValkeyTier(NOWHERE), "name": "crm"}, "^tier: .*PickleCodec"),
            ({"tier": ValkeyTier(NOWHERE, codec=SIGNED)}, "^name: is needed"),
        ],
    )
    def test_an_unsound_option_is_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            cachelib.FlowCache(**options)

    def test_a_cache_whose_pickles_are_not_signed_is_refused(self) -> None:
        with create_cache(tier=NOWHERE) as cache:
            with pytest.raises(ConfigurationError, match=r"^cache: .*PickleCodec"):
                cachelib.FlowCache(cache=cache)
            cachelib.FlowCache(cache=cache.namespace("local", tiered=False))


class TestFlask:
    def made(self, url: Any, **settings: Any) -> tuple[Flask, Any]:
        app = Flask(__name__)
        app.config.update(settings)
        app.config["CACHE_TYPE"] = "flowcache.contrib.flask_caching.FlowCache"
        app.config["CACHE_OPTIONS"] = {"tenant": "current", "tier": url, "name": "flask"}
        return app, FlaskCache(app)

    def test_memoized_results_are_those_of_all_processes(self, new_server: Server) -> None:
        made = [self.made(new_server.url, SECRET_KEY="a secret") for _ in range(2)]
        try:
            self.forget_one_tenants(made)
        finally:
            for _, cache in made:
                cache.cache._namespaces.root.close()

    def forget_one_tenants(self, made: list[tuple[Flask, Any]]) -> None:
        runs: list[str] = []

        def report(year: int) -> str:
            runs.append(current_tenant.get())
            return f"{year} of {current_tenant.get()}"

        memoized = [cache.memoize(60)(report) for _, cache in made]
        for _, cache in made:
            confirmed(cache.cache._namespaces.root.connect)

        def ask(process: int, name: str) -> int:
            """Return how often it ran for that."""
            before = len(runs)
            with made[process][0].app_context(), tenant(name):
                assert memoized[process](2026) == f"2026 of {name}"
            return len(runs) - before

        assert [ask(process, name) for name in TENANTS for process in (0, 1)] == [1, 0, 1, 0]
        with made[0][0].app_context(), tenant("acme"):
            made[0][1].delete_memoized(memoized[0])
        wait_until(lambda: ask(1, "acme"))
        wait_until(lambda: not ask(0, "acme"))
        assert [ask(process, "beta") for process in (0, 1)] == [0, 0]

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (NOWHERE, r"^CACHE_OPTIONS\['tier'\]: SECRET_KEY is needed"),
            (7, r"^CACHE_OPTIONS\['tier'\]: must be a ValkeyTier or a URL"),
            (ValkeyTier(NOWHERE), r"^CACHE_OPTIONS\['tier'\]: .*PickleCodec"),
        ],
    )
    def test_an_unsound_option_is_named(self, url: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            self.made(url)


class TestLitestar:
    def test_what_one_process_stored_the_other_finds(self, new_server: Server) -> None:
        pytest.importorskip("litestar", reason="litestar is not installed here")
        from flowcache.contrib.litestar import FlowStore

        async def work(one: Any, other: Any, name: str) -> None:
            with tenant(name):
                for turn in range(10):
                    await one.set("k", f"{name} {turn}", 60)
                    while await other.get("k") != f"{name} {turn}".encode():
                        await asyncio.sleep(0.001)
                assert await other.exists("k")
                assert 50 < await other.expires_in("k") <= 60
                assert await other.get("k", renew_for=600) is not None
                while await one.expires_in("k") <= 60:
                    await asyncio.sleep(0.001)
                assert await one.expires_in("k") > 500
                await one.set("for ever", b"v")
                assert await other.expires_in("for ever") == -1
                if name == "acme":
                    await one.delete_all()
                    while await other.exists("k"):
                        await asyncio.sleep(0.001)
                    await other.delete("for ever")
                    assert await one.get("for ever") is None
                else:
                    assert await other.get("k") == b"beta 9"

        async def both() -> None:
            stores = [
                FlowStore(cache, tenant="current").with_namespace("sessions") for cache in caches
            ]
            await asyncio.gather(*(work(*stores, name) for name in TENANTS))
            for cache in caches:
                await cache.aclose()

        with fleet(new_server, "litestar") as caches:
            asyncio.run(both())

    def test_a_store_has_a_cache_of_its_own(self) -> None:
        pytest.importorskip("litestar", reason="litestar is not installed here")
        from flowcache.contrib.litestar import FlowStore

        made = FlowStore(tier=NOWHERE, name="sessions")
        assert made._namespaces.root.tier is not None
        made._namespaces.root.close()
        with pytest.raises(ConfigurationError, match=r"^name: is needed with tier"):
            FlowStore(tier=NOWHERE)
        with pytest.raises(TypeError, match=r"^cache: .*tier"):
            FlowStore(create_cache(), tier=NOWHERE)


class TestFastAPI:
    def test_what_one_process_made_the_other_answers_with(self, new_server: Server) -> None:
        made: list[str] = []

        def application(cache: Any) -> Any:
            api = FastAPI()
            tenants = Depends(tenant_cache(cache))

            @api.get("/report")
            async def report(mine: Any = tenants) -> str:
                async def load() -> str:
                    await asyncio.sleep(0)
                    made.append(current_tenant.get())
                    return f"{current_tenant.get()} {len(made)}"

                return str(await mine.afetch("report", load, tags="reports"))

            @api.post("/changed")
            def changed(mine: Any = tenants) -> None:
                mine.invalidate_tag("reports")

            return TenantMiddleware(api, header="X-Tenant-ID")

        async def run() -> None:
            clients = [
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(application(cache)), base_url="http://t"
                )
                for cache in caches
            ]

            async def ask(process: int, name: str) -> str:
                answer = await clients[process].get("/report", headers={"X-Tenant-ID": name})
                return str(answer.json())

            asked = await asyncio.gather(*(ask(n % 2, TENANTS[n // 4]) for n in range(8)))
            assert len(set(asked)) == 2
            assert sorted(made) == ["acme", "beta"]
            await clients[0].post("/changed", headers={"X-Tenant-ID": "acme"})
            while await ask(1, "acme") != "acme 3":
                await asyncio.sleep(0.001)
            assert {await ask(process, "beta") for process in (0, 1)} <= set(asked)
            for client, cache in zip(clients, caches, strict=True):
                await client.aclose()
                await cache.aclose()

        with fleet(new_server, "fastapi") as caches:
            asyncio.run(run())
