"""cachelib's and Flask-Caching's interface, beyond the tests of their own suites."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask_caching import Cache

from contrib.interleaving import TENANTS, in_step
from flowcache import TenantNotSetError, create_cache
from flowcache.contrib.cachelib import FlowCache
from flowcache.contrib.wsgi import TenantMiddleware
from flowcache.tenancy import current_tenant, tenant


def on_a_clock(**options: Any) -> tuple[FlowCache, list[float]]:
    now = [1_000.0]
    return FlowCache(cache=create_cache(clock=lambda: now[0]), **options), now


def test_timeouts_are_cachelibs() -> None:
    made, now = on_a_clock(default_timeout=60)
    made.set("default", 1)
    made.set("none", 1, timeout=None)
    made.set("ever", 1, timeout=0)
    made.set("past", 1, timeout=-5)
    made.set("delta", 1, timeout=dt.timedelta(minutes=2))
    names = ("default", "none", "ever", "past", "delta")
    assert made.get_many(*names) == [1, 1, 1, None, 1]
    now[0] += 60
    assert made.get_many(*names) == [None, None, 1, None, 1]
    now[0] += 1e9
    assert made.get_many(*names) == [None, None, 1, None, None]
    ever, now = on_a_clock(default_timeout=0)
    ever.set("k", 1)
    assert ever.inc("n", 3) == 3
    now[0] += 1e9
    assert ever.get_many("k", "n") == [1, 3]


def test_a_counter_is_exact_and_a_none_is_a_value() -> None:
    made = FlowCache()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [made.inc("n") for _ in range(500)], range(4)))
    assert made.get("n") == 2_000
    assert made.dec("n", 2_000) == 0
    made.set("none", None)
    assert made.has("none") and made.get("none") is None
    assert made.add("none", 1) is False
    made.set("t", "text")
    with pytest.raises(TypeError):
        made.inc("t")


def test_a_value_is_a_copy_unless_nothing_serializes_it() -> None:
    made = FlowCache()
    value = [1]
    made.set("k", value)
    assert made.get("k") == [1] and made.get("k") is not value
    made.serializer = None
    made.set("k", value)
    assert made.get("k") is value


def test_what_is_too_heavy_is_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    made = FlowCache(max_weight=5, weigher=lambda key, value: value)
    assert made.set("k", 3) is True
    assert made.set("k", 9) is False
    assert made.get("k") is None
    assert made.set_many({"a": 1, "b": 9, "c": 2}) == ["a", "c"]
    assert made.add("d", 9) is False
    assert caplog.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tenant": 7}, "^tenant: "),
        ({"on_no_tenant": "share"}, "^on_no_tenant: "),
        ({"max_entries": -1}, "^max_entries: "),
        ({"nonsense": 1}, "nonsense"),
        ({"cache": create_cache(), "max_entries": 5}, "^cache: .*max_entries"),
    ],
)
def test_an_unsound_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FlowCache(**options)


def test_two_tenants_interleaved_over_threads_see_their_own() -> None:
    made = FlowCache(tenant="current")

    def work(name: str, step: Callable[[], Any]) -> None:
        with tenant(name):
            for turn in range(100):
                step()
                made.set_many({"a": name, "b": [turn]})
                step()
                assert made.get_many("a", "b", "c") == [name, [turn], None]
                assert made.inc("n") == turn + 1

    in_step(work, *TENANTS)
    with tenant("acme"):
        assert made.clear() is True
        assert made.has("a") is False
    with tenant("beta"):
        assert made.get("a") == "beta"
    with pytest.raises(TenantNotSetError):
        made.get("a")


class TestFlask:
    """An application of two tenants with Flask-Caching: views and memoized functions."""

    @pytest.fixture
    def application(self) -> Iterator[Any]:
        app = Flask(__name__)
        app.config["CACHE_TYPE"] = "flowcache.contrib.flask_caching.FlowCache"
        app.config["CACHE_OPTIONS"] = {"tenant": "current"}
        app.config["CACHE_THRESHOLD"] = 50
        self.cache = cache = Cache(app)
        self.made: list[Any] = []

        @cache.memoize(60)
        def report(year: int) -> str:
            self.made.append((current_tenant.get(), year))
            return f"{year} of {current_tenant.get()}"

        @app.get("/page")
        @cache.cached(60)
        def page() -> str:
            self.made.append((current_tenant.get(), "page"))
            return f"page of {current_tenant.get()}"

        @app.get("/report/<int:year>")
        def show(year: int) -> str:
            return report(year)

        @app.post("/forget")
        def forget() -> str:
            cache.delete_memoized(report)
            return ""

        app.wsgi_app = TenantMiddleware(app.wsgi_app, header="X-Tenant-ID")  # type: ignore[method-assign]
        with app.app_context():
            yield app

    def ask(self, app: Any, where: str, name: str, method: str = "GET") -> str:
        answer = app.test_client().open(where, method=method, headers={"X-Tenant-ID": name})
        assert answer.status_code == 200
        text: str = answer.text
        return text

    def test_views_of_two_tenants_interleaved(self, application: Any) -> None:
        def work(name: str, step: Callable[[], Any]) -> None:
            for turn in range(30):
                step()
                assert self.ask(application, "/page", name) == f"page of {name}"
                assert self.ask(application, f"/report/{turn}", name) == f"{turn} of {name}"

        in_step(work, *TENANTS)
        assert sorted(one for one in self.made if one[1] == "page") == [
            ("acme", "page"),
            ("beta", "page"),
        ]

    def test_the_memoized_results_of_one_tenant_are_forgotten(self, application: Any) -> None:
        """Flask-Caching #400: they cannot be invalidated for one, and not for the others."""
        for name in TENANTS:
            self.ask(application, "/report/2026", name)
        self.ask(application, "/forget", "acme", "POST")
        for name in TENANTS:
            self.ask(application, "/report/2026", name)
        assert self.made == [("acme", 2026), ("beta", 2026), ("acme", 2026)]

    def test_the_threshold_is_the_bound(self, application: Any) -> None:
        with tenant("acme"):
            self.cache.set_many({str(number): number for number in range(500)})
            found = self.cache.get_many(*map(str, range(500)))
        assert sum(value is not None for value in found) == 50
