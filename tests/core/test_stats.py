"""Counters: the additions of each call, and the sums."""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Namespace, Stats
from harness.support import new_cache

SUMMED = [field.name for field in dataclasses.fields(Stats)]


def load() -> int:
    return 9


def fail() -> int:
    raise OSError("down")


def attempt_to_load(ns: Namespace[Any]) -> None:
    with pytest.raises(OSError, match="down"):
        ns.fetch("absent", fail)


CALLS: dict[str, tuple[Callable[[Namespace[Any]], object], dict[str, int]]] = {
    "get, there": (lambda ns: ns.get("k"), {"hits": 1}),
    "get, absent": (lambda ns: ns.get("absent"), {"misses": 1}),
    "get, stale": (lambda ns: ns.get("stale"), {"misses": 1}),
    "get, over": (lambda ns: ns.get("over"), {"misses": 1, "expirations": 1, "entries": -1}),
    "peek": (lambda ns: ns.peek("k"), {}),
    "in": (lambda ns: "k" in ns, {}),
    "get_many": (lambda ns: ns.get_many(["k", "absent", "n"]), {"hits": 2, "misses": 1}),
    "set": (lambda ns: ns.set("new", 1), {"sets": 1, "entries": 1, "weight": 3}),
    "set again": (lambda ns: ns.set("k", 1), {"sets": 1}),
    "set, ttl=0": (lambda ns: ns.set("new", 1, ttl=0), {}),
    "add, there": (lambda ns: ns.add("k", 1), {}),
    "add, absent": (lambda ns: ns.add("new", 1), {"sets": 1, "entries": 1, "weight": 3}),
    "set_many": (lambda ns: ns.set_many({"k": 1, "n": 1}), {"sets": 2}),
    "incr": (lambda ns: ns.incr("n"), {"sets": 1}),
    "setdefault": (lambda ns: ns.setdefault("k", 1), {"hits": 1}),
    "delete": (lambda ns: ns.delete("k"), {"invalidations": 1, "entries": -1, "weight": -3}),
    "delete, stale": (
        lambda ns: ns.delete("stale"),
        {"invalidations": 1, "entries": -1, "weight": -3},
    ),
    "delete, absent": (lambda ns: ns.delete("absent"), {}),
    "delete, over": (
        lambda ns: ns.delete("over"),
        {"expirations": 1, "entries": -1, "weight": -3},
    ),
    "pop": (lambda ns: ns.pop("k"), {"invalidations": 1, "entries": -1, "weight": -3}),
    "popitem": (lambda ns: ns.popitem(), {"invalidations": 1, "entries": -1, "weight": -3}),
    "touch": (lambda ns: ns.touch("k", ttl=5), {}),
    "touch, ttl=0": (
        lambda ns: ns.touch("k", ttl=0),
        {"expirations": 1, "entries": -1, "weight": -3},
    ),
    "invalidate_tag": (
        lambda ns: ns.invalidate_tag("t"),
        {"invalidations": 1, "entries": -1, "weight": -3},
    ),
    "invalidate_prefix": (
        lambda ns: ns.invalidate_prefix("k"),
        {"invalidations": 1, "entries": -1, "weight": -3},
    ),
    "sweep": (lambda ns: ns._sweep(), {"expirations": 1, "entries": -1, "weight": -3}),
    "a smaller limit": (
        lambda ns: ns.configure(max_entries=2),
        {"expirations": 1, "evictions": 1, "entries": -2, "weight": -6},
    ),
    "fetch, there": (lambda ns: ns.fetch("k", load), {"hits": 1}),
    "fetch, absent": (
        lambda ns: ns.fetch("absent", load),
        {"misses": 1, "loads": 1, "sets": 1, "entries": 1, "weight": 3},
    ),
    "fetch, failing": (attempt_to_load, {"misses": 1, "load_failures": 1}),
    "refresh": (lambda ns: ns.refresh("k", load), {"loads": 1, "sets": 1}),
    "stats": (lambda ns: ns.stats(), {}),
    "len": (len, {"expirations": 1, "entries": -1, "weight": -3}),
}


@pytest.mark.parametrize(("call", "change"), CALLS.values(), ids=CALLS)
def test_what_a_call_counts(
    call: Callable[[Namespace[Any]], object], change: dict[str, int]
) -> None:
    cache, clock = new_cache(weigher=lambda key, value: 3)
    top, beside = cache.namespace("top"), cache.namespace("beside")
    ns = top.namespace("n")
    for place in (ns, beside):
        place.set("k", 1, tags="t")
        place.set("n", 1)
        place.set("stale", 1, ttl=1, stale=100)
        place.set("over", 1, ttl=1)
    clock.advance(1)
    before = [dataclasses.asdict(place.stats()) for place in (ns, top, cache, beside)]
    call(ns)
    after = [dataclasses.asdict(place.stats()) for place in (ns, top, cache, beside)]

    for was, now, place in zip(before, after, ("itself", "above", "root", "beside"), strict=True):
        if change.get("entries") == -1 and "weight" not in change:
            change = {**change, "weight": -3}
        changed = {
            name: now[name] - was[name]
            for name in was
            if name != "load_seconds" and now[name] != was[name]
        }
        if place == "root" and change.get("sets"):
            # A store removes a few expired entries anywhere.
            continue
        expected = {} if place == "beside" else change
        if change.get("sets") and "expirations" in changed:
            expired = changed.pop("expirations")
            changed["entries"] = changed.get("entries", 0) + expired
            changed["weight"] = changed.get("weight", 0) + 3 * expired
            changed = {name: count for name, count in changed.items() if count}
        assert changed == expected, place


