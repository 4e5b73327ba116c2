"""The calls of a cached function that are one call, and the functions that are one function."""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

import flowcache.naming
from flowcache import (
    Namespace,
)
from harness.wrapping_support import Calls, counting


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
        ((flowcache.naming.KEYWORDS,), {}),
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
