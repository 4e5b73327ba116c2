"""`inspect`, `tags`, `children`, `currsize`, `maxsize`: looks that count nowhere."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import pytest

from flowcache import Children, Inspection, Stats
from flowcache._core import _testing
from harness.support import new_cache, unchanged


def test_a_key_is_told_of_and_nothing_counted() -> None:
    cache, clock = new_cache(max_weight=100, weigher=lambda key, value: 7)
    cache.set("k", "value", ttl=60, stale=5, tags=("b", "a"))
    cache.set("other", 1)
    clock.advance(10)
    with unchanged(cache):
        assert cache.inspect("k") == Inspection(
            held=True, fresh=True, ttl=50, age=10, grace=5, sliding=None, tags=("b", "a"), weight=7,
            loading=None, background=False,
        )  # fmt: skip
    assert list(cache) == ["k", "other"]
    clock.advance(52)
    stale = cache.inspect("k")
    assert stale is not None
    assert (stale.held, stale.fresh, stale.ttl, stale.age) == (True, False, 0, 62)
    clock.advance(3)
    assert cache.inspect("k") is None and cache.inspect("absent") is None


def test_an_entry_without_an_end_has_neither_ttl_nor_age() -> None:
    cache, _ = new_cache()
    cache.set("k", 1, stale=True)
    seen = cache.inspect("k")
    assert seen is not None
    assert (seen.ttl, seen.age, seen.grace) == (None, None, math.inf)


def test_a_load_is_told_of_with_an_entry_and_without() -> None:
    cache, clock = new_cache()
    seen: list[Inspection | None] = []

    def load() -> int:
        clock.advance(3)
        seen.append(cache.inspect("k"))
        return 1

    cache.fetch("k", load, ttl=10)
    cache.refresh("k", load, ttl=10)
    alone, beside = seen
    assert alone == Inspection(
        held=False, fresh=False, ttl=0, age=None, grace=0, sliding=None, tags=(), weight=0,
        loading=3, background=False,
    )  # fmt: skip
    assert beside is not None
    assert (beside.held, beside.ttl, beside.loading, beside.background) == (True, 7, 3, False)


def test_a_load_behind_its_callers_is_told_as_such() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1, stale=100)
    clock.advance(2)
    began, ends = threading.Event(), threading.Event()

    def load() -> int:
        began.set()
        assert ends.wait(20)
        return 2

    assert cache.fetch("k", load) == 1
    assert began.wait(20)
    seen = cache.inspect("k")
    ends.set()
    assert seen is not None and seen.background and not seen.fresh


def test_tags_are_counted_here_and_below_and_due_entries_not() -> None:
    cache, clock = new_cache()
    acme = cache.namespace("acme")
    assert acme.tags() == {}
    acme.set("a", 1, tags=("t", "u"))
    acme.set("b", 1, ttl=5, tags="t")
    acme.namespace("below").set("a", 1, tags="t")
    cache.namespace("beta").set("a", 1, tags="v")
    assert acme.tags() == {"t": 3, "u": 1}
    assert cache.tags() == {"t": 3, "u": 1, "v": 1}
    clock.advance(5)
    assert acme.tags() == {"t": 2, "u": 1}
    acme.clear()
    assert (acme.tags(), cache.tags()) == ({}, {"v": 1})


def test_the_tags_of_cached_functions_are_not_shown() -> None:
    cache, _ = new_cache()

    @cache.cached(tags="t", key="k")
    def function() -> int:
        return 1

    function()
    assert cache.tags() == {"t": 1}
    seen = cache.inspect("k")
    assert seen is not None and seen.tags == ("t",)


def busy(sizes: dict[str, int], **settings: Any) -> Any:
    cache, _ = new_cache(**settings)
    for name, size in sizes.items():
        child = cache.namespace(name)
        for key in range(size):
            child.set(key, 1)
            child.get(key)
        child.get("absent")
    return cache


def total(children: Children) -> dict[str, float]:
    found = [child.stats for child in children.top] + [children.rest]
    fields = [field.name for field in dataclasses.fields(Stats)]
    return {name: sum(getattr(stats, name) for stats in found) for name in fields}


@pytest.mark.parametrize("by", ["entries", "hits", "sets"])
def test_the_leading_children_and_the_sum_of_the_rest(by: str) -> None:
    sizes = {f"n{number}": number * 7 % 200 for number in range(200)}
    cache = busy(sizes)
    cache.set("own", 1)
    children = cache.children(top=3, by=by)
    assert [child.name for child in children.top] == sorted(sizes, key=lambda name: -sizes[name])[
        :3
    ]
    assert [getattr(child.stats, by) for child in children.top] == [199, 198, 197]
    assert children.others == 197
    own = {"sets": 1, "entries": 1}
    for name, sum_of_all in total(children).items():
        assert sum_of_all == getattr(cache.stats(), name) - own.get(name, 0), name
    assert cache.children(top=0).top == () and cache.children(top=0).others == 200
    assert len(cache.children(top=10**30).top) == 200 and len(cache.children().top) == 50


def test_a_tie_goes_to_the_child_made_first() -> None:
    cache = busy({"b": 1, "a": 1, "c": 2})
    assert [child.name for child in cache.children().top] == ["c", "b", "a"]


def test_the_fair_share_of_a_bound() -> None:
    cache = busy({"a": 1, "b": 3}, max_entries=100)
    cache.namespace("a", share=3.0)
    cache.namespace("idle")
    shares = {child.name: child.fair_share for child in cache.children().top}
    assert shares == {"a": 75, "b": 25, "idle": 20}
    cache.set("own", 1)
    shares = {child.name: child.fair_share for child in cache.children().top}
    assert shares == {"a": 60, "b": 20, "idle": pytest.approx(100 / 6)}
    assert busy({"a": 1}).children().top[0].fair_share is None


def test_no_idle_namespace_becomes_more_recent() -> None:
    cache, _ = new_cache(max_idle_namespaces=2)
    for name in ("first", "second"):
        cache.namespace(name).get("absent")
    assert [child.name for child in cache.children(by="misses").top] == ["first", "second"]
    cache.namespace("third")
    assert [child.name for child in cache.children(by="misses").top] == ["second", "third"]
    assert _testing.namespaces_held(cache) == 3


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"top": -1}, ValueError, "top"),
        ({"top": True}, TypeError, "top"),
        ({"top": 1.5}, TypeError, "top"),
        ({"by": "hit_rate"}, ValueError, "by: must be one of hits, misses"),
        ({"by": None}, TypeError, "by"),
    ],
)
def test_what_children_cannot_mean_is_refused(
    options: dict[str, Any], error: type[Exception], named: str
) -> None:
    cache = busy({"a": 1})
    with unchanged(cache), pytest.raises(error, match=named):
        cache.children(**options)


def test_maxsize_and_currsize_are_those_of_cachetools() -> None:
    cache, clock = new_cache(max_entries=3)
    assert (cache.maxsize, cache.currsize) == (3, 0)
    cache.set("a", 1)
    cache.namespace("below").set("b", 1, ttl=5)
    assert cache.currsize == 2
    clock.advance(5)
    assert cache.currsize == 1
    assert cache.namespace("below").maxsize is None
    weighed, _ = new_cache(max_weight=10, max_entries=5, weigher=lambda key, value: value)
    weighed.set("a", 4)
    assert (weighed.maxsize, weighed.currsize) == (10, 4)
    with pytest.raises(ValueError, match="weighs 11"):
        weighed["too heavy"] = 11
