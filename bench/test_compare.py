"""The same work, done by flowcache and by its rivals, in interleaved rounds of one process.

    make bench                    everything, with the results and the plots written
    make bench ARGS="--quick"     that it runs

Keys are `str`. Look-ups use other objects than those that were stored, equal to them, as a program
that builds its keys does.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from contenders import CONTENDERS, TTL, Contender, flowcache_view
from rounds import compare

from flowcache import create_cache

MOST_CALLS = 50_000
"""Calls of one contender in one round, at most."""


class Field:
    """All contenders filled with the same keys, and keys to ask them for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls = min(size, MOST_CALLS)
        self.stored = [f"contacts:{number}" for number in range(size)]
        self.contenders = {name: make(size) for name, make in CONTENDERS.items()}
        for contender in self.contenders.values():
            contender.sets(self.stored)
        chosen = random.Random(7).sample(range(size), self.calls)
        self.random = [f"contacts:{number}" for number in chosen]
        self.hot = [f"contacts:{number % 100}" for number in range(self.calls)]
        self.absent = [f"absent:{number}" for number in range(self.calls)]

    def runs(
        self, loop: Callable[[Contender], Callable[[Any], None] | None], keys: list[str]
    ) -> dict[str, Callable[[], object]]:
        """Return one run for each contender that has the loop."""
        found = {}
        for name, contender in self.contenders.items():
            work = loop(contender)
            if work is not None:
                found[name] = lambda work=work: work(keys)
        return found


@pytest.fixture(scope="module")
def field(size: int) -> Field:
    return Field(size)


def test_hit_hot_keys(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.hot), field.calls, rounds)


def test_hit_random_keys(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.random), field.calls, rounds)


def test_miss(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.absent), field.calls, rounds)


def test_overwrite(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.sets, field.random), field.calls, rounds)


def test_overwrite_with_own_ttl(benchmark: Any, field: Field, rounds: int) -> None:
    runs = field.runs(lambda one: one.sets_with_ttl, field.random)
    compare(benchmark, runs, field.calls, rounds)


def test_get_or_compute_hit(benchmark: Any, field: Field, rounds: int) -> None:
    runs = field.runs(lambda one: one.gets_or_computes, field.random)
    compare(benchmark, runs, field.calls, rounds)


def test_insert_that_evicts(benchmark: Any, size: int, rounds: int) -> None:
    """Every cache is full; keys are made beforehand, and are new to all."""
    calls = min(size, MOST_CALLS)
    turns = 4
    runs = {}
    for name, make in CONTENDERS.items():
        contender = make(size)
        if not contender.evicts:
            continue
        contender.sets([f"contacts:{number}" for number in range(size)])
        # More keys than fit, in a cycle: each is gone when its turn comes again.
        cycle = [
            [f"new:{turn}:{number}" for number in range(calls)]
            for turn in range(max(turns, 2 * size // calls + 1))
        ]
        runs[name] = cycling(contender.sets, cycle)
    compare(benchmark, runs, calls, rounds)


def cycling(loop: Callable[[Any], None], cycle: list[list[str]]) -> Callable[[], object]:
    turn = 0

    def run() -> None:
        nonlocal turn
        loop(cycle[turn % len(cycle)])
        turn += 1

    return run


# Tenants


def test_kept_view_and_view_of_each_request(benchmark: Any, rounds: int) -> None:
    cache = create_cache(max_entries=100_000)
    names = [f"tenant:{number}" for number in range(1_000)]
    views = [cache.namespace(name) for name in names]
    for view in views:
        view.set("contacts", 1)
    asked = [f"tenant:{number}" for number in range(1_000)] * 20
    kept = views * 20

    def kept_view() -> None:
        for view in kept:
            view.get("contacts")

    def view_of_each_request() -> None:
        for name in asked:
            cache.namespace(name).get("contacts")

    compare(
        benchmark,
        {"get on a kept view": kept_view, "namespace(...).get": view_of_each_request},
        len(asked),
        rounds,
    )


def test_set_with_two_tags(benchmark: Any, size: int, rounds: int) -> None:
    view = flowcache_view(size)
    calls = min(size, MOST_CALLS)
    keys = [f"contacts:{number}" for number in range(size)]
    for key in keys:
        view.set(key, 1, tags=("crm", "crm:contacts"))
    plain = flowcache_view(size)
    for key in keys:
        plain.set(key, 1)
    chosen = random.Random(7).sample(keys, calls)
    store, store_tagged = plain.set, view.set

    def without() -> None:
        for key in chosen:
            store(key, 1)

    def with_two() -> None:
        for key in chosen:
            store_tagged(key, 1, tags=("crm", "crm:contacts"))

    compare(benchmark, {"set": without, "set with two tags": with_two}, calls, rounds)


REMOVED = 1_000
"""Entries that an invalidation or a clear removes, of one tenant."""


@pytest.mark.parametrize("others", [10_000, 1_000_000])
@pytest.mark.parametrize("what", ["invalidate_tag", "clear"])
def test_removal_beside_others(
    benchmark: Any, what: str, others: int, rounds: int, request: Any
) -> None:
    """What a call removes decides what it costs: one tenant's 1,000 entries beside so many more."""
    if request.config.getoption("--quick"):
        others //= 10
    cache = create_cache(max_entries=None, default_ttl=TTL)
    tenants = 100
    for tenant in range(tenants):
        view = cache.namespace(f"tenant:{tenant}")
        for number in range(others // tenants):
            view.set(f"contacts:{number}", 1, tags=("crm", "crm:contacts"))
    view = cache.namespace("tenant:acme")
    keys = [f"contacts:{number}" for number in range(REMOVED)]
    spent: list[float] = []

    def one() -> None:
        for key in keys:
            view.set(key, 1, tags=("crm", "crm:contacts"))
        began = time.perf_counter_ns()
        removed = view.clear() if what == "clear" else view.invalidate_tag("crm:contacts")
        spent.append((time.perf_counter_ns() - began) / REMOVED)
        assert removed == REMOVED

    benchmark.pedantic(one, rounds=rounds, iterations=1, warmup_rounds=1)
    spent.sort()
    benchmark.extra_info["nanoseconds"] = {"an entry removed": round(spent[len(spent) // 2], 2)}


def test_mass_expiry(benchmark: Any, size: int, rounds: int) -> None:
    """All entries are due; a sweep takes them. Nanoseconds an entry."""
    now = 0.0
    cache = create_cache(max_entries=size, default_ttl=60, clock=lambda: now)
    view = cache.namespace("tenant:acme")
    keys = [f"contacts:{number}" for number in range(size)]
    spent: list[float] = []

    def one() -> None:
        nonlocal now
        for key in keys:
            view.set(key, 1)
        now += 61
        began = time.perf_counter_ns()
        assert cache.sweep() == size
        spent.append((time.perf_counter_ns() - began) / size)

    benchmark.pedantic(one, rounds=min(rounds, 5), iterations=1)
    spent.sort()
    benchmark.extra_info["nanoseconds"] = {"an entry expired": round(spent[len(spent) // 2], 2)}
