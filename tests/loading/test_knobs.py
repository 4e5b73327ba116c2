"""The options of loading calls that say how a value is kept, and what covers an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flowcache import MISSING, Loaded, create_cache
from harness.support import new_cache, unchanged


def run(awaitable: Any) -> Any:
    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


ASK: dict[str, Callable[..., Any]] = {
    "fetch": lambda ns, load, **options: ns.fetch("k", load, **options),
    "afetch": lambda ns, load, **options: run(ns.afetch("k", load, **options)),
    "refresh": lambda ns, load, **options: ns.refresh("k", load, **options),
    "fetch_many": lambda ns, load, **options: ns.fetch_many(
        ["k"], lambda missing: {key: load() for key in missing}, **options
    )["k"],
    "cached": lambda ns, load, **options: ns.cached(key="k", **options)(load)(),
}
each_call = pytest.mark.parametrize("ask", ASK.values(), ids=ASK)


class Upstream:
    """Counts how often it is asked, and fails while `error` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


@each_call
def test_sliding_and_jitter_go_with_the_value(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    assert ask(cache, lambda: 1, ttl=100, jitter=0.5, sliding=10) == 1
    seen = cache.inspect("k")
    assert seen is not None and seen.sliding == 10
    clock.advance(9)
    assert cache.get("k") == 1
    clock.advance(9)
    assert cache.get("k") == 1
    clock.advance(10)
    assert "k" not in cache
    ask(cache, lambda: 1, ttl=100, jitter=0.5)
    left = cache.ttl("k")
    assert left is not None and 50 <= left <= 100


@each_call
def test_a_callable_tells_the_ttl_of_the_value(ask: Callable[..., Any]) -> None:
    cache, _ = new_cache()
    ask(cache, lambda: 40, ttl=lambda value: value / 2)
    assert cache.ttl("k") == 20
    ask(cache, lambda: Loaded(40, ttl=7), ttl=lambda value: value / 2)
    cache.clear()
    ask(cache, lambda: Loaded(40, ttl=7), ttl=lambda value: value / 2)
    assert cache.ttl("k") == 7


def test_a_callable_tells_the_ttl_of_what_is_set() -> None:
    cache, _ = new_cache()
    tell = lambda value: value  # noqa: E731
    cache.set("a", 5, ttl=tell)
    cache.add("b", None, ttl=tell)
    cache.set_many({"c": 6, "d": 7}, ttl=tell)
    cache.set("e", 0, ttl=tell)
    assert {key: cache.ttl(key) for key in cache} == {"a": 5, "b": None, "c": 6, "d": 7}
    with unchanged(cache), pytest.raises(ValueError, match="ttl"):
        cache.set("a", -1, ttl=tell)
    with unchanged(cache), pytest.raises(TypeError, match="ttl"):
        cache.set_many({"a": 1, "b": "never"}, ttl=tell)


def test_a_ttl_that_cannot_be_told_fails_the_load() -> None:
    cache, _ = new_cache()
    with pytest.raises(ZeroDivisionError):
        cache.fetch("k", lambda: 0, ttl=lambda value: 1 / value)
    with pytest.raises(ZeroDivisionError):
        run(cache.afetch("k", lambda: 0, ttl=lambda value: 1 / value))
    assert "k" not in cache and cache.stats().load_failures == 2


@pytest.mark.parametrize("name", ["fetch", "afetch", "fetch_many", "cached"])
def test_an_error_that_is_covered_lets_the_key_rest(name: str) -> None:
    cache, clock = new_cache()
    ask, upstream = ASK[name], Upstream()
    options = {"ttl": 10, "stale_if_error": 1000}
    assert ask(cache, upstream, **options) == 1
    clock.advance(11)
    upstream.error = ConnectionError()
    for delay in (1, 2, 4):
        asked = upstream.calls
        for _ in range(3):
            assert ask(cache, upstream, **options) == 1
        assert upstream.calls == asked + 1
        clock.advance(delay)
    upstream.error = None
    assert ask(cache, upstream, **options) == upstream.calls > 4
    assert ask(cache, upstream, **options) == upstream.calls


def test_a_call_that_covers_no_error_tries_again_at_once() -> None:
    cache, clock = new_cache()
    upstream = Upstream()
    cache.fetch("k", upstream, ttl=10, stale_if_error=1000)
    clock.advance(11)
    upstream.error = ConnectionError()
    assert cache.fetch("k", upstream, stale_if_error=1000) == 1
    with pytest.raises(ConnectionError):
        cache.fetch("k", upstream)
    assert upstream.calls == 3
    cache.delete("k")
    upstream.error = None
    assert cache.fetch("k", upstream, stale_if_error=1000) == 4


@pytest.mark.parametrize(
    "fallback_on",
    [ConnectionError, (KeyError, ConnectionError), lambda error: type(error) is ConnectionError],
)
@pytest.mark.parametrize("name", ["fetch", "afetch", "fetch_many", "cached"])
def test_fallback_on_says_which_errors_are_covered(name: str, fallback_on: Any) -> None:
    cache, clock = new_cache()
    ask, upstream = ASK[name], Upstream()
    options = {"ttl": 10, "stale_if_error": 1000, "fallback_on": fallback_on}
    ask(cache, upstream, **options)
    clock.advance(11)
    upstream.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        ask(cache, upstream, **options)
    upstream.error = ConnectionError()
    assert ask(cache, upstream, **options) == 1


def test_loaded_says_for_how_long_a_value_may_be_stale() -> None:
    cache, clock = new_cache()
    cache.fetch("k", lambda: Loaded("old", ttl=10, stale=5))
    clock.advance(14)
    assert cache.fetch("k", lambda: "new") == "old"
    cache.fetch("none", lambda: Loaded(1, ttl=10, stale=None), stale=60)
    cache.fetch("error", lambda: Loaded(1, ttl=10, stale=5), stale_if_error=60)
    cache.fetch("endless", lambda: Loaded(1, ttl=10, stale=True))
    grace = {key: cache.inspect(key).grace for key in ("none", "error", "endless")}  # type: ignore[union-attr]
    assert grace == {"none": 0, "error": 60, "endless": float("inf")}
    with pytest.raises(TypeError, match="stale"):
        cache.fetch("bad", lambda: Loaded(1, stale="5"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fetch", "afetch", "refresh"])
def test_a_loader_is_given_what_is_held(name: str) -> None:
    cache, clock = new_cache()
    olds: list[Any] = []

    def load(old: Any) -> int:
        olds.append(old)
        return len(olds)

    ASK[name](cache, load, ttl=10, stale_if_error=50, pass_old=True)
    clock.advance(20)
    ASK[name](cache, load, ttl=10, pass_old=True)
    clock.advance(20)
    ASK[name](cache, load, ttl=10, pass_old=True)
    cache.refresh("k", load, pass_old=True)
    assert olds == [MISSING, 1, MISSING, 3]
    assert repr(MISSING) == "flowcache.MISSING"


def test_a_load_behind_the_call_is_given_it_too() -> None:
    cache, clock = new_cache(executor=AtOnce())
    cache.set("k", "old", ttl=10, stale=50)
    clock.advance(20)
    olds: list[Any] = []
    assert cache.fetch("k", olds.append, pass_old=True) == "old"
    assert olds == ["old"]


class AtOnce:
    """Runs a background load within the call that finds it due."""

    def submit(self, function: Any, /) -> None:
        function()


@pytest.mark.parametrize("name", ["fetch", "afetch", "refresh", "cached"])
def test_around_load_surrounds_each_loader(name: str) -> None:
    seen: list[Any] = []

    @contextmanager
    def around(path: tuple[str, ...], key: Any) -> Iterator[None]:
        seen.append(("begin", path, key))
        try:
            yield
        except ValueError:
            seen.append("failed")
            raise
        seen.append("end")

    cache = create_cache(around_load=around)
    acme = cache.namespace("acme")

    async def aload() -> None:
        seen.append("load")
        await asyncio.sleep(0)
        seen.append("loaded")

    def load() -> None:
        seen.append("load")
        seen.append("loaded")

    ASK[name](acme, aload if name == "afetch" else load)
    assert seen == [("begin", ("acme",), "k"), "load", "loaded", "end"]
    seen.clear()
    cache.around_load = None
    ASK[name](acme.namespace("below"), load)
    assert seen == ["load", "loaded"] and cache.around_load is None


def test_around_load_of_a_batch_gets_all_keys_and_sees_errors() -> None:
    seen: list[Any] = []

    @contextmanager
    def around(path: tuple[str, ...], key: Any) -> Iterator[None]:
        try:
            yield
        except ValueError:
            seen.append(key)
            raise

    cache = create_cache(around_load=around)

    def fail(missing: list[str]) -> dict[str, int]:
        raise ValueError("down")

    with pytest.raises(ValueError, match="down"):
        cache.fetch_many(["a", "b"], fail)
    assert seen == [("a", "b")]


def test_no_context_manager_makes_a_value_of_an_error() -> None:
    @contextmanager
    def suppress(path: tuple[str, ...], key: Any) -> Iterator[None]:
        with contextlib.suppress(ValueError):
            yield

    cache = create_cache(around_load=suppress)

    def fail() -> int:
        raise ValueError

    with pytest.raises(RuntimeError, match="suppressed"):
        cache.fetch("k", fail)
    with pytest.raises(RuntimeError, match="suppressed"):
        run(cache.afetch("k", fail))
    assert "k" not in cache and cache.stats().pending == 0


async def never(*arguments: Any) -> Any:
    raise AssertionError


@each_call
@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"sliding": 0}, ValueError, "sliding"),
        ({"sliding": 5, "refresh_ahead": 0.5}, ValueError, "sliding: has no meaning with refresh"),
        ({"jitter": 1}, ValueError, "jitter"),
        ({"ttl": never}, TypeError, "ttl"),
        ({"fallback_on": KeyboardInterrupt}, TypeError, "fallback_on"),
        ({"fallback_on": (ValueError, "x")}, TypeError, "fallback_on"),
        ({"fallback_on": 5}, TypeError, "fallback_on"),
        ({"fallback_on": never}, TypeError, "fallback_on"),
        ({"pass_old": 1}, TypeError, "pass_old"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    ask: Callable[..., Any], options: dict[str, Any], error: type[Exception], named: str
) -> None:
    cache, _ = new_cache()
    with unchanged(cache), pytest.raises(error, match=named):
        ask(cache, lambda: 1, **options)


def test_pass_old_is_of_calls_for_one_key() -> None:
    cache, _ = new_cache()
    for name in ("fetch_many", "cached"):
        with pytest.raises(TypeError, match="pass_old"):
            ASK[name](cache, lambda: 1, pass_old=True)


@pytest.mark.parametrize("around", [5, never])
def test_around_load_must_be_a_plain_callable(around: Any) -> None:
    with pytest.raises(TypeError, match="around_load"):
        create_cache(around_load=around)
    cache = create_cache()
    with pytest.raises(TypeError, match="around_load"):
        cache.around_load = around
