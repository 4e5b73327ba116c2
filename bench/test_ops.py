"""The cost of each call of flowcache, by itself, over the sizes.

    make bench ARGS="--only ops"

One case a function. A namespace's view, with a TTL, limits and counters on; the keys are other
objects than the stored ones. test_compare.py compares flowcache with others.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from contenders import TTL, flowcache_view
from rounds import compare, compare_timed, cycling, timed

from flowcache import create_cache

CALLS = 20_000
"""Calls in one round."""


class Filled:
    """A full cache, and the keys to look up."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = flowcache_view(size)
        for number in range(size):
            self.view.set(f"contacts:{number}", number)
        chosen = random.Random(7).sample(range(size), min(size, CALLS))
        keys = [f"contacts:{number}" for number in chosen]
        self.keys = list(itertools.islice(itertools.cycle(keys), CALLS))
        self.absent = [f"absent:{number}" for number in range(CALLS)]


@pytest.fixture(scope="module")
def filled(size: int) -> Filled:
    return Filled(size)


@pytest.fixture
def measure(benchmark: Any, rounds: int) -> Callable[[Callable[[], object]], None]:
    return lambda run: compare(benchmark, {"flowcache": run}, CALLS, rounds)


def test_get_hit(measure: Any, filled: Filled) -> None:
    get = filled.view.get

    def run() -> None:
        for key in filled.keys:
            get(key)

    measure(run)


def test_get_hit_of_the_newest(measure: Any, filled: Filled) -> None:
    """One hot key: nothing moves in the order."""
    get, key = filled.view.get, filled.keys[0]

    def run() -> None:
        for _ in range(CALLS):
            get(key)

    measure(run)


def test_get_miss(measure: Any, filled: Filled) -> None:
    get = filled.view.get

    def run() -> None:
        for key in filled.absent:
            get(key)

    measure(run)


def test_peek_hit(measure: Any, filled: Filled) -> None:
    peek = filled.view.peek

    def run() -> None:
        for key in filled.keys:
            peek(key)

    measure(run)


def test_contains_hit(measure: Any, filled: Filled) -> None:
    view = filled.view

    def run() -> None:
        for key in filled.keys:
            key in view  # noqa: B015 - what is measured

    measure(run)


def test_fetch_hit(measure: Any, filled: Filled) -> None:
    fetch = filled.view.fetch

    def load() -> None:
        raise AssertionError("a hit calls no loader")

    def run() -> None:
        for key in filled.keys:
            fetch(key, load)

    measure(run)


def test_afetch_hit(measure: Any, filled: Filled) -> None:
    afetch = filled.view.afetch
    loop = asyncio.new_event_loop()

    async def load() -> None:
        raise AssertionError("a hit calls no loader")

    async def all_of_them() -> None:
        for key in filled.keys:
            await afetch(key, load)

    measure(lambda: loop.run_until_complete(all_of_them()))
    loop.close()


def test_get_many_of_a_hundred(measure: Any, filled: Filled) -> None:
    get_many = filled.view.get_many
    batches = [filled.keys[at : at + 100] for at in range(0, CALLS, 100)]

    def run() -> None:
        for batch in batches:
            get_many(batch)

    measure(run)


def test_overwrite(measure: Any, filled: Filled) -> None:
    store = filled.view.set

    def run() -> None:
        for key in filled.keys:
            store(key, 1)

    measure(run)


def test_overwrite_with_its_own_ttl(measure: Any, filled: Filled) -> None:
    store = filled.view.set

    def run() -> None:
        for key in filled.keys:
            store(key, 1, ttl=600)

    measure(run)


def test_touch(measure: Any, filled: Filled) -> None:
    touch = filled.view.touch

    def run() -> None:
        for key in filled.keys:
            touch(key)

    measure(run)


def test_incr(measure: Any, filled: Filled) -> None:
    incr = filled.view.incr
    for key in filled.keys:
        filled.view.set(key, 1)

    def run() -> None:
        for key in filled.keys:
            incr(key)

    measure(run)


def test_delete_and_set(measure: Any, filled: Filled) -> None:
    delete, store = filled.view.delete, filled.view.set

    def run() -> None:
        for key in filled.keys:
            delete(key)
            store(key, 1)

    measure(run)


def test_insert_that_evicts(measure: Any, filled: Filled) -> None:
    """Last of the cases that share the cache: it changes the entries."""
    store = filled.view.set

    def loop(keys: list[str]) -> None:
        for key in keys:
            store(key, 1)

    measure(cycling(loop, fresh_keys(filled.size)))


