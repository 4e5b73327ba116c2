"""The life of a cache: its beginning, its sweeper, and its end with all that belongs to it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from flowcache import Cache, CacheClosedError, Event, Namespace, create_cache
from harness.support import VirtualClock, new_cache


def test_create_cache_and_cache_take_the_same_parameters() -> None:
    import inspect

    made, called = inspect.signature(create_cache), inspect.signature(Cache)
    assert made.parameters == called.parameters
    defaults = {name: parameter.default for name, parameter in made.parameters.items()}
    assert defaults == {
        "default_ttl": 300.0,
        "max_entries": 10_000,
        "max_weight": None,
        "weigher": None,
        "child_limits": None,
        "require_namespace": False,
        "max_pending_age": 30.0,
        "sweep_interval": None,
        "max_idle_namespaces": 10_000,
        "clock": None,
        "name": "flowcache",
        "executor": None,
        "enabled": True,
        "around_load": None,
        "tenant_depth": 1,
        "tier": None,
        "eviction": "lru",
        "sharing": "fair",
        "max_loss": 0.05,
    }
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in made.parameters.values())


def test_a_cache_is_its_own_root_namespace() -> None:
    cache = create_cache(name="crm", max_pending_age=timedelta(seconds=5))
    assert isinstance(cache, Cache) and isinstance(cache, Namespace)
    assert (cache.name, cache.path) == ("crm", ())


def test_close_drops_everything_and_closing_twice_is_closing_once() -> None:
    class Value:
        pass

    cache = create_cache()
    value = Value()
    gone = weakref.ref(value)
    told: list[Event] = []
    cache.namespace("a").set("k", value, tags="t")
    cache.subscribe(told.append, "remove")
    del value
    cache.close()
    cache.close()

    assert [(event.path, event.cause) for event in told] == [(("a",), "cleared")]
    told.clear()
    assert gone() is None
    cache._check()


def test_a_closed_cache_still_has_its_name() -> None:
    cache = create_cache(name="crm")
    view = cache.namespace("a")
    cache.close()
    assert (cache.name, view.path, repr(view)) == (
        "crm",
        ("a",),
        "<flowcache.Namespace 'crm' 'a'>",
    )
    assert view == view and hash(view) == hash(view)


def test_sweep_and_the_context_manager_of_a_closed_cache() -> None:
    cache = create_cache()
    cache.close()
    with pytest.raises(CacheClosedError):
        cache.sweep()
    with pytest.raises(CacheClosedError), cache:
        pass


def test_the_context_manager_closes_whatever_happens() -> None:
    with create_cache() as cache:
        cache.set("k", 1)
    with pytest.raises(CacheClosedError):
        cache.get("k")
    with pytest.raises(LookupError, match="mine"), create_cache() as cache:
        raise LookupError("mine")
    with pytest.raises(CacheClosedError):
        cache.get("k")


def test_the_async_context_manager() -> None:
    async def main() -> Cache[Any]:
        async with create_cache() as cache:
            assert await cache.afetch("k", lambda: 1) == 1
        with pytest.raises(CacheClosedError):
            async with cache:
                pass
        return cache

    with pytest.raises(CacheClosedError):
        asyncio.run(main()).get("k")


def test_a_load_that_runs_as_the_cache_closes_is_not_stored() -> None:
    cache = create_cache()

    def load() -> int:
        cache.close()
        return 1

    assert cache.fetch("k", load) == 1
    cache._check()


def test_a_cache_and_its_entries_go_with_the_last_view_and_without_the_collector() -> None:
    class Value:
        pass

    gc.collect()
    gc.disable()
    try:
        cache = create_cache(sweep_interval=3_600)
        value = Value()
        gone = weakref.ref(value)
        cache.namespace("a").set("k", value)
        view = cache.namespace("b")
        del value, cache
        assert gone() is not None
        del view
        assert gone() is None
    finally:
        gc.enable()


def test_a_value_that_holds_its_cache_is_collected_with_it() -> None:
    class Value:
        def __init__(self, cache: Cache[Any]) -> None:
            self.cache = cache

        def note(self, event: Event) -> None:
            pass

    cache = create_cache()
    value = Value(cache)
    gone = weakref.ref(value)
    cache.namespace("a").set(("k", value), value)
    cache.subscribe(value.note)
    del cache, value
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------------------- sweepers


def sweepers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "flowcache-sweep"}


@pytest.fixture
def no_sweeper_left() -> Iterator[None]:
    before = sweepers()
    yield
    gc.collect()
    until(lambda: sweepers() <= before)


def until(happened: Callable[[], bool]) -> None:
    """Wait for a change by another thread; a minute without it fails the test."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


pytestmark = pytest.mark.usefixtures("no_sweeper_left")


def test_a_cache_without_an_interval_has_no_thread() -> None:
    before = set(threading.enumerate())
    cache = create_cache()
    assert set(threading.enumerate()) <= before
    cache.close()


def test_a_background_sweep_expires_what_is_due_in_every_namespace() -> None:
    clock = VirtualClock()
    with create_cache(sweep_interval=0.002, clock=clock) as cache:
        swept = threading.Event()
        cache.subscribe(lambda event: swept.set(), kinds="sweep")
        for name in ("a", "b"):
            cache.namespace(name).set("k", 1, ttl=1)
        swept.clear()
        assert swept.wait(60)
        assert cache.stats().entries == 2
        clock.advance(1)
        until(lambda: cache.stats().entries == 0)
        assert cache.stats().expirations == 2
        (thread,) = [thread for thread in sweepers() if thread.is_alive()]
        assert thread.daemon
    until(lambda: not thread.is_alive())


def test_the_sweeper_lives_as_long_as_any_view_and_ends_with_the_last() -> None:
    clock = VirtualClock()
    cache = create_cache(sweep_interval=0.002, clock=clock)
    views = [cache.namespace("a")]
    views[0].set("k", 1, ttl=1)
    (thread,) = sweepers()
    del cache
    gc.collect()
    clock.advance(1)
    until(lambda: views[0].stats().entries == 0)
    assert thread.is_alive()
    views.clear()
    gc.collect()
    until(lambda: not thread.is_alive())


def test_the_sweeper_of_an_interval_without_end_ends_with_its_cache() -> None:
    cache = create_cache(sweep_interval=1e300)
    (thread,) = sweepers()
    cache.close()
    until(lambda: not thread.is_alive())


def test_a_sweep_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    # By set_level both times: at_level would restore CRITICAL as the earlier level, and keep it for
    # every later test.
    caplog.set_level(logging.CRITICAL, logger="flowcache")
    with create_cache(sweep_interval=0.002, clock=clock) as cache:
        cache.set("k", 1, ttl=1)
        caplog.set_level(logging.ERROR, logger="flowcache")
        clock.now, now = float("nan"), clock.now
        until(lambda: "sweep" in caplog.text)
        clock.now = now + 1
        until(lambda: cache.stats().entries == 0)


def test_a_cache_of_the_virtual_clock_reads_no_other() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1e-9)
    assert cache.get("k") == 1
    clock.advance(1e-3)
    assert cache.get("k") is None
