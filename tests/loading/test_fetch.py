"""fetch, refresh, fetch_many, one caller at a time: results, stores, events and refusals."""

from __future__ import annotations

import asyncio
import gc
import types
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from flowcache import (
    CacheClosedError,
    Event,
    InvalidTagError,
    Loaded,
    RecursiveLoadError,
    TooManyLoadsError,
    create_cache,
)
from flowcache.loading.deadlock import current_load
from harness.loading_support import Caller, Gate, assert_nothing_left
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


def asked_of(call: str) -> Any:
    """The first argument of a loading call: one key, or a list of keys."""
    return ["k"] if call.endswith("many") else "k"


def never() -> Any:
    raise AssertionError("this loader is not to be called")


async def async_never() -> Any:
    raise AssertionError("this loader is not to be called")


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


# fetch_many


def test_fetch_many_calls_the_loader_once_for_what_is_missing() -> None:
    cache, _ = new_cache()
    cache.set("b", "held")
    asked: list[list[str]] = []

    def load(missing: list[str]) -> dict[str, str]:
        asked.append(missing)
        return {key: key.upper() for key in missing} | {"unasked": "ignored"}

    found = cache.fetch_many(["a", "b", "c", "a"], load, ttl=5, tags="t")
    assert found == {"a": "A", "b": "held", "c": "C"}
    assert list(found) == ["a", "b", "c"]
    assert asked == [["a", "c"]]
    assert "unasked" not in cache
    assert cache.ttl("a") == 5
    assert cache.invalidate_tag("t") == 2
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.loads, stats.pending) == (1, 2, 2, 0)


def test_fetch_many_leaves_out_what_the_mapping_lacks() -> None:
    cache, _ = new_cache()
    asked: list[list[int]] = []

    def load(missing: list[int]) -> dict[int, int]:
        asked.append(missing)
        return {key: key for key in missing if key % 2}

    assert cache.fetch_many(range(4), load) == {1: 1, 3: 3}
    assert asked == [[0, 1, 2, 3]]
    assert cache.fetch_many(range(4), load) == {1: 1, 3: 3}
    assert asked[1:] == [[0, 2]]
    assert cache.fetch_many([], load) == {}
    assert len(asked) == 2
    assert_nothing_left(cache)


def test_fetch_many_keeps_each_value_on_its_own_terms() -> None:
    cache, _ = new_cache()

    def load(missing: list[str]) -> dict[str, object]:
        return {"a": Loaded(1, ttl=1), "b": Loaded(2, store=False), "c": None, "d": 4}

    found = cache.fetch_many([*"abcd"], load, store_if=lambda value: value != 4)
    assert found == {"a": 1, "b": 2, "c": None, "d": 4}
    assert list(cache) == ["a", "c"]
    assert cache.ttl("a") == 1


@pytest.mark.parametrize("result", [None, [("a", 1)], 7, OSError])
def test_fetch_many_whose_loader_fails_stores_nothing(result: object) -> None:
    cache, _ = new_cache()
    cache.set("b", 2)

    def load(missing: list[str]) -> Any:
        if result is OSError:
            raise OSError("down")
        return result

    with pytest.raises((TypeError, OSError), match=r"loader_many|down"):
        cache.fetch_many([*"abc"], load)
    assert list(cache) == ["b"]
    assert cache.stats().load_failures == 2
    assert_nothing_left(cache)


def test_fetch_many_falls_back_on_old_values_when_it_fails() -> None:
    cache, clock = new_cache()

    def load(missing: list[str]) -> dict[str, int]:
        return dict.fromkeys(missing, 1)

    def fail(missing: list[str]) -> dict[str, int]:
        raise OSError("down")

    cache.fetch_many([*"ab"], load, ttl=10, stale_if_error=100)
    clock.advance(50)
    assert cache.fetch_many([*"ab"], fail, stale_if_error=100) == {"a": 1, "b": 1}
    with pytest.raises(OSError, match="down"):
        cache.fetch_many([*"ab"], fail)
    with pytest.raises(OSError, match="down"):
        cache.fetch_many([*"abc"], fail, stale_if_error=100)


def test_afetch_many() -> None:
    cache, _ = new_cache()
    cache.set("b", "held")
    asked: list[list[str]] = []

    async def load(missing: list[str]) -> dict[str, str]:
        asked.append(missing)
        await asyncio.sleep(0)
        return {key: key.upper() for key in missing if key != "z"}

    async def main() -> None:
        assert await cache.afetch_many([*"abcz"], load) == {"a": "A", "b": "held", "c": "C"}
        assert await cache.afetch_many([*"abc"], lambda missing: {}) == {
            "a": "A",
            "b": "held",
            "c": "C",
        }
        assert await cache.fetch_many([*"ad"], load) == {"a": "A", "d": "D"}
        assert asked == [["a", "c", "z"], ["d"]]

    asyncio.run(main())
    assert_nothing_left(cache)


def test_fetch_many_with_an_unhashable_key_changes_nothing() -> None:
    cache, _ = new_cache()
    with pytest.raises(TypeError, match="unhashable"):
        cache.fetch_many(["a", []], lambda missing: dict.fromkeys(["a"], 1))
    assert cache.stats().misses == 0
    assert_nothing_left(cache)


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


# Fences, within one thread