def fresh_keys(size: int) -> list[list[str]]:
    """Rounds of keys, in all more than fit: each key is evicted before its turn comes again."""
    turns = max(4, 2 * size // CALLS + 1)
    return [[f"new:{turn}:{number}" for number in range(CALLS)] for turn in range(turns)]


def test_insert_that_evicts_with_its_own_ttl(measure: Any, size: int) -> None:
    """TTLs in no order, so that deadlines do not rise as entries come."""
    view = flowcache_view(size)
    for number in range(size):
        view.set(f"contacts:{number}", number)
    store = view.set
    draw = random.Random(7)
    ttls = [draw.uniform(60, TTL) for _ in range(CALLS)]

    def loop(keys: list[str]) -> None:
        for key, ttl in zip(keys, ttls, strict=True):
            store(key, 1, ttl=ttl)

    measure(cycling(loop, fresh_keys(size)))


# Namespaces, tags, removal


@pytest.mark.parametrize("tenants", [1_000, 100_000])
def test_view_of_each_request(benchmark: Any, rounds: int, tenants: int) -> None:
    """`cache.namespace(name).get(key)`, beside `get` on a view that was kept."""
    cache = create_cache(max_entries=None)
    views = [cache.namespace(f"tenant:{number}") for number in range(tenants)]
    for view in views:
        view.set("contacts", 1)
    chosen = random.Random(7).sample(range(tenants), min(tenants, CALLS))
    order = list(itertools.islice(itertools.cycle(chosen), CALLS))
    fresh = [f"tenant:{number}" for number in range(tenants)]
    asked = [fresh[number] for number in order]
    kept = [views[number] for number in order]

    def kept_view() -> None:
        for view in kept:
            view.get("contacts")

    def view_of_each_request() -> None:
        for name in asked:
            cache.namespace(name).get("contacts")

    runs = {"get on a kept view": kept_view, "namespace(...).get": view_of_each_request}
    compare(benchmark, runs, CALLS, rounds)


def test_tags_on_a_set(benchmark: Any, size: int, rounds: int) -> None:
    """Stores that overwrite, without a tag and with two."""
    plain, tagged = flowcache_view(size), flowcache_view(size)
    keys = [f"contacts:{number}" for number in range(size)]
    for key in keys:
        plain.set(key, 1)
        tagged.set(key, 1, tags=("crm", "crm:contacts"))
    draw = random.Random(7).sample(keys, min(size, CALLS))
    chosen = list(itertools.islice(itertools.cycle(draw), CALLS))

    def without() -> None:
        store = plain.set
        for key in chosen:
            store(key, 1)

    def with_two() -> None:
        store = tagged.set
        for key in chosen:
            store(key, 1, tags=("crm", "crm:contacts"))

    compare(benchmark, {"set": without, "set with two tags": with_two}, CALLS, rounds)


REMOVED = 1_000
"""Entries of one tenant that an invalidation or a clear removes."""


def tenant_beside(others: int, tenants: int) -> Any:
    """Return the empty view of a tenant, in a cache with that many entries of others."""
    cache = create_cache(max_entries=None, default_ttl=TTL)
    for tenant in range(tenants):
        view = cache.namespace(f"tenant:{tenant}")
        for number in range(others // tenants):
            view.set(f"contacts:{number}", 1, tags=("crm", "crm:contacts"))
    return cache.namespace("tenant:acme")


def removing(view: Any, remove: Callable[[], int]) -> Callable[[], int]:
    """Return a run that stores the entries to remove, and times the removal alone."""
    keys = [f"contacts:{number}" for number in range(REMOVED)]

    def run() -> int:
        for key in keys:
            view.set(key, 1, tags=("crm", "crm:contacts"))
        return timed(remove, expected=REMOVED)

    return run


@pytest.mark.parametrize("what", ["invalidate_tag", "clear"])
def test_removal_beside_others(benchmark: Any, rounds: int, what: str) -> None:
    """The cost follows the entries removed, not the other entries; per entry removed."""
    runs: dict[str, Callable[[], int]] = {}
    for others in (10_000, 1_000_000):
        view = tenant_beside(others, 100)
        remove = view.clear if what == "clear" else lambda of=view: of.invalidate_tag("crm")
        runs[f"beside {others:,} others"] = removing(view, remove)
    compare_timed(benchmark, runs, REMOVED, rounds)


@pytest.mark.parametrize("tenants", [100, 10_000])
def test_clear_of_one_tenant(benchmark: Any, rounds: int, tenants: int) -> None:
    """One tenant of many is emptied; per entry removed."""
    view = tenant_beside(100_000, tenants)
    runs = {"clear": removing(view, view.clear)}
    compare_timed(benchmark, runs, REMOVED, rounds)


def test_mass_expiry(benchmark: Any, size: int, rounds: int) -> None:
    """All entries are due; a sweep takes them. Per entry expired."""
    now = 0.0
    cache = create_cache(max_entries=size, default_ttl=60, clock=lambda: now)
    view = cache.namespace("tenant:acme")
    keys = [f"contacts:{number}" for number in range(size)]

    def run() -> int:
        nonlocal now
        for key in keys:
            view.set(key, 1)
        now += 61
        return timed(cache.sweep, expected=size)

    compare_timed(benchmark, {"sweep": run}, size, min(rounds, 5))
