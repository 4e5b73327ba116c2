"""`advice()`: the hit rate that more room would give, beside caches that have it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from flowcache import (
    Advice,
    Cache,
    CacheClosedError,
    ConfigurationError,
    Namespace,
    _core,
    create_cache,
)
from harness.support import new_cache

FACTORS = (1.25, 1.5, 2)


def ask(namespace: Namespace[Any], keys: Iterable[Any]) -> float:
    """`get`, and `set` on a miss; the hit rate."""
    for key in keys:
        if namespace.get(key) is None:
            namespace.set(key, 1)
    return namespace.stats().hit_rate


def skewed(seed: int, requests: int, keys: int) -> list[int]:
    draw = random.Random(seed)
    return [int(keys * draw.random() ** 3) for _ in range(requests)]


def told(advice: Advice) -> list[float]:
    rates = [advice.at_125, advice.at_150, advice.at_200]
    assert all(rate is not None for rate in rates)
    return [rate for rate in rates if rate is not None]


@pytest.mark.parametrize(("room", "keys"), [(100, 1_000), (2_000, 12_000), (12_000, 60_000)])
def test_what_is_told_comes_true(room: int, keys: int) -> None:
    requests = skewed(room, room * 20, keys)
    cache, _ = new_cache(max_entries=room)
    assert cache.advice() == Advice(0.0, None, None, None)
    rate = ask(cache, requests)
    advice = cache.advice()
    cache._check()
    assert advice.hit_rate == rate
    true = [ask(new_cache(max_entries=int(room * factor))[0], requests) for factor in FACTORS]
    for rate_told, rate_true, most in zip(told(advice), true, (0.01, 0.015, 0.03), strict=True):
        assert rate_told == pytest.approx(rate_true, abs=most)
    assert told(advice)[2] < true[2] + 0.005  # Rather too low.
    assert true[2] > rate + 0.05


def test_a_loop_is_told_of_the_room_for_all_of_it() -> None:
    """It misses each time; with as much room as it has keys it hits each time but the first.

    A trace is lost where five of them would share four slots.
    """
    cache, _ = new_cache(max_entries=100)
    cache.advice()
    ask(cache, [n % 140 for n in range(14_000)])
    advice = cache.advice()
    assert (advice.hit_rate, advice.at_125) == (0, 0)
    assert told(advice)[1:] == pytest.approx([0.99, 0.99], abs=0.05)


def test_each_tenant_is_told_of_its_own() -> None:
    cache, _ = new_cache(max_entries=200)
    loop, scan = cache.namespace("loop"), cache.namespace("scan", "below")
    cache.advice()
    for number in range(9_000):
        ask(loop, [number % 130])
        ask(scan, [number])
    assert told(loop.advice())[0] == 0 and min(told(loop.advice())[1:]) > 0.9
    assert told(cache.namespace("scan").advice()) == [0, 0, 0]
    assert 0.45 < told(cache.advice())[2] < 0.5
    cache._check()


def test_a_cache_that_has_evicted_before_tells_once_it_has_seen_enough() -> None:
    cache, _ = new_cache(max_entries=100)
    ask(cache, range(1_000))
    assert cache.advice().at_200 is None
    ask(cache, range(1_000, 1_099))
    assert cache.advice().at_200 is None
    ask(cache, [*range(1_100, 1_200), 1_150])
    assert cache.advice().at_200 is not None


def test_a_cache_that_evicts_nothing_needs_no_more_room() -> None:
    cache, _ = new_cache(max_entries=100)
    cache.advice()
    rate = ask(cache, [*range(50), *range(50)])
    assert told(cache.advice()) == [rate] * 3 and rate == 0.5


@pytest.mark.parametrize("how", ["get", "get_many", "fetch", "fetch_many", "cached"])
def test_every_look_up_counts(how: str) -> None:
    cache, _ = new_cache(max_entries=100)
    cache.advice()
    keyed = cache.cached()(lambda key: 1)
    for number in range(6_000):
        key = number % 140
        match how:
            case "get":
                ask(cache, [key])
            case "get_many":
                if not cache.get_many([key]):
                    cache.set_many({key: 1})
            case "fetch":
                cache.fetch(key, lambda: 1)
            case "fetch_many":
                cache.fetch_many([key], lambda keys: dict.fromkeys(keys, 1))
            case _:
                keyed(key)
    cache._check()
    assert cache.advice().at_125 == 0
    assert cache.advice().at_150 == pytest.approx(1 - 140 / 6_000, abs=0.05)


def test_what_has_expired_meanwhile_would_not_have_been_a_hit() -> None:
    cache, clock = new_cache(max_entries=100, default_ttl=10)
    cache.advice()
    for number in range(3_000):
        ask(cache, [number % 140])
        clock.advance(0.1)  # A round of the loop takes 14 seconds.
    assert told(cache.advice()) == [0, 0, 0]


@pytest.mark.parametrize("times", [1, 4])  # The count of evictions has 32 bits.
def test_no_room_would_have_kept_what_was_cleared(times: int) -> None:
    cache, _ = new_cache(max_entries=100)
    cache.advice()
    ask(cache, range(150))
    for _ in range(times):
        cache.clear()
    ask(cache, [*range(1_000, 1_150), *range(150)])
    cache._check()
    assert told(cache.advice()) == [0, 0, 0]


def test_a_cache_that_is_given_much_more_room_begins_anew() -> None:
    cache: Cache[int] = create_cache(max_entries=20_000)
    cache.advice()
    ask(cache, range(40_000))
    assert cache.advice().at_200 is not None
    cache.configure(max_entries=80_000)
    assert cache.advice().at_200 is None
    cache._check()


def test_it_is_refused_where_the_order_is_no_stack() -> None:
    cache, _ = new_cache(max_entries=100)
    other = cache.namespace("a", "b", eviction="tinylfu")
    assert cache.namespace("c").advice().at_200 is None
    for namespace in (other, cache.namespace("a"), cache):
        with pytest.raises(ConfigurationError, match="advice: is told of eviction"):
            namespace.advice()
    ask(other, range(300))
    cache._check()
    cache.close()
    with pytest.raises(CacheClosedError):
        cache.advice()


def test_a_namespace_beside_one_with_tinylfu_is_told() -> None:
    cache, _ = new_cache(default_ttl=None)
    tiny = cache.namespace("tiny", max_entries=100, eviction="tinylfu")
    plain = cache.namespace("plain", max_entries=100)
    plain.advice()
    for _ in range(10):
        for number in range(110):
            ask(tiny, [f"key:{number}"])
            ask(plain, [f"key:{number}"])
    assert plain.stats().hits == 0
    assert min(told(plain.advice())) > 0.7


def test_a_miss_that_the_second_tier_answers_counts() -> None:
    cache, _ = new_cache(max_entries=100)
    cache.advice()
    cache.set_many(dict.fromkeys(range(140), 1))
    for key in range(40):
        _core._tally(cache, "misses", 1, key)
    assert cache.advice().at_150 == 1
    assert cache.stats().misses == 40
    cache._check()