FENCES: dict[str, Callable[[Any], object]] = {
    "delete": lambda ns: ns.delete("k"),
    "set": lambda ns: ns.set("k", "set"),
    "add": lambda ns: ns.add("k", "set"),
    "pop": lambda ns: ns.pop("k", None),
    "del": lambda ns: ns.__delitem__("k") if "k" in ns else ns.delete("k"),
    "setitem": lambda ns: ns.__setitem__("k", "set"),
    "set_many": lambda ns: ns.set_many({"k": "set"}),
    "delete_many": lambda ns: ns.delete_many(["k"]),
    "update": lambda ns: ns.update(k="set"),
    "setdefault": lambda ns: ns.setdefault("k", "set"),
    "clear": lambda ns: ns.clear(),
    "invalidate_tag": lambda ns: ns.invalidate_tag("t"),
    "invalidate_tags": lambda ns: ns.invalidate_tags(["t", "u"]),
    "invalidate_tags_all": lambda ns: ns.invalidate_tags(["t", "v"], match="all"),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
}
ABOVE = ["clear", "invalidate_tag", "invalidate_tags", "invalidate_tags_all"]


@pytest.mark.parametrize(
    "path", ["fetch", "refresh", "fetch_many", "afetch", "arefresh", "afetch_many"]
)
@pytest.mark.parametrize("fence", FENCES)
def test_a_value_invalidated_while_it_loads_is_not_stored(path: str, fence: str) -> None:
    """FusionCache #625 and #628, aiocache #95."""
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load(*missing: list[str]) -> Any:
        FENCES[fence](place)
        return {"k": "loaded"} if missing else "loaded"

    async def main() -> object:
        return await getattr(place, path)(asked_of(path), load, tags=("t", "v"))

    if path.startswith("a"):
        got = asyncio.run(main())
    else:
        got = getattr(place, path)(asked_of(path), load, tags=("t", "v"))
    assert got in ("loaded", {"k": "loaded"})
    assert place.peek("k") == ("set" if place.peek("k") else None)
    assert_nothing_left(cache)


@pytest.mark.parametrize("fence", ABOVE)
def test_an_invalidation_of_a_namespace_above_counts(fence: str) -> None:
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load() -> str:
        FENCES[fence](cache)
        return "loaded"

    assert place.fetch("k", load, tags=("t", "v")) == "loaded"
    assert "k" not in place


@pytest.mark.parametrize("fence", ABOVE)
def test_an_invalidation_beside_or_below_does_not_count(fence: str) -> None:
    cache, _ = new_cache()
    place = cache.namespace("a", "b")

    def load() -> str:
        FENCES[fence](cache.namespace("a", "c"))
        FENCES[fence](place.namespace("d"))
        return "loaded"

    assert place.fetch("k", load, tags=("t", "v")) == "loaded"
    assert "k" in place


def test_counting_on_counts_as_a_write() -> None:
    cache, _ = new_cache()
    cache.set("n", 1)

    def load() -> int:
        assert cache.incr("n") == 2
        return 100

    assert cache.refresh("n", load) == 100
    assert cache.peek("n") == 2


@pytest.mark.parametrize("listened", [False, True])
def test_the_end_of_a_cache_fences_every_load_in_it(listened: bool) -> None:
    cache, _ = new_cache()
    if listened:
        cache.subscribe(lambda event: None, kinds="remove")
    loads = []

    def load() -> str:
        running = current_load()
        assert running is not None and not running.fenced
        loads.append(running)
        if len(loads) == 3:
            cache.close()
        else:
            cache.namespace(*"ab"[: len(loads)]).fetch("k", load)
        return "loaded"

    with suppress(CacheClosedError):
        cache.fetch("k", load)
    assert [running.fenced for running in loads] == [True, True, True]


def test_tags_known_only_at_the_end_are_fenced_too() -> None:
    cache, _ = new_cache()
    place = cache.namespace("a")

    def load() -> Loaded[int]:
        cache.invalidate_tag("late")
        return Loaded(1, tags="late")

    assert place.fetch("k", load) == 1
    assert "k" not in place
    assert place.fetch_many(["k"], lambda missing: {"k": load()}) == {"k": 1}
    assert "k" not in place
    assert place.fetch("k", lambda: Loaded(1, tags="late")) == 1
    assert "k" in place


def test_a_set_during_a_load_wins_over_it() -> None:
    cache, _ = new_cache()

    def load() -> str:
        cache.set("k", "set")
        return "loaded"

    assert cache.fetch("k", load) == "loaded"
    assert cache.peek("k") == "set"


def test_add_that_stored_nothing_fences_nothing() -> None:
    cache, _ = new_cache()
    cache.set("k", "old")

    def load() -> str:
        assert not cache.add("k", "other")
        return "loaded"

    assert cache.refresh("k", load) == "loaded"
    assert cache.peek("k") == "loaded"


def test_what_is_asked_after_the_invalidation_is_loaded_anew() -> None:
    cache, _ = new_cache()

    def first() -> str:
        cache.delete("k")
        assert cache.fetch("k", lambda: "second") == "second"
        return "first"

    assert cache.fetch("k", first) == "first"
    assert cache.peek("k") == "second"


def test_closing_during_a_load_hands_the_value_over_and_stores_nothing() -> None:
    cache, _ = new_cache()

    def load() -> str:
        cache.close()
        return "loaded"

    assert cache.fetch("k", load) == "loaded"
    for call in ("fetch", "refresh", "fetch_many"):
        with pytest.raises(CacheClosedError):
            getattr(cache, call)(asked_of(call), never)

    async def main() -> None:
        for call in ("afetch", "arefresh", "afetch_many"):
            with pytest.raises(CacheClosedError):
                await getattr(cache, call)(asked_of(call), never)

    asyncio.run(main())


def test_a_load_older_than_max_pending_age_is_not_stored_and_delays_no_call() -> None:
    cache, clock = new_cache(max_pending_age=30)

    def slow() -> str:
        clock.advance(31)
        assert cache.fetch("k", lambda: "second") == "second"
        return "first"

    assert cache.fetch("k", slow) == "first"
    assert cache.peek("k") == "second"
    assert_nothing_left(cache)


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
