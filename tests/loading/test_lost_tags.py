"""The invalidated tags that running loads remember, and their limits."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import Any

import pytest

from flowcache import Cache, Loaded
from flowcache.loading.deadlock import current_load
from harness.loading_support import Caller, Gate, assert_nothing_left, wait_until
from harness.support import new_cache

MOST = 16_384
"""Tags that a load remembers."""


class Remembering(Gate):
    """A loader that waits, and whose load the test looks at."""

    def __init__(self, value: Any = "loaded") -> None:
        super().__init__(value)
        self.load: Any = None

    def __call__(self) -> Any:
        self.load = current_load()
        return super().__call__()


def running(cache: Cache[Any], gate: Remembering, key: str = "k", **options: Any) -> Caller:
    caller = Caller(lambda: cache.namespace("t").fetch(key, gate, **options))
    assert gate.begun.wait(30)
    return caller


def forget(gates: list[Remembering], callers: list[Caller]) -> list[Any]:
    """Let all loaders end; return the results of their callers."""
    for gate in gates:
        gate.load = None
        gate.open.set()
    return [caller.result() for caller in callers]


def test_a_load_that_is_too_old_is_fenced_and_remembers_nothing() -> None:
    cache, clock = new_cache()
    gates = [Remembering() for _ in range(20)]
    callers = [running(cache, gate, f"k{n}") for n, gate in enumerate(gates)]
    for tag in range(100):
        cache.invalidate_tag(f"early {tag}")
    clock.advance(31)
    assert not any(gate.load.fenced for gate in gates)
    tracemalloc.start()
    for tag in range(5_000):
        cache.namespace("t").invalidate_tag(f"late {tag}")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert all(gate.load.fenced for gate in gates)
    assert kept < 100_000
    assert forget(gates, callers) == ["loaded"] * 20
    assert not list(cache.namespace("t"))
    assert_nothing_left(cache)


@pytest.mark.parametrize("at_once", [1, 64, 40_000])
def test_a_load_that_would_remember_too_many_tags_is_fenced(at_once: int) -> None:
    cache, _ = new_cache()
    gate = Remembering()
    caller = running(cache, gate, tags="own")
    for first in range(0, MOST, at_once):
        assert not gate.load.fenced
        cache.invalidate_tags([f"t{tag}" for tag in range(first, first + at_once)])
    assert gate.load.fenced == (at_once > MOST)
    cache.invalidate_tag("t0")  # Remembered already.
    assert gate.load.fenced == (at_once > MOST)
    cache.invalidate_tag("one more")
    assert gate.load.fenced
    assert forget([gate], [caller]) == ["loaded"]
    assert not list(cache.namespace("t"))
    assert_nothing_left(cache)


def test_as_many_as_it_can_remember_cost_a_load_nothing() -> None:
    cache, _ = new_cache()
    gate = Remembering(Loaded("value", tags="its own"))
    caller = running(cache, gate)
    cache.invalidate_tags([f"t{tag}" for tag in range(MOST)])
    assert forget([gate], [caller]) == ["value"]
    assert cache.namespace("t").get("k") == "value"
    assert_nothing_left(cache)


@pytest.mark.parametrize("how", ["too many", "too old"])
def test_no_call_made_after_a_tag_was_lost_is_handed_what_bears_it(how: str) -> None:
    """The load learns its tag at its end, when it has forgotten which were lost."""
    cache, clock = new_cache()
    own = cache.namespace("t")
    gate = Remembering(Loaded("old", tags="late"))
    leader = running(cache, gate)
    own.invalidate_tag("late")
    joiner = Caller(lambda: own.fetch("k", lambda: "new"))
    wait_until(lambda: own.stats().coalesced == 1)
    if how == "too old":
        clock.advance(31)
        own.invalidate_tag("other")
    else:
        own.invalidate_tags([f"t{tag}" for tag in range(MOST + 1)])
    assert gate.load.fenced
    assert forget([gate], [leader]) == ["old"]
    assert joiner.result() == "new"
    assert dict(own) == {"k": "new"}
    assert_nothing_left(cache)


@pytest.mark.parametrize("n_tags", [8, 9, 1_024])
@pytest.mark.parametrize("joined", [False, True])
def test_a_load_of_many_tags_is_fenced_by_each_of_them(n_tags: int, joined: bool) -> None:
    """More than a few are looked up in a set; so are those that a joiner adds."""
    tags = [f"t{tag}" for tag in range(n_tags)]
    for fenced_by in (tags[0], tags[n_tags // 2], tags[-1], None):
        cache, _ = new_cache()
        own = cache.namespace("t")
        gate = Remembering()
        callers = [running(cache, gate, tags=tags[: n_tags // 2] if joined else tags)]
        if joined:
            callers.append(Caller(partial(own.fetch, "k", gate, tags=tags)))
            wait_until(lambda own=own: own.stats().coalesced == 1)  # type: ignore[misc]
        own.invalidate_tag(fenced_by or "another")
        assert gate.load.fenced == (fenced_by is not None)
        assert set(forget([gate], callers)) == {"loaded"}
        assert ("k" in own) == (fenced_by is None)
        assert own._tagged(tags[-1]) == (fenced_by is None)
        assert_nothing_left(cache)
