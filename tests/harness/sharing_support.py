"""What the tests of sharing by utility have in common: caches, requests and accounts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from flowcache import Cache, Namespace
from flowcache._core import _testing
from harness.support import new_cache

Requests = Iterator[Any]


def shared(max_entries: int = 1_000, **settings: Any) -> Cache[Any]:
    """A cache whose tenants share by utility; the hashes of its keys are the same each time."""
    cache, _ = new_cache(max_entries=max_entries, sharing="utility", **settings)
    _testing.salt(cache, 1)
    return cache


def ask(namespace: Namespace[Any], key: Any) -> bool:
    """`get`, and `set` on a miss; whether it was a hit."""
    if namespace.get(key) is not None:
        return True
    namespace.set(key, 1)
    return False


def accounts(cache: Namespace[Any]) -> dict[str, Any]:
    told = _testing.ledger(cache)
    assert told is not None
    return told[2]


# ------------------------------------------------------------------------------------- workloads


def popular(draw: random.Random, keys: int, skew: float = 0.8) -> Requests:
    """Some keys more often than others, as users, products and settings are."""
    weights = list(itertools.accumulate((n + 1) ** -skew for n in range(keys)))
    numbers = range(keys)
    while True:
        yield from draw.choices(numbers, cum_weights=weights, k=256)


def loop(keys: int) -> Requests:
    return itertools.cycle(range(keys))


def scan() -> Requests:
    return itertools.count()


def uniform(draw: random.Random, keys: int) -> Requests:
    while True:
        yield draw.randrange(keys)


def growing(keys: int) -> Requests:
    """A loop that grows by a tenth each time it has gone round twice."""
    while True:
        for _ in range(2):
            yield from range(keys)
        keys += max(1, keys // 10)


def on_and_off(keys: int) -> Iterator[Any]:
    """A loop that pauses for a while: None is no request."""
    while True:
        for _ in range(6):
            yield from range(keys)
        yield from itertools.repeat(None, 12 * keys)


def lending(**settings: Any) -> Cache[Any]:
    """A cache whose tenants have lent entries, have borrowed some, and have lost hits."""
    cache = shared(300, **settings)
    draw = random.Random(5)
    patterns = {"a": popular(draw, 900), "b": loop(130), "c": scan()}
    for _ in range(6_000):
        name = draw.choice("aabbc")
        ask(cache.namespace(name), next(patterns[name]))
    stats = cache.stats()
    assert stats.lent > 0 and stats.borrowed > 0 and stats.lost_hits > 0, stats
    return cache


def removals(cache: Cache[Any]) -> list[tuple[tuple[str, ...], Any, str | None]]:
    told: list[tuple[tuple[str, ...], Any, str | None]] = []
    cache.subscribe(lambda event: told.append((event.path, event.key, event.cause)), "remove")
    return told
