"""Interruptions of a call: another call on the same cache, from a key's own code, or from code that
the collector runs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from flowcache import CacheClosedError, Namespace, create_cache
from harness.support import run_isolated

MANY = 9_000
"""Entries beyond which clear() cuts a namespace's entries off instead of removing them."""


class Key:
    """Equal to its like; its comparison first runs a given action."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        self.action = action

    def __hash__(self) -> int:
        return -7  # no int below

    def __eq__(self, other: object) -> bool:
        action, self.action = self.action, lambda: None
        action()
        return isinstance(other, Key)


def test_a_key_that_clears_a_large_namespace_while_it_is_looked_up_is_stored_there() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant[Key(tenant.clear)] = "old"
    tenant.set_many(dict.fromkeys(range(MANY), 0))

    tenant.set(Key(), "new")

    assert tenant.get(Key()) == "new"
    assert len(tenant) == 1
    cache._check()
    cache.sweep()
    assert tenant.get(Key()) == "new"
    cache._check()


def test_a_key_that_clears_a_large_namespace_is_not_found_there() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant[Key(tenant.clear)] = "old"
    tenant.set_many(dict.fromkeys(range(MANY), 0))

    assert tenant.get(Key()) is None
    assert not tenant.delete(Key())
    cache._check()


def test_tags_outlive_a_clear_that_comes_while_they_are_given() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant.set(Key(tenant.clear), "old", tags="crm")
    tenant.set_many(dict.fromkeys(range(MANY), 0), tags="crm")

    tenant.set(Key(), "new", tags=("crm", "crm:contacts"))

    cache._check()
    assert tenant.invalidate_tag("crm:contacts") == 1
    assert len(tenant) == 0
    cache._check()


def test_what_was_cleared_of_one_tenant_is_not_told_to_a_tenant_made_meanwhile() -> None:
    cache = create_cache(max_entries=None)
    heard = []

    class Value:
        def __del__(self) -> None:
            other = cache.namespace("globex")
            other.subscribe(heard.append, "remove")
            views.append(other)

    views: list[object] = []
    acme = cache.namespace("acme")
    acme.set_many({n: Value() if n == MANY - 2 else n for n in range(MANY)})
    acme.clear()
    assert not views
    cache.sweep()

    assert len(views) == 1
    assert heard == []
    cache._check()


@pytest.mark.parametrize("call", ["close", "throw"])
def test_a_hit_that_is_put_aside_cannot_be_awaited_any_more(call: str) -> None:
    cache = create_cache()
    cache["plan"] = "gold"

    async def load() -> str:
        raise AssertionError("it is held")

    hit = cache.afetch("plan", load)
    if call == "close":
        hit.close()
    else:
        with pytest.raises(KeyError):
            hit.throw(KeyError("plan"))
    with pytest.raises(RuntimeError, match="already awaited"):
        hit.send(None)


# ------------------------------------------------------------------ the collector, at an allocation


class Kept:
    """Something that the collector has to see."""


@contextmanager
def collecting(nth: int, action: Callable[[], object]) -> Iterator[list[int]]:
    """Run the collector at every allocation (from 3.12 on: at every call), `action` with the n-th.

    Yields a list that receives the number of collections.
    """
    seen = [0]
    kept: list[Any] = []

    def collected(phase: str, _: dict[str, int]) -> None:
        if phase == "stop":
            kept.extend(Kept() for _ in range(30))  # More allocations than ends: on to the next.
            return
        seen[0] += 1
        if seen[0] == nth:
            action()

    threshold = gc.get_threshold()
    gc.collect()  # CPython keeps tuples that are gone for the next ones: now it keeps none.
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    try:
        yield seen
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collected)


async def awaited(what: Any) -> Any:
    return await what


def fail() -> Any:
    raise LookupError


READS: dict[str, Callable[[Namespace[Any]], object]] = {
    "get": lambda place: place.get("key"),
    "peek": lambda place: place.peek("key"),
    "get_many": lambda place: place.get_many(["key"]),
    "items": lambda place: list(place.items()),
    "pop": lambda place: place.pop("key", None),
    "popitem": lambda place: place.popitem() if place else None,
    "setdefault": lambda place: place.setdefault("key", "mine"),
    "fetch": lambda place: place.fetch("key", lambda: "mine"),
    "fetch, ahead": lambda place: place.fetch("key", lambda: "mine", refresh_ahead=0.9),
    "fetch_many": lambda place: place.fetch_many(["key"], lambda keys: dict.fromkeys(keys, "mine")),
    "refresh": lambda place: place.refresh("key", lambda: "mine"),
    "falling back": lambda place: place.refresh("key", fail, stale_if_error=9),
    "afetch": lambda place: asyncio.run(
        awaited(place.afetch("key", lambda: "mine", refresh_ahead=0.9))
    ),
}


@pytest.mark.parametrize("read", READS)
def test_a_collection_within_a_read_puts_no_other_value_in_its_place(
    read: str,
) -> None:
    cache = create_cache(max_entries=None)
    place, other = cache.namespace("acme"), cache.namespace("globex")

    def take_over() -> None:
        place.clear()  # Its memory is the next entry's, which is another tenant's.
        other.set("key", "theirs")

    nth, reached = 0, 1
    while nth < min(reached, 150):
        nth += 1
        place.set("key", "mine", ttl=60, stale=60)
        with collecting(nth, take_over) as seen:
            try:
                answer = READS[read](place)
            except (KeyError, LookupError):
                answer = None
        reached = seen[0]
        assert "theirs" not in repr(answer), f"at collection {nth} of {reached}"
        cache.clear()
    cache._check()


def test_a_cache_that_a_collection_closes_while_a_removal_is_told_of_stays_whole() -> None:
    nth, reached, told = 0, 1, 0
    while nth < min(reached, 150):
        nth += 1
        cache = create_cache(max_entries=1)
        place = cache.namespace("acme")
        heard: list[Any] = []
        place.subscribe(heard.append, "remove")
        place.set("key", "evicted")
        with collecting(nth, cache.close) as seen, suppress(CacheClosedError):
            place.set("other", "stored")
        reached = seen[0]
        told += "key" in [event.key for event in heard]
        cache._check()
    assert told == nth


@pytest.mark.parametrize("place", ["finalizer", "start", "stop"])
def test_a_load_by_a_collection_within_the_change_of_a_context_variable(place: str) -> None:
    """Before 3.12 CPython reads contents there that the change in the collection has freed."""
    run_isolated(
        f"""
    place = {place!r}"""
        """
    import contextvars, gc
    from flowcache import create_cache
    cache = create_cache(default_ttl=None, max_entries=100)
    variables = [contextvars.ContextVar(f"other{n}") for n in range(40)]
    loads = 0

    def load():
        global loads
        loads += 1
        return loads

    class Finalized:
        def __init__(self):
            self.me = self
        def __del__(self):
            collected("finalizer", None)

    def collected(phase, info):
        if phase == place:
            cache.fetch(object(), load)

    gc.callbacks.append(collected)

    def run():
        for turn in range(150):
            for variable in variables:
                Finalized()
                variable.set(turn)
                assert variable.get() == turn
                cache.fetch(object(), load)

    gc.freeze()
    for threshold in range(1, 12):
        gc.set_threshold(threshold)
        contextvars.copy_context().run(run)
    gc.callbacks.remove(collected)
    gc.collect()
    calls = 11 * 150 * 40
    assert loads == 2 * calls if place == "finalizer" else loads > calls + 1_000
    cache._check()
    """
    )