def test_a_new_cache_has_counted_nothing() -> None:
    cache, _ = new_cache()
    assert set(cache.stats().as_dict().values()) == {0}


def test_the_dataclass_is_frozen_and_tells_all() -> None:
    cache, _ = new_cache()
    cache.set("k", 1)
    for key in ("k", "k", "k", "absent"):
        cache.get(key)
    stats = cache.stats()
    assert stats.hit_rate == 0.75
    assert stats.as_dict() == {**dataclasses.asdict(stats), "hit_rate": 0.75}
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.hits = 0  # type: ignore[misc]
    promised = "hits misses stale_hits coalesced loads load_failures load_seconds sets evictions"
    promised += " expirations invalidations entries weight pending"
    assert set(promised.split()) <= set(SUMMED)


def test_a_namespace_counts_itself_and_those_below() -> None:
    cache, _ = new_cache()
    for path, uses in ((("a",), 1), (("a", "x"), 2), (("a", "x", "y"), 4), (("b",), 8)):
        for _ in range(uses):
            cache.namespace(*path).get("absent")
    told = [cache.namespace(*path).stats().misses for path in (("a", "x", "y"), ("a", "x"), ("a",))]
    assert told == [4, 6, 7]
    assert (cache.namespace("b").stats().misses, cache.stats().misses) == (8, 15)


def test_a_reset_concerns_this_namespace_and_those_below_but_no_total_above() -> None:
    cache, _ = new_cache()
    for path in ((), ("a",), ("a", "x"), ("b",)):
        place = cache.namespace(*path) if path else cache
        place.set("k", 1)
        place.get("k")
    cache.namespace("a").reset_stats()

    assert cache.namespace("a").stats().hits == cache.namespace("a", "x").stats().hits == 0
    assert cache.namespace("a").stats().entries == 2
    assert (cache.stats().hits, cache.stats().sets) == (4, 4)
    cache.namespace("a", "x").get("k")
    assert (cache.namespace("a").stats().hits, cache.stats().hits) == (1, 5)
    cache.reset_stats()
    assert cache.stats().hits == cache.namespace("b").stats().hits == 0
    assert cache.stats().entries == 4


def test_the_root_adds_up_to_what_happened_whatever_was_forgotten_reset_or_evicted() -> None:
    cache, clock = new_cache(max_entries=60, max_idle_namespaces=4, weigher=lambda key, value: 2)
    draw = random.Random(11)
    asked = stored = removed = 0
    for _ in range(6_000):
        place = cache.namespace(*draw.choice(["a", "b", "ab", "abc", f"a{draw.randrange(99)}"]))
        key = draw.randrange(40)
        action = draw.random()
        if action < 0.4:
            place.get(key)
            asked += 1
        elif action < 0.8:
            place.set(key, 1, ttl=draw.choice([1, None]), tags="t")
            stored += 1
        elif action < 0.9:
            removed += place.delete(key)
        elif action < 0.94:
            removed += place.clear()
        elif action < 0.95:
            removed += place.invalidate_tag("t")
        elif action < 0.97:
            place.reset_stats()
        clock.advance(0.01)
    cache.sweep()
    gc.collect()
    stats = cache.stats()
    assert stats.hits + stats.misses == asked
    assert stats.sets == stored
    assert stats.invalidations == removed
    assert stats.evictions == stats.evictions_caused
    assert stats.weight == 2 * stats.entries == 2 * sum_of_entries(cache)
    cache._check()


def sum_of_entries(namespace: Namespace[Any]) -> int:
    return len(namespace) + sum(
        sum_of_entries(namespace.namespace(name)) for name in namespace.namespaces()
    )


def test_every_entry_that_came_has_gone_by_one_of_four_ways_or_is_there() -> None:
    cache, clock = new_cache(max_entries=30)
    draw = random.Random(2)
    replaced = 0

    def count(event: Any) -> None:
        nonlocal replaced
        replaced += event.cause == "replaced"

    cache.subscribe(count, kinds="remove")
    for _ in range(3_000):
        place = cache.namespace(draw.choice("abc"))
        place.set(draw.randrange(30), 1, ttl=draw.choice([1, 5]))
        if draw.random() < 0.1:
            place.delete(draw.randrange(30))
        clock.advance(0.05)
    stats = cache.stats()
    gone = stats.evictions + stats.expirations + stats.invalidations + replaced
    assert stats.sets == gone + stats.entries
