"""Tags and prefixes: the entries that an invalidation removes, here and below, and the others."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcache import InvalidTagError, Loaded, create_cache
from harness.support import new_cache


def test_one_str_is_one_tag_and_an_iterable_is_several() -> None:
    cache, _ = new_cache()
    cache.set("a", 1, tags="crm")
    cache.set("b", 1, tags=["crm", "crm:stats"])
    cache.set("c", 1, tags={"crm:stats"})
    cache.set("d", 1, tags=(tag for tag in ("c", "r", "m")))

    assert cache.invalidate_tag("crm") == 2
    assert set(cache) == {"c", "d"}
    assert cache.invalidate_tags("c") == 1
    assert cache.invalidate_tags(["crm:stats", "none"]) == 1


def test_a_tag_given_twice_is_borne_once() -> None:
    cache, _ = new_cache()
    cache.set("k", 1, tags=["t", "t"])
    cache._check()
    assert cache._tagged("t") == 1
    assert cache.invalidate_tags(["t", "t"]) == 1
    cache._check()


CRM, API, WEB = "crm", "api", "web"
SETS: list[tuple[str, ...]] = [
    (CRM,),
    (CRM, API),
    (API, CRM),
    (CRM, API, WEB),
    (CRM, CRM),
    (API,),
    (),
]


@pytest.mark.parametrize("later", SETS)
@pytest.mark.parametrize("sooner", SETS)
def test_what_replaces_a_value_bears_its_own_tags_alone(
    sooner: tuple[str, ...], later: tuple[str, ...]
) -> None:
    cache = create_cache()  # With a user's clock a store takes no short cut.
    ns = cache.namespace("tenant")
    ns.set("k", 1, tags=sooner)
    equal = tuple("".join(list(tag)) for tag in later)
    assert all(one is not other for one, other in zip(equal, later, strict=True))
    for tags in (later, equal, list(later), later[0] if len(later) == 1 else later):
        ns.set("k", 2, tags=tags)
        cache._check()
        assert {tag for tag in (CRM, API, WEB) if cache._tagged(tag)} == set(later)
    for tag in {CRM, API, WEB} - set(later):
        assert ns.invalidate_tag(tag) == 0
    assert ns.invalidate_tags(later) == (1 if later else 0)


def test_any_and_all() -> None:
    cache, _ = new_cache()
    below = cache.namespace("below")
    for namespace in (cache, below):
        namespace.set("t", 1, tags="t")
        namespace.set("u", 1, tags="u")
        namespace.set("tu", 1, tags=("t", "u"))

    assert below.invalidate_tags(["t", "u"], match="all") == 1
    assert cache.invalidate_tags(["t", "u", "absent"], match="all") == 0
    assert cache.invalidate_tags(["t", "u"], match="all") == 1
    assert cache.invalidate_tags(["t", "u"]) == 4
    assert cache.invalidate_tags([]) == 0 and cache.invalidate_tags((), match="all") == 0
    cache._check()


def test_an_invalidation_goes_down_and_neither_up_nor_sideways() -> None:
    cache, _ = new_cache()
    paths = [("a",), ("a", "x"), ("a", "x", "deep"), ("a", "y"), ("b",), ("b", "x")]
    for path in paths:
        cache.namespace(*path).set("k", 1, tags="t")
    cache.set("k", 1, tags="t")

    assert cache.namespace("a", "x").invalidate_tag("t") == 2
    assert cache.namespace("a").invalidate_tag("t") == 2
    assert cache.namespace("b").invalidate_tag("absent") == 0
    assert cache.invalidate_tag("t") == 3
    cache._check()


def test_tags_are_counted_here_and_below() -> None:
    cache, _ = new_cache()
    cache.namespace("a", "x").set("k", 1, tags="t")
    cache.namespace("a").set("k", 1, tags="t")
    assert [cache._tagged("t"), cache.namespace("a")._tagged("t")] == [2, 2]
    assert cache.namespace("a", "x")._tagged("t") == 1
    cache.namespace("a", "x").delete("k")
    assert [cache._tagged("t"), cache.namespace("a")._tagged("t")] == [1, 1]
    cache.namespace("a").set("k", 2)
    assert cache._tagged("t") == 0


def test_stale_entries_are_removed_too() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1, stale=100, tags="t")
    clock.advance(1)
    assert cache.invalidate_tag("t") == 1


def test_no_record_of_a_tag_outlives_its_entries() -> None:
    cache, clock = new_cache(max_entries=50)
    draw = random.Random(3)
    for number in range(3_000):
        namespace = cache.namespace(*draw.choice(["a", "b", "ab", "bab"]))
        namespace.set(number, 1, tags=[f"t{number}", "common"], ttl=draw.choice([1, None]))
        clock.advance(0.01)
    cache._check()
    cache.sweep()
    assert cache._tagged("common") == cache.stats().entries
    assert cache.invalidate_tag("common") == cache.stats().entries or cache.stats().entries == 0
    cache._check()
    assert cache.stats().entries == 0


def test_an_entry_may_bear_many_tags() -> None:
    cache, _ = new_cache()
    tags = [f"t{number}" for number in range(100)]
    cache.set("k", 1, tags=tags)
    cache.set("other", 1, tags=tags[50:])
    assert cache.invalidate_tags(tags, match="all") == 1
    assert cache.invalidate_tag("t99") == 1
    cache._check()


class Loud(str):
    """A str whose hash and equality are its own; as a tag it is the plain str."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise AssertionError

    def __eq__(self, other: object) -> bool:
        raise AssertionError


