"""`bind=True`: one normal form of arguments; what `lru_cache` and async-lru tell of a function."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from flowcache.tenancy import tenant
from harness.support import new_cache

CALLS = [
    ((1,), {}),
    ((), {"x": 1}),
    ((1, 2), {}),
    ((1,), {"y": 2}),
    ((), {"y": 2, "x": 1}),
    ((1, 2), {"z": 3}),
    ((1,), {"z": 3, "y": 2}),
]


@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_all_ways_to_make_a_call_share_one_key(args: Any, kwargs: Any) -> None:
    cache, _ = new_cache()
    made = []

    @cache.cached(bind=True)
    def function(x: int, y: int = 2, *, z: int = 3) -> int:
        made.append((x, y, z))
        return x + y + z

    assert function(1) == 6
    assert function(*args, **kwargs) == 6
    assert made == [(1, 2, 3)]
    assert function.cache_key(*args, **kwargs) == function.cache_key(1)
    assert function.cache_contains(*args, **kwargs)
    assert function.invalidate(*args, **kwargs)
    assert not function.cache_contains(1)
    assert function.refresh(*args, **kwargs) == 6
    assert function(1) == 6
    assert len(made) == 2


def test_different_calls_have_different_keys() -> None:
    cache, _ = new_cache()

    @cache.cached(bind=True)
    def function(x: int, *rest: int, y: int = 0, **more: int) -> Any:
        return x, rest, y, more

    calls: list[Any] = [
        ((1,), {}),
        ((1, 2), {}),
        ((1,), {"y": 2}),
        ((1,), {"more": 2}),
        ((1, 0), {}),
        ((1,), {"a": 1, "b": 2}),
    ]
    for args, kwargs in calls * 2:
        assert function(*args, **kwargs) == function.__wrapped__(*args, **kwargs)
    assert function.cache_info()[:2] == (6, 6)


def test_without_it_each_way_has_a_key_of_its_own() -> None:
    cache, _ = new_cache()
    function = cache.cached()(lambda x: x)
    function(1)
    assert not function.cache_contains(x=1)


def kind_of(x: object) -> type:
    return type(x)


def test_with_types_told_apart() -> None:
    cache, _ = new_cache()
    function = cache.cached(bind=True, typed=True)(kind_of)
    assert function(1) is int
    assert function(x=True) is bool
    assert function(x=1) is int
    assert function.cache_info()[:2] == (1, 2)


def test_methods_partials_and_coroutines() -> None:
    cache, _ = new_cache()
    made = []

    class Client:
        @cache.cached(bind=True)
        def find(self, x: int, y: int = 2) -> int:
            made.append(x)
            return x + y

    client = Client()
    assert client.find(1) == client.find(y=2, x=1) == 3
    assert client.find.cache_contains(1) and client.find.invalidate(x=1)
    assert made == [1]

    def add(x: int, y: int, z: int = 0) -> int:
        made.append(z)
        return x + y + z

    assert cache.wrap(functools.partial(add, 1), bind=True)(2) == 3
    assert cache.wrap(add, bind=True)(1, y=2, z=0) == 3
    assert made == [1, 0]

    @cache.cached(bind=True)
    async def load(x: int, y: int = 2) -> int:
        made.append(y)
        return x + y

    async def ask() -> list[int]:
        return [await load(1), await load(x=1), await load(1, 2)]

    assert asyncio.run(ask()) == [3, 3, 3]
    assert made == [1, 0, 2]


def test_for_each_tenant() -> None:
    cache, _ = new_cache()
    made = []

    @cache.cached(tenant="who", bind=True)
    def of_tenant(who: str, x: int = 1) -> str:
        made.append(who)
        return f"{who} {x}"

    assert of_tenant("acme") == of_tenant(x=1, who="acme") == "acme 1"
    assert of_tenant("beta") == "beta 1"
    assert made == ["acme", "beta"]
    assert of_tenant.invalidate(who="acme") and not of_tenant.cache_contains("acme")
    assert of_tenant.cache_contains("beta", 1)

    @cache.for_current_tenant().cached(bind=True)
    def of_current(x: int = 1) -> int:
        made.append("current")
        return x

    for name in ("acme", "beta"):
        with tenant(name):
            assert of_current() == of_current(1) == of_current(x=1) == 1
    assert made[2:] == ["current", "current"]


def test_a_function_that_passes_all_on_is_not_looked_through() -> None:
    """It may pass on another default than the function behind it has."""
    cache, _ = new_cache()

    def add(x: int, y: int = 2) -> int:
        return x + y

    @functools.wraps(add)
    def from_ten(*args: int, **kwargs: int) -> int:
        return add(*args, **({"y": 10} | kwargs))

    function = cache.wrap(from_ten, bind=True)
    assert (function(1), function(1, y=2)) == (11, 3)


def test_arguments_that_do_not_fit_are_refused_as_the_function_does() -> None:
    cache, _ = new_cache()
    function = cache.cached(bind=True)(lambda x: x)
    for call in (function, function.invalidate, function.cache_contains):
        with pytest.raises(TypeError):
            call(1, 2)
        with pytest.raises(TypeError):
            call(y=1)
    assert cache.stats().entries == 0


def test_what_cannot_be_meant_is_refused() -> None:
    cache, _ = new_cache()
    with pytest.raises(TypeError, match="bind: must be a bool"):
        cache.wrap(lambda: 1, bind=1)  # type: ignore[typeddict-item]
    with pytest.raises(TypeError, match="bind: has no meaning with key="):
        cache.wrap(lambda: 1, bind=True, key="k")
    with pytest.raises(TypeError, match="bind: the parameters of"):
        cache.wrap(iter, bind=True)


def test_cache_parameters_are_those_of_lru_cache() -> None:
    cache, _ = new_cache(max_entries=7)
    known = functools.lru_cache(maxsize=7, typed=True)(lambda x: x)
    function = cache.cached(typed=True)(lambda x: x)
    assert function.cache_parameters() == known.cache_parameters()  # type: ignore[attr-defined]
    assert cache.namespace("a").cached(lambda: 1).cache_parameters() == {
        "maxsize": None,
        "typed": False,
    }
    of_current = cache.for_current_tenant().cached(lambda: 1)
    with tenant("acme"):
        assert of_current.cache_parameters() == {"maxsize": None, "typed": False}


def test_cache_contains_counts_nowhere() -> None:
    cache, clock = new_cache()
    function = cache.cached(ttl=5)(lambda x: x)
    assert not function.cache_contains(1)
    function(1)
    before = cache.stats()
    assert function.cache_contains(1)
    assert cache.stats() == before
    clock.advance(5)
    assert not function.cache_contains(1)
