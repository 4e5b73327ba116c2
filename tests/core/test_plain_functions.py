"""Coroutine functions are refused where flowcache calls a plain one; so is one `str` for keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from flowcache import create_cache


async def coroutine_function(*args: Any) -> Any:
    return 1


def turns_out_async(*args: Any) -> Any:
    return coroutine_function(*args)


class AsyncCallable:
    async def __call__(self, *args: Any) -> Any:
        return 1


def generator_function(*args: Any) -> Iterator[int]:
    yield 1


class GeneratingCallable:
    def __call__(self, *args: Any) -> Iterator[int]:
        yield 1


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "coroutine function": coroutine_function,
    "partial": partial(coroutine_function),
    "async callable": AsyncCallable(),
    "bound method": AsyncCallable().__call__,
    "generator function": generator_function,
    "generating callable": GeneratingCallable(),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("argument", ["clock", "weigher"])
def test_a_cache_is_not_made_with_it(argument: str, function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=f"^{argument}: must be a plain function, got a "):
        create_cache(**{argument: function})


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_listener_is_a_plain_function(function: Callable[..., Any]) -> None:
    cache = create_cache()
    with pytest.raises(TypeError, match=r"^listener: must be a plain function, got a "):
        cache.subscribe(function)
    with pytest.raises(TypeError, match=r"^listener: must be a plain function, got a "):
        cache.namespace("acme").subscribe(function, kinds="set")


def test_a_listener_that_returns_an_awaitable_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cache = create_cache()
    cache.subscribe(turns_out_async, kinds="set")
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert "listener: must not return an awaitable, returned coroutine" in caplog.text


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_store_if_is_a_plain_function(function: Callable[..., Any]) -> None:
    cache = create_cache()
    refused = pytest.raises(TypeError, match=r"^store_if: must be a plain function, got a ")
    with refused:
        cache.fetch("k", lambda: 1, store_if=function)
    with refused:
        cache.refresh("k", lambda: 1, store_if=function)
    with refused:
        cache.fetch_many(["k"], dict.fromkeys, store_if=function)
    for call in (cache.afetch, cache.arefresh):
        with refused:
            call("k", coroutine_function, store_if=function)
    with refused:
        cache.afetch_many(["k"], coroutine_function, store_if=function)
    assert len(cache) == 0


def test_store_if_that_returns_an_awaitable_fails_the_load() -> None:
    cache = create_cache()

    async def use() -> None:
        with pytest.raises(TypeError, match=r"^store_if: must not return an awaitable"):
            await cache.afetch("k", coroutine_function, store_if=turns_out_async)

    asyncio.run(use())
    assert len(cache) == 0


@pytest.mark.parametrize("keys", ["ab", b"ab", bytearray(b"ab")])
def test_one_text_is_no_list_of_keys(keys: Any) -> None:
    cache = create_cache()
    cache.set("a", 1)
    named = f"^keys: must be an iterable of keys, got one {type(keys).__name__}"
    with pytest.raises(TypeError, match=named):
        cache.fetch_many(keys, lambda missing: dict.fromkeys(missing, 1))
    with pytest.raises(TypeError, match=named):
        cache.afetch_many(keys, lambda missing: dict.fromkeys(missing, 1))
    with pytest.raises(TypeError, match=named):
        cache.get_many(keys)
    with pytest.raises(TypeError, match=named):
        cache.delete_many(keys)
    assert cache.get("a") == 1
