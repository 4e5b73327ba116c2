"""The cost of calls with ``eviction="tinylfu"``, beside the same calls with ``"lru"``.

    make bench ARGS="--only eviction"

Two full namespaces in interleaved rounds of one process. Keys are `str` that are equal to those
held, but other objects. Only keys that both hold are looked up.
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


class Filled:
    """A full namespace of either mode, and the keys that both hold."""

    def __init__(self, size: int) -> None:
        stored = [f"contacts:{number}" for number in range(size)]
        self.size = size
        self.views: dict[str, Any] = {}
        for mode in MODES:
            cache = create_cache(max_entries=size, default_ttl=3600, eviction=mode)
            self.views[mode] = cache.namespace("tenant:acme")
            for key in stored:
                self.views[mode].set(key, 1)
        held = [key for key in stored if all(key in view for view in self.views.values())]
        chosen = random.Random(7).sample(held, min(len(held), CALLS))
        copies = [[str(key.encode(), "ascii") for key in chosen] for _ in range(2)]
        self.keys = list(itertools.islice(itertools.cycle(copies[0]), CALLS))
        turns = itertools.cycle(itertools.chain(*copies))
        self.by_turns = [list(itertools.islice(turns, CALLS)) for _ in range(2)]
        self.absent = [f"absent:{number}" for number in range(CALLS)]

    def each(self, made: Callable[[Any], Run]) -> dict[str, Run]:
        return {mode: made(view) for mode, view in self.views.items()}


@pytest.fixture
def filled(size: int) -> Iterator[Filled]:
    filled = Filled(size)
    yield filled
    for view in filled.views.values():
        view.clear()


def gets(view: Any, keys: list[str]) -> Run:
    get = view.get

    def run() -> None:
        for key in keys:
            get(key)

    return run


def sets(view: Any) -> Callable[[list[str]], None]:
    store = view.set

    def loop(keys: list[str]) -> None:
        for key in keys:
            store(key, 1)

    return loop


def fetches(view: Any, keys: list[str]) -> Run:
    fetch = view.fetch

    def run() -> None:
        for key in keys:
            fetch(key, int)

    return run


def deletes(view: Any, keys: list[str]) -> Run:
    store, delete = view.set, view.delete

    def run() -> None:
        for key in keys:
            delete(key)
            store(key, 1)

    return run


def test_hit(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, filled.each(lambda view: gets(view, filled.keys)), CALLS, rounds)


def test_miss(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, filled.each(lambda view: gets(view, filled.absent)), CALLS, rounds)


def test_fetch_hit(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, filled.each(lambda view: fetches(view, filled.keys)), CALLS, rounds)


def test_overwrite(benchmark: Any, filled: Filled, rounds: int) -> None:
    runs = filled.each(lambda view: cycling(sets(view), filled.by_turns))
    compare(benchmark, runs, CALLS, rounds)


def test_delete_and_set(benchmark: Any, filled: Filled, rounds: int) -> None:
    compare(benchmark, filled.each(lambda view: deletes(view, filled.keys)), CALLS, rounds)


def test_insert_that_evicts(benchmark: Any, filled: Filled, rounds: int) -> None:
    """Each key is new, and evicts an entry of the full namespace."""
    turns = max(4, 2 * filled.size // CALLS + 1)
    cycle = [[f"new:{turn}:{number}" for number in range(CALLS)] for turn in range(turns)]
    compare(benchmark, filled.each(lambda view: cycling(sets(view), cycle)), CALLS, rounds)
