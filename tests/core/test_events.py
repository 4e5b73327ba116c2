"""Events: their listeners, kinds, causes and moments, and the calls that a listener may make."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, Event, Namespace
from harness.support import logged, new_cache

KINDS = ("hit", "miss", "stale_hit", "set", "remove", "load", "load_error", "refresh", "sweep")
Told = tuple[str, tuple[str, ...], Any, str | None, Any]


def listen(namespace: Namespace[Any], kinds: Any = None) -> list[Told]:
    """The events of a namespace from now on: kind, path, key, cause, value."""
    told: list[Told] = []

    def note(event: Event) -> None:
        told.append((event.kind, event.path, event.key, event.cause, event.value))

    namespace.subscribe(note, kinds)
    return told


def load() -> str:
    return "loaded"


def fail() -> str:
    raise OSError("down")


def attempt(ns: Namespace[Any]) -> None:
    with pytest.raises(OSError, match="down"):
        ns.fetch("absent", fail)


CALLS: dict[str, tuple[Callable[[Namespace[Any]], object], list[tuple[Any, ...]]]] = {
    "get": (lambda ns: ns.get("k"), [("hit", "k", None, "v")]),
    "get, absent": (lambda ns: ns.get("absent"), [("miss", "absent", None, None)]),
    "[]": (lambda ns: ns["k"], [("hit", "k", None, "v")]),
    "get_many": (
        lambda ns: ns.get_many(["k", "absent"]),
        [("hit", "k", None, "v"), ("miss", "absent", None, None)],
    ),
    "peek": (lambda ns: ns.peek("k"), []),
    "in": (lambda ns: "k" in ns, []),
    "set": (lambda ns: ns.set("new", 1), [("set", "new", None, 1)]),
    "set again": (
        lambda ns: ns.set("k", "w"),
        [("remove", "k", "replaced", "v"), ("set", "k", None, "w")],
    ),
    "set, ttl=0": (lambda ns: ns.set("k", "w", ttl=0), [("remove", "k", "replaced", "v")]),
    "add, there": (lambda ns: ns.add("k", "w"), []),
    "incr": (lambda ns: ns.incr("n"), [("remove", "n", "replaced", 1), ("set", "n", None, 2)]),
    "touch": (lambda ns: ns.touch("k"), []),
    "touch, ttl=0": (lambda ns: ns.touch("k", ttl=0), [("remove", "k", "expired", "v")]),
    "delete": (lambda ns: ns.delete("k"), [("remove", "k", "deleted", "v")]),
    "delete, absent": (lambda ns: ns.delete("absent"), []),
    "pop": (lambda ns: ns.pop("k"), [("remove", "k", "deleted", "v")]),
    "popitem": (lambda ns: ns.popitem(), [("remove", "k", "deleted", "v")]),
    "delete_many": (
        lambda ns: ns.delete_many(["n", "k"]),
        [("remove", "n", "deleted", 1), ("remove", "k", "deleted", "v")],
    ),
    "invalidate_tag": (lambda ns: ns.invalidate_tag("t"), [("remove", "k", "tag", "v")]),
    "invalidate_prefix": (lambda ns: ns.invalidate_prefix("k"), [("remove", "k", "prefix", "v")]),
    "clear": (
        lambda ns: ns.clear(),
        [("remove", "k", "cleared", "v"), ("remove", "n", "cleared", 1)],
    ),
    "a smaller limit": (
        lambda ns: ns.configure(max_entries=1),
        [("remove", "k", "over_limit", "v")],
    ),
    "a store over the limit": (
        lambda ns: (ns.configure(max_entries=2), ns.set("new", 1)),
        [("remove", "k", "evicted", "v"), ("set", "new", None, 1)],
    ),
    "fetch": (lambda ns: ns.fetch("k", load), [("hit", "k", None, "v")]),
    "fetch, absent": (
        lambda ns: ns.fetch("absent", load),
        [
            ("miss", "absent", None, None),
            ("set", "absent", None, "loaded"),
            ("load", "absent", None, "loaded"),
        ],
    ),
    "fetch, failing": (
        attempt,
        [("miss", "absent", None, None), ("load_error", "absent", None, None)],
    ),
    "afetch": (
        lambda ns: asyncio.run(once(ns)),
        [("hit", "k", None, "v")],
    ),
}


async def once(ns: Namespace[Any]) -> Any:
    return await ns.afetch("k", load)


@pytest.mark.parametrize(("call", "expected"), CALLS.values(), ids=CALLS)
def test_what_a_call_tells_whom(
    call: Callable[[Namespace[Any]], object], expected: list[tuple[Any, ...]]
) -> None:
    cache, _ = new_cache()
    ns = cache.namespace("top", "n")
    ns.set("k", "v", tags="t")
    ns.set("n", 1)
    beside, below = cache.namespace("top", "beside"), ns.namespace("below")
    itself, above, root = listen(ns), listen(cache.namespace("top")), listen(cache)
    elsewhere = [listen(beside), listen(below)]
    call(ns)

    assert sorted(itself, key=str) == sorted(
        [(kind, ("top", "n"), *rest) for kind, *rest in expected], key=str
    )
    assert itself == above == root
    assert elsewhere == [[], []]
    removals = [told for told in itself if told[0] == "remove"]
    assert removals == [
        ("remove", ("top", "n"), *rest) for kind, *rest in expected if kind == "remove"
    ]


def test_an_expiry_is_told_when_the_entry_is_reclaimed() -> None:
    cache, clock = new_cache()
    told = listen(cache)
    cache.namespace("a").set("k", 1, ttl=1)
    clock.advance(1)
    assert cache.sweep() == 1
    assert told[1:] == [("remove", ("a",), "k", "expired", 1), ("sweep", (), None, None, 1)]


def test_an_eviction_is_told_by_the_namespace_that_gave_way() -> None:
    cache, _ = new_cache(max_entries=2)
    cache.namespace("a").update(x=1, y=2)
    a, b = listen(cache.namespace("a")), listen(cache.namespace("b"))
    cache.namespace("b").set("z", 3)
    assert a == [("remove", ("a",), "x", "evicted", 1)]
    assert b == [("set", ("b",), "z", None, 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_hears_the_kinds_that_it_asked_for(kind: str) -> None:
    cache, clock = new_cache()
    several = listen(cache, kinds=[kind, "set"])
    one = listen(cache, kinds=kind)
    none = listen(cache, kinds=())
    exercise(cache, clock.advance)

    assert {told[0] for told in one} == {kind}
    assert {told[0] for told in several} == {kind, "set"}
    assert none == []


def exercise(cache: Cache[Any], advance: Callable[[float], None]) -> None:
    """Cause an event of every kind."""
    cache.fetch("k", load, ttl=10, stale=100)
    cache.get("k")
    with pytest.raises(OSError, match="down"):
        cache.fetch("absent", fail)
    advance(11)
    assert cache.fetch("k", load, ttl=10, stale=100) == "loaded"
    cache.refresh("k", load)
    cache.delete("k")
    cache.sweep()


def test_the_event_of_a_failed_load_bears_the_error() -> None:
    cache, _ = new_cache()
    errors: list[Event] = []
    cache.subscribe(errors.append, kinds="load_error")
    attempt(cache)
    assert isinstance(errors[0].error, OSError) and errors[0].seconds >= 0


def test_an_event_bears_the_name_of_its_cache() -> None:
    one, _ = new_cache(name="one")
    other, _ = new_cache(name="other")
    told: list[Event] = []
    for cache in (one, other):
        cache.namespace("a").subscribe(told.append)
        cache.namespace("a").set("k", 1)
        cache.clear()
    assert [(event.cache, event.kind) for event in told] == [
        ("one", "set"),
        ("one", "remove"),
        ("other", "set"),
        ("other", "remove"),
    ]


def test_listening_ends() -> None:
    cache, _ = new_cache()
    told: list[Event] = []
    end = cache.subscribe(told.append)
    cache.set("k", 1)
    end()
    end()
    cache.set("k", 2)
    assert len(told) == 1


def test_one_listener_may_listen_twice_and_end_once() -> None:
    cache, _ = new_cache()
    told: list[Event] = []
    end = cache.subscribe(told.append, "set")
    cache.subscribe(told.append, "set")
    cache.set("k", 1)
    end()
    cache.set("k", 2)
    assert len(told) == 3


def test_listeners_run_after_the_change_is_complete() -> None:
    cache, _ = new_cache(max_entries=1)
    seen: list[Any] = []

    def look(event: Event) -> None:
        cache._check()
        seen.append((event.kind, event.key, event.key in cache, len(cache), cache.stats().entries))

    cache.subscribe(look, kinds=("set", "remove"))
    cache.set("a", 1)
    cache.set("b", 2)
    cache.delete("b")
    assert seen == [
        ("set", "a", True, 1, 1),
        ("remove", "a", False, 1, 1),
        ("set", "b", True, 1, 1),
        ("remove", "b", False, 0, 0),
    ]


def test_a_listener_may_use_the_cache_subscribe_and_unsubscribe() -> None:
    cache, _ = new_cache()
    ends: list[Callable[[], None]] = []
    later: list[Event] = []

    def react(event: Event) -> None:
        ends.pop()()
        cache.subscribe(later.append, "set")
        cache.set("b", 2)
        cache.namespace("log").set("last", event.key)
        cache.clear()

    ends.append(cache.subscribe(react, kinds="set"))
    cache.set("a", 1)
    assert [event.key for event in later] == ["b", "last"]
    assert cache.stats().entries == 0
    cache._check()


def test_a_listener_that_raises_is_logged_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, _ = new_cache()

    def raises(event: Event) -> None:
        raise LookupError("the listener's own")

    cache.subscribe(raises)
    told = listen(cache)
    with caplog.at_level(logging.ERROR, logger="flowcache"):
        cache.set("k", 1)
        assert cache.get("k") == 1
        assert cache.delete("k")
        assert cache.fetch("k", load) == "loaded"
    assert len(logged(caplog)) == len(told)
    assert "the listener's own" in caplog.text
    assert [kind for kind, *_ in told] == ["set", "hit", "remove", "miss", "set", "load"]
    cache._check()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_listener_comes_out_of_the_call_whose_change_is_complete(
    error: type[BaseException],
) -> None:
    cache, _ = new_cache()
    cache.update(a=1, b=2)

    def strike(event: Event) -> None:
        raise error

    end = cache.subscribe(strike, "remove")
    with pytest.raises(error):
        cache.clear()
    end()
    assert len(cache) == 0
    cache._check()


def test_a_listener_hears_of_no_entry_removed_before_it() -> None:
    cache, _ = new_cache()

    class Maker:
        """Makes a namespace as it is dropped, which may take a number that was handed back."""

        def __del__(self) -> None:
            cache.namespace(f"new {len(list(cache.namespaces()))}")

    ns = cache.namespace("a")
    ns.update({number: Maker() if number > 9_900 else None for number in range(10_000)})
    assert ns.clear() == 10_000
    told = listen(cache, "remove")
    cache.sweep()
    assert told == []
    cache._check()
