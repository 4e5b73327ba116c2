"""A namespace as a MutableMapping over its own fresh entries: one suite for root and namespace."""

from __future__ import annotations

import threading
from collections.abc import (
    Callable,
    ItemsView,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from typing import Any

import pytest

from flowcache import Cache, Namespace, create_cache
from harness.support import VirtualClock, new_cache, unchanged


@pytest.fixture(params=["root", "namespace"])
def ns(request: pytest.FixtureRequest, clock: VirtualClock) -> Namespace[Any]:
    cache: Cache[Any] = create_cache(clock=clock, default_ttl=None)
    # The entries of a namespace below are no part of the mapping.
    if request.param == "root":
        cache.namespace("below").set("elsewhere", 0)
        return cache
    cache.set("elsewhere", 0)
    namespace = cache.namespace("tenant", "acme")
    namespace.namespace("below").set("elsewhere", 0)
    return namespace


def test_it_is_a_mutable_mapping(ns: Namespace[Any]) -> None:
    assert isinstance(ns, MutableMapping) and isinstance(ns, Mapping)


def test_items_are_stored_read_and_deleted(ns: Namespace[Any]) -> None:
    ns["a"] = 1
    ns["a"] = 2
    assert ns["a"] == 2 and "a" in ns and len(ns) == 1
    del ns["a"]
    assert "a" not in ns and len(ns) == 0
    with pytest.raises(KeyError, match="'a'"):
        ns["a"]
    with pytest.raises(KeyError, match="'a'"):
        del ns["a"]


def test_reading_an_item_counts_and_asking_for_it_does_not(ns: Namespace[Any]) -> None:
    ns["a"] = 1
    assert "a" in ns and "b" not in ns
    assert (ns.stats().hits, ns.stats().misses) == (0, 0)
    assert ns["a"] == 1
    with pytest.raises(KeyError):
        ns["b"]
    assert (ns.stats().hits, ns.stats().misses) == (1, 1)


def test_the_least_recent_comes_first(ns: Namespace[Any]) -> None:
    ns.update({"a": 1, "b": 2}, c=3)
    assert ns["a"] == 1

    assert list(ns) == list(ns.keys()) == ["b", "c", "a"]
    assert list(ns.values()) == [2, 3, 1]
    assert list(ns.items()) == [("b", 2), ("c", 3), ("a", 1)]


def test_only_fresh_entries_are_there(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.set("gone", 1, ttl=1)
    ns.set("stale", 2, ttl=1, stale=100)
    ns.set("fresh", 3, ttl=2)
    clock.advance(1)

    assert list(ns) == list(ns.keys()) == ["fresh"] and len(ns) == len(ns.items()) == 1
    assert list(ns.items()) == [("fresh", 3)] and list(ns.values()) == [3]
    assert "stale" not in ns and ("stale", 2) not in ns.items() and 2 not in ns.values()
    with pytest.raises(KeyError):
        del ns["stale"]
    assert ns.popitem() == ("fresh", 3)
    ns._check()


def test_popitem_takes_the_least_recent(ns: Namespace[Any]) -> None:
    ns.update(a=1, b=2, c=3)
    ns.get("a")
    assert [ns.popitem() for _ in range(3)] == [("b", 2), ("c", 3), ("a", 1)]
    with pytest.raises(KeyError, match="empty"):
        ns.popitem()
    ns._check()


def test_popitem_takes_a_key_whose_hash_has_changed(ns: Namespace[Any]) -> None:
    class Fickle:
        hash = 1

        def __hash__(self) -> int:
            return self.hash

    key = Fickle()
    ns[key] = 1
    key.hash = 2
    assert key not in ns
    assert ns.popitem() == (key, 1)
    assert len(ns) == 0
    ns._check()


def test_popitem_ends_a_running_load_of_its_key_in_vain(ns: Namespace[Any]) -> None:
    ns["other"] = 0
    ns["k"] = 1
    ns.get("other")

    def load() -> int:
        assert ns.popitem() == ("k", 1)
        return 2

    assert ns.refresh("k", load) == 2
    assert "k" not in ns
    ns._check()


def test_setdefault(ns: Namespace[Any], clock: VirtualClock) -> None:
    assert ns.setdefault("a", 1) == 1
    assert ns.setdefault("a", 2) == 1
    assert ns.setdefault("b") is None and "b" in ns
    assert ns.setdefault("c", default=3) == 3
    assert (ns.stats().hits, ns.stats().misses) == (1, 3)
    ns.set("a", 1, ttl=1)
    clock.advance(1)
    assert ns.setdefault("a", 5) == 5


def test_setdefault_returns_what_was_stored_while_the_default_was_weighed() -> None:
    def weigh(key: Any, value: Any) -> int:
        if value == "default":
            cache.set(key, "sooner")
        return 1

    cache, _ = new_cache(weigher=weigh)
    assert cache.setdefault("k", "default") == "sooner"
    assert cache.peek("k") == "sooner"


def test_setdefault_returns_the_default_that_a_full_cache_cannot_keep() -> None:
    cache, _ = new_cache(max_entries=2)
    cache.namespace("full", reserved=2).update(x=1, y=2)
    late = cache.namespace("late")
    assert late.setdefault("k", 5) == 5
    assert late.stats().sets == 1
    assert late.incr("n", 2) == 2
    assert late.stats().sets == 2
    assert list(late) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda ns: ns.update({"a": 1, "b": 2}),
        lambda ns: ns.update([("a", 1), ("b", 2)]),
        lambda ns: ns.update(iter({"a": 1, "b": 2}.items())),
        lambda ns: ns.update(a=1, b=2),
        lambda ns: ns.update({"a": 0}, a=1, b=2),
        lambda ns: ns.update((("a", 1),), b=2),
        lambda ns: ns.set_many([("a", 1), ("b", 2)]),
    ],
)
def test_update_takes_what_a_dict_takes(
    ns: Namespace[Any], call: Callable[[Namespace[Any]], object]
) -> None:
    call(ns)
    assert dict(ns) == {"a": 1, "b": 2}
    ns.update()
    assert len(ns) == 2


