"""The cost of calls with ``eviction="tinylfu"``, beside the same calls with ``"lru"``.

    make bench ARGS="--only eviction"

Full namespaces of both in interleaved rounds of one process. Keys are `str` that are equal to
those held, but other objects. Only keys that all hold are looked up. Small caches have several
namespaces of either, which take turns. How many buckets have overflowed depends on the secret of a
cache, and a miss of one cache may take 1.4 times as long as that of another.

The order of keys is another in each round, and all were hit in a random order before. In an order
that returns, the neighbours of an entry in LRU's list are those hit just before and just after it,
and relinking it fetches the entry of the next call. After filling alone they lie beside it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rounds import Run, compare, cycling

from flowcache import create_cache

CALLS = 20_000
"""Calls of one contender in one round."""

MODES = ("lru", "tinylfu")
FEW = 1_000
SEVERAL = 8
"""Namespaces of either mode in caches of a few entries."""


class Filled:
    """Full namespaces of either mode, and the keys that all of them hold."""

    def __init__(self, size: int, rounds: int) -> None:
        stored = [f"contacts:{number}" for number in range(size)]
        self.size = size
        self.views: list[tuple[str, Any]] = []
        for mode in MODES * (SEVERAL if size <= FEW else 1):
            cache = create_cache(max_entries=size, default_ttl=3600, eviction=mode)
            view = cache.namespace("tenant:acme")
            self.views.append((mode, view))
            for key in stored:
                view.set(key, 1)
        held = [key for key in stored if all(key in view for _, view in self.views)]
        copies = [str(key.encode(), "ascii") for key in held]
        draw = random.Random(7)
        self.hit = draw.sample(copies, len(copies))
        self.orders = [
            draw.sample(copies, CALLS) if len(copies) >= CALLS else draw.choices(copies, k=CALLS)
            for _ in range(rounds + 1)
        ]
        self.absent = [f"absent:{number}" for number in range(CALLS)]


@pytest.fixture
def filled(size: int, rounds: int) -> Iterator[Filled]:
    filled = Filled(size, rounds)
    yield filled
    for _, view in filled.views:
        view.clear()


def gets(view: Any) -> Callable[[list[str]], None]:
    get = view.get

    def loop(keys: list[str]) -> None:
        for key in keys:
            get(key)

    return loop


def sets(view: Any) -> Callable[[list[str]], None]:
    store = view.set

    def loop(keys: list[str]) -> None:
        for key in keys:
            store(key, 1)

    return loop


def fetches(view: Any) -> Callable[[list[str]], None]:
    fetch = view.fetch

    def loop(keys: list[str]) -> None:
        for key in keys:
            fetch(key, int)

    return loop


def deletes(view: Any) -> Callable[[list[str]], None]:
    store, delete = view.set, view.delete

    def loop(keys: list[str]) -> None:
        for key in keys:
            delete(key)
            store(key, 1)

    return loop


def in_turn(
    filled: Filled, loop: Callable[[Any], Callable[[list[str]], None]], orders: list[list[str]]
) -> dict[str, Run]:
    """Return a run of each mode that takes its namespaces in turn."""

    def taking_turns(mode: str) -> Run:
        runs = itertools.cycle(
            [cycling(loop(view), orders) for one, view in filled.views if one == mode]
        )

        def run() -> object:
            return next(runs)()

        return run

    return {mode: taking_turns(mode) for mode in MODES}


def in_use(filled: Filled) -> Filled:
    """Hit every key once, in a random order, as in a cache that is in use."""
    for _, view in filled.views:
        for key in filled.hit:
            view.get(key)
    return filled


def test_hit(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, in_turn(in_use(filled), gets, filled.orders), CALLS, rounds)


def test_miss(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, in_turn(filled, gets, [filled.absent]), CALLS, rounds)


def test_fetch_hit(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, in_turn(in_use(filled), fetches, filled.orders), CALLS, rounds)


def test_overwrite(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, in_turn(in_use(filled), sets, filled.orders), CALLS, rounds)


def test_delete_and_set(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, in_turn(filled, deletes, filled.orders), CALLS, rounds)


def test_insert_that_evicts(benchmark: Any, filled: Filled, rounds: int) -> None:
    """Each key is new, and evicts an entry of the full namespace."""
    turns = max(4, 2 * filled.size // CALLS + 1)
    news = [[f"new:{turn}:{number}" for number in range(CALLS)] for turn in range(turns)]
    compare(benchmark, in_turn(filled, sets, news), CALLS, rounds)
