"""Many keys in one call: what a loop of single calls would do, in one pass."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from flowcache import Cache, CacheClosedError, Namespace, create_cache
from flowcache._core import Ready
from harness.support import Colliding, new_cache, unchanged

BIG = 5_000
"""More entries than a cache holds whose batches ask for no memory ahead."""


def loop_of_gets(ns: Namespace[Any], keys: Iterable[Any]) -> dict[Any, Any]:
    return {key: ns.get(key) for key in keys if ns.get(key, ns) is not ns}


def state(ns: Namespace[Any]) -> Any:
    return list(ns), ns.stats()


KEYS: dict[str, Callable[[int], Any]] = {
    "str": "contacts:{}".format,
    "int": lambda n: n * 10**6,
    "tuple": lambda n: ("contacts", n),
    "all of one hash": lambda n: Colliding(str(n % 40)),
    "mixed": lambda n: (str(n), n * 10**6, (n,), None, b"%d" % n)[n % 5],
}


@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("entries", [0, 30, BIG])
def test_get_many_finds_counts_and_orders_as_a_loop_does(
    make: Callable[[int], Any], entries: int
) -> None:
    if entries == BIG and make is KEYS["all of one hash"]:
        entries = 40
    (one, clock), (other, clock_too) = new_cache(), new_cache()
    draw = random.Random(5)
    for cache in (one, other):
        ns = cache.namespace("tenant")
        for n in range(entries):
            ns.set(make(n), n, ttl=(5, 20, None)[n % 3], stale=3)
        cache.namespace("another").set_many({make(n): "another's" for n in range(100)})
    for seconds in (0, 6, 3, 30):
        clock.advance(seconds)
        clock_too.advance(seconds)
        for count in (0, 1, 5, 63, 64, 65, 128, 300):
            keys = [make(draw.randrange(entries + 20)) for _ in range(count)]
            batch, single = one.namespace("tenant"), other.namespace("tenant")
            found = batch.get_many(keys)
            expected = {}
            for key in keys:
                value = single.get(key, keys)
                if value is not keys:
                    expected[key] = value
            assert list(found.items()) == list(expected.items())
            assert state(batch) == state(single)
        one._check()


def test_get_many_takes_any_iterable_and_reads_it_once() -> None:
    ns = create_cache().namespace("tenant")
    ns.set_many({"a": 1, "b": 2})
    for keys in (["a", "b", "x"], ("a", "b", "x"), {"a": 0, "b": 0}, iter(["a", "b"]), {"a", "b"}):
        assert ns.get_many(keys) == {"a": 1, "b": 2}
    assert ns.get_many(key for key in ["b", "a", "b"]) == {"b": 2, "a": 1}
    assert ns.get_many([]) == ns.get_many(()) == {}
    keys = ["a", "b"]
    assert ns.get_many(keys) == {"a": 1, "b": 2}
    assert keys == ["a", "b"]


@pytest.mark.parametrize("count", [3, 300])
def test_all_keys_are_checked_before_any_is_looked_up(count: int) -> None:
    cache, _ = new_cache()
    ns = cache.namespace("tenant")
    ns.set_many({f"k{n}": n for n in range(count)})
    keys: list[Any] = [f"k{n}" for n in range(count)]
    calls: list[Callable[[], Any]] = [
        lambda: ns.get_many([*keys, []]),
        lambda: ns.fetch_many([*keys, []], dict),
        lambda: ns.afetch_many([*keys, []], dict),
        lambda: ns.get_many("text"),
        lambda: ns.fetch_many(b"text", dict),
        lambda: ns.get_many(7),  # type: ignore[arg-type]
    ]
    for call in calls:
        with unchanged(cache), pytest.raises(TypeError):
            call()


class Meddler:
    """A key that does something as it is hashed or compared for the n-th time."""

    act: Callable[[], Any] = staticmethod(lambda: None)
    left = 0

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def meddle(cls) -> None:
        cls.left -= 1
        if cls.left == 0:
            cls.act()

    def __hash__(self) -> int:
        self.meddle()
        return self.number % 3

    def __eq__(self, other: object) -> bool:
        self.meddle()
        return isinstance(other, Meddler) and self.number == other.number


def acts(cache: Cache[Any], ns: Namespace[Any]) -> dict[str, Callable[[], Any]]:
    def fail() -> None:
        raise ZeroDivisionError

    return {
        "clear": ns.clear,
        "clear all": cache.clear,
        "grow": lambda: ns.set_many({("more", n): n for n in range(500)}),
        "close": cache.close,
        "raise": fail,
        "evict": lambda: ns.configure(max_entries=1),
        "batch": lambda: ns.get_many([f"k{n}" for n in range(9)]),
    }


@pytest.mark.parametrize("act", acts(create_cache(), create_cache()))
@pytest.mark.parametrize("entries", [20, BIG])
@pytest.mark.parametrize("call", ["get_many", "fetch_many", "set_many"])
def test_a_key_that_does_something_in_the_middle(act: str, entries: int, call: str) -> None:
    numbers = range(12)
    for nth in range(1, 80, 3 if entries == 20 else 13):
        cache = create_cache(max_entries=None)
        ns = cache.namespace("tenant")
        Meddler.left = 0
        ns.set_many({f"k{n}": n for n in range(entries)})
        ns.set_many({Meddler(n): ("own", n) for n in numbers})
        cache.namespace("another").set_many({Meddler(n): ("another's", n) for n in numbers})
        keys: list[Any] = [key for n in numbers for key in (Meddler(n), f"k{n}")]
        pairs = [(key, ("own", n)) for n, key in enumerate(keys)]
        Meddler.act = staticmethod(acts(cache, ns)[act])
        Meddler.left = nth
        found: Any = {}
        try:
            if call == "get_many":
                found = ns.get_many(keys)
            elif call == "fetch_many":
                found = ns.fetch_many(keys, lambda missing: dict.fromkeys(missing, ("own", 0)))
            else:
                ns.set_many(pairs)
        except (CacheClosedError, ZeroDivisionError):
            assert act in ("close", "raise")
        Meddler.left = 0
        assert not any("another's" in str(value) for value in found.values())
        cache._check()


class Last:
    """A value that does something as it goes."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