def test_a_tag_of_a_subclass_of_str_is_the_str() -> None:
    cache, _ = new_cache()
    cache.set("k", 1, tags=[Loud("t")])
    assert cache.invalidate_tag("t") == 1
    cache.set("k", 1, tags="t")
    assert cache.invalidate_tag(Loud("t")) == 1


# ------------------------------------------------------------------------------- prefixes


@pytest.mark.parametrize(
    ("prefix", "gone"),
    [
        ("", {"", "a", "ab", "a:b", "A", "é", "éa"}),
        ("a", {"a", "ab", "a:b"}),
        ("a:", {"a:b"}),
        ("é", {"é", "éa"}),
        ("abc", set()),
    ],
)
def test_a_prefix_removes_the_str_keys_of_this_namespace_that_start_so(
    prefix: str, gone: set[str]
) -> None:
    cache, _ = new_cache()
    keys: list[Any] = ["", "a", "ab", "a:b", "A", "é", "éa", b"a", ("a",), 1, None]
    ns = cache.namespace("n")
    for namespace in (cache, ns, ns.namespace("a")):
        namespace.set_many(dict.fromkeys(keys, 1))

    assert ns.invalidate_prefix(prefix) == len(gone)
    assert set(keys) - set(ns) == gone
    assert len(cache) == len(ns.namespace("a")) == len(keys)
    assert ns.stats().invalidations == len(gone)
    cache._check()


def test_a_prefix_matches_a_key_of_a_subclass_of_str_by_what_it_says() -> None:
    class Key(str):
        __slots__ = ()

        def startswith(self, *_: Any) -> bool:
            return False

    cache, _ = new_cache()
    cache.set(Key("abc"), 1)
    assert cache.invalidate_prefix(Key("ab")) == 1


# ------------------------------------------------------------------------------- clear


@pytest.mark.parametrize("size", [3, 20_000])
def test_clear_takes_this_namespace_and_those_below(size: int) -> None:
    cache, _ = new_cache()
    a = cache.namespace("a")
    for namespace in (cache, a, a.namespace("x"), a.namespace("x", "y"), cache.namespace("b")):
        for number in range(size):
            namespace.set(number, number, tags="t", ttl=100)
    listed = a.namespace("x")

    assert a.clear() == 3 * size
    assert a.clear() == 0
    assert (list(a), list(listed), len(listed)) == ([], [], 0)
    assert (len(cache), len(cache.namespace("b"))) == (size, size)
    assert a.get(0) is None and a.stats().invalidations == 3 * size
    assert cache._tagged("t") == 2 * size
    a.set(0, "new", tags="t")
    assert dict(a.items()) == {0: "new"} and a.invalidate_tag("t") == 1
    cache._check()
    assert cache.clear() == 2 * size
    cache.sweep()
    cache._check()
    assert cache.stats().entries == 0


def test_clear_counts_stale_entries_and_not_what_is_over() -> None:
    cache, clock = new_cache()
    cache.set("over", 1, ttl=1)
    cache.set("stale", 1, ttl=1, stale=100)
    cache.set("fresh", 1)
    clock.advance(1)
    assert cache.clear() == 2
    assert (cache.stats().expirations, cache.stats().invalidations) == (1, 2)


# The number of tags that an entry may bear


def numbered(count: int) -> list[str]:
    return [f"order:{number}" for number in range(count)]


def endless() -> Iterator[str]:
    return (f"order:{number}" for number in itertools.count())


STORES: dict[str, Callable[[Any, Any], object]] = {
    "set": lambda ns, tags: ns.set("k", 1, tags=tags),
    "add": lambda ns, tags: ns.add("k", 1, tags=tags),
    "set_many": lambda ns, tags: ns.set_many({"k": 1}, tags=tags),
    "fetch": lambda ns, tags: ns.fetch("k", lambda: 1, tags=tags),
    "refresh": lambda ns, tags: ns.refresh("k", lambda: 1, tags=tags),
    "fetch_many": lambda ns, tags: ns.fetch_many(["k"], lambda keys: {"k": 1}, tags=tags),
    "Loaded": lambda ns, tags: ns.fetch("k", lambda: Loaded(1, tags=tags)),
}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("tags", [numbered(1_025), endless(), ["same"] * 1_025])
def test_more_tags_than_an_entry_may_bear_are_refused(store: Any, tags: Any) -> None:
    cache = create_cache()
    namespace = cache.namespace("acme")
    with pytest.raises(InvalidTagError, match=r"^tags: an entry has at most 1024 tags, got more$"):
        store(namespace, endless() if isinstance(tags, Iterator) else tags)
    assert "k" not in namespace
    assert cache.stats().pending == 0
    cache._check()


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_as_many_tags_as_an_entry_may_bear_are_kept_each_once(store: Any) -> None:
    cache = create_cache()
    namespace = cache.namespace("acme")
    tags = numbered(1_000)
    store(namespace, [*tags, *tags[:24]])
    cache._check()
    store(namespace, [*tags, *tags[:24]])
    cache._check()
    assert namespace.invalidate_tags([*tags, "other"], match="all") == 0
    assert namespace.invalidate_tags(tags * 3, match="all") == 1
    namespace.set("k", 1, tags=tags)
    assert namespace.invalidate_tag("order:999") == 1
    cache._check()
