"""Eviction by TinyLFU: what it keeps, where it is in force, and a switch from it and to it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from flowcache import Cache, Limits, Namespace, create_cache
from flowcache._core import _testing
from harness import evictions, ordering
from harness.support import new_cache
from harness.test_model import SideBySide


def tiny(max_entries: int | None = 100, **settings: Any) -> Cache[Any]:
    cache, _ = new_cache(max_entries=max_entries, eviction="tinylfu", **settings)
    _testing.salt(cache, 1)
    return cache


def ask(namespace: Namespace[Any], keys: Iterable[Any]) -> None:
    """`get`, and `set` on a miss."""
    for key in keys:
        if namespace.get(key) is None:
            namespace.set(key, 1)


def kept(namespace: Namespace[Any], keys: Iterable[Any]) -> int:
    return sum(key in namespace for key in keys)


# ------------------------------------------------------------------------------- what it keeps


def test_a_hit_moves_nothing() -> None:
    cache = tiny()
    cache.update(dict.fromkeys(range(9), 1))
    cache.get(3)
    cache.get_many([1, 3])
    cache.fetch(2, int)
    cache.incr(0)
    cache.set(5, 2)

    assert list(cache) == list(range(9))
    marks = dict(_testing.order(cache)[1])
    assert marks == {0: 1, 1: 1, 2: 1, 3: 2, 4: 0, 5: 1, 6: 0, 7: 0, 8: 0}


def test_looks_without_an_effect_on_the_order_raise_no_mark() -> None:
    cache = tiny()
    cache.set("k", 1)
    cache.peek("k"), cache.ttl("k"), cache.inspect("k"), cache.touch("k"), "k" in cache, list(cache)
    assert _testing.order(cache)[1] == [("k", 0)]


@pytest.mark.parametrize("eviction", ["lru", "tinylfu"])
def test_a_scan_leaves_what_is_asked_for_often(eviction: Any) -> None:
    cache, _ = new_cache(max_entries=100, eviction=eviction)
    hot = [f"hot:{number}" for number in range(50)]
    for _ in range(4):
        ask(cache, hot)
    ask(cache, range(1_000))
    cache._check()
    assert kept(cache, hot) == (50 if eviction == "tinylfu" else 0)
    assert len(cache) == 100


def test_what_comes_to_be_asked_for_often_is_let_in() -> None:
    cache = tiny()
    for _ in range(4):
        ask(cache, [f"old:{key}" for key in range(100)])
    for number in range(20):
        ask(cache, [*(f"new:{key}" for key in range(90)), *range(number * 200, number * 200 + 200)])
    assert kept(cache, [f"new:{key}" for key in range(90)]) > 60


def test_a_loop_larger_than_the_cache_hits() -> None:
    cache = tiny()
    for _ in range(50):
        ask(cache, range(150))
    hits = cache.stats().hits
    assert hits > 0.2 * 50 * 150
    assert cache.stats().rejections > 0.2 * 50 * 150


def test_evictions_count_those_that_were_rejected() -> None:
    cache = tiny(50)
    child = cache.namespace("a")
    ask(child, range(500))
    stats = cache.stats()
    assert stats.evictions == stats.evictions_caused == 450
    assert 0 < stats.rejections < 450 and stats.rejections == child.stats().rejections
    cache.reset_stats()
    assert cache.stats().rejections == 0
    ask(new_cache(max_entries=5)[0], range(9))


@pytest.mark.parametrize("bound", [1, 2, 3, 15, 16, 17])
def test_a_small_cache(bound: int) -> None:
    cache = tiny(bound)
    draw = random.Random(bound)
    for _ in range(2_000):
        ask(cache, [int(draw.paretovariate(0.7)) % 40])
        cache._check()
        assert cache.stats().entries <= bound
    young, listed, sketch = _testing.order(cache)
    assert young == 1 + (bound >= 16) and len(listed) == bound
    assert (sketch is not None) == (bound >= 16)


def test_popitem_takes_the_oldest() -> None:
    cache = tiny()
    cache.update(dict.fromkeys("abc", 1))
    cache.get("a")
    assert cache.popitem() == ("a", 1) and list(cache) == ["b", "c"]


def test_an_entry_that_grows_is_not_evicted_for_itself() -> None:
    cache = tiny(None, max_weight=10, weigher=lambda key, value: value)
    for key in range(10):
        cache.set(key, 1)
    cache.set(0, 9)
    cache._check()
    assert cache.peek(0) == 9 and cache.stats().weight <= 10
    cache.set(0, 10)
    assert list(cache.items()) == [(0, 10)]


def test_the_sketch_follows_the_namespace() -> None:
    cache = tiny(None)
    cache.configure(max_entries=16)
    ask(cache, range(20))
    lines = []
    for bound in (16, 400, 2_000, 30, 16):
        cache.configure(max_entries=bound)
        ask(cache, range(9_000))
        cache._check()
        sketch = _testing.order(cache)[2]
        assert sketch is not None and sketch[0] == sketch[1]
        lines.append(sketch[0])
    assert lines == [1, 32, 128, 2, 2]


@pytest.mark.parametrize("at_once", [1_024, 8])
def test_clear_forgets_how_often_keys_were_stored(at_once: int) -> None:
    cache = tiny()
    _testing.slice(cache, at_once, 1_024)
    ask(cache, range(300))
    cache.clear()
    cache._check()
    assert _testing.order(cache) == (0, [], None)
    ask(cache, range(300))
    cache._check()


# ----------------------------------------------------------------------------- where it is in force


def test_namespaces_inherit_it_until_they_set_their_own() -> None:
    cache: Cache[Any] = create_cache()
    a, below, b = cache.namespace("a"), cache.namespace("a", "below"), cache.namespace("b")
    policies = lambda: [ns.limits.eviction for ns in (cache, a, below, b)]  # noqa: E731
    assert policies() == ["lru"] * 4
    a.configure(eviction="tinylfu")
    assert policies() == ["lru", "tinylfu", "tinylfu", "lru"]
    below.configure(eviction="lru")
    cache.configure(eviction="tinylfu")
    assert policies() == ["tinylfu", "tinylfu", "lru", "tinylfu"]
    assert cache.namespace("a", "new").limits.eviction == "tinylfu"
    assert below.namespace("new").limits.eviction == "lru"
    assert cache.namespace("c", eviction="lru").limits.eviction == "lru"


def test_child_limits_choose_it() -> None:
    cache, _ = new_cache(max_entries=10, child_limits=Limits(eviction="tinylfu"))
    cache.namespace("a").update(dict.fromkeys(range(20), 1))
    cache._check()
    assert cache.limits.eviction == "lru" and cache.namespace("a").limits.eviction == "tinylfu"
    assert _testing.order(cache.namespace("a"))[0] == 1


def test_each_namespace_has_an_order_of_its_own() -> None:
    cache, _ = new_cache(max_entries=200)
    exact, other = cache.namespace("exact"), cache.namespace("other", eviction="tinylfu")
    for ns in (exact, other):
        for _ in range(3):
            ask(ns, [f"hot:{number}" for number in range(30)])
    for number in range(1_000):
        ask(exact, [number])
        ask(other, [number])
    cache._check()
    assert list(exact) == list(range(900, 1_000))
    assert kept(other, [f"hot:{number}" for number in range(30)]) == 30


# ------------------------------------------------------------------------------- switches


def test_a_filled_namespace_switches_and_keeps_its_entries() -> None:
    cache, _ = new_cache(max_entries=100)
    ask(cache, range(100))
    cache.get(0)
    before = list(cache)
    cache.configure(eviction="tinylfu")
    cache._check()
    assert list(cache) == before and _testing.order(cache)[0] == 0
    ask(cache, range(100, 300))
    cache._check()
    assert _testing.order(cache)[0] == 11
    before = list(cache)
    cache.configure(eviction="lru")
    cache._check()
    assert list(cache) == before and _testing.order(cache)[0] == 0
    assert _testing.order(cache)[2] is None


def test_after_a_switch_back_the_order_is_exact_again() -> None:
    cache = tiny(20)
    ask(cache, range(40))
    cache.configure(eviction="lru")
    for key in list(cache)[::-1]:
        cache.get(key)
    expected = list(cache)
    for number in range(20):
        cache.set(f"new:{number}", 1)
        assert list(cache) == [*expected[number + 1 :], *(f"new:{n}" for n in range(number + 1))]


@pytest.mark.parametrize("size", [1_024, 10_000])
def test_an_entry_takes_at_most_nine_bytes_more(size: int) -> None:
    sizes = {}
    for eviction in ("lru", "tinylfu"):
        cache, _ = new_cache(max_entries=size, eviction=eviction)
        ask(cache, range(size * 3))
        sizes[eviction] = sys.getsizeof(cache)
    assert sizes["lru"] + 4 * size <= sizes["tinylfu"] <= sizes["lru"] + 9 * size


# ------------------------------------------------------------------------------- beside the model


def test_random_evictions_are_the_models() -> None:
    total = evictions.run(10_000, seed=2026)
    assert total["evictions"] > 3_000 and total["rejections"] > 500


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a wider window": (ordering.Order, "window", lambda self: max(1, len(self) * 11 // 100)),
    "no second chance": (ordering, "MOST_PASSED", 0),
    "a sketch that ages later": (ordering, "ADDS_A_LINE", 300),
    "a sketch for more": (ordering, "ENTRIES_A_LINE", 32),
}


@pytest.mark.once  # About the model, whose verdict no interpreter changes.
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_changed_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, value = FAULTS[fault]
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(AssertionError):
        evictions.run(60_000, seed=2026)


def follow(keys: Iterable[int]) -> int:
    """Ask a cache and the model's order for keys, and compare them; return the contests by dice."""
    cache = tiny(100)
    order = ordering.Order("tinylfu", lambda key: _testing.hash(cache, key))
    for number, key in enumerate(keys):
        ask(cache, [key])
        if key in order.old or key in order.young:
            order.touch(key)
        else:
            if len(order) == 100:
                order.remove(order.victim())
            order.enter(key)
        if number % 100 == 0:
            assert _testing.order(cache)[1] == [*order.old.items(), *order.young.items()]
    assert cache.stats().rejections == order.rejections
    return 0 if order.sketch is None else order.sketch.dice


def test_a_loop_is_the_models() -> None:
    assert follow(n % 300 for n in range(20_000)) > 1_000


def test_a_key_that_loses_often_is_let_in_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "DICE", 1 << 30)
    with pytest.raises(AssertionError):
        follow(n % 300 for n in range(20_000))


def test_a_hit_that_is_not_noted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SideBySide, "compare_order", lambda *_: None)
    monkeypatch.setattr(ordering.Order, "touch", lambda self, key: None)
    with pytest.raises(AssertionError):
        evictions.run(20_000, seed=2026)
