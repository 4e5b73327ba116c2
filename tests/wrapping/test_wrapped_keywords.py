"""Calls of cached functions with keywords: one key whatever the order, and no other call's."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.naming import make_key
from harness.support import new_cache


class Sub(str):
    __slots__ = ()


@pytest.fixture(params=["compiled", "general"])
def ns(request: pytest.FixtureRequest) -> Any:
    cache = create_cache() if request.param == "compiled" else new_cache()[0]
    return cache.namespace("functions")


def test_each_call_has_the_key_that_its_arguments_make(ns: Any) -> None:
    """The same calls in every order, asked again in another: each is made once."""
    calls: list[Any] = []

    @ns.cached()
    def ask(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return args, kwargs

    names = "delta", "alpha", "charlie", "bravo"
    forms = [
        (args, chosen)
        for args in ((), (1,), ("1",), ("alpha", 1))
        for count in range(5)
        for chosen in itertools.permutations(names, count)
    ]
    random.Random(3).shuffle(forms)
    distinct = set()
    for turn in range(2):
        for args, chosen in forms:
            given = {name: names.index(name) for name in chosen}
            assert ask(*args, **given) == (args, given)
            assert ask.cache_key(*args, **given) == make_key(ask._label, args, given, False)
            distinct.add(ask.cache_key(*args, **given))
        assert len(calls) == len(distinct) == 4 * 16, turn
    assert len(ns) == len(distinct)
    assert ask.cache_info().hits == 2 * len(forms) - len(distinct)


def test_calls_that_only_look_alike_are_different_ones(ns: Any) -> None:
    @ns.cached()
    def ask(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    forms: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}),
        ((), {"x": 1}),
        ((), {"x": "1"}),
        (("x", 1), {}),
        (("x",), {"x": 1}),
        ((), {"x": 1, "y": 2}),
        ((), {"x": 2, "y": 1}),
        ((), {"xy": 1}),
        ((), {"\u00e9": 1}),
        ((), {"e\u0301": 1}),
    ]
    for _ in range(3):
        for args, kwargs in forms:
            assert ask(*args, **kwargs) == (args, kwargs)
    assert len(ns) == len(forms)


def test_more_keywords_than_the_short_cut_takes_and_names_of_other_types(ns: Any) -> None:
    calls: list[Any] = []

    @ns.cached()
    def ask(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return len(calls)

    for count in range(12):
        given = {f"name{n}": n for n in range(count)}
        backwards = dict(reversed(given.items()))
        assert ask(**given) == ask(**backwards) == ask(**given) == count + 1
        assert ask(*range(40), **given) == ask(*range(40), **given)
        calls.pop()
    assert ask(**{Sub("a"): 1, Sub("b"): 2}) == ask(**{"b": 2, Sub("a"): 1}) == ask(b=2, a=1)


def test_an_argument_that_changes_the_cache_as_it_is_hashed(ns: Any) -> None:
    class Meddler:
        def __hash__(self) -> int:
            ns.clear()
            return 3

        def __eq__(self, other: object) -> bool:
            ns.clear()
            return isinstance(other, Meddler)

    calls: list[Any] = []

    @ns.cached()
    def ask(x: Any, *, y: Any = None) -> Any:
        calls.append((x, y))
        return len(calls)

    for _ in range(3):
        assert ask(1, y=Meddler()) == len(calls)
    ns._check()
