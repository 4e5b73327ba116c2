"""Sharing by utility chooses victims: beside fair shares, the model and itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowcache import Cache, Limits
from flowcache._core import _testing
from harness import evictions
from harness import sharing as ledgers
from harness.sharing_support import (
    accounts,
    ask,
    loop,
    popular,
    removals,
    scan,
    shared,
)
from harness.support import new_cache

# ------------------------------------------------------------------------------ beside fair sharing


def drive(cache: Cache[Any], clock: Any, seed: int, steps: int, check: int = 25) -> None:
    """Calls of all kinds at random, in namespaces that come and go."""
    draw = random.Random(seed)
    paths: list[tuple[str, ...]] = [("a",), ("b",), ("c",), ("d",), ("d", "below"), ("e",), ()]
    begun = {path: draw.randrange(100) for path in paths}
    for number in range(steps):
        path = draw.choice(paths)
        namespace = cache.namespace(*path) if path else cache
        begun[path] += draw.random() < 0.3
        key = begun[path] if draw.random() < 0.4 else draw.randrange(1 + begun[path])
        chance = draw.random()
        if chance < 0.75:
            if namespace.get(key) is None:
                namespace.set(
                    key,
                    draw.choice([1, 1, 2, 5]),
                    ttl=draw.choice([None, None, None, 5, 40]),
                    tags=draw.choice([(), (), "t", ("t", "u")]),
                )
        elif chance < 0.85:
            namespace.delete(key)
        elif chance < 0.90:
            clock.advance(draw.choice([0.5, 3]))
        elif chance < 0.93:
            namespace.get_many([key, key + 1, key + 2])
        elif chance < 0.945:
            namespace.invalidate_tag("u")
        elif chance < 0.955:
            namespace.clear()
        elif chance < 0.965 and path:
            namespace.configure(share=draw.choice([0.5, 1.0]))
        elif chance < 0.975 and path:
            namespace.configure(max_entries=draw.choice([10, 40, 10_000]))
        elif chance < 0.98:
            cache.configure(max_entries=draw.choice([60, 120, 200]))
        elif chance < 0.985:
            namespace.enabled = False
            namespace.enabled = True
        elif chance < 0.99:
            namespace.popitem() if len(namespace) else None
        else:
            cache.sweep()
        if number % check == 0:
            cache._check()
    cache._check()


WEIGHED: Any = {"weigher": lambda key, value: value, "max_weight": 250}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [{}, WEIGHED], ids=["entries", "weights"])
def test_where_all_is_guaranteed_the_victims_are_those_of_fair_shares(
    seed: int, settings: dict[str, Any]
) -> None:
    told = []
    for sharing in ("fair", "utility"):
        cache, clock = new_cache(
            max_entries=120,
            sharing=sharing,
            child_limits=Limits(guaranteed=1.0, share=1.0),
            **settings,
        )
        cache.namespace("e", reserved=10)
        removed = removals(cache)
        drive(cache, clock, seed, 6_000)
        told.append(removed)
    assert told[0] == told[1]
    assert len(told[0]) > 1_000


def test_a_bound_on_weight_evicts_by_fair_shares() -> None:
    told = []
    for sharing in ("fair", "utility"):
        cache, clock = new_cache(max_entries=10_000, sharing=sharing, **WEIGHED)
        removed = removals(cache)
        draw = random.Random(11)
        for number in range(6_000):
            tenant = cache.namespace(draw.choice("abbc"))
            if tenant.get(number % 90) is None:
                tenant.set(number % 90, draw.choice([1, 2, 5]))
            clock.advance(0.01)
        cache._check()
        stats = cache.stats()
        assert stats.lost_hits == stats.lent == stats.borrowed == 0
        told.append(removed)
    assert told[0] == told[1]
    assert len(told[0]) > 1_000


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings", [{}, WEIGHED, {"max_idle_namespaces": 0}], ids=["entries", "weights", "forgotten"]
)
def test_it_holds_together_whatever_is_called(seed: int, settings: dict[str, Any]) -> None:
    cache, clock = new_cache(max_entries=120, sharing="utility", **settings)
    _testing.slice(cache, 8, 1_024)  # A clear() cuts entries off.
    drive(cache, clock, seed, 6_000)
    assert cache.stats().evictions > 500
    cache.close()


@pytest.fixture
def only_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evictions, "POLICIES", [])


@pytest.mark.usefixtures("only_shared")
def test_random_evictions_are_the_models() -> None:
    total = evictions.run(5_000, seed=17)
    assert total["evictions"] > 1_500


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a pull that grows faster": (ledgers, "RAISED", 18 / 16),
    "a pull that shrinks faster": (ledgers, "LOWERED", 14 / 16),
    "small shares that are lent": (ledgers, "MEASURED", 1),
    "visits that are rarer": (ledgers, "ROUNDS", 8),
    "no credit": (ledgers.Ledger, "most_credit", lambda self, fair: 1e9),
    "misses without ghosts": (ledgers.Ledger, "miss", lambda self, node, hashed, now: False),
}


@pytest.mark.once  # About the model, whose verdict no interpreter changes.
@pytest.mark.usefixtures("only_shared")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_changed_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, value = FAULTS[fault]
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(AssertionError):
        evictions.run(20_000, seed=17)


@pytest.mark.parametrize("bound", [300, 10_000])
def test_one_secret_and_one_log_give_the_same_victims(bound: int) -> None:
    told = []
    for _ in range(2):
        cache = shared(bound)
        removed = removals(cache)
        draw = random.Random(3)
        patterns = {"a": popular(draw, 3 * bound), "b": loop(bound * 3 // 5), "c": scan()}
        for _ in range(5 * bound):
            name = draw.choice("abc")
            ask(cache.namespace(name), next(patterns[name]))
        cache._check()
        told.append(removed)
    assert told[0] == told[1] and len(told[0]) > bound
    assert _testing.ledger(cache)[0] == (1 if bound < 1_000 else 2)  # type: ignore[index]


def test_a_hit_writes_nothing_to_the_ledger() -> None:
    cache = shared(100)
    for number in range(2_000):
        ask(cache.namespace("a"), number % 80)
        ask(cache.namespace("b"), number)
    before = _testing.ledger(cache)
    hits = cache.stats().hits
    for name in ("a", "b"):
        for key in cache.namespace(name):
            cache.namespace(name).get(key)
    assert cache.stats().hits == hits + 100
    assert _testing.ledger(cache) == before


@pytest.mark.parametrize("tenants", [1, 3, 12, 30])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_store_into_its_victims_slot_leaves_the_same_accounts(seed: int, tenants: int) -> None:
    """A listener has each victim leave the cache before its slot is used again."""
    draw = random.Random(seed)
    one, other = shared(150), shared(150)
    other.subscribe(lambda _: None, "remove")
    for number in range(tenants):
        share, guaranteed = draw.choice([0.5, 1, 2]), draw.choice([0.0, 0.5, 1.0])
        for cache in (one, other):
            cache.namespace(str(number), share=share, guaranteed=guaranteed)
    requests = [
        draw.choice([loop(draw.randrange(4, 200)), scan(), popular(draw, 150)])
        for _ in range(tenants)
    ]
    for step in range(2_000):
        number = draw.randrange(tenants) if draw.random() < 0.5 else step // 200 % tenants
        key = next(requests[number])
        for cache in (one, other):
            ask(cache.namespace(str(number)), key)
        assert accounts(one) == accounts(other)
    one._check()
    assert [list(one.namespace(name)) for name in one.namespaces()] == [
        list(other.namespace(name)) for name in other.namespaces()
    ]
