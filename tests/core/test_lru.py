"""Within one namespace the order is exact LRU: calls that make an entry recent, and others.

`FLOWCACHE_WEB07=.../web07.trace.xz pytest tests/core/test_lru.py` replays real requests as well.
"""

from __future__ import annotations

import array
import lzma
import os
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowcache import Namespace
from harness.support import new_cache

WEB07 = os.environ.get("FLOWCACHE_WEB07", "")


def hits_of_lru(trace: Iterable[int], capacity: int) -> int:
    """Hits of the textbook's LRU."""
    order: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in order:
            hits += 1
            order.move_to_end(key)
            continue
        if len(order) == capacity:
            order.popitem(last=False)
        order[key] = None
    return hits


def hits_of(namespace: Namespace[Any], trace: Iterable[int]) -> int:
    """Hits of `get`, and `set` on a miss."""
    get, put = namespace.get, namespace.set
    for key in trace:
        if get(key) is None:
            put(key, key)
    return namespace.stats().hits


def skewed(requests: int) -> list[int]:
    """Keys from 1 on, a few of them in most requests."""
    draw = random.Random(7)
    return [1 + int(300 * draw.paretovariate(0.7)) % 1_000 for _ in range(requests)]


@pytest.mark.parametrize("capacity", [1, 2, 17, 204])
@pytest.mark.parametrize("bound", ["of the cache", "of the namespace"])
def test_hits_are_those_of_an_ordered_dict(capacity: int, bound: str) -> None:
    trace = skewed(20_000)
    if bound == "of the cache":
        cache, _ = new_cache(max_entries=capacity)
        namespace: Namespace[Any] = cache
    else:
        cache, _ = new_cache()
        namespace = cache.namespace("a", max_entries=capacity)

    assert hits_of(namespace, trace) == hits_of_lru(trace, capacity)
    cache._check()


@pytest.fixture(scope="module")
def web07() -> Sequence[int]:
    """The keys of the trace; 0 is no key of it."""
    if not WEB07:
        pytest.skip("FLOWCACHE_WEB07 does not name the trace of a web shop to replay")
    keys = array.array("i")
    keys.frombytes(lzma.decompress(Path(WEB07).read_bytes()))
    if sys.byteorder == "little":
        keys.byteswap()
    return keys


@pytest.mark.parametrize(("capacity", "ratio"), [(204, 0.3915), (1_024, 0.5056), (4_096, 0.6103)])
def test_hits_on_real_requests_are_those_of_an_ordered_dict(
    web07: Sequence[int], capacity: int, ratio: float
) -> None:
    cache, _ = new_cache(max_entries=capacity)
    hits = hits_of(cache.namespace("shop"), web07)

    assert hits == hits_of_lru(web07, capacity)
    assert round(hits / len(web07), 4) == ratio
    cache._check()


USES: dict[str, Callable[[Namespace[Any]], object]] = {
    "get": lambda ns: ns.get("a"),
    "[]": lambda ns: ns["a"],
    "get_many": lambda ns: ns.get_many(["a"]),
    "set": lambda ns: ns.set("a", 9),
    "[]=": lambda ns: ns.__setitem__("a", 9),
    "set_many": lambda ns: ns.set_many({"a": 9}),
    "update": lambda ns: ns.update(a=9),
    "incr": lambda ns: ns.incr("a"),
    "setdefault": lambda ns: ns.setdefault("a", 9),
    "fetch": lambda ns: ns.fetch("a", lambda: 9),
}
GLANCES: dict[str, Callable[[Namespace[Any]], object]] = {
    "peek": lambda ns: ns.peek("a"),
    "in": lambda ns: "a" in ns,
    "ttl": lambda ns: ns.ttl("a"),
    "touch": lambda ns: ns.touch("a", ttl=5),
    "add": lambda ns: ns.add("a", 9),
    "len": len,
    "iteration": list,
    "items": lambda ns: list(ns.items()),
    "in items": lambda ns: ("a", 0) in ns.items(),
    "values": lambda ns: list(ns.values()),
    "a miss": lambda ns: ns.get("z"),
    "stats": lambda ns: ns.stats(),
    "configure": lambda ns: ns.configure(max_entries=3),
    "sweep": lambda ns: ns._sweep(),
    "below": lambda ns: ns.namespace("below").get("a"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_use_makes_an_entry_the_most_recent(use: Callable[[Namespace[Any]], object]) -> None:
    cache, _ = new_cache()
    namespace = cache.namespace("n", max_entries=3)
    namespace.update(a=0, b=0, c=0)
    use(namespace)

    assert list(namespace) == ["b", "c", "a"]
    namespace.set("d", 0)
    assert list(namespace) == ["c", "a", "d"]
    cache._check()


@pytest.mark.parametrize("glance", GLANCES.values(), ids=GLANCES)
def test_a_glance_leaves_the_order_alone(glance: Callable[[Namespace[Any]], object]) -> None:
    cache, _ = new_cache()
    namespace = cache.namespace("n", max_entries=3)
    namespace.update(a=0, b=0, c=0)
    glance(namespace)

    assert list(namespace) == ["a", "b", "c"]
    namespace.set("d", 0)
    assert list(namespace) == ["b", "c", "d"]
    cache._check()


def test_what_has_expired_goes_before_anything_live() -> None:
    cache, clock = new_cache(max_entries=3)
    cache.set("oldest", 0)
    cache.set("short", 0, ttl=1)
    cache.set("newest", 0)
    clock.advance(1)
    cache.set("another", 0)

    assert list(cache) == ["oldest", "newest", "another"]
    stats = cache.stats()
    assert (stats.evictions, stats.expirations) == (0, 1)


def test_the_time_to_live_of_an_entry_does_not_change_its_turn() -> None:
    cache, _ = new_cache(max_entries=2)
    cache.set("long", 0, ttl=1_000)
    cache.set("short", 0, ttl=1)
    cache.set("new", 0)

    assert list(cache) == ["short", "new"]
