"""Arguments of cached functions that can never work are refused, and name the argument."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest

from flowcache import Loaded, create_cache
from flowcache.tenancy import tenant


class AsyncCallable:
    async def __call__(self, *args: Any) -> Any:
        return "made"


class Repeats:
    """Can be iterated again and again."""

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


async def coroutine_function(*args: Any) -> Any:
    return "made"


def turns_out_async(*args: Any) -> Any:
    return coroutine_function(*args)


ASYNC = {
    "function": coroutine_function,
    "partial": partial(coroutine_function, 1),
    "object": AsyncCallable(),
    "method": AsyncCallable().__call__,
}


@pytest.mark.parametrize("made", ASYNC.values(), ids=ASYNC)
@pytest.mark.parametrize("option", ["key", "tags", "store_if"])
def test_a_coroutine_function_is_refused_where_a_plain_one_is_called(
    option: str, made: Callable[..., Any]
) -> None:
    cache = create_cache()
    with pytest.raises(TypeError, match=rf"^{option}: must be a plain function, got a coroutine"):
        cache.cached(**{option: made})(len)
    with pytest.raises(TypeError, match=rf"^{option}: must be a plain function, got a coroutine"):
        cache.for_current_tenant().cached(**{option: made})(len)


def test_a_generator_function_is_refused_where_a_plain_one_is_called() -> None:
    def tags_of(text: str) -> Iterator[str]:
        yield text

    with pytest.raises(TypeError, match=r"^tags: must be a plain function, got a generator"):
        create_cache().cached(tags=tags_of)(len)


@pytest.mark.parametrize("option", ["key", "tags", "store_if"])
def test_a_plain_function_that_returns_an_awaitable_is_refused_at_the_call(option: str) -> None:
    cache = create_cache()
    length = cache.cached(**{option: turns_out_async})(len)
    with pytest.raises(TypeError, match=rf"^{option}: must not return an awaitable, returned coro"):
        length("abc")
    assert len(cache) == 0


RESULTS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (n for n in range(3)),
    "map": lambda: map(str, (1, 2)),
    "zip": lambda: zip("ab", "cd", strict=True),
    "stream": lambda: io.StringIO("body"),
    "iterator": lambda: iter([1, 2]),
}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_a_result_that_can_be_read_only_once_is_refused(make: Callable[[], Any]) -> None:
    cache = create_cache()
    rows = cache.wrap(make)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"^loader: returned an iterator .* only once"):
            rows()
    with tenant("acme"), pytest.raises(TypeError, match=r"^loader: returned an iterator"):
        cache.for_current_tenant().wrap(make)()
    with pytest.raises(TypeError, match=r"^loader: returned an iterator"):
        cache.fetch("rows", make)
    with pytest.raises(TypeError, match=r"^loader: returned an iterator"):
        cache.refresh("rows", make)
    with pytest.raises(TypeError, match=r"^loader: returned an iterator"):
        cache.fetch_many(["rows"], lambda keys: {key: make() for key in keys})
    assert len(cache) == 0
    assert cache.stats().pending == 0


def test_an_asynchronous_iterator_is_refused_as_a_result() -> None:
    cache = create_cache()

    @cache.cached()
    async def rows() -> Any:
        async def produce() -> Any:
            yield 1

        return produce()

    async def use() -> None:
        with pytest.raises(TypeError, match=r"^loader: returned an iterator \(async_generator\)"):
            await rows()

    asyncio.run(use())
    assert len(cache) == 0


def test_a_result_that_can_be_read_again_is_kept() -> None:
    kept = create_cache().wrap(Repeats)()
    assert list(kept) == list(kept) == [1, 2]
    mock = MagicMock()
    assert create_cache().fetch("k", lambda: mock) is mock


def first() -> str:
    return "first"


def second() -> str:
    return "second"


def by_argument(*args: Any) -> Any:
    return args


@pytest.mark.parametrize("key", ["report", ("report", 1), by_argument])
@pytest.mark.parametrize("current", [False, True])
def test_two_functions_with_one_key_in_one_namespace_are_refused(key: Any, current: bool) -> None:
    cache = create_cache()
    held = (
        cache.for_current_tenant().wrap(first, key=key) if current else cache.wrap(first, key=key)
    )
    wrap = cache.for_current_tenant().wrap if current else cache.wrap
    with pytest.raises(ValueError, match=r"^key: .* is already the key of .*first in this namesp"):
        wrap(second, key=key)
    with pytest.raises(ValueError, match=r"^key: "):
        wrap(lambda: "third", key=key)
    # Elsewhere, and for the same function, the key is free.
    elsewhere = cache.namespace("other").wrap(second, key=key)
    again = wrap(first, key=key)
    assert create_cache().wrap(second, key=key)() == elsewhere() == "second"
    with tenant("acme"):
        assert held() == again() == "first"


def test_a_key_is_free_when_its_function_is_gone() -> None:
    cache = create_cache()
    wrapped = cache.wrap(first, key="report")
    assert wrapped() == "first"
    wrapped.cache_clear()
    del wrapped
    assert cache.wrap(second, key="report")() == "second"


def test_a_function_made_anew_by_the_same_code_keeps_its_key() -> None:
    cache = create_cache()

    def make(result: str) -> Any:
        @cache.cached(key="report")
        def build() -> str:
            return result

        return build

    one, other = make("one"), make("one")
    assert one() == other() == "one"
    with pytest.raises(ValueError, match=r"^key: 'report' is already the key of "):
        make("other")


class Service:
    def __init__(self, name: str) -> None:
        self.name = name

    def report(self) -> str:
        return self.name


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise OSError("an array, perhaps")

    __hash__ = None  # type: ignore[assignment]


def holding(value: Any, how: str) -> Callable[[], Any]:
    """A function of one code that holds the value in one of the ways there are."""

    def closure() -> Any:
        return value

    def default(held: Any = value) -> Any:
        return held

    def keyword_default(*, held: Any = value) -> Any:
        return held

    ways: dict[str, Callable[[], Any]] = {
        "closure": closure,
        "default": default,
        "keyword default": keyword_default,
        "partial": partial(by_argument, value),
        "partial by keyword": partial(dict, held=value),
    }
    return ways[how]


@pytest.mark.parametrize(
    "how", ["closure", "default", "keyword default", "partial", "partial by keyword"]
)
def test_functions_of_one_code_that_hold_different_things_are_two_functions(how: str) -> None:
    cache = create_cache()
    first_one = cache.wrap(holding("acme's", how), key="report")
    kept = first_one()
    with pytest.raises(ValueError, match=r"^key: "):
        cache.wrap(holding("beta's", how), key="report")
    assert cache.wrap(holding("acme's", how), key="report")() == kept == first_one()
    odd = Incomparable()
    other = cache.wrap(holding(odd, how), key="odd")
    with pytest.raises(ValueError, match=r"^key: "):
        cache.wrap(holding(Incomparable(), how), key="odd")
    assert other.__wrapped__ is not None


def test_a_method_of_another_object_is_another_function() -> None:
    cache = create_cache()
    acme, beta = Service("acme"), Service("beta")
    kept = cache.wrap(acme.report, key="report")
    assert cache.wrap(acme.report, key="report")() == kept() == "acme"
    with pytest.raises(ValueError, match=r"^key: .*Service.report"):
        cache.wrap(beta.report, key="report")


def test_a_coroutine_as_a_value_is_refused() -> None:
    cache = create_cache()
    named = "^loader: returned a coroutine as a value"

    async def of_coroutine() -> Any:
        return coroutine_function()

    async def use() -> None:
        with pytest.raises(TypeError, match=named):
            await cache.afetch("k", of_coroutine)
        with pytest.raises(TypeError, match=named):
            await cache.afetch_many(["k"], lambda keys: {"k": coroutine_function()})

    asyncio.run(use())
    with pytest.raises(TypeError, match=named):
        cache.fetch("k", lambda: Loaded(coroutine_function()))
    with pytest.raises(TypeError, match=named):
        cache.fetch_many(["k"], lambda keys: {"k": coroutine_function()})
    assert len(cache) == 0


def test_cached_without_parentheses() -> None:
    cache = create_cache()
    calls = []

    @cache.cached
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    class Shop:
        @cache.cached
        def price(self, number: int) -> int:
            return double(number)

    @cache.for_current_tenant().cached
    async def mine() -> str:
        return "mine"

    async def use() -> str:
        with tenant("acme"):
            return await mine()

    assert double(2) == double(2) == Shop().price(2) == 4
    assert calls == [2]
    assert asyncio.run(use()) == "mine"
    assert cache.namespace("tenant:acme").stats().entries == 1


@pytest.mark.parametrize("argument", [300, "tag", ["tag"]])
def test_cached_takes_its_options_by_name(argument: Any) -> None:
    with pytest.raises(TypeError, match=r"^cached: takes options by name"):
        create_cache().cached(argument)
    with pytest.raises(TypeError, match=r"^cached: takes options by name"):
        create_cache().cached(first, ttl=3)  # type: ignore[call-overload]
