"""No interference: a tenant within its share or its reservation loses no entry to others.

The model (test_model) checks the choice of every victim. Here neighbours make any calls, and one
tenant must not lose by them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model import ModelCache
from harness.support import new_cache

SHARES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0])
NEIGHBOURS = st.lists(SHARES, min_size=1, max_size=5)
# A tenant, a call and a key: each number is taken modulo the number of choices.
STEP = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 200))
# Short lists are easy to read; long ones fill a cache and put it under pressure.
STEPS = st.lists(STEP, min_size=1, max_size=10) | st.lists(STEP, min_size=60, max_size=150)
BOUND = 40


def act(ns: Any, what: int, key: int) -> None:
    """One call of a neighbour."""
    match what:
        case 0 | 1 | 2 | 3:
            ns.set(key, "x", tags=("t",) if key % 3 else (), ttl=1 + key % 5)
        case 4:
            ns.namespace("below", str(key % 3)).set(key, "x", ttl=None)
        case 5:
            ns.set_many({key + n: "x" for n in range(20)})
        case 6:
            ns.fetch(key, lambda: "loaded", stale=True)
        case 7:
            ns.incr("n")
            ns.get(key)
        case 8:
            ns.invalidate_tag("t")
        case 9:
            ns.delete(key)


def check_untouched(cache: Any, quiet: Any, held: list[str], lost: int = 0) -> None:
    cache._check()
    assert list(quiet) == held
    assert quiet.stats().evictions == lost
    everybody = [cache.namespace(name).stats() for name in cache.namespaces()]
    suffered = sum(stats.evictions for stats in everybody)
    assert suffered == sum(stats.evictions_caused for stats in everybody)
    assert suffered == cache.stats().evictions == cache.stats().evictions_caused


@given(share=SHARES, others=NEIGHBOURS, steps=STEPS)
def test_within_its_fair_share_a_tenant_loses_nothing(
    share: float, others: list[float], steps: list[tuple[int, int, int]]
) -> None:
    cache, clock = new_cache(max_entries=BOUND, default_ttl=None)
    quiet = cache.namespace("quiet", share=share)
    neighbours = [cache.namespace(f"neighbour {n}", share=other) for n, other in enumerate(others)]
    fair = int(BOUND * share / (share + sum(others)))
    held = [f"q{n}" for n in range(fair)]
    quiet.set_many(dict.fromkeys(held, "kept"))

    for who, what, key in steps:
        act(neighbours[who % len(neighbours)], what, key)
        clock.advance(0.01)

    check_untouched(cache, quiet, held)


@given(reserved=st.integers(0, 20), beyond=st.integers(0, 20), others=NEIGHBOURS, steps=STEPS)
def test_a_tenant_loses_what_it_holds_beyond_its_reservation_and_no_more_however_low_its_share(
    reserved: int, beyond: int, others: list[float], steps: list[tuple[int, int, int]]
) -> None:
    cache, clock = new_cache(max_entries=BOUND, default_ttl=None)
    quiet = cache.namespace("quiet", reserved=reserved, share=0.001)
    neighbours = [cache.namespace(f"neighbour {n}", share=other) for n, other in enumerate(others)]
    held = [f"q{n}" for n in range(beyond + reserved)]
    quiet.set_many(dict.fromkeys(held, "kept"))

    for who, what, key in steps:
        act(neighbours[who % len(neighbours)], what, key)
        clock.advance(0.01)

    lost = quiet.stats().evictions
    assert lost <= beyond
    check_untouched(cache, quiet, held[lost:], lost)


def cross(ns: Any, what: int, key: int) -> None:
    """One call that changes a tenant's entries or reservation."""
    match what:
        case 0 | 1 | 2:
            ns.set(key, "x")
        case 3 | 4 | 5:
            ns.set_many({key + n: "x" for n in range(1 + key % 9)})
        case 6:
            ns.namespace("below").set(key % 9, "x")
        case 7:
            for _ in range(min(len(ns), 1 + key % 9)):
                ns.popitem()
        case 8:
            ns.namespace("below").clear()
        case 9:
            ns.configure(reserved=key % 4)


@settings(max_examples=60)
@given(
    bound=st.sampled_from(
        [
            {"max_entries": 20},
            {"max_weight": 20, "weigher": lambda key, value: key % 3},
        ]
    ),
    others=NEIGHBOURS,
    steps=STEPS,
)
def test_a_tenant_that_crosses_its_reservation_to_and_fro_gives_way_only_beyond_it(
    bound: dict[str, Any], others: list[float], steps: list[tuple[int, int, int]]
) -> None:
    cache, clock = new_cache(**bound)
    model = ModelCache(clock=clock, **{"default_ttl": None, "max_entries": None} | bound)
    # Its share is so small that it is the fullest beyond its reservation.
    tenants = {"crossing": 0.01} | {f"neighbour {n}": share for n, share in enumerate(others)}
    for root in (cache, model):
        for name, share in tenants.items():
            root.namespace(name, share=share, reserved=3)
            root.namespace(name).configure(reserved=0)
        root.namespace("crossing", reserved=5)
    crossing = cache.namespace("crossing")

    for who, what, key in steps:
        name = list(tenants)[who % len(tenants)]
        before = crossing.stats().entries
        for root in (cache, model):
            cross(root.namespace(name), what, key)
        if name != "crossing":
            assert crossing.stats().entries >= min(before, crossing.limits.reserved)
        for node in model.root.tree():
            core = cache.namespace(*node.path) if node.path else cache
            assert list(core.items()) == [(key, entry.value) for key, entry in node.entries.items()]
            assert core.stats().evictions == node.totals["evictions"]
            assert core.stats().evictions_caused == node.totals["evictions_caused"]
    cache._check()


@given(others=NEIGHBOURS, steps=STEPS, limit=st.integers(5, 30))
def test_a_limit_of_its_own_takes_from_no_other_tenant(
    others: list[float], steps: list[tuple[int, int, int]], limit: int
) -> None:
    cache, _ = new_cache(max_entries=1_000, default_ttl=None)
    quiet = cache.namespace("quiet")
    bounded = cache.namespace("bounded", max_entries=limit)
    for n, other in enumerate(others):
        bounded.namespace(f"neighbour {n}", share=other)
    held = [f"q{n}" for n in range(50)]
    quiet.set_many(dict.fromkeys(held, "kept"))

    for who, what, key in steps:
        act(bounded.namespace(f"neighbour {who % len(others)}"), what, key)
        assert bounded.stats().entries <= limit

    check_untouched(cache, quiet, held)


@pytest.mark.parametrize("tenants", [2, 10, 100])
def test_a_tenant_that_scans_evicts_itself(tenants: int) -> None:
    cache, _ = new_cache(max_entries=10 * tenants, default_ttl=None)
    quiet = [cache.namespace(f"quiet {n}") for n in range(tenants - 1)]
    for ns in quiet:
        ns.set_many(dict.fromkeys(range(10), "kept"))
    scanner = cache.namespace("scanner")
    for n in range(1_000):
        scanner.set(n, "scanned")

    assert [len(ns) for ns in quiet] == [10] * (tenants - 1)
    assert list(scanner) == list(range(990, 1_000))
    assert scanner.stats().evictions == scanner.stats().evictions_caused == 990
