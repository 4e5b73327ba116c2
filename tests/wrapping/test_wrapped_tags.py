"""Two wrappers of one function share results if, and only if, these bear the same tags."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import create_cache

price = ["old"]


def product(number: int) -> str:
    return price[0]


async def aproduct(number: int) -> str:
    return price[0]


def by_number(number: int) -> str:
    return f"product:{number}"


def by_parity(number: int) -> str:
    return f"parity:{number % 2}"


def answer(made: Any) -> Any:
    async def run() -> Any:
        return await made

    return asyncio.run(run()) if hasattr(made, "__await__") else made


PAIRS: list[tuple[Any, Any, str]] = [
    ((), "prices", "prices"),
    ("names", "prices", "prices"),
    (("a", "b"), ("a", "prices"), "prices"),
    ((), by_number, "product:1"),
    (by_number, by_parity, "parity:1"),
]


@pytest.mark.parametrize("function", [product, aproduct])
@pytest.mark.parametrize(("first", "second", "tag"), PAIRS)
def test_an_invalidation_reaches_what_the_wrapper_with_that_tag_returns(
    function: Callable[[int], Any], first: Any, second: Any, tag: str
) -> None:
    ns = create_cache().namespace("ns")
    price[0] = "old"
    one, other = ns.wrap(function, tags=first), ns.cached(tags=second)(function)
    assert answer(one(1)) == answer(other(1)) == "old"
    assert one.cache_key(1) != other.cache_key(1)
    price[0] = "new"
    assert ns.invalidate_tag(tag) == 1
    assert answer(other(1)) == "new"
    assert answer(one(1)) == "old", "its tags were not invalidated"


@pytest.mark.parametrize("tags", [(), "prices", ("a", "b"), by_number])
def test_wrappers_with_the_same_tags_share_results(tags: Any) -> None:
    ns = create_cache().namespace("ns")
    calls: list[int] = []

    def function(number: int) -> int:
        calls.append(number)
        return number

    one, other = ns.wrap(function, tags=tags), ns.wrap(function, tags=tags)
    assert one(1) == other(1) == 1
    assert calls == [1]
    assert one.cache_info().currsize == other.cache_info().currsize == 1


def test_the_order_of_tags_makes_no_difference() -> None:
    ns = create_cache().namespace("ns")
    one, other = ns.wrap(product, tags=("a", "b")), ns.wrap(product, tags=iter("bab"))
    assert one.cache_key(1) == other.cache_key(1)


def test_one_wrapper_s_cache_clear_leaves_the_other_s_results() -> None:
    ns = create_cache().namespace("ns")
    one, other = ns.wrap(product), ns.wrap(product, tags="prices")
    one(1)
    other(1)
    one.cache_clear()
    assert (one.cache_info().currsize, other.cache_info().currsize) == (0, 1)
