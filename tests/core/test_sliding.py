"""`sliding=`: an entry ends where no hit renews it; `jitter=`: entries do not end together."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowcache import Namespace, create_cache
from flowcache._core import _testing
from harness.support import VirtualClock, new_cache, unchanged

Call = Callable[[Namespace[Any]], Any]

HITS: dict[str, Call] = {
    "get": lambda ns: ns.get("k"),
    "ns[key]": lambda ns: ns["k"],
    "get_many": lambda ns: ns.get_many(["k"])["k"],
    "setdefault": lambda ns: ns.setdefault("k", 0),
    "incr": lambda ns: ns.incr("k", 0),
    "fetch": lambda ns: ns.fetch("k", lambda: 0),
    "fetch, refresh_ahead": lambda ns: ns.fetch("k", lambda: 0, refresh_ahead=0.5),
    "fetch_many": lambda ns: ns.fetch_many(["k"], lambda missing: {})["k"],
}
LOOKS: dict[str, Call] = {
    "peek": lambda ns: ns.peek("k"),
    "in": lambda ns: "k" in ns,
    "iteration": lambda ns: dict(ns.items()),
    "inspect": lambda ns: ns.inspect("k"),
    "ttl": lambda ns: ns.ttl("k"),
    "add": lambda ns: ns.add("k", 2),
}


@pytest.mark.parametrize("call", HITS.values(), ids=HITS)
def test_a_hit_renews_the_entry(call: Call) -> None:
    cache, clock = new_cache()
    cache.set("k", 1, sliding=10)
    for _ in range(5):
        clock.advance(9)
        assert call(cache) == 1
    clock.advance(10)
    assert "k" not in cache
    cache._check()


@pytest.mark.parametrize("call", LOOKS.values(), ids=LOOKS)
def test_a_look_renews_nothing(call: Call) -> None:
    cache, clock = new_cache()
    cache.set("k", 1, sliding=10)
    clock.advance(9)
    call(cache)
    clock.advance(1)
    assert "k" not in cache


def test_a_hit_renews_nothing_beyond_the_ttl() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=25, sliding=10)
    for _ in range(3):
        clock.advance(8)
        assert cache.get("k") == 1
    assert cache.ttl("k") == 1
    clock.advance(1)
    assert cache.get("k") is None


def test_the_default_ttl_ends_it_too_and_a_short_ttl_at_once() -> None:
    cache, clock = new_cache(default_ttl=5)
    cache.set("default", 1, sliding=timedelta(seconds=10))
    cache.set("short", 1, ttl=2, sliding=10)
    assert (cache.ttl("default"), cache.ttl("short")) == (5, 2)
    clock.advance(2)
    assert list(cache) == ["default"]


def test_a_replaced_entry_slides_as_its_store_says() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=100, sliding=10)
    cache.set("k", 2, ttl=100)
    clock.advance(50)
    assert cache.get("k") == 2
    cache.set("k", 3, ttl=100, sliding=20)
    clock.advance(15)
    assert cache.get("k") == 3
    assert cache.ttl("k") == 20


def test_a_slot_that_is_used_again_does_not_slide() -> None:
    cache, clock = new_cache()
    cache.set("old", 1, sliding=1)
    cache.delete("old")
    cache.set("new", 1, ttl=50)
    clock.advance(30)
    assert cache.get("new") == 1
    assert cache.ttl("new") == 20
    assert cache.inspect("new").sliding is None  # type: ignore[union-attr]


def test_touch_gives_a_new_ttl_within_which_it_slides() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=15, sliding=10)
    clock.advance(9)
    assert cache.touch("k", 30)
    for _ in range(3):
        clock.advance(9)
        assert cache.get("k") == 1
    assert cache.ttl("k") == 3
    assert cache.touch("k", None) and cache.ttl("k") == 10
    cache._check()


def test_its_stale_window_begins_where_it_ended() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=100, sliding=10, stale=5)
    clock.advance(8)
    assert cache.get("k") == "old"
    clock.advance(14)
    assert cache.fetch("k", lambda: "new", ttl=100) == "old"
    cache.set("k", "old", ttl=100, sliding=10, stale=5)
    clock.advance(15)
    assert cache.fetch("k", lambda: "new", ttl=100) == "new"


def test_an_entry_that_was_ended_does_not_slide_on() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=100, sliding=10, stale=50)
    clock.advance(5)
    assert cache.expire("k") and cache.get("k") is None
    seen = cache.inspect("k")
    assert seen is not None and (seen.age, seen.ttl, seen.sliding) == (5, 0, None)
    cache._check()


def test_inspect_tells_age_and_seconds() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=100, sliding=10)
    clock.advance(8)
    cache.get("k")
    clock.advance(1)
    seen = cache.inspect("k")
    assert seen is not None and (seen.age, seen.ttl, seen.sliding) == (9, 9, 10)


def test_refresh_ahead_leaves_an_entry_that_slides_alone() -> None:
    cache, clock = new_cache()
    cache.set("k", "held", ttl=1000, sliding=10)
    clock.advance(9)
    assert cache.fetch("k", lambda: "new", refresh_ahead=0.1) == "held"
    assert cache.stats().loads == cache.stats().pending == 0


def test_a_clock_that_goes_back_shortens_nothing() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, sliding=10)
    clock.advance(-5)
    assert cache.get("k") == 1
    assert cache.ttl("k") == 15


@pytest.mark.parametrize("at_once", [2, 10_000])
def test_many_slide_and_leave(at_once: int) -> None:
    cache, clock = new_cache(max_entries=20_000)
    _testing.slice(cache, at_once, 64)
    before = cache.__sizeof__()
    acme = cache.namespace("acme")
    for key in range(30_000):
        acme.set(key, 1, ttl=100, sliding=10 if key % 2 else None)
    assert cache.__sizeof__() > before
    for _ in range(4):
        clock.advance(8)
        for key in range(10_000, 20_000):
            acme.get(key)
    cache._check()
    assert len(acme) == 15_000
    acme.clear()
    cache.sweep()
    cache._check()
    cache.set("k", 1, ttl=1000)
    clock.advance(500)
    assert cache.get("k") == 1


def test_on_the_clock_of_the_system() -> None:
    cache = create_cache()
    cache.set("k", 1, ttl=100, sliding=50)
    cache.get("k")
    left = cache.ttl("k")
    assert left is not None and 49 < left <= 50
    cached = cache.cached(lambda x: x)
    assert cached(1) == cached(1) == 1


STORES: dict[str, Callable[..., Any]] = {
    "set": lambda ns, **options: ns.set("k", 9, **options),
    "add": lambda ns, **options: ns.add("new", 9, **options),
    "set_many": lambda ns, **options: ns.set_many({"new": 9}, **options),
}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("sliding", 0, ValueError),
        ("sliding", -1, ValueError),
        ("sliding", math.nan, ValueError),
        ("sliding", 1e-60, ValueError),
        ("sliding", True, TypeError),
        ("sliding", "10", TypeError),
        ("jitter", 1, ValueError),
        ("jitter", -0.1, ValueError),
        ("jitter", math.nan, ValueError),
        ("jitter", 10**400, ValueError),
        ("jitter", True, TypeError),
        ("jitter", "0.1", TypeError),
    ],
)
def test_what_cannot_be_meant_is_refused(
    store: Callable[..., Any], option: str, value: Any, error: type[Exception]
) -> None:
    cache, _ = new_cache()
    cache.set("k", 1, ttl=100)
    with unchanged(cache), pytest.raises(error, match=option):
        store(cache, **{option: value})


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_an_endless_sliding_is_none(store: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    store(cache, sliding=math.inf, jitter=0, ttl=100)
    clock.advance(99)
    assert len(cache) == 1


# ------------------------------------------------------------------------------------- jitter


def test_a_ttl_is_drawn_for_each_store_from_the_part_below_it() -> None:
    cache, _ = new_cache(max_entries=None)
    cache.set_many(dict.fromkeys(range(2_000), 1), ttl=100, jitter=0.2)
    for key in range(2_000, 3_000):
        cache.set(key, 1, ttl=100, jitter=0.2)
    for key in range(3_000, 4_000):
        cache.add(key, 1, ttl=100, jitter=0.2)
    lives = [cache.ttl(key) or 0 for key in range(4_000)]
    assert all(80 <= life <= 100 for life in lives)
    assert len(set(lives)) > 3_900
    # Of 20 equal parts each has its share, but for what chance takes: 200 of 4,000, spread 14.
    for part in range(20):
        assert 100 < sum(80 + part <= life < 81 + part for life in lives) < 300


def test_jitter_applies_to_the_default_ttl_and_not_to_entries_without_an_end() -> None:
    cache, _ = new_cache(default_ttl=10)
    cache.set("default", 1, jitter=0.5)
    cache.set("endless", 1, ttl=None, jitter=0.5)
    cache.set("nothing", 1, ttl=0, jitter=0.5)
    left = cache.ttl("default")
    assert left is not None and 5 <= left < 10
    assert cache.ttl("endless") is None and "nothing" not in cache


def test_two_caches_draw_differently() -> None:
    clock = VirtualClock()
    drawn = []
    for _ in range(2):
        cache = create_cache(clock=clock)
        cache.set_many(dict.fromkeys(range(10), 1), ttl=100, jitter=0.9)
        drawn.append([cache.ttl(key) for key in range(10)])
    assert drawn[0] != drawn[1]
