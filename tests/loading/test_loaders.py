"""Loaders and options that are refused, and loaders that ask for their own key."""

from __future__ import annotations

import asyncio
import gc
import types
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from flowcache import (
    InvalidTagError,
    RecursiveLoadError,
    TooManyLoadsError,
    create_cache,
)
from harness.loading_support import Caller, Gate, asked_of, assert_nothing_left, never
from harness.support import new_cache

# Loaders of the wrong kind


def test_async_def_loader_makes_fetch_an_afetch_hit_or_miss() -> None:
    cache, _ = new_cache()

    async def load() -> str:
        return "loaded"

    class Loads:
        async def __call__(self) -> str:
            return "loaded"

        async def method(self) -> str:
            return "loaded"

    async def main() -> None:
        for number, loader in enumerate([load, Loads(), Loads().method]):
            assert await cache.fetch(number, loader) == "loaded"
            assert await cache.fetch(number, loader) == "loaded"
            assert await cache.fetch(number, loader, refresh_ahead=0.5) == "loaded"

    asyncio.run(main())


@pytest.mark.parametrize("call", ["fetch", "refresh", "fetch_many"])
def test_a_loader_that_turns_out_to_be_async_is_refused_without_a_warning(call: str) -> None:
    cache, _ = new_cache()

    async def load() -> int:
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="afetch"):
            getattr(cache, call)(asked_of(call), lambda *missing: load())
        gc.collect()
    assert "k" not in cache
    assert_nothing_left(cache)


@pytest.mark.parametrize(
    "call", ["fetch", "afetch", "refresh", "arefresh", "fetch_many", "afetch_many"]
)
@pytest.mark.parametrize("loader", [None, 5, "load"])
def test_a_loader_that_cannot_be_called_is_refused_hit_or_miss(call: str, loader: object) -> None:
    cache, _ = new_cache()
    cache.set("h", 1)
    before = cache.stats()
    for key in ("h", "m"):
        with pytest.raises(TypeError, match="loader"):
            getattr(cache, call)(key, loader)
    assert cache.stats() == before


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ttl": -1}, ValueError, "ttl"),
    ({"ttl": float("nan")}, ValueError, "ttl"),
    ({"ttl": "5"}, TypeError, "ttl"),
    ({"ttl": True}, TypeError, "ttl"),
    ({"tags": ""}, InvalidTagError, "tags"),
    ({"tags": ("x" * 257,)}, InvalidTagError, "tags"),
    ({"tags": None}, TypeError, "tags"),
    ({"tags": (None,)}, TypeError, "tags"),
    ({"stale": -1}, ValueError, "stale"),
    ({"stale": "x"}, TypeError, "stale"),
    ({"stale_if_error": -1}, ValueError, "stale_if_error"),
    ({"stale_if_error": True}, TypeError, "stale_if_error"),
    ({"refresh_ahead": 0}, ValueError, "refresh_ahead"),
    ({"refresh_ahead": 1}, ValueError, "refresh_ahead"),
    ({"refresh_ahead": float("nan")}, ValueError, "refresh_ahead"),
    ({"refresh_ahead": "0.8"}, TypeError, "refresh_ahead"),
    ({"refresh_ahead": True}, TypeError, "refresh_ahead"),
    ({"store_if": 1}, TypeError, "store_if"),
    ({"timeout": -1}, ValueError, "timeout"),
    ({"timeout": "1"}, TypeError, "timeout"),
    ({"tll": 5}, TypeError, "tll"),
]


