"""`invalidate_where`: a predicate decides, and is a user's code."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flowcache import CacheClosedError, Event
from flowcache._core import _testing
from harness.support import Colliding, new_cache, unchanged


def test_it_removes_what_the_predicate_is_true_of_here_and_below() -> None:
    cache, _ = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    below = acme.namespace("below")
    seen: list[Event] = []
    for namespace in (cache, acme, beta, below):
        for key in range(6):
            namespace.set(key, key * 10)
    cache.subscribe(seen.append, kinds="remove")
    assert acme.invalidate_where(lambda key, value: key % 2 or value == 40) == 8
    assert [list(namespace) for namespace in (cache, acme, below, beta)] == [
        [0, 1, 2, 3, 4, 5],
        [0, 2],
        [0, 2],
        [0, 1, 2, 3, 4, 5],
    ]
    assert {event.cause for event in seen} == {"deleted"} and len(seen) == 8
    assert acme.stats().invalidations == 8
    cache._check()


def test_stale_entries_are_looked_at_too() -> None:
    cache, clock = new_cache()
    cache.set("stale", 1, ttl=1, stale=100)
    cache.set("gone", 1, ttl=1)
    clock.advance(2)
    assert cache.invalidate_where(lambda key, value: True) == 1
    assert cache.fetch("stale", lambda: 2) == 2


def test_where_the_predicate_raises_nothing_is_removed() -> None:
    cache, _ = new_cache()
    for key in range(4):
        cache.set(key, key)

    def predicate(key: int, value: int) -> bool:
        if key == 3:
            raise ZeroDivisionError
        return True

    with unchanged(cache), pytest.raises(ZeroDivisionError):
        cache.invalidate_where(predicate)


async def never(key: object, value: object) -> bool:
    raise AssertionError


def never_told(key: object, value: object) -> Any:
    return never(key, value)


@pytest.mark.parametrize("predicate", [never, never_told])
def test_a_predicate_that_must_be_awaited_is_refused(predicate: Any) -> None:
    cache, _ = new_cache()
    cache.set("k", 1)
    with unchanged(cache), pytest.raises(TypeError, match="predicate"):
        cache.invalidate_where(predicate)


def test_every_load_that_runs_here_is_fenced() -> None:
    cache, _ = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    began, ended = threading.Event(), threading.Event()
    threads = []
    for namespace in (acme.namespace("below"), beta):

        def load() -> int:
            began.set()
            assert ended.wait(20)
            return 1

        threads.append(threading.Thread(target=namespace.fetch, args=("k", load)))
        threads[-1].start()
        assert began.wait(20)
        began.clear()
    assert acme.invalidate_where(lambda key, value: False) == 0
    ended.set()
    for thread in threads:
        thread.join()
    assert "k" not in acme.namespace("below")
    assert "k" in beta


def test_what_was_replaced_meanwhile_was_not_looked_at_and_stays() -> None:
    cache, _ = new_cache()
    cache.set("a", "old a")
    cache.set("b", "old b")

    def predicate(key: str, value: str) -> bool:
        if key == "b":
            cache.set("a", "new a")
        return value.startswith("old")

    assert cache.invalidate_where(predicate) == 1
    assert dict(cache.items()) == {"a": "new a"}


@pytest.mark.parametrize("meddle", ["clear", "delete", "close", "evict", "forget"])
def test_a_predicate_may_call_back(meddle: str) -> None:
    cache, _ = new_cache(max_entries=8, max_idle_namespaces=0)
    _testing.slice(cache, 2, 4)
    below = cache.namespace("below")
    for key in range(4):
        cache.set(Colliding(str(key)), key)
        below.set(key, key)
    del below
    calls = []

    def predicate(key: object, value: object) -> bool:
        calls.append(key)
        if meddle == "clear":
            cache.clear()
        elif meddle == "close":
            cache.close()
        elif meddle == "evict":
            for new in range(20):
                cache.set(f"new {new}", value)
        elif meddle == "forget":
            cache.namespace("below").clear()
            for new in range(20):
                cache.namespace(str(new))
        elif isinstance(key, Colliding):
            cache.delete(key)
        else:
            cache.namespace("below").delete(key)
        return True

    if meddle == "close":
        with pytest.raises(CacheClosedError):
            cache.invalidate_where(predicate)
    else:
        assert cache.invalidate_where(predicate) <= 8
        cache._check()
        cache.sweep()
        cache._check()
    assert calls


def test_entries_that_wait_to_be_dropped_are_left_alone() -> None:
    """Another thread has taken both entries out, and tells of the first while the second waits."""
    cache, _ = new_cache()
    tells, goes_on = threading.Event(), threading.Event()

    def listen(event: Event) -> None:
        if event.key == "first":
            tells.set()
            assert goes_on.wait(20)

    cache.set("first", 1, tags="t")
    cache.set("second", 2, tags="t")
    unsubscribe = cache.subscribe(listen, kinds="remove")
    other = threading.Thread(target=cache.invalidate_tag, args=("t",))

    def predicate(key: str, value: int) -> bool:
        if key == "second":
            other.start()
            assert tells.wait(20)
        return key == "second"

    assert cache.invalidate_where(predicate) == 0
    goes_on.set()
    other.join()
    unsubscribe()
    assert cache.stats().invalidations == 2
    cache._check()


def test_a_namespace_that_ends_up_empty_is_idle_then() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    cache.namespace("acme").set("k", 1)
    assert cache.invalidate_where(lambda key, value: True) == 1
    cache._check()
    assert _testing.namespaces_held(cache) == 1
