"""A value that is invalidated while it loads is not stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flowcache import (
    CacheClosedError,
    Loaded,
)
from flowcache.loading.deadlock import current_load
from harness.loading_support import asked_of, assert_nothing_left, never
from harness.support import new_cache

FENCES: dict[str, Callable[[Any], object]] = {
    "delete": lambda ns: ns.delete("k"),
    "set": lambda ns: ns.set("k", "set"),
    "add": lambda ns: ns.add("k", "set"),
    "pop": lambda ns: ns.pop("k", None),
    "del": lambda ns: ns.__delitem__("k") if "k" in ns else ns.delete("k"),
    "setitem": lambda ns: ns.__setitem__("k", "set"),
    "set_many": lambda ns: ns.set_many({"k": "set"}),
    "delete_many": lambda ns: ns.delete_many(["k"]),
    "update": lambda ns: ns.update(k="set"),
    "setdefault": lambda ns: ns.setdefault("k", "set"),
    "clear": lambda ns: ns.clear(),
    "invalidate_tag": lambda ns: ns.invalidate_tag("t"),
    "invalidate_tags": lambda ns: ns.invalidate_tags(["t", "u"]),
    "invalidate_tags_all": lambda ns: ns.invalidate_tags(["t", "v"], match="all"),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
}
ABOVE = ["clear", "invalidate_tag", "invalidate_tags", "invalidate_tags_all"]


@pytest.mark.parametrize(
    "path", ["fetch", "refresh", "fetch_many", "afetch", "arefresh", "afetch_many"]
)
@pytest.mark.parametrize("fence", FENCES)
def test_a_value_invalidated_while_it_loads_is_not_stored(path: str, fence: str) -> None:
    """FusionCache #625 and #628, aiocache #95."""
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load(*missing: list[str]) -> Any:
        FENCES[fence](place)
        return {"k": "loaded"} if missing else "loaded"

    async def main() -> object:
        return await getattr(place, path)(asked_of(path), load, tags=("t", "v"))

    if path.startswith("a"):
        got = asyncio.run(main())
    else:
        got = getattr(place, path)(asked_of(path), load, tags=("t", "v"))
    assert got in ("loaded", {"k": "loaded"})
    assert place.peek("k") == ("set" if place.peek("k") else None)
    assert_nothing_left(cache)


@pytest.mark.parametrize("fence", ABOVE)
def test_an_invalidation_of_a_namespace_above_counts(fence: str) -> None:
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load() -> str:
        FENCES[fence](cache)
        return "loaded"

    assert place.fetch("k", load, tags=("t", "v")) == "loaded"
    assert "k" not in place


@pytest.mark.parametrize("fence", ABOVE)
def test_an_invalidation_beside_or_below_does_not_count(fence: str) -> None:
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load() -> str:
        FENCES[fence](cache.namespace("a", "c"))
        FENCES[fence](place.namespace("d"))
        return "loaded"

    assert place.fetch("k", load, tags=("t", "v")) == "loaded"
    assert "k" in place


def test_counting_on_counts_as_a_write() -> None:
    cache, _ = new_cache()
    cache.set("n", 1)

    def load() -> int:
        assert cache.incr("n") == 2
        return 100

    assert cache.refresh("n", load) == 100
    assert cache.peek("n") == 2


@pytest.mark.parametrize("listened", [False, True])
def test_the_end_of_a_cache_fences_every_load_in_it(listened: bool) -> None:
    cache, _ = new_cache()
    if listened:
        cache.subscribe(lambda event: None, kinds="remove")
    loads = []

    def load() -> str:
        running = current_load()
        assert running is not None and not running.fenced
        loads.append(running)
        if len(loads) == 3:
            cache.close()
        else:
            cache.namespace(*"ab"[: len(loads)]).fetch("k", load)
        return "loaded"

    with suppress(CacheClosedError):
        cache.fetch("k", load)
    assert [running.fenced for running in loads] == [True, True, True]


def test_tags_known_only_at_the_end_are_fenced_too() -> None:
    cache, _ = new_cache()
    place = cache.namespace("a")

    def load() -> Loaded[int]:
        cache.invalidate_tag("late")
        return Loaded(1, tags="late")

    assert place.fetch("k", load) == 1
    assert "k" not in place
    assert place.fetch_many(["k"], lambda missing: {"k": load()}) == {"k": 1}
    assert "k" not in place
    assert place.fetch("k", lambda: Loaded(1, tags="late")) == 1
    assert "k" in place


def test_a_set_during_a_load_wins_over_it() -> None:
    cache, _ = new_cache()

    def load() -> str:
        cache.set("k", "set")
        return "loaded"

    assert cache.fetch("k", load) == "loaded"
    assert cache.peek("k") == "set"


def test_add_that_stored_nothing_fences_nothing() -> None:
    cache, _ = new_cache()
    cache.set("k", "old")

    def load() -> str:
        assert not cache.add("k", "other")
        return "loaded"

    assert cache.refresh("k", load) == "loaded"
    assert cache.peek("k") == "loaded"


def test_what_is_asked_after_the_invalidation_is_loaded_anew() -> None:
    cache, _ = new_cache()

    def first() -> str:
        cache.delete("k")
        assert cache.fetch("k", lambda: "second") == "second"
        return "first"

    assert cache.fetch("k", first) == "first"
    assert cache.peek("k") == "second"


def test_closing_during_a_load_hands_the_value_over_and_stores_nothing() -> None:
    cache, _ = new_cache()

    def load() -> str:
        cache.close()
        return "loaded"

    assert cache.fetch("k", load) == "loaded"
    for call in ("fetch", "refresh", "fetch_many"):
        with pytest.raises(CacheClosedError):
            getattr(cache, call)(asked_of(call), never)

    async def main() -> None:
        for call in ("afetch", "arefresh", "afetch_many"):
            with pytest.raises(CacheClosedError):
                await getattr(cache, call)(asked_of(call), never)

    asyncio.run(main())


def test_a_load_older_than_max_pending_age_is_not_stored_and_delays_no_call() -> None:
    cache, clock = new_cache(max_pending_age=30)

    def slow() -> str:
        clock.advance(31)
        assert cache.fetch("k", lambda: "second") == "second"
        return "first"

    assert cache.fetch("k", slow) == "first"
    assert cache.peek("k") == "second"
    assert_nothing_left(cache)
