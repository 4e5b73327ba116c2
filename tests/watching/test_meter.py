"""Figures for metrics: few labels, none falls, and together they are the whole."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.watching.meter import COUNTERS, GAUGES, OTHER, Meter, Reading


def sums(reading: Reading, field: str) -> float:
    told = reading.gauges if field in GAUGES else reading.counters
    return sum(figures[field] for figures in told.values())


def check_whole(reading: Reading, cache: Any) -> None:
    stats = cache.stats()
    for field in (*COUNTERS, *GAUGES):
        assert sums(reading, field) == pytest.approx(getattr(stats, field)), field


def check_none_fell(before: Reading, after: Reading) -> None:
    for label, figures in before.counters.items():
        for field, value in figures.items():
            assert after.counters[label][field] >= value, (label, field)


def test_three_hundred_tenants_have_few_labels_whatever_their_ranks() -> None:
    rolled = random.Random(1)
    cache: Any = create_cache(max_entries=1_000, max_idle_namespaces=50)
    meter = Meter(cache, tenants=20, pinned=("t299",))
    before = meter.read()
    for turn in range(40):
        for _ in range(300):
            tenant = cache.namespace(f"t{(rolled.randrange(60) + turn * 7) % 300}")
            tenant.fetch(rolled.randrange(20), lambda: 1)
            tenant.get(rolled.randrange(20))
        reading = meter.read()
        assert len(reading.counters) <= 21
        check_none_fell(before, reading)
        check_whole(reading, cache)
        before = reading
    assert len(before.counters) == 21 and {"t299", OTHER} <= before.counters.keys()
    assert before.counters["t299"] == {
        field: pytest.approx(getattr(cache.namespace("t299").stats(), field)) for field in COUNTERS
    }


def test_what_a_tenant_did_before_it_had_a_label_stays_with_the_others() -> None:
    cache: Any = create_cache()
    meter = Meter(cache, tenants=2)
    cache.namespace("a").get("k")
    assert meter.read().counters["a"]["misses"] == 1
    cache.namespace("b").get("k")
    cache.namespace("b").get("k")
    cache.namespace("b").set("k", 1)
    second = meter.read()
    assert second.counters["b"]["misses"] == 0 and second.counters[OTHER]["misses"] == 2
    cache.namespace("b").get("absent")
    third = meter.read()
    assert third.counters["b"]["misses"] == 1 and third.counters[OTHER]["misses"] == 2
    assert third.added["b"]["misses"] == 1 and third.added[OTHER]["misses"] == 0


def test_a_pinned_tenant_that_comes_later_is_counted_from_its_first_call() -> None:
    cache: Any = create_cache()
    meter = Meter(cache, tenants=1, pinned=("late",))
    assert meter.read().counters["late"]["misses"] == 0
    cache.namespace("late").get("k")
    assert meter.read().counters["late"]["misses"] == 1


def test_a_tenant_with_the_name_of_the_others_is_counted_with_them() -> None:
    cache: Any = create_cache()
    cache.namespace(OTHER).set("k", 1)
    cache.namespace("a").set("k", 1)
    cache.namespace("bad\udc00").set("k", 1)
    reading = Meter(cache).read()
    assert reading.counters.keys() == {"a", OTHER}
    assert reading.counters[OTHER]["sets"] == 2 and reading.gauges[OTHER]["entries"] == 2


def test_a_tenant_that_is_forgotten_keeps_its_label_and_its_counts() -> None:
    cache: Any = create_cache(max_idle_namespaces=1)
    cache.namespace("a").get("k")
    meter = Meter(cache)
    assert meter.read().counters["a"]["misses"] == 1
    for other in "bcd":
        cache.namespace(other).get("k")
    assert "a" not in cache.namespaces()
    gone = meter.read()
    assert gone.counters["a"]["misses"] == 1 and gone.gauges["a"]["entries"] == 0
    check_whole(gone, cache)
    cache.namespace("a").get("k")
    back = meter.read()
    assert back.counters["a"]["misses"] == 2
    check_whole(back, cache)


def test_counts_that_are_reset_go_on() -> None:
    cache: Any = create_cache()
    meter = Meter(cache)
    for _ in range(5):
        cache.namespace("a").get("k")
    first = meter.read()
    cache.namespace("a").reset_stats()
    cache.namespace("a").get("k")
    second = meter.read()
    check_none_fell(first, second)
    assert second.counters["a"]["misses"] == 6
    check_whole(second, cache)
    cache.reset_stats()
    cache.namespace("a").get("k")
    third = meter.read()
    assert third.counters["a"]["misses"] == 7 and third.counters[OTHER]["misses"] == 0
    check_none_fell(second, third)


def test_a_closed_cache_has_its_last_counts_and_holds_nothing() -> None:
    cache: Any = create_cache()
    cache.namespace("a").set("k", 1)
    meter = Meter(cache)
    meter.read()
    cache.close()
    reading = meter.read()
    assert reading.counters["a"]["sets"] == 1
    assert Counter(reading.gauges["a"]).total() == 0
    assert reading.max_entries is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tenants": "20"}, TypeError, "tenants: must be an int, got str"),
        ({"tenants": -1}, ValueError, "tenants: must be from 0 to 1000, got -1"),
        ({"pinned": 3}, TypeError, "pinned: must be a str or an iterable of them, got int"),
        ({"pinned": [""]}, ValueError, "pinned"),
        ({"pinned": [OTHER]}, ValueError, "pinned: '__other__' cannot be a label"),
        ({"tenants": 1, "pinned": "ab"}, None, ""),
        ({"tenants": 1, "pinned": ("a", "b")}, ValueError, "pinned: must be at most tenants=1"),
    ],
)
def test_what_cannot_be_metered(arguments: Any, error: Any, message: str) -> None:
    if error is None:
        Meter(create_cache(), **arguments)
        return
    with pytest.raises(error, match=message):
        Meter(create_cache(), **arguments)


def test_only_a_cache_is_metered() -> None:
    with pytest.raises(TypeError, match="cache: must be a cache or a namespace, got dict"):
        Meter({})  # type: ignore[arg-type]
