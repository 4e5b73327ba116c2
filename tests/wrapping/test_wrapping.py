"""wrap and cached: the result of each call, the wrapper's attributes, and its references."""

from __future__ import annotations

import abc
import asyncio
import copy
import functools
import gc
import inspect
import math
import pickle
import sys
import types
import weakref
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
    TenantNotSetError,
    create_cache,
)
from flowcache.tenancy import current_tenant, tenant
from harness.loading_support import Caller, Gate, assert_nothing_left, wait_until
from harness.support import new_cache


@pytest.fixture(params=["compiled", "general"])
def ns(request: pytest.FixtureRequest) -> Iterator[Namespace[Any]]:
    """A namespace with hits answered by compiled code, and one with hits that take the long way.

    A cache with a user's clock never takes the short cut, so each test shows that both ways agree.
    """
    cache = create_cache(max_entries=100) if request.param == "compiled" else new_cache()[0]
    yield cache.namespace("functions")
    cache._check()
    assert_nothing_left(cache)


class Calls(list[Any]):
    """A function that keeps the arguments of each call and returns the number of calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        self.append((args, kwargs))
        return len(self)


def counting() -> tuple[Calls, Callable[..., int]]:
    calls = Calls()

    def function(*args: Any, **kwargs: Any) -> int:
        """Count."""
        return calls(*args, **kwargs)

    return calls, function


class Sub(str):
    __slots__ = ()


class NeverEqual(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return str.__hash__(self)


# Calls that are one call


@pytest.mark.parametrize(
    "arguments",
    [(), (1,), ("a",), (None,), ("a", 2), (("a", 2),), (-1, 2**80, b"x", 1.5), tuple(range(20))],
)
def test_a_second_call_is_answered_from_the_cache(ns: Namespace[Any], arguments: Any) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    assert [wrapped(*arguments) for _ in range(3)] == [1, 1, 1]
    assert calls == [(arguments, {})]
    assert wrapped.cache_info() == (2, 1, ns.limits.max_entries, 1)
    assert ns.stats().hits == 2
    assert ns.stats().misses == 1


def test_equal_arguments_need_not_be_the_same_object(ns: Namespace[Any]) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    for _ in range(2):
        wrapped(str(b"key", "ascii"), int("123456789"), ("nested", 1))
    assert len(calls) == 1


def test_calls_that_differ_have_results_of_their_own(ns: Namespace[Any]) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    different: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 2), {}),
        (((1, 2),), {}),
        ((1,), {"x": 2}),
        ((), {"y": 1}),
        ((), {"x": 1, "y": 2}),
        ((), {"x": 2, "y": 1}),
        (("x", 2), {}),
        ((1, "x", 2), {}),
        (("1",), {}),
        ((b"1",), {}),
        ((-1,), {}),
        ((-2,), {}),  # its hash is that of -1
        (("",), {}),
        ((None,), {}),
        ((flowcache.wrapping.KEYWORDS,), {}),
    ]
    results = [wrapped(*args, **kwargs) for args, kwargs in different]
    assert results == [wrapped(*args, **kwargs) for args, kwargs in different]
    assert len(calls) == len(set(results)) == len(different)
    assert len({wrapped.cache_key(*args, **kwargs) for args, kwargs in different}) == len(different)


def test_a_key_that_is_shown_tells_its_parts(ns: Namespace[Any]) -> None:
    wrapped = ns.wrap(lambda *args, **kwargs: None, typed=True)
    wrapped(1, b=2)
    [key] = ns
    assert "<keywords>" in repr(key) and "<types>" in repr(key)


def test_the_order_of_keywords_makes_no_difference(ns: Namespace[Any]) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    assert wrapped(a=1, b=2) == wrapped(b=2, a=1) == 1
    assert wrapped(a=2, b=1) == 2
    assert len(calls) == 2


@pytest.mark.parametrize("order", [(1, True, 1.0), (True, 1, 1.0), (1.0, True, 1)])
def test_numbers_that_are_equal_share_a_result_unless_typed(
    ns: Namespace[Any], order: tuple[Any, ...]
) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    assert [wrapped(number) for number in order * 2] == [1] * 6
    assert [wrapped(x=number) for number in order * 2] == [2] * 6

    typed = ns.namespace("typed").wrap(function, typed=True)
    assert [typed(number) for number in order * 2] == [3, 4, 5] * 2
    assert [typed(x=number) for number in order * 2] == [6, 7, 8] * 2
    assert len(calls) == 8


def test_typed_and_untyped_wrappers_of_one_function_do_not_meet(ns: Namespace[Any]) -> None:
    _, function = counting()
    assert ns.wrap(function)(1) == 1
    assert ns.wrap(function, typed=True)(1) == 2
    assert ns.wrap(function)(int, 1) == 3


def test_what_an_argument_says_of_its_equality_is_believed(ns: Namespace[Any]) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    assert wrapped("k") == 1
    assert wrapped(Sub("k")) == 1
    assert wrapped(NeverEqual("k")) == 2
    assert wrapped("k") == 1
    one = NeverEqual("j")
    assert wrapped(one) == wrapped(one) == 3  # as in a dict, an object is at least itself
    assert wrapped(math.nan) == wrapped(math.nan) == 4
    assert wrapped(float("nan")) == 5
    assert len(calls) == 5


def test_an_unhashable_argument_is_refused_before_the_function_is_called(
    ns: Namespace[Any],
) -> None:
    calls, function = counting()
    wrapped = ns.wrap(function)
    for arguments in ([[]], ["a", {}], [([],)]):
        with pytest.raises(TypeError, match="unhashable"):
            wrapped(*arguments)
    with pytest.raises(TypeError, match="unhashable"):
        wrapped(x=[])
    assert calls == []
    assert wrapped.cache_info()[:2] == (0, 0)
    assert len(ns) == 0


def test_a_hash_or_an_eq_that_raises_is_heard(ns: Namespace[Any]) -> None:
    class Raises:
        hashing = False

        def __hash__(self) -> int:
            if self.hashing:
                raise ZeroDivisionError
            return 7

        def __eq__(self, other: object) -> bool:
            raise LookupError

    calls, function = counting()
    wrapped = ns.wrap(function)
    wrapped(Raises())
    with pytest.raises(LookupError):
        wrapped(Raises())
    Raises.hashing = True
    with pytest.raises(ZeroDivisionError):
        wrapped(Raises())
    Raises.hashing = False
    assert len(calls) == 1


def test_an_argument_may_use_the_cache_while_it_is_hashed_and_compared(ns: Namespace[Any]) -> None:
    class Meddles:
        def __hash__(self) -> int:
            ns.clear()
            ns.set("other", 1)
            return 7

        def __eq__(self, other: object) -> bool:
            wrapped.cache_clear()
            return True

    calls, function = counting()
    wrapped = ns.wrap(function)
    for _ in range(5):
        wrapped(Meddles())
        wrapped("beside", Meddles())
    assert len(calls) == 10
    ns.clear()


def test_wrong_arguments_are_the_functions_to_refuse(ns: Namespace[Any]) -> None:
    @ns.cached()
    def takes_one(x: int) -> int:
        return x

    for refused in (takes_one, takes_one.cache_key, takes_one.invalidate, takes_one.refresh):
        with pytest.raises(TypeError, match="argument"):
            refused(1, 2)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="argument"):
            refused(y=2)  # type: ignore[call-arg]
    assert len(ns) == 0


def test_a_builtin_without_a_signature_can_be_cached(ns: Namespace[Any]) -> None:
    wrapped = ns.wrap(max)
    assert wrapped(1, 3) == wrapped(1, 3) == 3
    assert wrapped.cache_info()[:2] == (1, 1)
    assert wrapped.invalidate(1, 3)
    assert wrapped.__name__ == "max"


# Functions that are one function


def test_functions_of_one_name_do_not_answer_for_each_other(ns: Namespace[Any]) -> None:
    def make(result: str) -> Callable[[int], str]:
        def function(x: int) -> str:
            return f"{result} {x}"

        return function

    wrapped = [ns.wrap(make(result)) for result in "abc"]
    for _ in range(2):
        assert [one(1) for one in wrapped] == ["a 1", "b 1", "c 1"]
    assert len({one.cache_key(1) for one in wrapped}) == 3
    wrapped[0].cache_clear()
    assert [one.cache_info().currsize for one in wrapped] == [0, 1, 1]
    wrapped[1].invalidate(1)
    assert [one.cache_info().currsize for one in wrapped] == [0, 0, 1]


def test_a_name_made_to_look_like_anothers_label_is_not_taken_for_it(ns: Namespace[Any]) -> None:
    def named(name: str) -> Callable[[], str]:
        def function() -> str:
            return f"{name} {len(made)}"

        function.__module__, function.__qualname__ = "look.alike", name
        made.append(function)
        return function

    made: list[Any] = []
    names = ["f", "f", "f#2", "f#2", "f##2", "f#", "f#", "f##", "f##3", "f", "f#3"]
    wrapped = [ns.wrap(named(name)) for name in names]
    assert len({one.cache_key() for one in wrapped}) == len(names)


def test_one_function_wrapped_twice_shares_its_results(ns: Namespace[Any]) -> None:
    calls, function = counting()
    assert [ns.wrap(function)(1) for _ in range(3)] == [1, 1, 1]
    assert ns.namespace("other").wrap(function)(1) == 2
    assert len(calls) == 2


def test_methods_and_partials_made_anew_are_the_same_function(ns: Namespace[Any]) -> None:
    class Api:
        def __init__(self) -> None:
            self.calls = Calls()

        def load(self, *args: int, **kwargs: int) -> int:
            return self.calls(*args, **kwargs)

    one, other = Api(), Api()
    assert [ns.wrap(one.load)(5) for _ in range(3)] == [1, 1, 1]
    assert ns.wrap(other.load)(5) == 1
    assert (len(one.calls), len(other.calls)) == (1, 1)
    assert [ns.wrap(functools.partial(one.load, 5))() for _ in range(3)] == [1, 1, 1]
    assert ns.wrap(functools.partial(one.load, 6))() == 2
    assert ns.wrap(functools.partial(functools.partial(one.load, 1), 2))(3) == 3
    assert ns.wrap(one.load)(1, 2, 3) == 3
    assert ns.wrap(functools.partial(one.load, a=1))(b=2) == 4
    assert ns.wrap(functools.partial(one.load, b=2))(a=1) == 4
    assert ns.wrap(functools.partial(one.load, a=1))(a=2) == 5
    assert ns.wrap(one.load)(a=2) == 5
    assert len(one.calls) == 5

    inner = functools.partial(one.load, 7, a=7)
    nested = functools.partial(types.MethodType(inner, 8), 9, a=9)
    assert ns.wrap(nested)() == ns.wrap(one.load)(7, 8, 9, a=9) == 6
    assert one.calls[-1] == ((7, 8, 9), {"a": 9})


@pytest.mark.skipif(sys.version_info < (3, 14), reason="a partial has no gaps before 3.14")
def test_partials_with_gaps_are_not_mixed_up(ns: Namespace[Any]) -> None:
    gap: Any = functools.Placeholder  # type: ignore[attr-defined,unused-ignore]
    _, function = counting()
    assert ns.wrap(functools.partial(function, gap, 2, 4))(5) == 1
    assert ns.wrap(functools.partial(function, gap, 2))(4, 5) == 2


def test_objects_that_claim_to_be_equal_do_not_answer_for_each_other(ns: Namespace[Any]) -> None:
    class Claims:
        def __init__(self, result: str) -> None:
            self.result = result

        def __call__(self) -> str:
            return self.result

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

    made = [Claims(result) for result in "ab"]
    assert [ns.wrap(one)() for one in made * 2] == ["a", "b"] * 2


def test_objects_without_weak_references_or_a_hash_can_be_wrapped(ns: Namespace[Any]) -> None:
    class Slotted:
        __slots__ = ("calls",)

        def __init__(self) -> None:
            self.calls = Calls()

        def __call__(self, x: int) -> int:
            return self.calls(x)

    class Unhashable(Slotted):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    for made in (Slotted(), Unhashable(), Slotted()):
        wrapped = ns.wrap(made)
        assert wrapped(3) == wrapped(3) == 1
        assert len(made.calls) == 1


# Methods


class Plain:
    """Hashable by identity."""


def test_a_method_keeps_results_for_each_instance(ns: Namespace[Any]) -> None:
    class Client:
        @ns.cached()
        def find(self, name: str) -> tuple[int, str]:
            return id(self), name

    one, other = Client(), Client()
    for _ in range(2):
        assert one.find("a") == (id(one), "a")
        assert other.find("a") == (id(other), "a")
        assert Client.find(one, "a") == (id(one), "a")
        assert one.find(name="a") == (id(one), "a")
    assert Client.find.cache_info().currsize == 3
    assert one.find.cache_key("a") == Client.find.cache_key(one, "a")
    assert one.find.invalidate("a")
    assert not one.find.invalidate("a")
    assert other.find.invalidate("a")
    one.find.cache_clear()
    assert one.find.cache_info().currsize == 0


def test_a_method_whose_key_leaves_self_out_does_not_keep_it_alive(ns: Namespace[Any]) -> None:
    class Client:
        @ns.cached(key=lambda self, name: ("client", name), tags=lambda self, name: name)
        def find(self, name: str) -> str:
            return name.upper()

        @ns.cached(key=lambda self, name: ("aclient", name))
        async def afind(self, name: str) -> str:
            return name.upper()

    gc.disable()
    try:
        client = Client()
        assert client.find("a") == client.find("a") == "A"
        assert client.find.refresh("a") == "A"
        assert asyncio.run(client.afind("a")) == "A"
        gone = weakref.ref(client)
        del client
        assert gone() is None
    finally:
        gc.enable()
    assert list(ns) == [("client", "a"), ("aclient", "a")]
    assert Client().find("a") == "A"
    assert Client.find.cache_info()[:2] == (2, 1)


def test_an_instance_without_a_hash_needs_a_key(ns: Namespace[Any]) -> None:
    class Client:
        __hash__ = None  # type: ignore[assignment]

        @ns.cached()
        def find(self) -> int:
            return 1

        @ns.cached(key="found")
        def found(self) -> int:
            return 2

    with pytest.raises(TypeError, match="unhashable"):
        Client().find()
    assert Client().found() == Client().found() == 2


def test_class_and_static_methods(ns: Namespace[Any]) -> None:
    calls = Calls()

    class Base:
        @ns.cached()
        @classmethod
        def above(cls, x: int) -> tuple[str, int]:
            calls(x)
            return cls.__name__, x

        @classmethod
        @ns.cached()
        def below(cls, x: int) -> tuple[str, int]:
            calls(x)
            return cls.__name__, x

        @ns.cached()
        @staticmethod
        def static_above(x: int) -> int:
            calls(x)
            return x

        @staticmethod
        @ns.cached()
        def static_below(x: int) -> int:
            calls(x)
            return x

    class Derived(Base): ...

    classes: list[Any] = [Base, Derived, Base(), Derived()]
    for _ in range(2):
        for place in classes:
            name = (place if isinstance(place, type) else type(place)).__name__
            assert place.above(1) == place.below(1) == (name, 1)
            assert place.static_above(2) == place.static_below(2) == 2
    assert len(calls) == 6
    assert Derived.above.invalidate(1)
    assert not Derived.above.invalidate(1)
    assert Base.above.invalidate(1)
    assert Base.static_above.invalidate(2)
    assert Base.static_below.invalidate(2)
    assert Base.above.__name__ == "above"


def test_a_property_and_an_abstract_method_may_be_cached(ns: Namespace[Any]) -> None:
    class Base(abc.ABC):
        @ns.cached()
        @abc.abstractmethod
        def name(self) -> str: ...

    class Derived(Base):
        def name(self) -> str:
            return "x"

        @property
        @ns.cached(key="size")
        def size(self) -> object:
            return object()

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]
    assert Derived().size is Derived().size


def test_a_bound_method_compares_and_shows_itself_as_one(ns: Namespace[Any]) -> None:
    class Client:
        @ns.cached()
        def find(self, name: str, limit: int = 3) -> str:
            """Find it."""
            return name

        @ns.cached()
        def other(self) -> None: ...

    one, two = Client(), Client()
    assert one.find == one.find
    assert hash(one.find) == hash(one.find)
    assert one.find != two.find
    assert one.find != one.other
    assert one.find != "find"
    assert one.find.__self__ is one
    assert one.find.__doc__ == "Find it."
    assert one.find.__name__ == "find"
    assert str(inspect.signature(one.find)) == "(name: 'str', limit: 'int' = 3) -> 'str'"
    assert "cached" in repr(one.find)
    assert "Client.find" in repr(one.find)
    assert one.find.__wrapped__("a") == "a"
    with pytest.raises(AttributeError):
        one.find.nothing_of_this_name  # noqa: B018


# Async functions


def test_an_async_function_is_awaited_once_for_all_callers(ns: Namespace[Any]) -> None:
    calls = Calls()

    @ns.cached(ttl=60)
    async def load(name: str) -> str:
        calls(name)
        await asyncio.sleep(0)
        return name.upper()

    async def main() -> None:
        assert await asyncio.gather(*(load("a") for _ in range(10))) == ["A"] * 10
        assert await load("a") == await load(name="a") == "A"
        with pytest.raises(StopIteration) as finished:
            load("a").send(None)
        assert finished.value.value == "A"
        load("a")  # dropped without a warning
        assert await load.refresh("a") == "A"

    asyncio.run(main())
    assert calls == [(("a",), {})] * 3
    assert load.invalidate("a")


def test_what_is_async_is_known_as_async(ns: Namespace[Any]) -> None:
    class Loads:
        async def __call__(self, x: int) -> int:
            return x

        async def method(self, x: int) -> int:
            return x

        @ns.cached()
        async def cached(self, x: int) -> int:
            return x

    async def function(x: int) -> int:
        return x

    asks = inspect if sys.version_info >= (3, 12) else asyncio
    made: list[Any] = [function, functools.partial(function), Loads(), Loads().method]
    for number, one in enumerate(made):
        wrapped = ns.namespace(str(number)).wrap(one)
        assert asks.iscoroutinefunction(wrapped)
        assert asyncio.run(call_twice(wrapped)) == (3, 3)
        assert wrapped.cache_info().hits == 1
    assert asks.iscoroutinefunction(Loads.cached)
    assert asks.iscoroutinefunction(Loads().cached)
    assert asyncio.run(call_twice(Loads().cached)) == (3, 3)
    assert not asks.iscoroutinefunction(ns.wrap(len))


async def call_twice(function: Callable[[int], Any]) -> tuple[int, int]:
    return await function(3), await function(3)


def test_a_sync_function_that_returns_an_awaitable_is_refused(ns: Namespace[Any]) -> None:
    async def load() -> int:
        return 1

    with pytest.raises(TypeError, match="afetch"):
        ns.wrap(lambda: load())()  # noqa: PLW0108
    assert len(ns) == 0


def test_an_async_error_is_not_kept(ns: Namespace[Any]) -> None:
    calls = Calls()

    @ns.cached()
    async def fails() -> None:
        calls()
        raise LookupError("upstream")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(LookupError, match="upstream"):
                await fails()

    asyncio.run(main())
    assert len(calls) == 2
    assert fails.cache_info() == (0, 2, ns.limits.max_entries, 0)


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
        (TypeError, "unhashable", {"key": []}),
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


# The attributes of the wrapper


def test_the_wrapper_bears_what_the_function_bears(ns: Namespace[Any]) -> None:
    def function(x: int, *, y: str = "d") -> str:
        """Say it."""
        return y * x

    function.colour = "red"  # type: ignore[attr-defined]
    function.invalidate = "hides nothing"  # type: ignore[attr-defined]
    wrapped: Any = ns.wrap(function)
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
        assert getattr(wrapped, name) == getattr(function, name)
    # From 3.14 on those of a class would hide them. On earlier versions a class may have an empty
    # dict of them once they were read.
    assert not any(vars(kind).get("__annotations__") for kind in type(wrapped).__mro__)
    assert wrapped.__wrapped__ is function
    assert wrapped.colour == "red"
    assert wrapped.invalidate(1) is False
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert callable(wrapped)
    assert wrapped.__call__(2) == wrapped(2) == "dd"
    assert type(wrapped).__call__(wrapped, 2) == "dd"
    assert wrapped.cache_info()[:2] == (2, 1)
    assert repr(function) in repr(wrapped)


def test_a_wrapper_can_be_wrapped_again(ns: Namespace[Any]) -> None:
    calls, function = counting()
    inner = ns.wrap(function)
    outer = ns.wrap(inner)
    assert outer(1) == outer(1) == 1
    assert outer.cache_key(1) != inner.cache_key(1)
    assert outer.invalidate(1)
    assert outer(1) == 1
    assert inner.invalidate(1)
    assert outer(1) == 1
    assert outer.refresh(1) == 2
    assert len(calls) == 2


def test_the_doors_of_the_wrapper_are_found_through_other_decorators(ns: Namespace[Any]) -> None:
    calls, function = counting()
    assert functools.partial(ns.wrap(function), 1)() == 1
    assert list(map(ns.wrap(function), [1, 1, 2])) == [1, 1, 2]

    @functools.singledispatch
    def dispatched(x: object) -> str:
        return "object"

    dispatched.register(int, ns.wrap(lambda x: "int"))
    assert [dispatched(1), dispatched("x"), dispatched(1)] == ["int", "object", "int"]
    assert len(calls) == 2


module_cache = create_cache()


@module_cache.cached()
def module_function(x: int) -> int:
    return x


class ModuleClass:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleClass)

    __hash__ = None  # type: ignore[assignment]

    @module_cache.cached(key=lambda self: "k")
    def method(self) -> int:
        return 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_wrapper_is_pickled_by_its_name(protocol: int) -> None:
    for made in (module_function, ModuleClass.method):
        assert pickle.loads(pickle.dumps(made, protocol)) is made
    bound = pickle.loads(pickle.dumps(ModuleClass().method, protocol))
    assert bound() == 1

    local = module_cache.wrap(lambda x: x)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local, protocol)


def test_a_wrapper_is_copied_as_a_function_is() -> None:
    assert copy.copy(module_function) is module_function
    assert copy.deepcopy([module_function]) == [module_function]


# References that it keeps


def test_a_wrapper_made_for_one_call_goes_with_it(ns: Namespace[Any]) -> None:
    def function(x: int) -> int:
        return x

    async def afunction(x: int) -> int:
        return x

    gc.disable()
    try:
        wrapped = ns.wrap(function, tags="t")
        wrapped(1), wrapped(1)
        awrapped = ns.wrap(afunction, tags="t")
        asyncio.run(call_twice(awrapped))
        gone = weakref.ref(wrapped), weakref.ref(awrapped)
        del wrapped, awrapped
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_a_cycle_through_wrapper_cache_and_value_is_collected() -> None:
    cache = create_cache()
    wrapped: Any = cache.namespace("a").wrap(lambda x: Plain())
    wrapped(1).back = wrapped
    gone = weakref.ref(wrapped), weakref.ref(wrapped(1))
    del wrapped, cache
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_labels_are_not_kept_for_functions_that_are_gone() -> None:
    ns = create_cache().namespace("a")
    gc.collect()
    before = len(flowcache.wrapping._labels)
    for n in range(1_000):
        ns.wrap(lambda n=n: n)()
    gc.collect()
    assert len(flowcache.wrapping._labels) == before


# The namespace of the current tenant, looked up at each call


def test_each_tenant_has_results_of_its_own_and_without_one_nothing_is_called(
    ns: Namespace[Any],
) -> None:
    calls, mine = Calls(), ns.for_current_tenant(lambda name: name)

    @mine.wrap
    def wrapped(x: int) -> Any:
        calls(x)
        return x, current_tenant.get()

    @mine.wrap
    async def awrapped(x: int) -> Any:
        calls(x)
        return x, current_tenant.get()

    for _ in range(2):
        for name in ("acme", "beta"):
            with tenant(name):
                assert wrapped(1) == (1, name)
                assert asyncio.run(call_twice(awrapped)) == ((3, name), (3, name))
    assert len(calls) == 4
    with tenant("beta"):
        wrapped.cache_clear()
        assert wrapped(1) == (1, "beta")
    with tenant("acme"):
        assert wrapped(1) == (1, "acme")
        assert wrapped.cache_info().currsize == 1
    assert len(calls) == 5
    for refused in (wrapped, wrapped.invalidate, wrapped.refresh, awrapped):
        with pytest.raises(TenantNotSetError, match="no current tenant is set"):
            refused(1)
    for refused in (wrapped.cache_clear, wrapped.cache_info):
        with pytest.raises(TenantNotSetError, match="no current tenant is set"):
            refused()
    assert len(calls) == 5
