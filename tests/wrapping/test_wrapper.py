"""The wrapper itself: its attributes, its references, and the tenant of each of its calls."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import weakref
from typing import Any

import pytest

import flowcache.naming
from flowcache import (
    Namespace,
    TenantNotSetError,
    create_cache,
)
from flowcache.tenancy import current_tenant, tenant
from harness.wrapping_support import Calls, call_twice, counting

# Methods


class Plain:
    """Hashable by identity."""


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
    before = len(flowcache.naming._labels)
    for n in range(1_000):
        ns.wrap(lambda n=n: n)()
    gc.collect()
    assert len(flowcache.naming._labels) == before


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
