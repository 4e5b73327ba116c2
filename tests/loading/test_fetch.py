"""fetch and its kin within one thread: results, stores, counters."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from flowcache import (
    Event,
    InvalidTagError,
    Loaded,
    create_cache,
)
from harness.loading_support import assert_nothing_left, async_never, never
from harness.support import new_cache


class Counted:
    """A loader that counts its calls, and returns or raises the given outcomes one by one."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, BaseException):
            raise result
        return result


# Results and stores


def test_a_miss_loads_and_stores_and_a_hit_does_not_load() -> None:
    cache, clock = new_cache()
    assert cache.fetch("k", lambda: "new", ttl=10) == "new"
    assert cache.fetch("k", never) == "new"
    assert cache.ttl("k") == 10
    clock.advance(10)
    assert cache.fetch("k", lambda: "newer", ttl=timedelta(seconds=5)) == "newer"
    assert cache.ttl("k") == 5


@pytest.mark.parametrize(
    "value", [None, 0, "", (), False, (1, 2), ValueError("a value"), StopIteration(3)]
)
def test_every_value_is_a_value(value: object) -> None:
    cache, _ = new_cache()
    assert cache.fetch("k", lambda: value) is value
    assert cache.fetch("k", never) is value

    async def main() -> None:
        assert await cache.afetch("k", async_never) is value
        assert await cache.afetch("other", lambda: value) is value

    asyncio.run(main())


def test_an_exception_reaches_the_caller_and_is_not_stored() -> None:
    cache, _ = new_cache()
    loader = Counted(OSError("down"), "up")
    with pytest.raises(OSError, match="down"):
        cache.fetch("k", loader)
    assert "k" not in cache
    assert cache.fetch("k", loader) == "up"
    assert loader.calls == 2
    assert_nothing_left(cache)


def test_a_failed_load_leaves_nothing_for_the_collector() -> None:
    """Nor does its traceback keep the loader's frame alive once the exception is dropped."""
    cache, _ = new_cache()

    class Thing:
        pass

    watched: list[weakref.ref[Thing]] = []

    def loader() -> None:
        thing = Thing()
        watched.append(weakref.ref(thing))
        raise OSError

    def attempt() -> None:
        with suppress(OSError):  # pytest.raises would keep the exception itself.
            cache.fetch("k", loader)

    gc.collect()
    gc.disable()
    try:
        attempt()
        assert watched[0]() is None
    finally:
        gc.enable()


def test_tags_and_ttl_of_the_call_are_kept() -> None:
    cache, _ = new_cache()
    cache.fetch("k", lambda: 1, tags=("a", "b"), ttl=None)
    assert cache.ttl("k") is None
    assert cache.invalidate_tags(["a", "b"], match="all") == 1
    cache.fetch("k", lambda: 1, tags="alone")
    assert cache.invalidate_tag("alone") == 1


def test_ttl_zero_stores_nothing() -> None:
    cache, _ = new_cache()
    assert cache.fetch("k", lambda: 1, ttl=0) == 1
    assert "k" not in cache
    assert_nothing_left(cache)


def test_loaded_says_at_load_time_how_the_value_is_kept() -> None:
    cache, _ = new_cache()
    assert cache.fetch("k", lambda: Loaded(1, ttl=7, tags="late"), ttl=3, tags="early") == 1
    assert cache.peek("k") == 1
    assert cache.ttl("k") == 7
    assert cache.invalidate_tag("late") == 1
    cache.fetch("k", lambda: Loaded(1, tags=["late"]), ttl=3, tags="early")
    assert cache.ttl("k") == 3
    assert cache.invalidate_tag("early") == 1
    assert cache.fetch("k", lambda: Loaded(2, store=False)) == 2
    assert "k" not in cache
    assert cache.fetch("forever", lambda: Loaded(2, ttl=None), ttl=3) == 2
    assert cache.ttl("forever") is None
    assert_nothing_left(cache)


@pytest.mark.parametrize(
    ("loaded", "error"),
    [
        (Loaded(1, ttl=-1), ValueError),
        (Loaded(1, ttl="5"), TypeError),  # type: ignore[arg-type]
        (Loaded(1, tags=""), InvalidTagError),
        (Loaded(1, tags=(1,)), TypeError),  # type: ignore[arg-type]
    ],
)
def test_loaded_with_bad_terms_is_an_error_and_stores_nothing(
    loaded: Loaded[int], error: type[Exception]
) -> None:
    cache, _ = new_cache()
    with pytest.raises(error):
        cache.fetch("k", lambda: loaded)
    assert "k" not in cache
    assert_nothing_left(cache)


def test_store_if_decides_what_is_worth_keeping() -> None:
    cache, _ = new_cache()
    asked: list[object] = []

    def worth(value: object) -> bool:
        asked.append(value)
        return value != 0

    assert cache.fetch("k", lambda: 0, store_if=worth) == 0
    assert "k" not in cache
    assert cache.fetch("k", lambda: Loaded(5), store_if=worth) == 5
    assert cache.peek("k") == 5
    assert asked == [0, 5]
    assert_nothing_left(cache)


def test_store_if_that_raises_reaches_the_caller_and_stores_nothing() -> None:
    cache, _ = new_cache()

    def worth(value: object) -> bool:
        raise LookupError(value)

    with pytest.raises(LookupError):
        cache.fetch("k", lambda: 1, store_if=worth)
    assert "k" not in cache
    assert_nothing_left(cache)


