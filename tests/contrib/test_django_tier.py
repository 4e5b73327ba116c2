"""Django's backend with a tier, on a real server; scripts/upstream runs Django's own suite so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from contrib.django_project import caches_of
from contrib.fleets import new_server, other_process, patience, patient, threads_of_tiers
from contrib.interleaving import TENANTS, in_step
from flowcache import ConfigurationError, TierUnavailableError, WouldBlockError
from flowcache.contrib._tiers import derived_keys
from flowcache.contrib.django import FlowCache, root
from flowcache.contrib.django.checks import check_sessions
from flowcache.tenancy import tenant
from flowcache.tier import MsgpackCodec, PickleCodec, ValkeyTier
from harness.fleet import PATIENT, confirmed
from harness.servers import Server, server, wait_until

__all__ = ["new_server", "patience"]

CODEC = PickleCodec([b"of the tests, sixteen bytes and more"])
KEY = ":1:k"


@pytest.fixture
def location(request: pytest.FixtureRequest) -> str:
    """A `LOCATION` of the test's own: the server outlives the test."""
    return request.node.name


@pytest.fixture
def tier(new_server: Server) -> ValkeyTier:
    return patient(new_server, codec=CODEC)


@pytest.fixture(autouse=True)
def connections_end() -> Iterator[None]:
    yield
    wait_until(lambda: not threads_of_tiers())


@pytest.fixture
def shop(tier: ValkeyTier, location: str) -> Iterator[Any]:
    """The cache of a tenant's requests in this process; it is yielded as another process has it."""
    options = {"TIER": tier, "TENANT": "current", "ON_NO_TENANT": "shared"}
    with (
        caches_of(default={"LOCATION": location, "OPTIONS": options}),
        other_process(f"django:{location}", tier) as other,
    ):
        confirmed(root().connect)
        yield other


def of(other: Any, name: str | None = None) -> Any:
    """Return the namespace of a tenant's entries, or of no tenant's."""
    return other.namespace("shared" if name is None else f"tenant:{name}", "[]")


def found(there: Any, key: str, expected: Any) -> None:
    """Wait until another process finds a value, or none: the message to it is under way."""
    wait_until(lambda: there.get(key) == expected)