@pytest.mark.parametrize("act", ["clear", "clear all", "grow", "batch", "evict"])
def test_a_value_that_does_something_as_it_is_replaced(act: str) -> None:
    cache = create_cache(max_entries=50)
    ns = cache.namespace("tenant")
    do = acts(cache, ns)[act]
    for _ in range(3):
        ns.set_many({f"k{n}": Last(do) if n % 7 == 3 else n for n in range(60)}, tags="t")
        ns.set_many({f"k{n}": n for n in range(60)})
        cache._check()
    assert (
        ns.get_many([f"k{n}" for n in range(60)]).items() <= {f"k{n}": n for n in range(60)}.items()
    )


@pytest.mark.parametrize(
    "options", [{}, {"ttl": 5}, {"tags": ("a", "b")}, {"stale": 3}, {"ttl": 0}]
)
@pytest.mark.parametrize("settings", [{}, {"max_entries": 30}, {"weigher": lambda key, value: 2}])
def test_set_many_stores_as_a_loop_does(options: Any, settings: Any) -> None:
    draw = random.Random(3)
    one, other = (new_cache(**settings)[0].namespace("tenant") for _ in range(2))
    real, real_too = (create_cache(**settings).namespace("tenant") for _ in range(2))
    for _ in range(6):
        items = {f"k{draw.randrange(60)}": draw.random() for _ in range(draw.randrange(40))}
        for batch, single in ((one, other), (real, real_too)):
            batch.set_many(items, **options)
            for key, value in items.items():
                single.set(key, value, **options)
            assert list(batch.items()) == list(single.items())
            assert batch.stats() == single.stats()
            batch._check()
            for ns in (batch, single):
                assert ns.invalidate_tag("a") >= 0


