"""The calls that name keys: the entries that they store and remove, their results and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowcache import Cache, CacheClosedError, Namespace, NamespaceRequiredError, create_cache
from harness.support import Colliding, VirtualClock, new_cache, unchanged

FALSY = [None, 0, 0.0, False, "", b"", (), [], {}, set(), frozenset(), ...]


@pytest.fixture(params=["root", "namespace"])
def ns(request: pytest.FixtureRequest, clock: VirtualClock) -> Namespace[Any]:
    cache: Cache[Any] = create_cache(clock=clock, default_ttl=300)
    return cache if request.param == "root" else cache.namespace("tenant", "acme")


@pytest.mark.parametrize("value", FALSY, ids=repr)
def test_a_falsy_value_is_a_value_like_any_other(ns: Namespace[Any], value: Any) -> None:
    ns.set("k", value)

    assert ns.get("k", "default") is value
    assert ns.peek("k", "default") is value
    assert ns["k"] is value
    assert "k" in ns and len(ns) == 1
    assert ns.get_many(["k"]) == {"k": value}
    assert ns.setdefault("k", "default") is value
    assert not ns.add("k", "other")
    assert ns.fetch("k", lambda: "loaded") is value
    assert (ns.stats().hits, ns.stats().misses) == (5, 0)
    assert ns.pop("k", "default") is value
    assert ns.pop("k", "default") == "default"


@pytest.mark.parametrize("key", [None, 0, "", b"", (), frozenset(), ..., 1.5, -1, 2**70, Colliding])
def test_any_hashable_is_a_key(ns: Namespace[Any], key: Any) -> None:
    ns.set(key, "value")

    assert ns.get(key) == "value"
    assert list(ns) == [key]
    assert ns.delete(key) and not ns.delete(key)
    assert key not in ns


def test_keys_are_told_apart_as_a_dict_tells_them_apart(ns: Namespace[Any]) -> None:
    reference: dict[Any, int] = {}
    nan = float("nan")
    keys = [1, True, 1.0, "1", b"1", 0, False, -0.0, None, (1,), (True,), nan, nan, float("nan")]
    for number, key in enumerate(keys):
        ns.set(key, number)
        reference[key] = number

    assert len(ns) == len(reference)
    assert {key: ns[key] for key in reference} == reference
    assert [type(key) for key in ns if key == 1] == [int]


def test_keys_of_one_hash_do_not_meet(ns: Namespace[Any]) -> None:
    keys = [Colliding(str(number)) for number in range(100)]
    for number, key in enumerate(keys):
        ns.set(key, number)
    assert [ns.get(Colliding(str(number))) for number in range(100)] == list(range(100))

    for key in keys[::2]:
        assert ns.delete(key)
    assert [ns.get(key) for key in keys[:4]] == [None, 1, None, 3]
    assert ns.get(Colliding("absent")) is None
    ns._check()


def test_ints_of_one_hash_do_not_meet(ns: Namespace[Any]) -> None:
    modulus = 2**61 - 1  # the modulus of CPython's hash of an int
    for times in range(20):
        ns.set(5 + times * modulus, times)
    assert [ns.get(5 + times * modulus) for times in range(20)] == list(range(20))


def test_a_str_of_a_subclass_is_the_str(ns: Namespace[Any]) -> None:
    class Name(str):
        __slots__ = ()

    ns.set(Name("k"), 1)
    assert ns.get("k") == 1
    ns.set("k", 2)
    assert ns.get(Name("k")) == 2 and len(ns) == 1


def test_set_replaces_value_ttl_tags_and_window(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.set("k", 1, ttl=10, tags="old", stale=100)
    ns.set("k", 2)

    assert (ns.get("k"), ns.ttl("k")) == (2, 300)
    assert ns.invalidate_tag("old") == 0
    clock.advance(301)
    assert ns._held("k") is None


def test_set_keeps_the_key_that_was_there_first(ns: Namespace[Any]) -> None:
    first, second = Colliding("a"), Colliding("a")
    ns.set(first, 1)
    ns.set(second, 2)
    assert next(iter(ns)) is first


def test_get_and_peek_return_the_default_given(ns: Namespace[Any]) -> None:
    sentinel = object()
    assert ns.get("k") is None and ns.peek("k") is None
    assert ns.get("k", sentinel) is sentinel and ns.peek("k", default=sentinel) is sentinel
    assert ns.get("k", default=sentinel) is sentinel


def test_peek_counts_nothing(ns: Namespace[Any]) -> None:
    ns.set("k", 1)
    before = ns.stats()
    ns.peek("k")
    ns.peek("absent")
    assert ns.stats() == before


def test_add_stores_only_where_nothing_is_fresh(ns: Namespace[Any], clock: VirtualClock) -> None:
    assert ns.add("k", 1, ttl=10, tags="t", stale=10)
    assert not ns.add("k", 2, ttl=99, tags="u")
    assert (ns.get("k"), ns.ttl("k"), ns.invalidate_tag("u")) == (1, 10, 0)
    clock.advance(10)
    assert ns.add("k", 3)
    assert ns.get("k") == 3


def test_delete_tells_whether_there_was_a_fresh_entry(
    ns: Namespace[Any], clock: VirtualClock
) -> None:
    ns.set("fresh", 1)
    ns.set("stale", 1, ttl=1, stale=100)
    clock.advance(1)

    assert ns.delete("fresh") and not ns.delete("fresh")
    assert not ns.delete("stale")
    assert ns.stats().entries == 0  # the stale one was removed all the same


def test_pop(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.update(a=1, b=2)
    ns.set("stale", 3, ttl=1, stale=100)
    clock.advance(1)

    assert (ns.pop("a"), ns.pop("b", None)) == (1, 2)
    assert ns.pop("absent", None) is None
    assert ns.pop("absent", default=5) == 5
    with pytest.raises(KeyError, match="'a'"):
        ns.pop("a")
    with pytest.raises(KeyError, match="'stale'"):
        ns.pop("stale")


def test_incr_counts_and_keeps_what_is_there(ns: Namespace[Any], clock: VirtualClock) -> None:
    assert ns.incr("n", ttl=10) == 1
    clock.advance(4)
    assert ns.incr("n", 5, ttl=99) == 6
    assert ns.ttl("n") == 6
    assert ns.incr("n", -10) == -4
    assert ns.incr("new", 2, default=40) == 42
    assert ns.incr("huge", 2**100) == 2**100
    assert ns.incr("huge", -(2**100)) == 0
    clock.advance(6)
    assert ns.incr("n") == 1


def test_incr_is_atomic() -> None:
    cache: Cache[int] = create_cache()
    barrier = threading.Barrier(4)

    def count() -> None:
        barrier.wait(30)
        for _ in range(2_000):
            cache.incr("n")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache["n"] == 8_000


def test_the_many(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.set_many({"a": 1, "b": None}, ttl=timedelta(seconds=5), tags=("t", "u"), stale=5)
    assert ns.get_many(["b", "absent", "a", "a"]) == {"b": None, "a": 1}
    assert (ns.stats().hits, ns.stats().misses) == (3, 1)
    assert ns.ttl("a") == 5
    assert ns.get_many(iter("ab")) == {"a": 1, "b": None}
    assert ns.get_many([]) == {}
    assert ns.delete_many(["a", "a", "absent"]) == 1
    assert ns.invalidate_tags(["t", "u"], match="all") == 1
    ns.set_many([("x", 1), ("y", 2)])
    ns.set_many(ns.namespace("other"))
    assert dict(ns.items()) == {"x": 1, "y": 2}
    clock.advance(300)
    assert ns.get_many(["x", "y"]) == {}


def test_copying_one_namespace_into_another_does_not_count_as_use() -> None:
    cache, _ = new_cache()
    source, target = cache.namespace("source"), cache.namespace("target")
    source.update(a=1, b=2)
    with unchanged(source):
        target.update(source)
        target.set_many(source)
    assert dict(target.items()) == {"a": 1, "b": 2}


# ------------------------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("ttl", "left"),
    [
        (5, 5),
        (2.5, 2.5),
        (timedelta(minutes=2, milliseconds=500), 120.5),
        (None, None),
        (float("inf"), None),
        (1e300, 1e300),
        (2**60, float(2**60)),
        (timedelta.max, timedelta.max.total_seconds()),
    ],
)
@pytest.mark.parametrize("how", ["set", "add", "set_many", "incr", "touch", "default_ttl"])
def test_a_ttl_in_any_form_by_any_call(how: str, ttl: Any, left: float | None) -> None:
    cache, clock = new_cache()
    clock.now = 0.0
    if how == "set":
        cache.set("k", 1, ttl=ttl)
    elif how == "add":
        cache.add("k", 1, ttl=ttl)
    elif how == "set_many":
        cache.set_many({"k": 1}, ttl=ttl)
    elif how == "incr":
        cache.incr("k", ttl=ttl)
    elif how == "touch":
        cache.set("k", 1, ttl=3)
        assert cache.touch("k", ttl)
    else:
        cache.configure(default_ttl=ttl)
        cache.set("k", 1)
    assert cache.ttl("k") == left
    assert cache.get("k") == 1
    clock.advance(1e5)
    assert ("k" in cache) == (left is None or left > 1e5)
    cache._check()


@pytest.mark.parametrize("held", [False, True])
def test_a_ttl_of_0_stores_nothing(ns: Namespace[Any], held: bool) -> None:
    if held:
        ns.set_many({"set": 1, "many": 1, "touched": 1})
    ns.set("set", 2, ttl=0, tags="t")
    ns.set_many({"many": 2}, ttl=timedelta(0))
    assert not ns.add("added", 2, ttl=0)
    assert ns.incr("n", 3, ttl=0) == 3
    assert ns.touch("touched", ttl=0) is held
    ns.configure(default_ttl=0)
    ns["item"] = 2
    assert ns.setdefault("default", 2) == 2

    assert list(ns) == [] and ns.stats().entries == 0
    assert ns.invalidate_tag("t") == 0
    ns._check()


def test_touch_moves_the_deadline_either_way(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.set("k", 1, ttl=100, tags="t", stale=7)
    assert ns.touch("k", ttl=10) and ns.ttl("k") == 10
    assert ns.touch("k", ttl=50) and ns.ttl("k") == 50
    assert ns.touch("k") and ns.ttl("k") == 300
    assert ns.touch("k", ttl=5)
    clock.advance(5)
    assert "k" not in ns and not ns.touch("k")
    assert ns.stats().entries == 1  # its window was kept
    clock.advance(7)
    ns._sweep()
    assert ns.stats().entries == 0
    assert not ns.touch("absent", ttl=5)


def test_ttl_tells_the_seconds_left(ns: Namespace[Any], clock: VirtualClock) -> None:
    ns.set("k", 1, ttl=10)
    clock.advance(4)
    assert ns.ttl("k") == 6
    ns.set("forever", 1, ttl=None)
    assert ns.ttl("forever") is None
    clock.advance(6)
    for key in ("k", "absent"):
        with pytest.raises(KeyError, match=key):
            ns.ttl(key)


# ------------------------------------------------------------------------------- guards

ROOT_CALLS: dict[str, Callable[[Namespace[Any]], object]] = {
    "get": lambda ns: ns.get("k"),
    "peek": lambda ns: ns.peek("k"),
    "set": lambda ns: ns.set("k", 1),
    "add": lambda ns: ns.add("k", 1),
    "delete": lambda ns: ns.delete("k"),
    "pop": lambda ns: ns.pop("k", None),
    "popitem": lambda ns: ns.popitem(),
    "touch": lambda ns: ns.touch("k"),
    "ttl": lambda ns: ns.ttl("k"),
    "incr": lambda ns: ns.incr("k"),
    "get_many": lambda ns: ns.get_many([]),
    "set_many": lambda ns: ns.set_many({}),
    "delete_many": lambda ns: ns.delete_many([]),
    "[]": lambda ns: ns["k"],
    "[]=": lambda ns: ns.__setitem__("k", 1),
    "del": lambda ns: ns.__delitem__("k"),
    "in": lambda ns: "k" in ns,
    "setdefault": lambda ns: ns.setdefault("k", 1),
    "update": lambda ns: ns.update({}),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
    "fetch": lambda ns: ns.fetch("k", lambda: 1),
    "refresh": lambda ns: ns.refresh("k", lambda: 1),
    "fetch_many": lambda ns: ns.fetch_many(["k"], dict.fromkeys),
}
WIDE_CALLS: dict[str, Callable[[Namespace[Any]], object]] = {
    "len": len,
    "iteration": list,
    "keys": lambda ns: list(ns.keys()),
    "values": lambda ns: list(ns.values()),
    "items": lambda ns: list(ns.items()),
    "clear": lambda ns: ns.clear(),
    "invalidate_tag": lambda ns: ns.invalidate_tag("t"),
    "invalidate_tags": lambda ns: ns.invalidate_tags(["t"]),
    "no tags": lambda ns: ns.invalidate_tags([]),
    "namespace": lambda ns: ns.namespace("below"),
    "namespace anew": lambda ns: ns.namespace("new"),
    "namespaces": lambda ns: ns.namespaces(),
    "configure": lambda ns: ns.configure(default_ttl=5),
    "stats": lambda ns: ns.stats(),
    "reset_stats": lambda ns: ns.reset_stats(),
    "subscribe": lambda ns: ns.subscribe(print),
    "limits": lambda ns: ns.limits,
}


@pytest.mark.parametrize("call", ROOT_CALLS.values(), ids=ROOT_CALLS)
def test_a_cache_that_requires_a_namespace_has_no_entry_without_one(
    call: Callable[[Namespace[Any]], object],
) -> None:
    cache, _ = new_cache(require_namespace=True)
    cache.namespace("a").set("k", 1)
    with unchanged(cache), pytest.raises(NamespaceRequiredError, match="namespace"):
        call(cache)


@pytest.mark.parametrize("call", WIDE_CALLS.values(), ids=WIDE_CALLS)
def test_a_cache_that_requires_a_namespace_can_be_administered_at_its_root(
    call: Callable[[Namespace[Any]], object],
) -> None:
    cache, _ = new_cache(require_namespace=True)
    cache.namespace("a").set("k", 1)
    call(cache)


@pytest.mark.parametrize("place", ["root", "namespace", "below"])
@pytest.mark.parametrize(
    "call", (ROOT_CALLS | WIDE_CALLS).values(), ids=(ROOT_CALLS | WIDE_CALLS).keys()
)
def test_a_closed_cache_refuses_every_call_on_every_view(
    call: Callable[[Namespace[Any]], object], place: str
) -> None:
    cache, _ = new_cache()
    tenant = cache.namespace("tenant")
    below = tenant.namespace("below")
    for namespace in (cache, tenant, below):
        namespace.set("k", 1)
    cache.close()
    with pytest.raises(CacheClosedError, match="closed"):
        call({"root": cache, "namespace": tenant, "below": below}[place])
    cache._check()