class Twins:
    """Calls the awaitable twin of each call of a backend."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._backend, f"a{name}")(*args, **kwargs)

        return lambda *args, **kwargs: asyncio.run(call(*args, **kwargs))


WAYS = pytest.mark.parametrize("way", [lambda backend: backend, Twins], ids=["threads", "tasks"])


@pytest.fixture
def calls(way: Callable[[Any], Any]) -> Any:
    """The calls of the cache, for threads, or their twins, for tasks."""
    return way(cache)


@WAYS
class TestCalls:
    def test_every_call_reaches_the_other_process(self, shop: Any, calls: Any) -> None:
        there = of(shop)
        calls.set("k", [1], tags="t")
        assert there.get(KEY) is not None
        assert calls.get("k") == [1]
        assert root().namespace("shared", "[]").stats().hits == 1
        assert calls.add("k", [2]) is False
        assert calls.add("l", [2]) is True
        assert calls.add("k", [2], 0) is False
        assert calls.add("m", [2], 0) is True
        calls.set("number", 5)
        for expected in (6, 7):
            assert calls.incr("number") == expected
            found(there, ":1:number", expected)
        assert calls.decr("number", 7) == 0
        assert calls.set_many({"a": 1, "b": [2]}, tags=("t", "u")) == []
        assert there.get(":1:a") == 1
        assert calls.get_many("abcd") == {"a": 1, "b": [2]}
        assert calls.touch("a", 50) is True
        assert calls.touch("c", 50) is False
        assert calls.has_key("a") and not calls.has_key("c")
        assert calls.delete("a") is True
        assert calls.delete("a") is False
        calls.delete_many(["b", "c"])
        assert calls.get_or_set("s", lambda: [7], tags="t") == [7]
        assert calls.get_or_set("s", lambda: pytest.fail("it is there")) == [7]
        assert calls.get_or_set("v", [8]) == [8]
        assert calls.get_or_set("v", [9]) == [8]
        assert calls.get("absent", 3) == 3
        calls.clear()
        for key in ("k", "l", "number", "s", "v"):
            found(there, f":1:{key}", None)

    def test_what_the_other_process_stored_is_found(self, shop: Any, calls: Any) -> None:
        there = of(shop)
        there.set_many({":1:a": 1, ":1:b": 2, ":1:n": 3, ":1:p:1": 4}, tags=("t",))
        assert calls.has_key("a")
        assert "a" in cache
        assert calls.get("a") == 1
        assert calls.get_many("ab") == {"a": 1, "b": 2}
        assert calls.get_or_set("b", lambda: pytest.fail("it is there")) == 2
        assert calls.add("n", 9) is False
        assert calls.incr("n") == 4
        assert calls.delete("b") is True
        found(there, ":1:b", None)
        calls.delete_pattern("p:*")
        found(there, ":1:p:1", None)
        assert there.get(":1:a") == 1
        calls.invalidate_tag("t", wait="fleet")
        assert ":1:a" not in there
        assert there.get(":1:a") is None

    def test_a_change_of_the_other_process_is_seen(self, shop: Any, calls: Any) -> None:
        there = of(shop)
        calls.set("k", [1], tags="t")
        for change, expected in (
            (lambda: there.set(KEY, 2, tags="t"), 2),
            (lambda: there.invalidate_tag("t"), None),
            (lambda: there.set(KEY, 3), 3),
            (there.clear, None),
        ):
            change()
            wait_until(lambda expected=expected: calls.get("k") == expected)  # type: ignore[misc]

    def test_counters_are_exact_and_never_made(self, shop: Any, calls: Any) -> None:
        for call in (calls.incr, calls.decr):
            with pytest.raises(ValueError, match="not found"):
                call("k")
        assert not calls.has_key("k")
        for value in ("text", 1.5, True, [1], None):
            calls.set("k", value)
            with pytest.raises(TypeError, match=r"^key: "):
                calls.incr("k")
            assert calls.get("k") == value
        calls.set("k", (1 << 63) - 2, 60)
        assert calls.incr("k") == (1 << 63) - 1
        with pytest.raises(OverflowError):
            calls.incr("k")
        assert calls.get("k") == (1 << 63) - 1
        assert of(shop).ttl(KEY) <= 60
        with pytest.raises(TypeError, match=r"^delta: "):
            calls.incr("k", 1.5)

    def test_patterns_that_cannot_travel_are_refused(self, shop: Any, calls: Any) -> None:
        calls.set("abc", 1)
        for pattern in ("a?c", "*c", "abc", "[a]*"):
            with pytest.raises(ConfigurationError, match=r"^pattern: .*OPTIONS\['TIER'\]"):
                calls.delete_pattern(pattern)
        with pytest.raises(TypeError, match=r"^pattern: "):
            calls.delete_pattern(7)
        assert calls.get("abc") == 1
        assert calls.delete_pattern("ab*") == 1
        calls.set("abc", 1)
        assert calls.delete_pattern("*") == 1
        assert of(shop).get(":1:abc") is None

    def test_what_is_too_heavy_replaces_nothing(
        self, tier: ValkeyTier, location: str, calls: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"TIER": tier, "MAX_WEIGHT": 1_000}
        with caches_of(default={"LOCATION": location, "OPTIONS": options}):
            heavy = b"x" * 2_000
            calls.set("k", "light")
            calls.set("k", heavy)
            assert calls.get("k") is None
            assert calls.add("k", heavy) is False
            assert calls.set_many({"k": heavy, "l": b"y", "m": heavy}) == ["k", "m"]
            assert calls.get_many("klm") == {"l": b"y"}
        assert "not stored" in caplog.text


class TestTenants:
    def test_two_tenants_interleaved_over_threads_see_their_own(self, shop: Any) -> None:
        def work(name: str, step: Callable[[], Any]) -> None:
            with tenant(name):
                for turn in range(20):
                    step()
                    cache.set("k", [name, turn])
                    step()
                    assert cache.get("k") == [name, turn]
                    assert of(shop, name).get(KEY) is not None
                    assert cache.get_or_set("whose", lambda: [name]) == [name]

        in_step(work, *TENANTS)
        with tenant("acme"):
            cache.clear()
        assert of(shop, "acme").get(":1:whose") is None
        assert of(shop, "beta").get(":1:whose") is not None

    def test_two_tenants_interleaved_over_tasks_see_their_own(self, shop: Any) -> None:
        async def work(name: str) -> None:
            with tenant(name):
                for turn in range(20):

                    async def load(made: str = f"{name} {turn}") -> str:
                        await asyncio.sleep(0)
                        return made

                    assert await cache.aget_or_set(f"page{turn}", load) == f"{name} {turn}"
                    await cache.aset("last", [name, turn])
                    assert await cache.aget("last") == [name, turn]

        async def both() -> None:
            await asyncio.gather(work("acme"), work("beta"))

        asyncio.run(both())
        with tenant("acme"):
            cache.clear()
        assert of(shop, "beta").get(":1:page3") == "beta 3"


class TestLoops:
    def test_a_call_that_would_block_the_loop_names_its_twin(self, shop: Any) -> None:
        of(shop).set(KEY, 1)

        async def ask() -> None:
            calls: dict[str, Callable[[], Any]] = {
                "get": lambda: cache.get("k"),
                "set": lambda: cache.set("k", 2),
                "add": lambda: cache.add("k", 2),
                "delete": lambda: cache.delete("k"),
                "touch": lambda: cache.touch("k"),
                "incr": lambda: cache.incr("k"),
                "get_many": lambda: cache.get_many("k"),
                "set_many": lambda: cache.set_many({"k": 2}),
                "delete_many": lambda: cache.delete_many("k"),
                "clear": lambda: cache.clear(),  # noqa: PLW0108
                "invalidate_tag": lambda: cache.invalidate_tag("t"),
                "invalidate_prefix": lambda: cache.delete_pattern("k*"),
                "fetch": lambda: cache.get_or_set("k", lambda: 2),
                "ttl": lambda: cache.has_key("k"),
            }
            for name, call in calls.items():
                with pytest.raises(WouldBlockError, match=rf"^{name}: .*await a{name}"):
                    call()
            # The message of the value that the other process set may void it here once.
            while KEY not in root().namespace("shared", "[]"):
                assert await cache.aget("k") == 1
            assert cache.get("k") == 1, "a hit here waits for nothing"

        asyncio.run(ask())

    def test_a_look_up_is_the_twins_only_with_a_tier(
        self, shop: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        plain = FlowCache.get

        def get(self: FlowCache, key: Any, default: Any = None, version: Any = None) -> Any:
            asked.append(key)
            return plain(self, key, default, version)

        monkeypatch.setattr(FlowCache, "get", get)
        assert asyncio.run(caches["default"].aget("tiered")) is None
        with caches_of():
            assert asyncio.run(caches["default"].aget("plain")) is None
        assert asked == ["plain"]


class TestKeys:
    def test_the_projects_secret_signs_for_a_url(self, new_server: Server, location: str) -> None:
        mine = {"LOCATION": location, "OPTIONS": {"TIER": new_server.url}}

        def answer(secret: str, *older: str, stores: Any = None) -> Any:
            with (
                override_settings(SECRET_KEY=secret, SECRET_KEY_FALLBACKS=list(older)),
                caches_of(default=mine),
            ):
                confirmed(root().connect)
                if stores is not None:
                    cache.set("k", stores)
                wait_until(lambda: root().tier.state == "live")
                return cache.get("k")

        assert answer("first", stores=[1]) == [1]
        assert answer("first") == [1]
        assert answer("second", "first") == [1], "an older secret still verifies"
        assert answer("second") is None, "another secret does not"
        assert answer("first") is None, "and what it could not verify was deleted"

    def test_a_key_is_of_one_secret_and_one_purpose(self) -> None:
        first, second = derived_keys(["a secret", b"another"], "one")
        assert len(first) == len(second) == 32
        assert first != second
        assert derived_keys([b"a secret"], "one") == [first]
        assert derived_keys(["a secret"], "two") != [first]


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"TIER": 7}, r"^OPTIONS\['TIER'\]: must be a ValkeyTier or a URL"),
            ({"TIER": "http://127.0.0.1"}, r"^OPTIONS\['TIER'\]: "),
            ({"TIER": ValkeyTier("valkey://h")}, r"^OPTIONS\['TIER'\]: .*PickleCodec"),
            (
                {"TIER": ValkeyTier("valkey://h", codec=MsgpackCodec()), "SERIALIZER": None},
                r"^OPTIONS\['TIER'\]: .*got MsgpackCodec",
            ),
            ({"IGNORE_TIER_ERRORS": "yes"}, r"^OPTIONS\['IGNORE_TIER_ERRORS'\]: must be a bool"),
            (
                {
                    "TIER": ValkeyTier("valkey://h", codec=CODEC, on_partition="raise"),
                    "IGNORE_TIER_ERRORS": True,
                },
                r"^OPTIONS\['IGNORE_TIER_ERRORS'\]: must be False",
            ),
        ],
    )
    def test_a_setting_that_is_unsound_is_named(
        self, options: dict[str, Any], message: str
    ) -> None:
        with (
            caches_of(other={"LOCATION": "other", "OPTIONS": options}),
            pytest.raises(ImproperlyConfigured, match=message),
        ):
            caches["other"]

    def test_aliases_of_one_location_agree_on_the_tier_which_is_not_shown(self) -> None:
        same = {"LOCATION": "same"}
        with caches_of(
            one={**same, "OPTIONS": {"TIER": "valkey://:hidden@127.0.0.1:1/0"}},
            other={**same, "OPTIONS": {"TIER": "valkey://:buried@127.0.0.1:1/0"}},
        ):
            assert caches["one"]
            with pytest.raises(ImproperlyConfigured, match=r"^OPTIONS\['TIER'\]: differs") as told:
                caches["other"]
            assert "hidden" not in str(told.value)
            assert "buried" not in str(told.value)

    def test_the_default_location_is_refused(self) -> None:
        with (
            caches_of(other={"OPTIONS": {"TIER": "valkey://127.0.0.1:1"}}),
            pytest.raises(ImproperlyConfigured, match=r"^LOCATION: is needed"),
        ):
            caches["other"]

    def test_sessions_in_a_tier_are_those_of_all_processes(self) -> None:
        engine = "django.contrib.sessions.backends.cache"
        with override_settings(SESSION_ENGINE=engine):
            with caches_of(default={"OPTIONS": {"TIER": "valkey://127.0.0.1:1"}}):
                assert check_sessions() == []
            with caches_of(default={"OPTIONS": {"TIER": None}}):
                (warning,) = check_sessions()
                assert "OPTIONS['TIER']" in warning.hint

    def test_a_lock_is_refused(self, shop: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^lock: .*OPTIONS\['TIER'\]"):
            cache.lock("k")


CHANGES: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda calls: calls.set("a", 2), None),
    (lambda calls: calls.add("b", 2), False),
    (lambda calls: calls.touch("c", 9), False),
    (lambda calls: calls.delete("d"), False),
    (lambda calls: calls.incr("e"), None),
    (lambda calls: calls.set_many({"f": 2, "g": 2}), ["f", "g"]),
    (lambda calls: calls.delete_many("hi"), None),
    (lambda calls: calls.delete_pattern("j*"), 0),
    (lambda calls: calls.invalidate_tag("t"), 0),
    (lambda calls: calls.clear(), None),
]
"""Changes that a server which is away cannot confirm, and their answers if that is passed over."""


@WAYS
class TestErrors:
    @pytest.fixture
    def away(self, location: str) -> Iterator[None]:
        """Two aliases of a store whose server has ended; the process serves what it holds."""
        with server() as running:
            tier = ValkeyTier(
                running.url,
                codec=CODEC,
                on_partition=("stale", 600),
                **PATIENT,
            )
            both = {"LOCATION": location, "OPTIONS": {"TIER": tier}}
            ignoring = {**both, "OPTIONS": {"TIER": tier, "IGNORE_TIER_ERRORS": True}}
            with caches_of(default=both, ignoring=ignoring):
                confirmed(root().connect)
                cache.set_many(dict.fromkeys("abcdefghijkl", 1), tags="t")
                running.kill()
                yield

    @pytest.mark.usefixtures("away")
    def test_what_is_not_confirmed_raises(self, calls: Any) -> None:
        for change, _ in CHANGES:
            with pytest.raises(TierUnavailableError):
                change(calls)

    @pytest.mark.usefixtures("away")
    def test_it_is_passed_over_where_the_setting_says_so(
        self, way: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        calls = way(caches["ignoring"])
        for (change, expected), dropped in zip(CHANGES, "abcdegijkl", strict=True):
            caplog.clear()
            assert change(calls) == expected
            assert "passed over: " in caplog.text
            # Here it was done.
            assert cache.get(dropped) is None
