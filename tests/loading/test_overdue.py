"""The threads that calls with `timeout=` leave behind are bounded, tenant by tenant."""

from __future__ import annotations

import os
from typing import Any

import pytest

from flowcache import Cache, LoadTimeoutError, Namespace, TooManyLoadsError, create_cache
from flowcache.loading import overdue
from harness.loading_support import Caller, Gate, assert_nothing_left, wait_until
from harness.support import new_cache


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overdue, "PER_TENANT", 3)
    monkeypatch.setattr(overdue, "MOST", 5)


def leave(namespace: Namespace[Any], gate: Gate, *keys: Any) -> None:
    """Make calls that run out of patience at once."""
    for key in keys:
        with pytest.raises(LoadTimeoutError):
            namespace.fetch(key, gate, timeout=0)


def end(cache: Cache[Any], gate: Gate) -> None:
    gate.open.set()
    wait_until(lambda: cache.stats().pending == 0)
    wait_until(lambda: not overdue._threads.get(cache._store()))
    assert_nothing_left(cache)


def test_a_tenant_leaves_no_more_threads_behind_than_it_may() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant")
    gate = Gate()
    leave(own, gate, 1, 2)
    leave(own.namespace("below"), gate, 3)
    for place in (own, own.namespace("below"), own.namespace("other", "one")):
        with pytest.raises(TooManyLoadsError, match=r"^timeout: 3 threads still run .*tenant"):
            place.fetch(4, gate, timeout=60)
        with pytest.raises(TooManyLoadsError):
            place.fetch_many([4, 5], lambda keys: dict.fromkeys(keys, gate()), timeout=60)
    assert cache.stats().pending == 3
    wait_until(lambda: gate.calls == 3)
    # Calls that start no thread: one without a timeout, one for what is held, one that joins.
    assert own.fetch(4, lambda: "loaded") == "loaded"
    assert own.fetch(4, gate, timeout=60) == "loaded"
    joiner = Caller(lambda: own.fetch(1, gate, timeout=60))
    wait_until(lambda: own.stats().coalesced == 1)
    # While a call waits for it, that thread is none that was left behind.
    assert own.fetch(5, lambda: 5, timeout=60) == 5
    gate.open.set()
    assert joiner.result() == "loaded"
    end(cache, gate)
    assert own.fetch(6, lambda: 6, timeout=60) == 6


def test_an_old_value_may_stand_in() -> None:
    cache, clock = new_cache()
    own = cache.namespace("tenant")
    own.set("k", "old", ttl=1, stale=100)
    clock.advance(2)
    gate = Gate()
    leave(own, gate, 1, 2, 3)
    assert own.fetch("k", gate, stale=False, stale_if_error=100, timeout=60) == "old"
    end(cache, gate)


def test_what_other_tenants_leave_behind_costs_a_tenant_its_first_thread_never() -> None:
    cache, _ = new_cache()
    gate = Gate()
    leave(cache.namespace("a"), gate, 1, 2, 3)
    leave(cache.namespace("b"), gate, 1, 2)
    with pytest.raises(TooManyLoadsError):  # The cache as a whole has as many as it may.
        cache.namespace("b").fetch(3, gate, timeout=60)
    leave(cache.namespace("c"), gate, 1)
    with pytest.raises(TooManyLoadsError):
        cache.namespace("c").fetch(2, gate, timeout=60)
    assert create_cache().namespace("a").fetch(1, lambda: 1, timeout=60) == 1
    end(cache, gate)


def test_calls_that_wait_are_not_bounded() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant")
    gate = Gate()
    callers = [Caller(lambda key=key: own.fetch(key, gate, timeout=60)) for key in range(10)]
    wait_until(lambda: gate.calls == 10)
    gate.open.set()
    assert [caller.result() for caller in callers] == ["loaded"] * 10
    end(cache, gate)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_has_none_of_them() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant")
    gate = Gate()
    leave(own, gate, 1, 2, 3)
    child = os.fork()
    if not child:
        try:
            os._exit(own.fetch(4, lambda: 0, timeout=60))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    end(cache, gate)