@pytest.mark.parametrize(
    "call", ["fetch", "afetch", "refresh", "arefresh", "fetch_many", "afetch_many"]
)
@pytest.mark.parametrize(("options", "error", "named"), BAD_OPTIONS)
def test_a_bad_option_is_refused_before_anything_changes(
    call: str, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    cache, _ = new_cache()
    before = cache.stats()
    with pytest.raises(error, match=named):
        getattr(cache, call)(asked_of(call), never, **options)
    assert cache.stats() == before
    assert_nothing_left(cache)


@pytest.mark.parametrize(
    "call", ["fetch", "afetch", "refresh", "arefresh", "fetch_many", "afetch_many"]
)
def test_missing_arguments_are_a_type_error(call: str) -> None:
    cache, _ = new_cache()
    with pytest.raises(TypeError):
        getattr(cache, call)()
    with pytest.raises(TypeError):
        getattr(cache, call)("k")
    with pytest.raises(TypeError):
        getattr(cache, call)("k", never, 3)


def test_an_unhashable_key_is_a_type_error_and_changes_nothing() -> None:
    cache, _ = new_cache()
    before = cache.stats()
    for call in (cache.fetch, cache.refresh):
        with pytest.raises(TypeError, match="unhashable"):
            call([], lambda: 1)

    async def main() -> None:
        for call in (cache.afetch, cache.arefresh):
            with pytest.raises(TypeError, match="unhashable"):
                await call([], lambda: 1)

    asyncio.run(main())
    assert cache.stats() == before
    assert_nothing_left(cache)


def test_too_many_loads_are_refused_and_an_old_value_may_stand_in() -> None:
    cache, clock = new_cache()
    room = cache.namespace("room", max_pending=1)
    room.fetch("old", lambda: "old", ttl=1, stale_if_error=100)
    clock.advance(2)

    gate = Gate("outer")
    outer = Caller(lambda: room.fetch("outer", gate))
    assert gate.begun.wait(30)
    with pytest.raises(TooManyLoadsError):
        room.fetch("inner", never)
    assert room.fetch("old", never, stale_if_error=100) == "old"
    with pytest.raises(TooManyLoadsError):
        room.fetch_many(["inner"], lambda missing: {})
    gate.open.set()
    assert outer.result() == "outer"
    assert room.fetch("inner", lambda: 1) == 1
    assert_nothing_left(cache)


# Recursion


@pytest.mark.parametrize("call", ["fetch", "refresh", "fetch_many"])
def test_a_loader_that_recurses_raises_instead_of_deadlocking(call: str) -> None:
    """cachebox #54."""
    cache, _ = new_cache()
    ask: Callable[..., Any] = getattr(cache, call)
    with pytest.raises(RecursiveLoadError, match="'k'"):
        ask(asked_of(call), lambda *missing: ask(asked_of(call), never))
    assert "k" not in cache
    assert_nothing_left(cache)


def test_a_ring_of_loaders_raises_in_the_call_that_would_close_it() -> None:
    cache, _ = new_cache()
    other = create_cache()
    refused: list[str] = []

    def load_a() -> str:
        return "a" + other.fetch("b", load_b)

    def load_b() -> str:
        return "b" + cache.fetch("c", load_c)

    def load_c() -> str:
        try:
            return "c" + cache.fetch("a", load_a)
        except RecursiveLoadError:
            refused.append("c")
            return "c."

    assert cache.fetch("a", load_a) == "abc."
    assert refused == ["c"]
    assert_nothing_left(cache)


def test_a_batch_that_asks_for_one_of_its_own_keys_raises() -> None:
    cache, _ = new_cache()

    def load(missing: list[str]) -> dict[str, str]:
        for key in missing:
            with pytest.raises(RecursiveLoadError):
                cache.fetch(key, never)
        return dict.fromkeys(missing, "v")

    assert cache.fetch_many([*"abc"], load) == {"a": "v", "b": "v", "c": "v"}


def test_async_recursion_raises() -> None:
    cache, _ = new_cache()

    async def load() -> object:
        return await asyncio.gather(asyncio.create_task(again()), asyncio.sleep(0))

    async def again() -> object:
        return await cache.afetch("k", load)

    async def main() -> None:
        with pytest.raises(RecursiveLoadError):
            await cache.afetch("k", load)
        with pytest.raises(RecursiveLoadError):
            await cache.afetch_many(["k"], lambda missing: load())

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_loader_may_load_other_keys_and_a_finished_load_is_no_part_of_a_ring() -> None:
    cache, _ = new_cache()

    async def main() -> None:
        late: list[asyncio.Task[object]] = []

        async def load() -> str:
            # Its context outlives the load, and names it no more.
            late.append(asyncio.create_task(follow_up()))
            return await cache.afetch("part", lambda: "part")

        async def follow_up() -> object:
            await asyncio.sleep(0.001)
            return await cache.arefresh("whole", lambda: "again")

        assert await cache.afetch("whole", load) == "part"
        assert await late[0] == "again"

    asyncio.run(main())


def test_a_context_that_outlives_its_load_keeps_nothing_of_it_alive() -> None:
    cache, _ = new_cache()

    class Value:
        pass

    async def main() -> None:
        kept: list[asyncio.Task[None]] = []

        async def load() -> Value:
            kept.append(asyncio.create_task(asyncio.sleep(1000)))
            return Value()

        seen = weakref.ref(await cache.afetch("k", load))
        cache.clear()
        gc.collect()
        assert seen() is None
        kept[0].cancel()

    asyncio.run(main())


def test_a_partial_is_asked_as_what_it_is_a_partial_of() -> None:
    cache, _ = new_cache()

    async def later(value: str) -> str:
        return value

    async def main() -> None:
        assert await cache.fetch("async", partial(partial(later), "a")) == "a"

    asyncio.run(main())
    assert cache.fetch("plain", partial(str, "p")) == "p"
    assert dict(cache) == {"async": "a", "plain": "p"}


def test_a_generator_that_is_a_coroutine_is_refused_as_one() -> None:
    cache, _ = new_cache()

    @types.coroutine
    def old() -> Any:
        yield

    def hidden() -> Any:
        return old()

    with pytest.raises(TypeError, match="returned an awaitable"):
        cache.fetch("old", hidden)
    assert_nothing_left(cache)


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_what_a_mapping_or_a_weigher_raises_ends_the_load(kind: type[BaseException]) -> None:
    def weigh(key: Any, value: Any) -> int:
        if value == "heavy":
            raise kind("weighing")
        return 1

    class Odd(dict[str, str]):
        def __getitem__(self, key: str) -> str:
            raise kind("looking")

    cache, _ = new_cache(weigher=weigh)
    with pytest.raises(kind, match="looking"):
        cache.fetch_many(["a", "b"], lambda missing: Odd.fromkeys(missing, "light"))
    assert_nothing_left(cache)
    with pytest.raises(kind, match="weighing"):
        cache.fetch("a", lambda: "heavy")
    assert_nothing_left(cache)
    assert list(cache) == []