@pytest.mark.parametrize("bad", [5, ["abc"], [1], None])
def test_update_refuses_what_a_dict_refuses(ns: Namespace[Any], bad: Any) -> None:
    with unchanged(ns), pytest.raises((TypeError, ValueError)):
        ns.update(bad)


def test_keys_values_and_items_are_live_views(ns: Namespace[Any]) -> None:
    keys, values, items = ns.keys(), ns.values(), ns.items()
    assert isinstance(keys, KeysView)
    assert isinstance(values, ValuesView)
    assert isinstance(items, ItemsView)
    ns.update(a=1, b=2)

    assert (len(keys), len(values), len(items)) == (2, 2, 2)
    assert keys & {"a", "z"} == {"a"} and keys | {"z"} == {"a", "b", "z"}
    assert keys == {"a", "b"} and keys - {"a"} == {"b"} and "a" in keys and "z" not in keys
    assert items == {("a", 1), ("b", 2)} and items ^ {("a", 1)} == {("b", 2)}
    assert ("a", 1) in items and ("a", 2) not in items and ("z", 1) not in items
    assert "a" not in items and ("a", 1, 1) not in items
    assert 1 in values and 3 not in values
    assert (ns.stats().hits, ns.stats().misses) == (0, 0)


def test_a_view_of_items_finds_a_value_that_is_not_equal_to_itself(ns: Namespace[Any]) -> None:
    nan = float("nan")
    ns["nan"] = nan
    assert ("nan", nan) in ns.items() and nan in ns.values()


def test_iteration_is_over_what_was_there_when_it_began(ns: Namespace[Any]) -> None:
    ns.update(a=1, b=2, c=3)
    seen = []
    for key in ns:
        seen.append(key)
        ns.pop(key, None)
        ns[f"new {key}"] = 0
        ns.get("c")
    assert seen == ["a", "b", "c"]
    assert [key for key, _ in zip(ns.items(), range(9), strict=False)] == list(ns.items())


@pytest.mark.parametrize(
    "read",
    [list, lambda ns: list(ns.keys()), lambda ns: [key for key, _ in ns.items()]],
    ids=["iteration", "keys", "items"],
)
def test_iteration_beside_a_writer_never_fails_or_repeats_a_key(
    read: Callable[[Namespace[Any]], list[Any]],
) -> None:
    cache: Cache[Any] = create_cache(max_entries=200)
    namespace = cache.namespace("a")
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                namespace.set(number % 300, number)
                namespace.delete(number * 7 % 300)
                namespace.get(number * 3 % 300)
                if number % 1_000 == 0:
                    namespace.clear()
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            keys = read(namespace)
            assert len(set(keys)) == len(keys) <= 200
            assert set(keys) <= set(range(300))
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert len(namespace) == len(read(namespace))
    cache._check()


def test_an_empty_namespace_is_false_as_an_empty_dict_is(ns: Namespace[Any]) -> None:
    assert not ns
    ns["a"] = 1
    assert ns


def test_clear_of_the_mapping_takes_what_is_below_as_well(ns: Namespace[Any]) -> None:
    ns.update(a=1, b=2)
    assert ns.clear() == 3
    assert len(ns) == 0 and ns.namespace("below").get("elsewhere") is None


def test_it_is_no_copy_and_cannot_be_copied(ns: Namespace[Any]) -> None:
    import copy
    import pickle

    assert copy.copy(ns) is ns
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cache cannot be"):
            copied(ns)
