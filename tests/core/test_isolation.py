"""No choice of names and keys lets one (path, key) reach the value of another."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache import Cache, Namespace
from harness.support import new_cache

# Names and keys that a joined, folded, trimmed or normalised path would confuse.
LOOK_ALIKES = ["a", "A", "a:b", "b", "a/b", "a.b", ":", "a:", ":a", "a\0", "\0", "a b", "ab", "foo"]
LOOK_ALIKES += ["foobar", "а", "é", "e\u0301", "ﬁ", "fi", "ß", "ss", "*", "a*", "None", "1"]  # noqa: RUF001
NAMES = st.sampled_from(LOOK_ALIKES) | st.text(min_size=1, max_size=6).filter(
    lambda name: name == name.strip()
)
PATHS = st.lists(NAMES, max_size=3).map(tuple)
PLAIN_KEYS: st.SearchStrategy[Hashable] = st.one_of(
    st.sampled_from(["", "x", "a:x", "b:x", "a:b:x", "\ud800", *LOOK_ALIKES]),
    st.text(max_size=4),
    st.binary(max_size=3),
    st.sampled_from([0, 1, True, False, 1.0, 0.0, -0.0, -1, -2, 2**61, 2**64, None, ...]),
)
KEYS: st.SearchStrategy[Hashable] = PLAIN_KEYS | st.lists(PLAIN_KEYS, max_size=2).map(tuple)
TAGS = st.lists(st.sampled_from(["t", "u", "a", "a:t"]), max_size=2)
PLACES = st.lists(st.tuples(PATHS, KEYS, TAGS), min_size=1, max_size=10)
REMOVALS = ["clear", "tag", "tags", "all tags", "prefix", "delete", "pop", "delete_many", "del"]

Place = tuple[tuple[str, ...], Hashable]
Held = dict[Place, tuple[int, frozenset[str]]]


def at(cache: Cache[Any], path: tuple[str, ...]) -> Namespace[Any]:
    return cache.namespace(*path) if path else cache


def fill(cache: Cache[Any], places: list[tuple[tuple[str, ...], Hashable, list[str]]]) -> Held:
    """Store a value of its own at each place; return the values held then."""
    held: Held = {}
    for number, (path, key, tags) in enumerate(places):
        at(cache, path).set(key, number, tags=tags)
        held[path, key] = (number, frozenset(tags))
    return held


def assert_holds(cache: Cache[Any], held: Held, paths: set[tuple[str, ...]]) -> None:
    """Each place has its own value, and no reading call returns it for another place."""
    cache._check()
    keys = {key for _, key in held}
    for path in paths:
        namespace = at(cache, path)
        own = {key: value for (where, key), (value, _) in held.items() if where == path}
        assert dict(namespace.items()) == own
        assert set(namespace) == own.keys() and len(namespace) == len(own)
        assert namespace.get_many(keys) == own
        for key in keys:
            assert (key in namespace) == (key in own)
            assert namespace.peek(key, "absent") == own.get(key, "absent")
        below = sum(where[: len(path)] == path for where, _ in held)
        assert namespace.stats().entries == below


@settings(max_examples=150)
@given(places=PLACES, others=st.lists(PATHS, max_size=3), removals=st.data())
def test_a_place_is_read_counted_listed_and_removed_through_itself_alone(
    places: list[tuple[tuple[str, ...], Hashable, list[str]]],
    others: list[tuple[str, ...]],
    removals: st.DataObject,
) -> None:
    cache, _ = new_cache()
    held = fill(cache, places)
    paths = {path for path, _ in held} | set(others) | {()}
    assert_holds(cache, held, paths)

    for _ in range(3):
        path = removals.draw(st.sampled_from(sorted(paths)), label="path")
        how = removals.draw(st.sampled_from(REMOVALS), label="how")
        key = removals.draw(st.sampled_from(list({key for _, key, _ in places})), label="key")
        namespace = at(cache, path)
        below = {place for place in held if place[0][: len(path)] == path}
        bearing_t = {place for place in below if "t" in held[place][1]}
        bearing_u = {place for place in below if "u" in held[place][1]}
        if how == "clear":
            gone, told = below, namespace.clear()
        elif how == "tag":
            gone, told = bearing_t, namespace.invalidate_tag("t")
        elif how == "tags":
            gone, told = bearing_t | bearing_u, namespace.invalidate_tags(["t", "u"])
        elif how == "all tags":
            gone, told = bearing_t & bearing_u, namespace.invalidate_tags(["t", "u"], match="all")
        elif how == "prefix":
            gone = {(path, k) for where, k in held if where == path and str_starts(k, "a")}
            told = namespace.invalidate_prefix("a")
        else:
            gone = {(path, key)} & held.keys()
            told = remove_one(namespace, how, key)
        assert told == len(gone)
        for place in gone:
            del held[place]
        assert_holds(cache, held, paths)


def str_starts(key: Hashable, prefix: str) -> bool:
    return isinstance(key, str) and key.startswith(prefix)


def remove_one(namespace: Namespace[Any], how: str, key: Hashable) -> int:
    if how == "delete":
        return int(namespace.delete(key))
    if how == "delete_many":
        return namespace.delete_many([key, key])
    if how == "pop":
        return int(namespace.pop(key, None) is not None)
    try:
        del namespace[key]
    except KeyError:
        return 0
    return 1


@settings(max_examples=50)
@given(places=PLACES, data=st.data())
def test_a_use_is_counted_where_it_happened_and_above_and_nowhere_else(
    places: list[tuple[tuple[str, ...], Hashable, list[str]]], data: st.DataObject
) -> None:
    cache, _ = new_cache()
    held = fill(cache, places)
    path, key = data.draw(st.sampled_from(list(held)), label="place")
    at(cache, path).get(key)

    for where in {where for where, _ in held} | {()}:
        assert at(cache, where).stats().hits == (1 if path[: len(where)] == where else 0)


def test_clearing_a_namespace_spares_those_whose_names_start_with_its_name() -> None:
    cache, _ = new_cache()
    for name in ("foo", "foobar", "foo:bar"):
        cache.namespace(name).set("k", name, tags="t")
    cache.set("foo", "a key")
    cache.set("foo:k", "another")

    assert cache.namespace("foo").clear() == 1
    assert {name: cache.namespace(name).get("k") for name in ("foobar", "foo:bar")} == {
        "foobar": "foobar",
        "foo:bar": "foo:bar",
    }
    assert dict(cache.items()) == {"foo": "a key", "foo:k": "another"}


def test_a_tenant_invalidates_its_own_tag_and_the_root_reaches_all() -> None:
    cache, _ = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    for tenant in (acme, beta):
        tenant.set("k", 1, tags="crm")
        tenant.namespace("below").set("k", 1, tags="crm")

    assert acme.invalidate_tag("crm") == 2
    assert (acme.stats().entries, beta.stats().entries) == (0, 2)
    assert cache.invalidate_tag("crm") == 2


def test_two_caches_share_nothing() -> None:
    one, _ = new_cache()
    other, _ = new_cache()
    one.namespace("a").set("k", 1, tags="t")

    assert one.namespace("a") != other.namespace("a")
    assert other.namespace("a").get("k") is None
    assert (other.clear(), other.invalidate_tag("t")) == (0, 0)
    assert one.namespace("a").get("k") == 1
