"""Complaints about other caches, as tests of two tenants that work at once: over threads and ASGI.

Three of them stand elsewhere. Pages and fragments of two tenants (django-tenants #1052, #599):
test_django_requests. The tenant of a worker's last task (django-multitenant #213): test_celery and
test_servers. The counters of several processes (client_python #504): test_servers and
test_prometheus.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from django.core.cache import caches
from flask import Flask
from flask_caching import Cache as FlaskCache
from prometheus_client import CollectorRegistry

from contrib.django_project import caches_of
from contrib.interleaving import TENANTS, in_step
from flowcache import create_cache
from flowcache.contrib.asgi import TenantMiddleware
from flowcache.contrib.prometheus import FlowcacheCollector
from flowcache.tenancy import current_tenant, tenant
from flowcache.watching.families import Keys
from flowcache.watching.snapshot import Ask, Watcher

CURRENT = {"OPTIONS": {"TENANT": "current"}}


def over_threads(work: Callable[[str], Any], turns: int = 50) -> None:
    """Call `work(tenant)` so often in a thread for each tenant, in step and within it."""

    def run(name: str, step: Callable[[], Any]) -> None:
        for _ in range(turns):
            step()
            with tenant(name):
                work(name)

    in_step(run, *TENANTS)


def over_asgi(work: Callable[[str], Awaitable[Any]], turns: int = 20) -> None:
    """Let an application await `work(tenant)` so often, for requests of both at once."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        name = current_tenant.get()
        await work(name)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    transport = httpx.ASGITransport(TenantMiddleware(application, header="X-Tenant-ID"))

    async def ask(client: httpx.AsyncClient, name: str) -> None:
        for _ in range(turns):
            answer = await client.get("/", headers={"X-Tenant-ID": name})
            assert (answer.status_code, answer.text) == (200, name)

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.gather(*(ask(client, name) for name in TENANTS * 2))

    asyncio.run(run())
    assert current_tenant.get(None) is None


class User:
    """An object that shows nothing of what makes it one of its kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<User>"


def test_objects_that_look_alike_are_not_mixed() -> None:
    """superset #26023: keys made by repr() give one user what another asked for."""
    mine = create_cache().for_current_tenant()
    users = {name: [User(f"{name} {number}") for number in range(3)] for name in TENANTS}

    @mine.cached()
    def greet(user: User) -> str:
        return f"{user.name} at {current_tenant.get()}"

    @mine.cached()
    async def greet_later(user: User) -> str:
        await asyncio.sleep(0)
        return f"{user.name} at {current_tenant.get()}"

    def work(name: str) -> None:
        for user in users[name]:
            assert greet(user) == f"{user.name} at {name}"

    async def work_later(name: str) -> None:
        for user in users[name]:
            assert await greet_later(user) == f"{user.name} at {name}"

    over_threads(work)
    over_asgi(work_later)


def test_the_answer_to_one_user_is_not_served_to_another() -> None:
    """fastapi-cache #103: a function without arguments is cached once for all."""
    mine = create_cache().for_current_tenant()
    made: Counter[str] = Counter()

    @mine.cached()
    def me() -> str:
        made[current_tenant.get()] += 1
        return f"I am of {current_tenant.get()}"

    @mine.cached()
    async def me_later() -> str:
        await asyncio.sleep(0)
        return me()

    def work(name: str) -> None:
        assert me() == f"I am of {name}"

    async def work_later(name: str) -> None:
        assert await me_later() == f"I am of {name}"

    over_threads(work)
    over_asgi(work_later)
    assert made == dict.fromkeys(TENANTS, 1)


@pytest.mark.parametrize("over", [over_threads, over_asgi])
def test_a_clear_empties_no_other_prefix_or_tenant(over: Any) -> None:
    """django-redis #813: a clear empties the prefixes and aliases of all."""
    shop = {"LOCATION": "shop"}
    with caches_of(
        default={**shop, **CURRENT},
        pages={**shop, **CURRENT, "KEY_PREFIX": "pages"},
        shared=shop,
    ):
        caches["shared"].set("rates", "of all")

        def work(name: str) -> None:
            default, pages = caches["default"], caches["pages"]
            pages.add("kept", name)
            if name == "acme":
                default.set("k", name)
                default.clear()
                assert default.get("k") is None
            else:
                default.add("k", name)
                assert default.get("k") == name
            assert pages.get("kept") == name
            assert caches["shared"].get("rates") == "of all"

        async def work_later(name: str) -> None:
            await asyncio.sleep(0)
            work(name)
            await asyncio.sleep(0)

        over(work if over is over_threads else work_later)


