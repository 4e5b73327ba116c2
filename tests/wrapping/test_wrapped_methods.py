"""Cached methods, properties and async functions."""

from __future__ import annotations

import abc
import asyncio
import functools
import gc
import inspect
import sys
import weakref
from typing import Any

import pytest

from flowcache import (
    Namespace,
)
from harness.wrapping_support import Calls, call_twice

# Methods


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
