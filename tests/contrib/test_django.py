"""Django's cache backend: tenants, settings and values."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.core.cache.backends.base import CacheKeyWarning
from django.core.exceptions import ImproperlyConfigured

from contrib.django_project import CURRENT, caches_of, drive
from contrib.interleaving import TENANTS, in_step
from flowcache import InvalidNamespaceError, TenantNotSetError
from flowcache.contrib.django import FlowCache, root
from flowcache.tenancy import tenant

pytestmark = pytest.mark.usefixtures("stores_begin_empty")


class TestTenants:
    def test_two_tenants_interleaved_over_threads_see_their_own(self) -> None:
        with caches_of(default=CURRENT):

            def work(name: str, step: Callable[[], Any]) -> None:
                with tenant(name):
                    for turn in range(300):
                        step()
                        cache.set("page", f"{name} {turn}")
                        cache.set_many({"a": name, "b": [name]})
                        step()
                        assert cache.get("page") == f"{name} {turn}"
                        assert cache.get_many(["a", "b"]) == {"a": name, "b": [name]}
                        assert cache.get_or_set("whose", lambda: name) == name
                        assert cache.add("once", name) is (turn == 0)
                        assert cache.get("once") == name

            in_step(work, *TENANTS)
            assert sorted(root().namespaces()) == ["tenant:acme", "tenant:beta"]

    def test_two_tenants_interleaved_over_tasks_see_their_own(self) -> None:
        async def work(name: str) -> None:
            with tenant(name):
                for turn in range(100):

                    async def load(made: str = f"{name} {turn}") -> str:
                        await asyncio.sleep(0)
                        return made

                    assert await cache.aget_or_set(f"page{turn}", load) == f"{name} {turn}"
                    await asyncio.sleep(0)
                    assert await cache.aget(f"page{turn}") == f"{name} {turn}"
                    await cache.aset("last", turn)
                    assert await cache.aincr("last") == turn + 1

        async def both() -> None:
            await asyncio.gather(work("acme"), work("beta"))

        with caches_of(default=CURRENT):
            asyncio.run(both())

    def test_clear_reaches_no_other_tenant_alias_or_prefix(self) -> None:
        shop = {"LOCATION": "shop"}
        with caches_of(
            default={**shop, **CURRENT},
            shared=shop,
            pages={**shop, **CURRENT, "KEY_PREFIX": "pages"},
        ):
            aliases = ("default", "shared", "pages")
            for name in ("acme", "beta"):
                with tenant(name):
                    for alias in aliases:
                        caches[alias].set("k", (alias, name))
            with tenant("acme"):
                caches["default"].clear()
                assert [caches[alias].get("k") for alias in aliases] == [
                    None,
                    ("shared", "beta"),
                    ("pages", "acme"),
                ]
            with tenant("beta"):
                assert caches["default"].get("k") == ("default", "beta")
                caches["shared"].clear()
                assert caches["shared"].get("k") is None
                assert caches["default"].get("k") == ("default", "beta")
                assert caches["pages"].get("k") == ("pages", "beta")
            with tenant("acme"):
                assert caches["pages"].get("k") == ("pages", "acme")

    def test_tags_and_patterns_of_one_tenant_leave_the_other(self) -> None:
        with caches_of(default=CURRENT):
            for name in ("acme", "beta"):
                with tenant(name):
                    cache.set("a", 1, tags="crm")
                    cache.set_many({"b": 2, "c": 3}, tags=("crm", "more"))
                    cache.get_or_set("d", lambda: 4, tags="more")
                    assert cache.add("e", 5, tags="more") is True
            with tenant("acme"):
                assert cache.invalidate_tag("crm") == 3
                assert cache.delete_pattern("d*") == 1
                assert cache.get_many("abcde") == {"e": 5}
            with tenant("beta"):
                assert cache.get_many("abcde") == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}

    def test_a_missing_tenant_raises_or_is_shared_as_the_setting_says(self) -> None:
        shared = {"OPTIONS": {"TENANT": "current", "ON_NO_TENANT": "shared"}}
        with caches_of(default=CURRENT, shared=shared, plain={}):
            calls: list[Callable[[], Any]] = [
                lambda: cache.get("k"),
                lambda: cache.set("k", 1),
                lambda: cache.get_or_set("k", lambda: 1),
                lambda: cache.delete_pattern("k?"),
                lambda: cache.lock("k"),
                lambda: cache.clear(),  # noqa: PLW0108 - as above
                lambda: drive(cache.aget("k")),
            ]
            for call in calls:
                with pytest.raises(TenantNotSetError, match=r"OPTIONS\['ON_NO_TENANT'\]"):
                    call()
            caches["shared"].set("k", "shared")
            assert caches["plain"].get("k") == "shared"
            with tenant("acme"):
                assert caches["shared"].get("k") is None

    def test_a_callable_or_its_path_names_the_tenant(self) -> None:
        named: list[Any] = ["acme"]
        with caches_of(
            default={"OPTIONS": {"TENANT": lambda: named[-1]}},
            path={"OPTIONS": {"TENANT": f"{__name__}.always_gamma"}},
        ):
            cache.set("k", 1)
            caches["path"].set("k", 2)
            assert sorted(root().namespaces()) == ["tenant:acme", "tenant:gamma"]
            for unsound in ("", " acme", "a" * 257):
                named.append(unsound)
                with pytest.raises(InvalidNamespaceError, match=r"^OPTIONS\['TENANT'\]: "):
                    cache.get("k")
            named.append(7)
            with pytest.raises(TypeError, match=r"^OPTIONS\['TENANT'\]: "):
                cache.get("k")
            named.append(None)
            with pytest.raises(TenantNotSetError):
                cache.get("k")
            assert sorted(root().namespaces()) == ["tenant:acme", "tenant:gamma"]

    def test_limits_of_each_tenant(self) -> None:
        options = {"TENANT": "current", "TENANT_LIMITS": {"max_entries": 3}}
        with caches_of(default={"OPTIONS": options}):
            for name in ("acme", "beta"):
                with tenant(name):
                    for number in range(10):
                        cache.set(str(number), number)
                    assert cache.get_many("789") == {"7": 7, "8": 8, "9": 9}
                    assert cache.stats().entries == 3


def always_gamma() -> str:
    return "gamma"


async def later_gamma() -> str:
    return "gamma"


class TestDjangoTenants:
    """The preset for django-tenants, with a connection that has a schema as its engine's has."""

    def test_the_schema_of_the_connection_is_the_tenant(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.db import connections

        with caches_of(default={"OPTIONS": {"TENANT": "django-tenants"}}):
            with pytest.raises(ImproperlyConfigured, match="ENGINE"):
                cache.get("k")
            for schema in ("public", "acme"):
                monkeypatch.setattr(connections["default"], "schema_name", schema, raising=False)
                assert cache.get("k") is None
                cache.set("k", schema)
            assert cache.get("k") == "acme"
            assert sorted(root().namespaces()) == ["tenant:acme", "tenant:public"]

            async def ask() -> None:
                with pytest.raises(TenantNotSetError, match="event loop"):
                    await cache.aget("k")

            asyncio.run(ask())


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"OPTIONS": {"CULL_FREQUENCY": 3}},
                r"^OPTIONS\['CULL_FREQUENCY'\]: unknown; accepted",
            ),
            ({"OPTIONS": {"max_entries": 3}}, r"^OPTIONS\['max_entries'\]: unknown"),
            ({"OPTIONS": 7}, r"^OPTIONS: must be a dict"),
            ({"OPTIONS": {"MAX_ENTRIES": -1}}, r"^OPTIONS\['MAX_ENTRIES'\]:"),
            ({"OPTIONS": {"MAX_ENTRIES": "3"}}, r"^OPTIONS\['MAX_ENTRIES'\]:"),
            ({"OPTIONS": {"SWEEP_INTERVAL": 0}}, r"^OPTIONS\['SWEEP_INTERVAL'\]:"),
            ({"OPTIONS": {"SERIALIZER": "json"}}, r"^OPTIONS\['SERIALIZER'\]:"),
            ({"OPTIONS": {"TENANT": 7}}, r"^OPTIONS\['TENANT'\]:"),
            ({"OPTIONS": {"TENANT": "no.such"}}, r"^OPTIONS\['TENANT'\]:"),
            ({"OPTIONS": {"TENANT": f"{__name__}.later_gamma"}}, r"^OPTIONS\['TENANT'\]:"),
            ({"OPTIONS": {"ON_NO_TENANT": "share"}}, r"^OPTIONS\['ON_NO_TENANT'\]:"),
            ({"OPTIONS": {"TENANT_LIMITS": {"entries": 1}}}, r"^OPTIONS\['TENANT_LIMITS'\]:"),
            ({"OPTIONS": {"TENANT_LIMITS": {"share": -1}}}, r"^OPTIONS\['TENANT_LIMITS'\]: share:"),
            ({"OPTIONS": {"WEIGHER": "no.such"}}, r"^OPTIONS\['WEIGHER'\]:"),
            ({"OPTIONS": {"WEIGHER": 7}}, r"^OPTIONS\['WEIGHER'\]:"),
            ({"OPTIONS": {"MAX_WEIGHT": 9, "SERIALIZER": None}}, r"^OPTIONS\['WEIGHER'\]:"),
            ({"KEY_PREFIX": "p" * 300}, r"^KEY_PREFIX: "),
        ],
    )
    def test_a_setting_that_is_unsound_is_named(
        self, settings: dict[str, Any], message: str
    ) -> None:
        with caches_of(other=settings), pytest.raises(ImproperlyConfigured, match=message):
            caches["other"]

    def test_aliases_of_one_location_agree_on_the_store(self) -> None:
        same = {"LOCATION": "same"}
        with caches_of(
            small={**same, "OPTIONS": {"MAX_ENTRIES": 5, "TENANT": "current"}},
            large={**same, "OPTIONS": {"MAX_ENTRIES": 50}},
            raw={**same, "OPTIONS": {"MAX_ENTRIES": 5, "SERIALIZER": None}},
        ):
            assert caches["small"]
            message = r"^OPTIONS\['MAX_ENTRIES'\]: is 50 here and 5 for another alias"
            with pytest.raises(ImproperlyConfigured, match=message):
                caches["large"]
            with pytest.raises(ImproperlyConfigured, match=r"^OPTIONS\['SERIALIZER'\]: "):
                caches["raw"]

    def test_threads_have_instances_of_their_own_and_one_store(self) -> None:
        mine: FlowCache = caches["default"]
        mine.set("k", [1])
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: caches["default"]).result()
            assert other is not mine
            assert pool.submit(lambda: cache.get("k")).result() == [1]
        mine.close()
        assert mine.get("k") == [1]

    def test_locations_are_stores_of_their_own(self) -> None:
        with caches_of(other={"LOCATION": "other"}):
            cache.set("k", 1)
            assert caches["other"].get("k") is None
            assert root("default") != root("other")

    def test_the_root_of_another_backend_is_refused(self) -> None:
        dummy = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
        with caches_of(other=dummy), pytest.raises(ImproperlyConfigured, match="DummyCache"):
            root("other")

    def test_a_million_keys_stay_within_the_bound(self) -> None:
        with caches_of(default={"OPTIONS": {"MAX_ENTRIES": 500, "TENANT": "current"}}):
            for name in ("acme", "beta"):
                with tenant(name):
                    for batch in range(10):
                        cache.set_many({f"{batch}:{number}": number for number in range(1_000)})
            assert root().stats().entries == 500


