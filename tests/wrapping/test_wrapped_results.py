"""The results of a cached function: what is kept, by which options, and how it is removed."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flowcache.wrapping
from flowcache import (
    CacheClosedError,
    InvalidTagError,
    Loaded,
    Namespace,
    RecursiveLoadError,
    create_cache,
)
from flowcache.tenancy import tenant
from harness.loading_support import Caller, Gate, until, wait_until
from harness.support import new_cache
from harness.wrapping_support import Calls, counting

# The behaviour of the function


def test_a_function_may_call_itself(ns: Namespace[Any]) -> None:
    @ns.cached()
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(30) == 832_040
    assert fibonacci.cache_info()[:2] == (28, 31)


def test_a_function_that_asks_for_its_own_result_is_told_so(ns: Namespace[Any]) -> None:
    @ns.cached()
    def turns(n: int) -> int:
        return turns(1 - n)

    with pytest.raises(RecursiveLoadError):
        turns(0)
    assert len(ns) == 0


def test_an_error_reaches_the_caller_and_is_not_kept(ns: Namespace[Any]) -> None:
    raised = [ValueError("first"), StopIteration("second"), KeyError("third")]
    errors = list(raised)

    @ns.cached()
    def fails() -> str:
        if errors:
            raise errors.pop(0)
        return "at last"

    for error in raised:
        with pytest.raises(type(error)) as caught:
            fails()
        assert caught.value is error
    assert fails() == fails() == "at last"


@pytest.mark.parametrize("value", [None, False, 0, "", (), [], (1, 2), ValueError("a value")])
def test_any_value_is_kept_as_it_is(ns: Namespace[Any], value: Any) -> None:
    calls = Calls()

    @ns.cached()
    def load(x: int) -> Any:
        calls()
        return value

    assert load(1) is load(1) is value
    assert len(calls) == 1


def test_a_function_may_say_how_its_value_is_kept(ns: Namespace[Any]) -> None:
    calls = Calls()

    @ns.cached(tags="t")
    def load(x: int) -> Any:
        calls(x)
        return Loaded(x, tags="more", store=x > 0)

    assert [load(1), load(1), load(0), load(0)] == [1, 1, 0, 0]
    assert len(calls) == 3
    assert ns.invalidate_tag("more") == 1


# Options


def test_key_is_a_callable_of_the_arguments_or_a_constant(ns: Namespace[Any]) -> None:
    calls, function = counting()
    by_first = ns.wrap(function, key=lambda first, *rest: ("by", first))
    assert by_first(1, 2) == by_first(1, 3) == 1
    assert by_first(2, 2) == 2
    assert by_first.cache_key(1, 9) == ("by", 1)
    assert ns.get(("by", 1)) == 1
    constant = ns.wrap(function, key="all")
    assert constant(1) == constant(2, x=3) == 3
    assert ns["all"] == 3
    assert constant.invalidate()
    with pytest.raises(TypeError, match="unhashable"):
        ns.wrap(function, key=list)()
    assert len(calls) == 3


def test_a_ttl_ends_a_result() -> None:
    cache, clock = new_cache(default_ttl=5)
    calls, function = counting()
    by_default, own, for_ever = (
        cache.namespace(name).wrap(function, **options)
        for name, options in {"a": {}, "b": {"ttl": 2}, "c": {"ttl": None}}.items()
    )
    assert [by_default(), own(), for_ever()] == [1, 2, 3]
    clock.advance(2)
    assert [by_default(), own(), for_ever()] == [1, 4, 3]
    clock.advance(3)
    assert [by_default(), own(), for_ever()] == [5, 6, 3]
    assert len(calls) == 6


def test_a_result_past_its_ttl_is_not_taken_by_the_short_cut() -> None:
    ns = create_cache().namespace("a")
    calls, function = counting()
    wrapped = ns.wrap(function, ttl=0.001, stale=True)
    assert wrapped("k") == 1
    wait_until(lambda: wrapped.cache_key("k") not in ns)
    wrapped("k")  # the old value, as a stale one
    assert ns.stats().stale_hits == 1
    wait_until(lambda: len(calls) == 2 and ns.stats().pending == 0)


def test_a_stale_result_is_served_while_a_new_one_is_loaded() -> None:
    cache, clock = new_cache()
    calls, function = counting()
    wrapped = cache.wrap(function, ttl=10, stale=60)
    assert wrapped("k") == 1
    clock.advance(11)
    assert wrapped("k") == 1
    wait_until(lambda: len(calls) == 2 and cache.stats().pending == 0)
    assert wrapped("k") == 2
    assert wrapped.cache_info()[:2] == (2, 1)


def test_refresh_ahead_is_not_lost_to_the_short_cut() -> None:
    cache = create_cache()
    gate = Gate()
    wrapped = cache.wrap(gate, ttl=60, refresh_ahead=1e-9)
    gate.open.set()
    wait_until(lambda: wrapped() == "loaded" and gate.calls == 2)
    wait_until(lambda: cache.stats().pending == 0)


CALLS_AHEAD: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "plain": ({}, lambda wrapped: wrapped("k")),
    "with a keyword": ({}, lambda wrapped: wrapped(who="k")),
    "for a tenant": ({"tenant": "who"}, lambda wrapped: wrapped("k")),
    "with its own key": ({"key": "k"}, lambda wrapped: wrapped("k")),
    "with tags": ({"tags": lambda who: who}, lambda wrapped: wrapped("k")),
}


@pytest.mark.parametrize(("options", "call"), CALLS_AHEAD.values(), ids=CALLS_AHEAD)
@pytest.mark.parametrize("how", ["sync", "async", "current"])
def test_a_hit_loads_ahead_only_when_it_is_due(
    monkeypatch: pytest.MonkeyPatch, how: str, options: dict[str, Any], call: Callable[[Any], Any]
) -> None:
    if how == "current" and "tenant" in options:
        options = {}
    cache, clock = new_cache()
    calls, function = counting()

    def named(who: str) -> Any:
        return function(who)

    async def anamed(who: str) -> Any:
        return function(who)

    async def main() -> None:
        place: Any = cache.for_current_tenant() if how == "current" else cache
        given: Any = anamed if how == "async" else named
        wrapped = place.wrap(given, ttl=100, refresh_ahead=0.8, **options)

        async def ask() -> Any:
            answer = call(wrapped)
            return await answer if how == "async" else answer

        assert await ask() == 1
        clock.advance(80)
        with monkeypatch.context() as patched:
            # What is not due is answered without the options of a load.
            patched.delattr(flowcache.wrapping.Cached, "_load")
            assert await ask() == 1
        clock.advance(0.1)
        assert await ask() == 1
        await until(lambda: len(calls) == 2 and cache.stats().pending == 0)
        assert await ask() == 2
        assert wrapped.cache_info()[:2] == (3, 1)
        assert (cache.stats().hits, cache.stats().misses) == (3, 1)

    with tenant("acme"):
        asyncio.run(main())


def test_tags_are_given_or_computed_and_removed_by(ns: Namespace[Any]) -> None:
    calls, function = counting()
    fixed = ns.wrap(function, tags=("crm", "crm:contacts"), key=lambda x: ("fixed", x))
    made = ns.wrap(function, tags=lambda x: f"user:{x}", key=lambda x: ("made", x))
    fixed(1), made(1), made(2)
    assert ns.invalidate_tag("user:1") == 1
    assert ns.invalidate_tag("crm") == 1
    assert list(ns) == [("made", 2)]
    wrong = ns.wrap(function, tags=lambda: 3)
    with pytest.raises(TypeError, match="tags"):
        wrong()
    assert len(calls) == 3


def test_tags_are_computed_only_for_what_is_loaded(ns: Namespace[Any]) -> None:
    made = Calls()
    wrapped = ns.wrap(lambda x, y: x, tags=lambda x, y: str(made(x)), key=lambda x, y: x)
    assert [wrapped(1, 2), wrapped(1, 3), wrapped(1, y=4)] == [1, 1, 1]
    assert len(made) == 1


def test_wrong_options_are_refused_when_the_function_is_wrapped(ns: Namespace[Any]) -> None:
    def function() -> None: ...

    async def afunction() -> str:
        return "k"

    def generator() -> Iterator[int]:
        yield 1

    async def agenerator() -> Any:
        yield 1

    wrong: list[tuple[Any, str, dict[str, Any]]] = [
        (TypeError, "nothing", {"nothing": 1}),
        (TypeError, "_on_miss", {"_on_miss": print}),
        (TypeError, "ttl", {"ttl": "5"}),
        (ValueError, "ttl", {"ttl": -1}),
        (ValueError, "ttl", {"ttl": math.nan}),
        (TypeError, "tags", {"tags": 3}),
        (InvalidTagError, "tags", {"tags": ""}),
        (TypeError, "tags", {"tags": afunction}),
        (TypeError, "stale", {"stale": "yes"}),
        (ValueError, "refresh_ahead", {"refresh_ahead": 2}),
        (TypeError, "store_if", {"store_if": 1}),
        (TypeError, "timeout", {"timeout": "1"}),
        (TypeError, "typed", {"typed": 1}),
        (TypeError, "typed", {"typed": True, "key": "k"}),
        (TypeError, "key: must be hashable", {"key": []}),
        (TypeError, "key", {"key": afunction}),
    ]
    for error, named, options in wrong:
        with pytest.raises(error, match=named):
            ns.wrap(function, **options)
        with pytest.raises(error, match=named):
            ns.cached(**options)(function)
    for not_cacheable in (generator, agenerator, None, 3, "name"):
        with pytest.raises(TypeError, match="function"):
            ns.wrap(not_cacheable)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="wrap"):
        flowcache._core.Called()


# The calls of the wrapper


def test_invalidate_refresh_and_clear(ns: Namespace[Any]) -> None:
    _, function = counting()
    wrapped = ns.wrap(function)
    ns.set("beside", 1)
    other = ns.wrap(lambda x: x)
    assert [wrapped(1), wrapped(2), wrapped(x=1), other(1)] == [1, 2, 3, 1]
    assert wrapped.invalidate(1)
    assert not wrapped.invalidate(1)
    assert wrapped(1) == 4
    assert wrapped.refresh(1) == 5
    assert wrapped(1) == 5
    assert wrapped.cache_info() == (1, 4, ns.limits.max_entries, 3)
    wrapped.cache_clear()
    assert wrapped.cache_info() == (0, 0, ns.limits.max_entries, 0)
    assert len(ns) == 2
    assert other(1) == 1
    assert wrapped(1) == 6


@pytest.mark.parametrize("how", ["invalidate", "cache_clear"])
def test_a_result_that_loads_while_it_is_removed_is_not_kept(ns: Namespace[Any], how: str) -> None:
    gate = Gate()
    wrapped = ns.wrap(gate)
    caller = Caller(wrapped)
    assert gate.begun.wait(30)
    getattr(wrapped, how)()
    gate.open.set()
    assert caller.result() == "loaded"
    assert len(ns) == 0
    assert wrapped() == "loaded"
    assert gate.calls == 2


def test_a_result_may_be_stored_from_outside(ns: Namespace[Any]) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    ns.set(wrapped.cache_key("k"), "given")
    assert wrapped("k") == "given"
    assert wrapped.cache_info() == (1, 0, ns.limits.max_entries, 0)
    del ns[wrapped.cache_key("k")]
    assert wrapped("k") == 1
    assert len(calls) == 1


def test_a_hit_is_an_ordinary_hit() -> None:
    for cache in (create_cache(max_entries=2), new_cache(max_entries=2)[0]):
        ns = cache.namespace("a")
        wrapped = ns.wrap(lambda x: x)
        wrapped("old"), wrapped("new")
        wrapped("old")
        wrapped("newest")
        assert list(ns) == [wrapped.cache_key("old"), wrapped.cache_key("newest")]
        heard: list[Any] = []
        ns.subscribe(heard.append, kinds="hit")
        wrapped("old")
        assert [(event.key, event.value) for event in heard] == [(wrapped.cache_key("old"), "old")]
        assert ns.stats().hits == 2
        cache._check()


def test_a_closed_cache_answers_no_call() -> None:
    for cache in (create_cache(), new_cache()[0]):
        wrapped = cache.namespace("a").wrap(lambda x: x)
        wrapped(1)
        cache.close()
        with pytest.raises(CacheClosedError):
            wrapped(1)
        with pytest.raises(CacheClosedError):
            wrapped.invalidate(1)
        with pytest.raises(CacheClosedError):
            wrapped.cache_clear()


@contextmanager
def python_calls() -> Iterator[list[str]]:
    """The names of the Python functions called meanwhile."""
    seen: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        seen[:] = [name for name in seen if name not in ("__exit__", "python_calls")]


def test_a_hit_with_positional_arguments_runs_no_python_code() -> None:
    ns = create_cache().namespace("a")

    class Client:
        @ns.cached()
        def find(self, name: str) -> str:
            return name

    @ns.cached()
    async def afunction(x: str, y: int) -> str:
        return x

    function, client = ns.wrap(lambda *args: args), Client()
    warm = [lambda: function(), lambda: function("a", 1000), lambda: client.find("x")]  # noqa: PLW0108
    for call in warm:
        call()
    asyncio.run(afunction("a", 1000))
    with python_calls() as seen:
        function()
        function("a", 1000)
        client.find("x")
        awaitable = afunction("a", 1000)
    assert seen == []
    awaitable.close()
    with python_calls() as seen:
        function("b")
    assert seen != []
