"""Walks over many namespaces: every count once, whatever is made or forgotten meanwhile."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest

from flowcache import CacheClosedError, Stats, _core, create_cache
from flowcache._core import FIGURES, Survey, running_loads
from harness.support import new_cache, unchanged


def surveyed(namespace: Any, names: Any = (), top: int = 0, by: str = "entries") -> Survey:
    survey = Survey(namespace, names, top, by)
    while survey.step():
        pass
    return survey


def busy(tenants: int, seed: int = 7) -> Any:
    """Return a cache whose tenants have used it much or little, some with namespaces below."""
    rolled = random.Random(seed)
    cache: Any
    cache, _ = new_cache(max_entries=tenants * 3 + 1, weigher=lambda key, value: value)
    for number in range(tenants):
        view = cache.namespace(f"t{number}", share=rolled.choice([0.5, 1.0, 2.0]))
        for _ in range(rolled.randrange(8)):
            view.namespace(f"user{rolled.randrange(3)}").set(rolled.randrange(5), 2)
            view.get(rolled.randrange(5))
            view.fetch(rolled.randrange(5), lambda: 3)
        if number % 3 == 0:
            view.invalidate_where(lambda key, value: key == 1)
    cache.set("own", 1)
    cache.get("own")
    return cache


@pytest.mark.parametrize("tenants", [0, 1, 300])
def test_the_sum_is_what_stats_tells(tenants: int) -> None:
    cache = busy(tenants)
    with unchanged(cache):
        survey = surveyed(cache)
    assert survey.total == cache.stats()
    assert (survey.children, survey.own_entries) == (tenants, 1)
    assert survey.named == {} and survey.leading == []


@pytest.mark.parametrize("by", FIGURES)
def test_the_leading_and_the_named_are_what_children_tells(by: str) -> None:
    cache = busy(200)
    told = cache.children(top=200, by=by)
    each = {child.name: child.stats for child in told.top}
    survey = surveyed(cache, ["t5", "absent", "t5", "t7"], top=20, by=by)

    assert [stats for _, _, _, stats in survey.leading] == [each[n] for n, *_ in survey.leading]
    most = [getattr(child.stats, by) for child in told.top[:20]]
    if by != "load_seconds":
        assert [getattr(stats, by) for *_, stats in survey.leading] == most
    assert {name: stats for name, (_, _, stats) in survey.named.items()} == {
        "t5": each["t5"],
        "t7": each["t7"],
    }
    assert {name: share for name, (_, share, _) in survey.named.items()} == {
        name: cache.namespace(name).limits.share for name in ("t5", "t7")
    }


def test_the_figures_are_those_of_stats() -> None:
    assert set(FIGURES) == {one.name for one in fields(Stats)}


def test_a_namespace_made_or_forgotten_meanwhile_is_counted_at_most_once() -> None:
    cache: Any = create_cache(max_idle_namespaces=400)
    for number in range(1_000):
        cache.namespace(f"a{number}").get("k")
    survey = Survey(cache, ["a1"])
    begun = cache.stats().misses
    made = 0
    while survey.step():
        for _ in range(300):  # Each makes the cache forget one, perhaps the next one of the walk.
            cache.namespace(f"b{made}").get("k")
            made += 1
    assert 600 <= survey.total.misses <= begun + made
    cache._check()
    assert surveyed(cache).total == cache.stats()


def test_the_one_that_comes_next_may_be_forgotten() -> None:
    cache: Any = create_cache(max_idle_namespaces=1_000)
    for number in range(600):
        cache.namespace(f"t{number}").get("k")
    survey = Survey(cache)
    assert survey.step()
    for number in range(5_000):
        cache.namespace(f"other{number}").get("k")  # All that the walk had ahead are gone.
    while survey.step():
        pass
    assert survey.total.misses <= 600


def test_a_walk_that_is_given_up_leaves_nothing() -> None:
    cache: Any = create_cache()
    for number in range(600):
        cache.namespace(f"t{number}").get("k")
    surveys = [Survey(cache, ["t1"], top=5) for _ in range(4)]
    surveys[1].step()
    surveys[2].step()
    del surveys[1]
    surveys[0].step()
    surveys.clear()
    for number in range(20_000):
        cache.namespace(f"o{number}").get("k")
    cache._check()


def test_nothing_is_told_before_the_end_nor_of_a_closed_cache() -> None:
    cache: Any = create_cache()
    for number in range(600):
        cache.namespace(f"t{number}").get("k")
    survey = Survey(cache)
    assert survey.step()
    with pytest.raises(RuntimeError, match="step"):
        survey.total  # noqa: B018
    with pytest.raises(RuntimeError, match="once"):
        survey.__init__(cache)  # type: ignore[misc]
    cache.close()
    with pytest.raises(CacheClosedError):
        survey.step()
    with pytest.raises(CacheClosedError):
        Survey(cache)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"names": ["a"] * 5_000}, ValueError, "names: must be at most 4096, got 5000"),
        ({"names": [1]}, TypeError, "names: each must be a str, got int"),
        ({"top": -1}, ValueError, "top: must be from 0 to 4096, got -1"),
        ({"by": "size"}, ValueError, "by: must be one of hits, .*; got 'size'"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Survey(create_cache(), **arguments)


def test_counts_that_were_set_to_zero_have_another_life() -> None:
    cache: Any = create_cache()
    views = [cache.namespace(name) for name in "ab"]
    before = surveyed(cache, "ab")
    views[0].reset_stats()
    after = surveyed(cache, "ab")
    assert after.life == before.life
    assert after.named["a"][0] != before.named["a"][0]
    assert after.named["b"] == before.named["b"]
    cache.reset_stats()
    assert surveyed(cache).life != before.life


def test_a_name_anew_has_another_life() -> None:
    cache: Any = create_cache(max_idle_namespaces=0)
    with_view = cache.namespace("a")
    first = surveyed(cache, ["a"]).named["a"][0]
    assert surveyed(cache, ["a"]).named["a"][0] == first
    del with_view
    cache.namespace("b")
    again = cache.namespace("a")
    assert surveyed(cache, ["a"]).named["a"][0] != first
    del again


def test_running_loads_are_listed_oldest_first_and_only_from_below() -> None:
    cache, clock = new_cache()
    told: list[Any] = []

    def inner() -> int:
        clock.advance(2)
        told.append(running_loads(cache, 10))
        told.append(running_loads(cache, 1))
        told.append(running_loads(cache.namespace("a"), 10))
        told.append(running_loads(cache.namespace("b"), 10))
        return 1

    def outer() -> Any:
        clock.advance(3)
        return cache.namespace("a", "x").fetch("inner", inner)

    cache.namespace("a").fetch("outer", outer)
    both = [(("a",), "outer", 5, False), (("a", "x"), "inner", 2, False)]
    assert told == [both, both[:1], both, []]
    assert running_loads(cache, 10) == []


def test_the_core_shows_no_load_of_a_closed_cache() -> None:
    cache: Any = create_cache()
    cache.close()
    with pytest.raises(CacheClosedError):
        _core.running_loads(cache, 1)
