"""The end of an entry's TTL: serving, counts, and the release of its memory."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest

from flowcache import Cache, Namespace, create_cache
from harness.support import new_cache


def test_an_entry_is_fresh_until_its_deadline_and_not_at_it() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=10)
    clock.now = math.nextafter(1_010.0, 0)
    assert "k" in cache and cache.get("k") == 1 and len(cache) == 1 and list(cache) == ["k"]
    clock.now = 1_010.0
    assert "k" not in cache and cache.get("k") is None and len(cache) == 0 and list(cache) == []
    assert cache.peek("k") is None and cache.get_many(["k"]) == {}


def test_an_entry_in_its_stale_window_is_held_until_the_end_of_it() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=10, stale=5)
    clock.now = math.nextafter(1_015.0, 0)
    assert cache.sweep() == 0 and cache.get("k") is None and cache.stats().entries == 1
    clock.now = 1_015.0
    assert cache.sweep() == 1 and cache.stats().entries == 0


def test_entries_past_their_ttl_and_held_for_stale_are_counted_each_once() -> None:
    cache, clock = new_cache()
    for key in range(3):
        cache.set(key, "value", ttl=1, stale=10)
    clock.advance(1)

    assert cache.sweep() == 0
    cache._check()
    assert len(cache) == 0 and cache.stats().entries == 3
    clock.advance(10)
    assert cache.sweep() == 3
    cache._check()
    assert cache.stats().entries == 0


def test_what_replaces_a_stale_value_is_due_at_its_own_deadline() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=10, stale=60)
    clock.advance(20)
    assert len(cache) == 0 and cache.stats().entries == 1
    cache.set("k", 2, ttl=10)
    cache._check()
    clock.advance(10)
    assert len(cache) == len(list(cache)) == 0
    assert cache.stats().entries == 0


def test_a_stale_entry_without_an_end_stays() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=10, stale=True)
    clock.advance(1e9)
    assert cache.sweep() == 0 and len(cache) == 0 and cache.stats().entries == 1
    cache.set("k", 2)
    assert cache.sweep() == 0 and len(cache) == 1
    cache._check()


def test_a_look_up_that_meets_an_expired_entry_drops_it() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1)
    clock.advance(1)
    assert cache.stats().entries == 1
    cache.get("k")
    stats = cache.stats()
    assert (stats.entries, stats.expirations, stats.misses) == (0, 1, 1)


def test_expired_entries_go_as_the_cache_is_used() -> None:
    cache, clock = new_cache()
    for key in range(1_000):
        cache.namespace(str(key % 10)).set(key, 1, ttl=1)
    clock.advance(1)
    for key in range(1_000):
        cache.namespace("busy").set(key, 1)
    assert cache.stats().expirations == 1_000
    assert cache.stats().entries == 1_000
    cache._check()


def test_sweep_tells_how_many_it_expired_and_reaches_every_namespace() -> None:
    cache, clock = new_cache()
    draw = random.Random(5)
    alive = 0
    for number in range(3_000):
        ttl = draw.choice([1, 2, 3, None])
        alive += ttl != 1
        cache.namespace(*draw.choice(["a", "b", "ab", "abc"])).set(number, 1, ttl=ttl)
    clock.advance(1)
    assert cache.sweep() == 3_000 - alive
    assert cache.sweep() == 0
    assert cache.stats().entries == alive
    cache._check()


def test_len_settles_what_is_due_first() -> None:
    cache, clock = new_cache()
    ns = cache.namespace("a")
    for number in range(5_000):
        ns.set(number, 1, ttl=number % 3 + 1, stale=number % 2)
    for _ in range(3):
        clock.advance(1)
        assert len(ns) == len(list(ns)) == len(ns.items())
        cache._check()


def test_an_overwrite_that_lives_longer_is_not_expired_by_the_old_deadline() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1)
    cache.set("k", 2, ttl=100)
    clock.advance(1)
    assert cache.sweep() == 0 and cache.get("k") == 2
    cache.set("k", 3, ttl=1)
    clock.advance(1)
    assert cache.sweep() == 1 and cache.get("k") is None


def test_a_default_ttl_that_changes_concerns_what_is_stored_from_then_on() -> None:
    cache, _ = new_cache(default_ttl=10)
    child, own = cache.namespace("child"), cache.namespace("own", default_ttl=7)
    child.set("before", 1)
    cache.configure(default_ttl=20)
    for namespace in (cache, child, own):
        namespace.set("after", 1)

    assert child.ttl("before") == 10
    assert (cache.ttl("after"), child.ttl("after"), own.ttl("after")) == (20, 20, 7)
    cache.configure(default_ttl=None)
    child.set("forever", 1)
    assert child.ttl("forever") is None


def test_the_default_ttl_is_five_minutes() -> None:
    cache: Cache[int] = create_cache(clock=lambda: 0.0)
    cache.set("k", 1)
    assert cache.ttl("k") == 300


def test_a_clock_that_goes_back_makes_nothing_wrong() -> None:
    cache, clock = new_cache()
    cache.set("a", 1, ttl=10, stale=5)
    cache.set("b", 1, ttl=10)
    clock.advance(11)
    cache.sweep()
    clock.advance(-11)
    cache._check()
    assert cache.get("a") == 1 and cache.get("b") is None
    assert cache.touch("a", ttl=3) and cache.ttl("a") == 3
    cache._check()


def test_nothing_is_served_as_fresh_more_than_10_ms_after_its_ttl() -> None:
    """On the real clock. Both readings err on the side of the cache on a machine of any speed."""
    cache: Cache[Any] = create_cache()
    namespace: Namespace[Any] = cache.namespace("a")
    worst = -math.inf
    for number in range(10):
        ttl = 0.004 + number * 0.001
        namespace.set("k", 1, ttl=ttl)
        stored = time.monotonic()
        while True:
            asked = time.monotonic()
            if namespace.get("k") is None:
                break
            worst = max(worst, asked - stored - ttl)
    assert worst <= 0.010


@pytest.mark.parametrize("seconds", [1e-300, 1e-9])
def test_a_ttl_too_small_for_the_clock_is_no_ttl_of_ever(seconds: float) -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=seconds)
    clock.advance(1)
    assert cache.get("k") is None
    cache._check()
