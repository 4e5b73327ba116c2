"""Many namespaces under one: a search for the one that gives way corrects a few keys at most."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, Namespace
from harness import evictions
from harness.support import VirtualClock, new_cache

MANY = 100
EACH = 4
WEIGHED: dict[str, Any] = {"weigher": lambda key, value: value, "max_weight": 3 * MANY * EACH}
UTILITY: dict[str, Any] = {"sharing": "utility"}
Shrink = Callable[[Namespace[Any]], object]


def crowd(**settings: Any) -> tuple[Cache[Any], VirtualClock, list[Namespace[Any]]]:
    """A full cache that evicts, whose namespaces hold as much each."""
    cache, clock = new_cache(max_entries=MANY * EACH, **settings)
    spaces = [cache.namespace(f"tenant:{number}", reserved=EACH) for number in range(MANY)]
    for space in spaces:
        space.configure(reserved=0)
    for key in range(2 * EACH):
        for space in spaces:
            space.set(key, 3, ttl=10 + key, tags="t")
    cache._check()
    return cache, clock, spaces


def delete(space: Namespace[Any]) -> None:
    for key in list(space)[1:]:
        space.delete(key)


SHRINK: dict[str, Shrink] = {
    "delete": delete,
    "clear": lambda space: space.clear(),
    "popitem": lambda space: space.popitem(),
    "invalidate_tag": lambda space: space.invalidate_tag("t"),
    "a lower bound": lambda space: space.configure(max_entries=1),
    "off": lambda space: setattr(space, "enabled", False),
    "a reservation": lambda space: space.configure(reserved=EACH),
    "a lighter value": lambda space: space.set(2 * EACH - 1, 1),
}


@pytest.mark.parametrize("settings", [{}, WEIGHED, UTILITY], ids=["entries", "weights", "utility"])
@pytest.mark.parametrize("how", SHRINK)
def test_what_goes_leaves_no_key_behind(how: str, settings: dict[str, Any]) -> None:
    cache, _, spaces = crowd(**settings)
    for space in spaces:
        SHRINK[how](space)
    cache._check()
    for number, space in enumerate(spaces):
        if space.enabled:
            space.set(f"new:{number}", 2)
    cache._check()


@pytest.mark.parametrize("settings", [{}, WEIGHED, UTILITY], ids=["entries", "weights", "utility"])
def test_what_expires_leaves_no_key_behind(settings: dict[str, Any]) -> None:
    cache, clock, _ = crowd(**settings)
    for _ in range(2 * EACH):
        clock.advance(3)
        cache.sweep()
        cache._check()
    assert len(cache) == 0


def test_victims_among_many_are_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evictions, "PATHS", [(str(number),) for number in range(70)])
    monkeypatch.setattr(evictions, "WIDTHS", [70])
    monkeypatch.setattr(evictions, "SHARED", {"eviction": "lru"})
    total = evictions.run(500, seed=3)
    assert total["evictions"] > 20


@pytest.mark.parametrize("settings", [WEIGHED, UTILITY], ids=["weights", "utility"])
def test_they_come_and_go(settings: dict[str, Any]) -> None:
    draw = random.Random(7)
    cache, clock, _ = crowd(max_idle_namespaces=0, **settings)
    for number in range(4_000):
        space = cache.namespace(f"tenant:{draw.randrange(2 * MANY)}")
        chance = draw.random()
        if chance < 0.6:
            if space.get(number % 5) is None:
                space.set(number % 5, draw.choice([0, 1, 5]), ttl=draw.choice([None, 20]))
        elif chance < 0.8:
            space.delete(draw.randrange(5))
        elif chance < 0.9:
            space.clear()
        elif chance < 0.95:
            space.configure(share=draw.choice([0.5, 1.0]))
            cache.namespace(*space.path, reserved=draw.choice([0, 0, 1]))
        else:
            clock.advance(1)
        if number % 50 == 0:
            cache._check()
    assert cache.stats().evictions > 100
