"""Paths, names and views: identity, the reach of a view, and idle namespaces."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from flowcache import ConfigurationError, Limits, Namespace
from flowcache._core import _testing
from harness.support import new_cache


def test_a_path_is_a_sequence_of_names() -> None:
    cache, _ = new_cache()
    view = cache.namespace("tenant", "acme")

    assert view == cache.namespace("tenant").namespace("acme")
    assert hash(view) == hash(cache.namespace("tenant").namespace("acme"))
    assert (view.path, view.name) == (("tenant", "acme"), "acme")
    assert (cache.path, cache.name) == ((), "flowcache")
    assert view != cache.namespace("acme") and view != cache.namespace("tenant:acme")
    assert view != ("tenant", "acme") and cache.namespace("a") != "a"
    assert len({view, cache.namespace("tenant", "acme"), cache.namespace("tenant")}) == 2


@pytest.mark.parametrize(
    "name", ["a", "a b", "a:b", "a/b", ".", "..", "é", "\0", "💾", "A" * 256, "\ud800", "*", "[0]"]
)
def test_a_name_is_taken_as_it_is(name: str) -> None:
    cache, _ = new_cache()
    assert cache.namespace(name).path == (name,)
    assert list(cache.namespaces()) == [name]


def test_names_are_not_folded_trimmed_or_normalised() -> None:
    cache, _ = new_cache()
    names = ["acme", "Acme", "ACME", "e\u0301", "é", "a b", "a  b"]
    assert len({cache.namespace(name) for name in names}) == len(names)


def test_a_name_of_a_subclass_of_str_is_the_str() -> None:
    class Name(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    cache, _ = new_cache()
    cache.namespace("a").set("k", 1)
    assert cache.namespace(Name("a")) == cache.namespace("a")
    assert type(cache.namespace(Name("b")).name) is str
    assert list(cache.namespaces()) == ["a", "b"]


def test_names_are_interned() -> None:
    cache, _ = new_cache()
    one, other = (f"{part}ant" for part in ("ten", "ten"))
    assert one is not other
    assert cache.namespace(one).name is cache.namespace(other).name


def test_namespaces_lists_the_children_oldest_first() -> None:
    cache, _ = new_cache()
    kept = [cache.namespace(name) for name in ("b", "a", "c")]
    kept.append(cache.namespace("a", "below"))
    assert list(cache.namespaces()) == ["b", "a", "c"]
    assert list(cache.namespace("a").namespaces()) == ["below"]
    assert list(cache.namespace("c").namespaces()) == []
    names = cache.namespaces()
    assert next(names) == "b"
    kept.append(cache.namespace("d"))
    assert list(names) == ["a", "c"]


def test_a_path_has_at_most_64_names() -> None:
    cache, _ = new_cache()
    deepest = cache.namespace(*["n"] * 64)
    deepest.set("k", 1, tags="t")
    assert len(deepest.path) == 64
    cache._check()
    with pytest.raises(ValueError, match="64"):
        deepest.namespace("n")
    assert cache.invalidate_tag("t") == 1


# ------------------------------------------------------------------------------- capability


def test_no_public_attribute_leads_up_or_aside() -> None:
    cache, _ = new_cache()
    cache.namespace("sibling").set("secret", "of another")
    view = cache.namespace("tenant")
    reached: list[Any] = []
    for name in dir(view):
        if name.startswith("_"):
            continue
        reached.append(getattr(view, name))
    for what in reached:
        assert not isinstance(what, Namespace), what
    assert not hasattr(view, "__dict__")
    for name in ("parent", "root", "cache", "store", "space"):
        assert not hasattr(view, name)


def test_a_view_takes_no_attributes() -> None:
    cache, _ = new_cache()
    view: Any = cache.namespace("a")
    for name in ("path", "name", "limits", "other"):
        with pytest.raises(AttributeError):
            setattr(view, name, 1)


def test_a_view_is_made_by_its_cache_alone() -> None:
    with pytest.raises(TypeError, match="namespace"):
        Namespace()
    cache, _ = new_cache()
    with pytest.raises(TypeError):
        type(cache.namespace("a"))()


def test_a_view_shows_its_cache_and_path() -> None:
    cache, _ = new_cache(name="crm")
    assert repr(cache) == "<flowcache.Cache 'crm'>"
    assert repr(cache.namespace("a", "b:c")) == "<flowcache.Namespace 'crm' 'a'/'b:c'>"


def test_a_view_keeps_its_cache_alive() -> None:
    cache, _ = new_cache()
    view = cache.namespace("a")
    cache.set("k", 1)
    del cache
    gc.collect()
    view.set("k", 2)
    assert view.get("k") == 2
    view._check()


# ------------------------------------------------------------------------------- the idle


def test_idle_namespaces_beyond_the_bound_are_forgotten_and_their_counts_stay_above() -> None:
    cache, _ = new_cache(max_idle_namespaces=3)
    for number in range(20):
        view = cache.namespace("tenant", f"t{number}")
        view.get("absent")
        view.set("k", 1)
        view.delete("k")
        del view

    assert list(cache.namespace("tenant").namespaces()) == ["t17", "t18", "t19"]
    assert cache.namespace("tenant", "t19").stats().misses == 1
    assert cache.namespace("tenant", "t0").stats().misses == 0
    for namespace in (cache, cache.namespace("tenant")):
        stats = namespace.stats()
        assert (stats.misses, stats.sets, stats.invalidations) == (20, 20, 20)
    cache._check()


def test_the_most_recently_used_idle_ones_are_kept() -> None:
    cache, _ = new_cache(max_idle_namespaces=2)
    for name in ("a", "b", "a", "c"):
        cache.namespace(name)
    assert list(cache.namespaces()) == ["a", "c"]


@pytest.mark.parametrize("why", ["entry", "stale entry", "setting", "view", "child", "load"])
def test_what_is_in_use_is_not_forgotten(why: str) -> None:
    cache, clock = new_cache(max_idle_namespaces=0)
    kept: list[Any] = []

    def others() -> int:
        for name in ("b", "c", "d"):
            cache.namespace(name)
        return 1

    if why == "entry":
        cache.namespace("a").set("k", 1)
    elif why == "stale entry":
        cache.namespace("a").set("k", 1, ttl=1, stale=5)
        clock.advance(1)
    elif why == "setting":
        cache.namespace("a", default_ttl=5)
    elif why == "view":
        kept.append(cache.namespace("a"))
    elif why == "child":
        cache.namespace("a", "below").set("k", 1)
    else:
        view = cache.namespace("a")
        fetch = view.fetch
        del view
        fetch("k", others)
        assert list(cache.namespaces()) == ["a"]
        return
    others()
    assert list(cache.namespaces()) == ["a"]
    cache._check()


@pytest.mark.parametrize("how", ["delete", "clear", "sweep", "evict", "tag", "clear from above"])
def test_a_namespace_that_becomes_empty_is_forgotten(how: str) -> None:
    cache, clock = new_cache(max_idle_namespaces=0)
    for number in range(50):
        cache.namespace("t", str(number)).set("k", 1, ttl=1, tags="t")
    held = _testing.namespaces_held(cache)
    if how == "delete":
        for number in range(50):
            cache.namespace("t", str(number)).delete("k")
    elif how == "clear":
        cache.clear()
    elif how == "clear from above":
        cache.namespace("t").clear()
    elif how == "tag":
        cache.invalidate_tag("t")
    elif how == "evict":
        cache.configure(max_entries=1)
        cache.set("k", 1)
        cache.set("k2", 1)
        cache.clear()
    else:
        clock.advance(1)
        assert cache.sweep() == 50
    assert (held, _testing.namespaces_held(cache)) == (52, 1)
    assert cache.stats().sets >= 50
    cache._check()


def test_settings_that_child_limits_gave_do_not_keep_a_namespace() -> None:
    cache, _ = new_cache(max_idle_namespaces=2, child_limits=Limits(max_entries=5, default_ttl=9))
    for number in range(50):
        cache.namespace(str(number)).get("k")
    assert _testing.namespaces_held(cache) == 3
    assert cache.namespace("0").limits.max_entries == 5
    assert cache.stats().misses == 50
    cache._check()


def test_asking_for_a_great_many_names_leaves_no_more_behind_than_the_bound() -> None:
    cache, _ = new_cache(max_idle_namespaces=100)
    for number in range(30_000):
        cache.namespace(f"t{number}", "below").get("k")
    # The idle namespaces, and those above them.
    assert _testing.namespaces_held(cache) <= 2 * 100 + 1
    assert cache.stats().misses == 30_000
    cache._check()


def test_a_view_that_goes_as_its_call_raises_leaves_the_error_alone() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    views = [cache.namespace("t", str(number)) for number in range(9)]
    unhashable: Any = []
    for number in range(5):
        with pytest.raises(TypeError, match="unhashable"):
            cache.namespace(f"n{number}").get(unhashable)
        views.pop()
    assert list(cache.namespaces()) == ["t"]
    cache._check()


# ------------------------------------------------------------------------------- refusals


def test_a_refused_path_leaves_nothing_behind() -> None:
    cache, _ = new_cache(max_entries=5)
    kept = cache.namespace("a")
    for settings in ({"reserved": 6}, {"max_weight": 5}, {"reserved": 4, "max_entries": 3}):
        with pytest.raises(ConfigurationError):
            cache.namespace("a", "b", "c", **settings)
        with pytest.raises(ConfigurationError):
            cache.namespace("new", "newer", **settings)
    assert list(cache.namespaces()) == ["a"] and list(kept.namespaces()) == []
    assert _testing.namespaces_held(cache) == 2
    cache._check()


def test_a_refused_path_leaves_what_was_there_before() -> None:
    cache, _ = new_cache(max_entries=5)
    cache.namespace("a", "b").set("k", 1)
    with pytest.raises(ConfigurationError):
        cache.namespace("a", "b", reserved=6)
    with pytest.raises(ConfigurationError):
        cache.namespace("a", "b", "c", reserved=6)
    assert cache.namespace("a", "b").get("k") == 1
    assert list(cache.namespace("a", "b").namespaces()) == []