def test_a_value_too_heavy_to_keep_is_handed_over_all_the_same() -> None:
    cache = create_cache(max_weight=10, weigher=lambda key, value: value)
    assert cache.fetch("k", lambda: 11) == 11
    assert "k" not in cache
    assert cache.fetch("k", lambda: 10) == 10
    assert cache.peek("k") == 10
    assert_nothing_left(cache)


def test_a_weigher_that_is_wrong_reaches_the_caller() -> None:
    cache = create_cache(max_weight=10, weigher=lambda key, value: "heavy")  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="weigher"):
        cache.fetch("k", lambda: 1)
    assert_nothing_left(cache)


# refresh


def test_refresh_loads_though_fresh() -> None:
    cache, _ = new_cache()
    cache.set("k", "old")
    assert cache.refresh("k", lambda: "new", ttl=5) == "new"
    assert cache.fetch("k", never) == "new"
    assert cache.ttl("k") == 5
    assert cache.refresh("absent", lambda: 1) == 1


def test_refresh_that_raises_keeps_the_old_value() -> None:
    cache, _ = new_cache()
    cache.set("k", "old")
    with pytest.raises(OSError, match="down"):
        cache.refresh("k", Counted(OSError("down")))
    assert cache.fetch("k", never) == "old"
    assert cache.refresh("k", Counted(OSError("down")), stale_if_error=10) == "old"


def test_arefresh_and_an_async_loader_given_to_refresh() -> None:
    cache, _ = new_cache()

    async def load() -> int:
        return 2

    async def main() -> None:
        cache.set("k", 1)
        assert await cache.arefresh("k", load) == 2
        cache.set("k", 1)
        assert await cache.refresh("k", load) == 2
        assert cache.peek("k") == 2

    asyncio.run(main())


# Counters and events


def test_counters_and_events_of_loading() -> None:
    cache, clock = new_cache()
    told: list[Event[Any]] = []
    cache.subscribe(told.append, ("hit", "miss", "stale_hit", "load", "load_error", "refresh"))
    error = OSError("down")
    cache.fetch("k", lambda: 1, ttl=10)
    cache.fetch("k", never)
    cache.fetch("k", never, refresh_ahead=0.5)
    cache.refresh("k", lambda: 2, ttl=10)
    clock.advance(10)
    with pytest.raises(OSError, match="down"):
        cache.fetch("k", Counted(error))
    assert [(event.kind, event.key, event.value, event.error) for event in told] == [
        ("miss", "k", None, None),
        ("load", "k", 1, None),
        ("hit", "k", 1, None),
        ("hit", "k", 1, None),
        ("load", "k", 2, None),
        ("refresh", "k", 2, None),
        ("miss", "k", None, None),
        ("load_error", "k", None, error),
    ]
    assert all(event.seconds > 0 for event in told if event.kind in ("load", "load_error"))
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stale_hits, stats.coalesced) == (2, 2, 0, 0)
    assert (stats.loads, stats.load_failures, stats.pending) == (2, 1, 0)
    assert stats.load_seconds > 0


def test_a_listener_that_fetches_the_key_being_loaded_does_no_harm() -> None:
    cache, _ = new_cache()
    seen: list[object] = []
    cache.subscribe(lambda event: seen.append(cache.fetch("k", never)), ("set", "load"))
    assert cache.fetch("k", lambda: 1) == 1
    assert seen == [1, 1]


def test_a_cached_none_is_a_hit() -> None:
    cache, _ = new_cache()
    loader = Counted(None)
    assert [cache.fetch("k", loader) for _ in range(3)] == [None, None, None]
    assert loader.calls == 1
    assert cache.stats().hits == 2


def test_keys_and_namespaces_of_one_name_load_apart() -> None:
    cache, _ = new_cache()
    foo, foobar = cache.namespace("foo"), cache.namespace("foobar")

    def load() -> str:
        return "foo " + foobar.fetch("k", lambda: "foobar")

    assert foo.fetch("k", load) == "foo foobar"
    foo.clear()
    assert foobar.fetch("k", never) == "foobar"


def test_a_key_that_calls_back_when_it_is_compared_does_no_harm() -> None:
    """lru-dict #22, cachebox #84, cpython #94879."""
    cache, _ = new_cache()

    class Meddler:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            cache.invalidate_tag("t")
            cache.fetch("inner", lambda: 1)
            return self is other

    keys = [Meddler() for _ in range(5)]
    for key in keys:
        assert cache.fetch(key, lambda: 2) == 2
        assert cache.fetch_many([key], lambda missing: dict.fromkeys(missing, 3)) in (
            {key: 2},
            {key: 3},
        )
    cache._check()
    assert_nothing_left(cache)


def test_a_value_whose_finalizer_fetches_does_no_harm() -> None:
    cache, _ = new_cache()

    class Value:
        def __del__(self) -> None:
            cache.fetch("from the finalizer", lambda: 1)

    for _ in range(3):
        cache.fetch("k", Value)
        cache.refresh("k", Value)
        cache.delete("k")
    assert cache.peek("from the finalizer") == 1
    cache._check()
    assert_nothing_left(cache)
