"""Every refused argument of a call: the error names it, and nothing changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest

from flowcache import (
    Cache,
    EntryTooHeavyError,
    FlowcacheError,
    InvalidTagError,
    Limits,
    Namespace,
    WeigherError,
    create_cache,
)
from harness.refusals import Call, crossed, refuse, with_option
from harness.support import VirtualClock, new_cache, unchanged


def load() -> int:
    return 9


def load_many(keys: list[Any]) -> dict[Any, int]:
    return dict.fromkeys(keys, 9)


def run(awaitable: Any) -> Any:
    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


# durations


BAD_SECONDS = [
    (math.nan, ValueError),
    (-1, ValueError),
    (-0.001, ValueError),
    (-math.inf, ValueError),
    (timedelta(seconds=-1), ValueError),
    (10**400, ValueError),
    (-(10**400), ValueError),
    (-(10**5_000), ValueError),
    ("5", TypeError),
    (b"5", TypeError),
    ([], TypeError),
    (1j, TypeError),
]
BAD_TTLS = [*BAD_SECONDS, (True, TypeError), (False, TypeError)]
STORING_CALLS: dict[str, Callable[..., object]] = {
    "set": lambda ns, **options: ns.set("k", 9, **options),
    "set a new key": lambda ns, **options: ns.set("new", 9, **options),
    "add": lambda ns, **options: ns.add("k", 9, **options),
    "add a new key": lambda ns, **options: ns.add("new", 9, **options),
    "set_many": lambda ns, **options: ns.set_many({"k": 9, "new": 9}, **options),
    "set_many of none": lambda ns, **options: ns.set_many({}, **options),
}
LOADING_CALLS: dict[str, Callable[..., object]] = {
    "fetch": lambda ns, **options: ns.fetch("new", load, **options),
    "refresh": lambda ns, **options: ns.refresh("k", load, **options),
    "fetch_many": lambda ns, **options: ns.fetch_many(["k", "new"], load_many, **options),
    "afetch": lambda ns, **options: run(ns.afetch("new", load, **options)),
    "arefresh": lambda ns, **options: run(ns.arefresh("k", load, **options)),
    "afetch_many": lambda ns, **options: run(ns.afetch_many(["k", "new"], load_many, **options)),
}


@crossed(
    with_option("ttl", STORING_CALLS | LOADING_CALLS)
    | {
        "incr": lambda ns, value: ns.incr("n", ttl=value),
        "incr a new key": lambda ns, value: ns.incr("new", ttl=value),
        "touch": lambda ns, value: ns.touch("k", value),
        "touch an absent key": lambda ns, value: ns.touch("absent", ttl=value),
    },
    BAD_TTLS,
)
def test_a_ttl(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "ttl")


@crossed(
    {
        "create_cache": lambda ns, value: create_cache(default_ttl=value),
        "configure": lambda ns, value: ns.configure(default_ttl=value),
        "namespace": lambda ns, value: ns.namespace("new", default_ttl=value),
        "namespace that exists": lambda ns, value: ns.namespace("below", default_ttl=value),
        "Limits": lambda ns, value: Limits(default_ttl=value),
    },
    BAD_TTLS,
)
def test_a_default_ttl(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "default_ttl")


@crossed(with_option("stale", STORING_CALLS | LOADING_CALLS), BAD_SECONDS)
def test_a_stale_window(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "stale")


@crossed(
    {
        "max_pending_age": lambda ns, value: create_cache(max_pending_age=value),
        "sweep_interval": lambda ns, value: create_cache(sweep_interval=value),
    },
    BAD_TTLS,
)
def test_a_duration_of_the_cache(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "max_pending_age|sweep_interval")


def test_a_sweep_interval_of_nothing() -> None:
    with pytest.raises(ValueError, match="sweep_interval"):
        create_cache(sweep_interval=0)


# tags


BAD_TAGS: list[tuple[Any, type[Exception]]] = [
    ("", InvalidTagError),
    ("x" * 257, InvalidTagError),
    (["a", ""], InvalidTagError),
    (("",), InvalidTagError),
    (None, TypeError),
    (5, TypeError),
    (b"t", TypeError),
    (bytearray(b"t"), TypeError),
    (["t", None], TypeError),
    ([b"t"], TypeError),
    (("t", 1), TypeError),
]


@crossed(
    with_option("tags", STORING_CALLS | LOADING_CALLS)
    | {
        "invalidate_tags": lambda ns, value: ns.invalidate_tags(value),
        "invalidate_tags, all": lambda ns, value: ns.invalidate_tags(value, match="all"),
    },
    BAD_TAGS,
)
def test_tags(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "tag")


@pytest.mark.parametrize(
    ("tag", "error"),
    [
        ("", InvalidTagError),
        ("x" * 257, InvalidTagError),
        (None, TypeError),
        (1, TypeError),
        (b"t", TypeError),
        (("t",), TypeError),
    ],
)
def test_the_tag_of_invalidate_tag(tag: Any, error: type[Exception]) -> None:
    refuse(lambda ns, value: ns.invalidate_tag(value), tag, error, "tag")


def test_what_an_iterable_of_tags_raises_is_not_disguised() -> None:
    def tags() -> Iterable[str]:
        yield "t"
        raise TypeError("mine")

    refuse(lambda ns, value: ns.set("k", 9, tags=value), tags(), TypeError, "^mine$")


@pytest.mark.parametrize("match", ["some", "", None, "ANY", 1])
def test_how_tags_are_to_match(match: Any) -> None:
    refuse(lambda ns, value: ns.invalidate_tags("t", match=value), match, ValueError, "match")


@pytest.mark.parametrize("prefix", [None, 1, b"k", ("k",)])
def test_a_prefix(prefix: Any) -> None:
    refuse(lambda ns, value: ns.invalidate_prefix(value), prefix, TypeError, "prefix")


# keys


KEYED_CALLS: dict[str, Call] = {
    "get": lambda ns, key: ns.get(key),
    "peek": lambda ns, key: ns.peek(key),
    "[]": lambda ns, key: ns[key],
    "in": lambda ns, key: key in ns,
    "ttl": lambda ns, key: ns.ttl(key),
    "get_many": lambda ns, key: ns.get_many(["k", key, "n"]),
    "set": lambda ns, key: ns.set(key, 9),
    "[]=": lambda ns, key: ns.__setitem__(key, 9),
    "add": lambda ns, key: ns.add(key, 9),
    "set_many": lambda ns, key: ns.set_many([("k", 9), (key, 9), ("n", 9)]),
    "update": lambda ns, key: ns.update([("k", 9), (key, 9), ("n", 9)]),
    "setdefault": lambda ns, key: ns.setdefault(key, 9),
    "incr": lambda ns, key: ns.incr(key),
    "touch": lambda ns, key: ns.touch(key, ttl=5),
    "delete": lambda ns, key: ns.delete(key),
    "del": lambda ns, key: ns.__delitem__(key),
    "pop": lambda ns, key: ns.pop(key),
    "pop with a default": lambda ns, key: ns.pop(key, None),
    "delete_many": lambda ns, key: ns.delete_many(["k", key, "n"]),
    "in items": lambda ns, key: (key, 1) in ns.items(),
    "fetch": lambda ns, key: ns.fetch(key, load),
    "refresh": lambda ns, key: ns.refresh(key, load),
    "fetch_many": lambda ns, key: ns.fetch_many(["k", key], load_many),
    "afetch": lambda ns, key: run(ns.afetch(key, load)),
    "arefresh": lambda ns, key: run(ns.arefresh(key, load)),
    "afetch_many": lambda ns, key: run(ns.afetch_many(["k", key], load_many)),
}


@crossed(KEYED_CALLS, [([], TypeError), ({}, TypeError), (("a", []), TypeError)])
def test_an_unhashable_key(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "unhashable")


LOADING = ("fetch", "refresh")


class Angry:
    """A key with the hash of "k" and an `__eq__` that raises."""

    def __hash__(self) -> int:
        return hash("k")

    def __eq__(self, other: object) -> bool:
        raise LookupError("not now")


@crossed(
    {
        name: call
        for name, call in KEYED_CALLS.items()
        # Calls that look up or load several keys in turn have counted the earlier keys.
        if not name.endswith("_many") and name != "update" and not name.endswith(LOADING)
    },
    [(Angry(), LookupError)],
)
def test_a_key_that_will_not_be_compared(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "not now")


# counters


@pytest.mark.parametrize(
    ("key", "options", "named"),
    [
        ("n", {"delta": 1.5}, "delta"),
        ("n", {"delta": "1"}, "delta"),
        ("n", {"delta": True}, "delta"),
        ("n", {"delta": None}, "delta"),
        ("new", {"default": 1.5}, "default"),
        ("new", {"default": None}, "default"),
        ("text", {}, "key"),
        ("flag", {}, "key"),
        ("nothing", {}, "key"),
    ],
)
def test_what_cannot_be_counted(key: str, options: dict[str, Any], named: str) -> None:
    cache, _ = new_cache()
    cache.set_many({"n": 1, "text": "1", "flag": True, "nothing": None})
    with unchanged(cache), pytest.raises(TypeError, match=named):
        cache.incr(key, **options)


# weights


WEIGHED_CALLS: dict[str, Call] = {
    "set": lambda ns, value: ns.set("k", value),
    "set a new key": lambda ns, value: ns.set("new", value),
    "[]=": lambda ns, value: ns.__setitem__("new", value),
    "add": lambda ns, value: ns.add("new", value),
    "set_many": lambda ns, value: ns.set_many({"k": 1, "new": value}),
    "update": lambda ns, value: ns.update({"k": 1, "new": value}),
    "set over what has expired": lambda ns, value: ns.set("gone", value),
    "with a new tag": lambda ns, value: ns.set("new", value, tags="fresh"),
}
COUNTED_CALLS: dict[str, Call] = {"incr": lambda ns, value: ns.incr("new", default=value)}


def weighed(value: Any) -> Any:
    """A weigher: it returns the value itself as the weight."""
    if value == "fails":
        raise LookupError("the weigher's own")
    return value


def weighing() -> tuple[Cache[Any], Namespace[Any]]:
    cache, clock = new_cache(max_weight=10, weigher=lambda key, value: weighed(value))
    namespace = cache.namespace("a", max_weight=8)
    namespace.set("gone", 1, ttl=1)
    clock.advance(2)
    namespace.set("k", 3, tags="t", ttl=9)
    namespace.set("other", 2)
    cache.sweep()
    namespace.set("gone", 1, ttl=1, stale=1)
    clock.advance(1)
    return cache, namespace


@crossed(WEIGHED_CALLS | COUNTED_CALLS, [(9, EntryTooHeavyError), (11, EntryTooHeavyError)])
def test_a_value_that_is_too_heavy(call: Call, value: Any, error: type[Exception]) -> None:
    cache, namespace = weighing()
    with unchanged(cache), pytest.raises(error, match="weighs"):
        call(namespace, value)


@crossed(
    WEIGHED_CALLS,
    [
        (-1, WeigherError),
        (1.5, WeigherError),
        (None, WeigherError),
        (True, WeigherError),
        (2**62, WeigherError),
        (10**5_000, WeigherError),
        ("fails", LookupError),
    ],
)
def test_a_weigher_that_fails(call: Call, value: Any, error: type[Exception]) -> None:
    cache, namespace = weighing()
    with unchanged(cache), pytest.raises(error, match="weigher"):
        call(namespace, value)


def test_a_default_that_is_too_heavy_is_a_counted_miss_and_no_more() -> None:
    cache, namespace = weighing()
    with pytest.raises(EntryTooHeavyError, match="weighs"):
        namespace.setdefault("new", 9)
    assert "new" not in namespace and namespace.stats().misses == 1
    cache._check()


# the clock


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        ("now", TypeError),
        (None, TypeError),
    ],
)
@pytest.mark.parametrize("call", KEYED_CALLS.values(), ids=KEYED_CALLS)
def test_a_clock_that_fails(call: Call, now: Any, error: type[Exception]) -> None:
    clock = VirtualClock()
    cache: Cache[Any] = create_cache(clock=clock)
    namespace = cache.namespace("a")
    namespace.set("k", 1, ttl=60)
    with unchanged(cache):
        clock.now, before = now, clock.now
        try:
            with pytest.raises(error, match="clock"):
                call(namespace, "k")
        finally:
            clock.now = before


# events


@pytest.mark.parametrize(
    ("kinds", "error"),
    [("sets", ValueError), (["set", "sets"], ValueError), (5, TypeError), ([None], ValueError)],
)
def test_a_kind_of_event(kinds: Any, error: type[Exception]) -> None:
    refuse(lambda ns, value: ns.subscribe(print, kinds=value), kinds, error, "kinds")


def test_a_listener_that_cannot_be_called() -> None:
    refuse(lambda ns, value: ns.subscribe(value), 5, TypeError, "listener")


# the errors


def test_each_error_is_flowcaches_own_and_the_builtin_that_one_would_catch() -> None:
    import flowcache

    errors = {
        "CacheClosedError": RuntimeError,
        "ConfigurationError": ValueError,
        "EntryTooHeavyError": ValueError,
        "InvalidNamespaceError": ValueError,
        "InvalidTagError": ValueError,
        "LoadTimeoutError": TimeoutError,
        "NamespaceRequiredError": RuntimeError,
        "RecursiveLoadError": RuntimeError,
        "TenantNotSetError": LookupError,
        "TierUnavailableError": ConnectionError,
        "TooManyLoadsError": RuntimeError,
        "WeigherError": ValueError,
        "WouldBlockError": RuntimeError,
    }
    for name, builtin in errors.items():
        assert issubclass(getattr(flowcache, name), (FlowcacheError, builtin))
        assert issubclass(getattr(flowcache, name), builtin)
    assert {name for name in flowcache.__all__ if name.endswith("Error")} == {
        *errors,
        "FlowcacheError",
    }
