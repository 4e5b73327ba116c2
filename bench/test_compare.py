"""The same work by flowcache and by its rivals, in interleaved rounds of one process.

    make bench ARGS="--only compare"

Keys are `str`: equal to the held keys, but other objects, as in a program that builds its keys.
Some rivals keep the key of the last store, so stores that overwrite alternate between two equal
keys. A rival that lacks a feature of a case is not in that case.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import cachebox
import cachetools
import pytest
from contenders import CONTENDERS, Contender
from rounds import Timed, compare, compare_timed, cycling, timed

from flowcache import create_cache

CALLS = 20_000
"""Calls of one contender in one round."""


class Field:
    """All contenders filled with the same keys, and the keys to look up."""

    def __init__(self, size: int) -> None:
        self.size = size
        stored = [f"contacts:{number}" for number in range(size)]
        self.contenders = {name: make(size) for name, make in CONTENDERS.items()}
        for contender in self.contenders.values():
            contender.sets(stored)
        chosen = random.Random(7).sample(range(size), min(size, CALLS))
        self.random = repeated([f"contacts:{number}" for number in chosen])
        twice = [[f"contacts:{number}" for number in chosen] for _ in range(2)]
        by_turns = itertools.cycle(itertools.chain(*twice))
        self.by_turns = [list(itertools.islice(by_turns, CALLS)) for _ in range(2)]
        self.hot = repeated([f"contacts:{number}" for number in range(100)])
        self.absent = [f"absent:{number}" for number in range(CALLS)]

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

    def turns(
        self, loop: Callable[[Contender], Callable[[Any], None] | None]
    ) -> dict[str, Callable[[], object]]:
        """Return the same for stores: each run uses the other of two equal keys."""
        return {
            name: cycling(work, self.by_turns)
            for name, contender in self.contenders.items()
            if (work := loop(contender)) is not None
        }


def repeated(keys: list[str]) -> list[str]:
    return list(itertools.islice(itertools.cycle(keys), CALLS))


@pytest.fixture(scope="module")
def field(size: int) -> Field:
    return Field(size)


def test_hit_hot_keys(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.hot), CALLS, rounds)


def test_hit_random_keys(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.random), CALLS, rounds)


def test_miss(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.runs(lambda one: one.gets, field.absent), CALLS, rounds)


def test_overwrite(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.turns(lambda one: one.sets), CALLS, rounds)


def test_overwrite_with_own_ttl(benchmark: Any, field: Field, rounds: int) -> None:
    compare(benchmark, field.turns(lambda one: one.sets_with_ttl), CALLS, rounds)


def test_get_or_compute_hit(benchmark: Any, field: Field, rounds: int) -> None:
    runs = field.runs(lambda one: one.gets_or_computes, field.random)
    compare(benchmark, runs, CALLS, rounds)


def fresh_keys(size: int, what: str) -> list[list[str]]:
    """Rounds of keys, in all more than fit: each key is evicted before its turn comes again."""
    turns = max(4, 2 * size // CALLS + 1)
    return [[f"{what}:{turn}:{number}" for number in range(CALLS)] for turn in range(turns)]


def test_insert_that_evicts(benchmark: Any, field: Field, rounds: int) -> None:
    """Every cache is full; keys are made beforehand, and are new to all."""
    cycle = fresh_keys(field.size, "new")
    runs = {
        name: cycling(contender.sets, cycle)
        for name, contender in field.contenders.items()
        if contender.evicts
    }
    compare(benchmark, runs, CALLS, rounds)


def test_insert_that_evicts_with_own_ttl(benchmark: Any, field: Field, rounds: int) -> None:
    cycle = fresh_keys(field.size, "own")
    runs = {
        name: cycling(contender.sets_with_ttl, cycle)
        for name, contender in field.contenders.items()
        if contender.sets_with_ttl is not None
    }
    compare(benchmark, runs, CALLS, rounds)


def test_expiry_of_many(benchmark: Any, size: int, rounds: int) -> None:
    """All entries are past their TTL, and one call removes them; nanoseconds an entry."""
    ttl = 0.2 + size * 2e-6
    keys = [f"contacts:{number}" for number in range(size)]
    ours = create_cache(max_entries=size, default_ttl=ttl)
    view = ours.namespace("tenant:acme")
    box: Any = cachebox.TTLCache(size, ttl)
    own: Any = cachebox.VTTLCache(size)
    tools: Any = cachetools.TTLCache(size, ttl)
    runs = {
        "flowcache": expiring(keys, ttl, lambda key: view.set(key, 1), ours.sweep),
        "cachebox TTL": expiring(keys, ttl, lambda key: box.insert(key, 1), box.expire),
        "cachebox VTTL": expiring(keys, ttl, lambda key: own.insert(key, 1, ttl), own.expire),
        "cachetools TTL": expiring(keys, ttl, lambda key: tools.update({key: 1}), tools.expire),
    }
    compare_timed(benchmark, runs, size, min(rounds, 3))
    assert [len(ours), len(box), len(own), len(tools)] == [0, 0, 0, 0]


def expiring(
    keys: list[str], ttl: float, store: Callable[[str], object], expire: Callable[[], object]
) -> Timed:
    def run() -> int:
        for key in keys:
            store(key)
        time.sleep(ttl + 0.02)
        return timed(expire)

    return run