def test_memoized_results_of_one_tenant_are_forgotten() -> None:
    """Flask-Caching #400: those of one tenant cannot be invalidated without those of all."""
    app = Flask(__name__)
    app.config["CACHE_TYPE"] = "flowcache.contrib.flask_caching.FlowCache"
    app.config["CACHE_OPTIONS"] = {"tenant": "current"}
    cache: Any = FlaskCache(app)
    made: Counter[str] = Counter()

    @cache.memoize(60)
    def report(year: int) -> str:
        made[current_tenant.get()] += 1
        return f"{year} of {current_tenant.get()}"

    mine = create_cache().for_current_tenant()
    made_later: Counter[str] = Counter()

    @mine.cached()
    async def report_later(year: int) -> str:
        await asyncio.sleep(0)
        made_later[current_tenant.get()] += 1
        return f"{year} of {current_tenant.get()}"

    def work(name: str) -> None:
        with app.app_context():
            assert report(2026) == f"2026 of {name}"
            if name == "acme":
                cache.delete_memoized(report)

    async def work_later(name: str) -> None:
        assert await report_later(2026) == f"2026 of {name}"
        if name == "acme":
            report_later.cache_clear()

    over_threads(work)
    over_asgi(work_later)
    assert made == {"acme": 50, "beta": 1}
    assert made_later["beta"] == 1
    assert made_later["acme"] > 1


def test_a_million_keys_stay_within_the_bound() -> None:
    """litestar #5085: memory grows for ever."""
    cache = create_cache(max_entries=1_000)
    mine = cache.for_current_tenant()
    stored = Counter(dict.fromkeys(TENANTS, 0))

    def store(name: str, many: int) -> None:
        first = stored[name]
        mine.set_many(dict.fromkeys(map(str, range(first, first + many)), name))
        stored[name] += many
        assert cache.stats().entries <= 1_000

    async def store_later(name: str) -> None:
        store(name, 1_000)
        await asyncio.sleep(0)

    over_threads(lambda name: store(name, 9_200))
    over_asgi(store_later)
    assert stored.total() == 1_000_000
    assert cache.stats().entries == 1_000
    assert sorted(len(cache.namespace(f"tenant:{name}")) for name in TENANTS) == [500, 500]


def test_a_cached_none_is_no_miss() -> None:
    """debug-toolbar #2417: a cached None shows as a miss, in counters, metrics and on the page."""
    cache = create_cache()
    mine = cache.for_current_tenant()
    for name in TENANTS:
        cache.namespace(f"tenant:{name}").set("k", None)

    def work(_: str) -> None:
        assert mine.get("k", "absent") is None
        assert mine.fetch("k", lambda: "loaded") is None

    async def load() -> str:
        return "loaded"

    async def work_later(_: str) -> None:
        assert mine.get("k", "absent") is None
        assert await mine.afetch("k", load) is None

    over_threads(work)
    over_asgi(work_later)
    hits = 100 + 80
    registry = CollectorRegistry()
    registry.register(FlowcacheCollector(cache))
    page = Watcher(cache, Keys()).look(Ask())
    rows = {row["name"]: (row["hits"], row["misses"]) for row in page["tenants"]["rows"]}
    for name in TENANTS:
        stats = cache.namespace(f"tenant:{name}").stats()
        assert (stats.hits, stats.misses, stats.loads) == (hits, 0, 0)
        assert rows[f"tenant:{name}"] == (hits, 0)
        for result, expected in (("hit", hits), ("miss", 0)):
            labels = {"cache": "flowcache", "tenant": f"tenant:{name}", "result": result}
            assert registry.get_sample_value("flowcache_requests_total", labels) == expected