class TestValues:
    def test_a_pickled_value_is_a_copy_and_an_object_is_itself(self) -> None:
        with caches_of(raw={"LOCATION": "raw", "OPTIONS": {"SERIALIZER": None}}):
            value = {"a": [1]}
            for alias, shared in (("default", False), ("raw", True)):
                one = caches[alias]
                one.set("k", value)
                assert (one.get("k") is value) is shared
                assert one.get("k") == value
                assert (one.get_or_set("l", lambda: value) is value) is shared
                assert (one.get_many(["k"])["k"] is value) is shared
            raw = caches["raw"]
            raw.set("f", b"not pickled")
            assert raw.get("f") == b"not pickled"
            lock = threading.Lock()
            raw.set("lock", lock)
            assert raw.get("lock") is lock

    @pytest.mark.parametrize(
        "value", [None, 0, 1, True, 1.5, "text", b"bytes", (1, "a"), {"a": {1}}]
    )
    def test_a_value_comes_back_as_it_was(self, value: Any) -> None:
        cache.set("k", value)
        for found in (cache.get("k", "absent"), cache.get_many(["k"])["k"]):
            assert found == value and type(found) is type(value)
        assert cache.add("k", "other") is False

    def test_a_cached_none_is_a_hit(self) -> None:
        cache.set("k", None)
        assert cache.get("k", "absent") is None
        assert "k" in cache
        assert cache.get_or_set("k", lambda: pytest.fail("it ran")) is None
        assert cache.stats().hits == 2
        assert cache.stats().misses == 0

    def test_timeouts_as_django_has_them(self) -> None:
        for timeout in (0, -1, 0.0, -5.5):
            cache.set("k", "old")
            cache.set("k", "new", timeout)
            assert cache.get("k") is None
            assert cache.add("k", "new", timeout) is True
            assert cache.get("k") is None
            cache.set("k", "old")
            assert cache.add("k", "new", timeout) is False
            assert cache.touch("k", timeout) is True
            assert cache.touch("k", timeout) is False
        cache.set("k", 1, None)
        (namespace,) = [root().namespace("shared", "[]")]
        assert namespace.ttl(":1:k") is None
        cache.set("k", 1)
        assert 0 < (namespace.ttl(":1:k") or 0) <= 300
        assert cache.touch("k", 90_000.5)
        assert 80_000 < (namespace.ttl(":1:k") or 0) <= 90_000.5

    @pytest.mark.parametrize("timeout", ["60", float("nan"), [], True])
    def test_a_timeout_that_is_none_is_named_and_nothing_changes(self, timeout: Any) -> None:
        cache.set("k", "old")
        for call in (cache.set, cache.add, cache.get_or_set):
            with pytest.raises((TypeError, ValueError), match=r"^timeout: "):
                call("k" if call == cache.set else "l", lambda: 1, timeout)
        with pytest.raises((TypeError, ValueError), match=r"^timeout: "):
            cache.touch("k", timeout)
        with pytest.raises((TypeError, ValueError), match=r"^timeout: "):
            cache.set_many({"k": 1}, timeout)
        assert cache.get("k") == "old"

    def test_a_counter_is_exact_keeps_its_timeout_and_is_never_made(self) -> None:
        namespace = root().namespace("shared", "[]")
        cache.set("n", 0, 50_000, tags="counters")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: [cache.incr("n") for _ in range(500)], range(4)))
        assert cache.get("n") == 2_000
        assert cache.decr("n", 1_999) == 1
        assert 40_000 < (namespace.ttl(":1:n") or 0) <= 50_000
        assert cache.invalidate_tag("counters") == 1
        for call in (cache.incr, cache.decr):
            with pytest.raises(ValueError, match="not found"):
                call("n")
        assert cache.get("n", "absent") == "absent"
        for value in ("text", 1.5, True, [1], None):
            cache.set("n", value)
            with pytest.raises(TypeError, match=r"^key: "):
                cache.incr("n")
            assert cache.get("n") == value
        with pytest.raises(TypeError, match=r"^delta: "):
            cache.incr("n", 1.5)

    def test_what_is_too_heavy_replaces_nothing_and_is_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caches_of(default={"OPTIONS": {"MAX_WEIGHT": 1_000}}):
            heavy = b"x" * 2_000
            cache.set("k", "light")
            cache.set("k", heavy)
            assert cache.get("k") is None
            assert cache.add("k", heavy) is False
            cache.set("k", "light")
            assert cache.set_many({"k": heavy, "l": b"y", "m": heavy}) == ["k", "m"]
            assert cache.get_many("klm") == {"l": b"y"}
            assert cache.get_or_set("n", lambda: heavy) == heavy
            assert cache.get("n") is None
        told = [record for record in caplog.records if record.name == "flowcache"]
        assert told and {record.levelname for record in told} == {"WARNING"}

    def test_a_weigher_of_your_own(self) -> None:
        options = {"MAX_WEIGHT": 3, "WEIGHER": f"{__name__}.weigh_one"}
        with caches_of(default={"OPTIONS": options}):
            cache.set_many(dict.fromkeys("abcde", 1))
            assert cache.stats().entries == 3

    def test_keys_are_djangos_and_so_are_its_warnings(self) -> None:
        backend: FlowCache = caches["default"]
        for key in ("plain", "ünï", 7, 1.5, None):
            assert backend.make_and_validate_key(key) == backend.make_key(key)
            assert backend.make_and_validate_key(key, version=9) == backend.make_key(key, 9)
        for key in ("a b", "a\nb", "a\x7fb", "a" * 251):
            with pytest.warns(CacheKeyWarning):
                assert backend.make_and_validate_key(key) == backend.make_key(key)

        class Upper(FlowCache):
            def make_key(self, key: Any, version: Any = None) -> str:
                return str(key).upper()

            def validate_key(self, key: str) -> None:
                assert key != "BAD", "a key that is refused"

        made = Upper("upper", {})
        made.set("k", 1)
        assert made.get("K") == 1
        with pytest.raises(AssertionError, match="refused"):
            made.get("bad")

    def test_versions_and_keys_that_are_no_str(self) -> None:
        cache.set(7, "seven", version=2)
        assert cache.get(7) is None
        assert cache.get("7", version=2) == "seven"
        assert cache.incr_version(7, version=2) == 3
        assert cache.get(7, version=3) == "seven"


def weigh_one(key: str, stored: Any) -> int:
    return 1