def test_fetch_many_of_fresh_keys_calls_no_loader_and_makes_no_coroutine() -> None:
    ns = create_cache().namespace("tenant")
    ns.set_many({f"k{n}": n for n in range(200)})
    keys = [f"k{n}" for n in range(0, 200, 3)]

    def load(missing: list[Any]) -> dict[Any, Any]:
        raise AssertionError(missing)

    async def aload(missing: list[Any]) -> dict[Any, Any]:
        raise AssertionError(missing)

    expected = {key: int(key[1:]) for key in keys}
    assert ns.fetch_many(keys, load) == expected
    assert ns.fetch_many(iter(keys), load, ttl=5, tags="t") == expected
    for awaitable in (
        ns.afetch_many(keys, aload),
        ns.afetch_many(keys, load),  # type: ignore[arg-type]
        ns.afetch_many(keys, aload, ttl=3, stale=True),
        ns.fetch_many(keys, aload),
    ):
        assert isinstance(awaitable, Ready)

        async def wait(awaitable: Any = awaitable) -> Any:
            return await awaitable

        assert asyncio.run(wait()) == expected
    assert ns.stats().hits == 6 * len(keys)
    assert ns.stats().misses == ns.stats().loads == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_missing_is_loaded_once_and_what_is_held_is_handed_on(is_async: bool) -> None:
    cache, clock = new_cache()
    ns = cache.namespace("tenant")
    ns.set_many({"a": 1, "b": 2})
    ns.set("old", 3, ttl=5, stale=True)
    ns.set("gone", 4, ttl=5)
    clock.advance(6)
    asked: list[Any] = []

    def load(missing: list[Any]) -> dict[Any, Any]:
        asked.append(missing)
        return {key: ("new", key) for key in missing}

    keys = ["x", "a", "gone", "b", "a", "x", "old"]
    if is_async:

        async def main() -> Any:
            return await ns.afetch_many(iter(keys), load, stale=True, ttl=9)

        found = asyncio.run(main())
    else:
        found = ns.fetch_many(iter(keys), load, stale=False, ttl=9)
        found_again = ns.fetch_many(keys, load)
        assert found_again == found

    expected = {"x": ("new", "x"), "a": 1, "gone": ("new", "gone"), "b": 2}
    if is_async:
        assert list(found.items()) == [*expected.items(), ("old", 3)]
        assert ["x", "gone"] in asked
        stats = ns.stats()
        assert (stats.hits, stats.misses, stats.stale_hits) == (2, 2, 1)
    else:
        assert list(found.items()) == [*expected.items(), ("old", ("new", "old"))]
        assert asked == [["x", "gone", "old"]]
        stats = ns.stats()
        assert (stats.hits, stats.misses) == (2 + 5, 3)


def test_a_refused_call_of_many_changes_no_count() -> None:
    cache, _ = new_cache()
    ns = cache.namespace("tenant")
    ns.set_many({"a": 1, "b": 2})
    for options in ({"ttl": -1}, {"tags": 5}, {"nonsense": 1}, {"refresh_ahead": 2}):
        for keys in (["a", "b"], ["a", "x"]):
            for call in (ns.fetch_many, ns.afetch_many):
                with unchanged(cache), pytest.raises((TypeError, ValueError)):
                    call(keys, dict, **options)  # type: ignore[operator]


def test_listeners_hear_of_each_key() -> None:
    cache, _ = new_cache()
    ns = cache.namespace("tenant")
    ns.set_many({"a": 1, "b": 2})
    heard: list[Any] = []
    ns.subscribe(lambda event: heard.append((event.kind, event.key)), kinds=("hit", "miss"))
    ns.get_many(["a", "x", "b"])
    ns.fetch_many(["b", "a"], dict)
    assert heard == [("hit", "a"), ("miss", "x"), ("hit", "b"), ("hit", "b"), ("hit", "a")]


def test_a_closed_cache_refuses_every_batch() -> None:
    cache = create_cache()
    ns = cache.namespace("tenant")
    cache.close()
    for call in (
        lambda: ns.get_many([]),
        lambda: ns.get_many(["a"]),
        lambda: ns.set_many({}),
        lambda: ns.set_many({"a": 1}),
        lambda: ns.fetch_many(["a"], dict),
        lambda: ns.afetch_many(["a"], dict),
    ):
        with pytest.raises(CacheClosedError):
            call()  # type: ignore[no-untyped-call]


def test_batches_of_several_threads_hand_out_whole_values_of_their_own() -> None:
    cache = create_cache(max_entries=4_000)
    names = ("acme", "beta", "gamma")
    faults: list[BaseException] = []
    counts = dict.fromkeys(names, 0)

    def serve(name: str) -> None:
        draw = random.Random(name)
        ns = cache.namespace(name)
        try:
            for _ in range(120):
                keys = [f"k{draw.randrange(3_000)}" for _ in range(150)]
                ns.set_many({key: (name, key) for key in keys[:100]}, tags="t")
                for found in (
                    ns.get_many(keys),
                    ns.fetch_many(keys, lambda missing: {key: (name, key) for key in missing}),
                ):
                    assert all(value == (name, key) for key, value in found.items())
                    counts[name] += len(found)
                if draw.random() < 0.1:
                    ns.clear()
                if draw.random() < 0.1:
                    ns.invalidate_tag("t")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=serve, args=(name,)) for name in names for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    assert all(counts.values())
    cache._check()
