"""fetch_many and afetch_many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowcache import (
    Loaded,
)
from harness.loading_support import assert_nothing_left
from harness.support import new_cache


def test_fetch_many_calls_the_loader_once_for_what_is_missing() -> None:
    cache, _ = new_cache()
    cache.set("b", "held")
    asked: list[list[str]] = []

    def load(missing: list[str]) -> dict[str, str]:
        asked.append(missing)
        return {key: key.upper() for key in missing} | {"unasked": "ignored"}

    found = cache.fetch_many(["a", "b", "c", "a"], load, ttl=5, tags="t")
    assert found == {"a": "A", "b": "held", "c": "C"}
    assert list(found) == ["a", "b", "c"]
    assert asked == [["a", "c"]]
    assert "unasked" not in cache
    assert cache.ttl("a") == 5
    assert cache.invalidate_tag("t") == 2
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.loads, stats.pending) == (1, 2, 2, 0)


def test_fetch_many_leaves_out_what_the_mapping_lacks() -> None:
    cache, _ = new_cache()
    asked: list[list[int]] = []

    def load(missing: list[int]) -> dict[int, int]:
        asked.append(missing)
        return {key: key for key in missing if key % 2}

    assert cache.fetch_many(range(4), load) == {1: 1, 3: 3}
    assert asked == [[0, 1, 2, 3]]
    assert cache.fetch_many(range(4), load) == {1: 1, 3: 3}
    assert asked[1:] == [[0, 2]]
    assert cache.fetch_many([], load) == {}
    assert len(asked) == 2
    assert_nothing_left(cache)


def test_fetch_many_keeps_each_value_on_its_own_terms() -> None:
    cache, _ = new_cache()

    def load(missing: list[str]) -> dict[str, object]:
        return {"a": Loaded(1, ttl=1), "b": Loaded(2, store=False), "c": None, "d": 4}

    found = cache.fetch_many([*"abcd"], load, store_if=lambda value: value != 4)
    assert found == {"a": 1, "b": 2, "c": None, "d": 4}
    assert list(cache) == ["a", "c"]
    assert cache.ttl("a") == 1


@pytest.mark.parametrize("result", [None, [("a", 1)], 7, OSError])
def test_fetch_many_whose_loader_fails_stores_nothing(result: object) -> None:
    cache, _ = new_cache()
    cache.set("b", 2)

    def load(missing: list[str]) -> Any:
        if result is OSError:
            raise OSError("down")
        return result

    with pytest.raises((TypeError, OSError), match=r"loader_many|down"):
        cache.fetch_many([*"abc"], load)
    assert list(cache) == ["b"]
    assert cache.stats().load_failures == 2
    assert_nothing_left(cache)


def test_fetch_many_falls_back_on_old_values_when_it_fails() -> None:
    cache, clock = new_cache()

    def load(missing: list[str]) -> dict[str, int]:
        return dict.fromkeys(missing, 1)

    def fail(missing: list[str]) -> dict[str, int]:
        raise OSError("down")

    cache.fetch_many([*"ab"], load, ttl=10, stale_if_error=100)
    clock.advance(50)
    assert cache.fetch_many([*"ab"], fail, stale_if_error=100) == {"a": 1, "b": 1}
    with pytest.raises(OSError, match="down"):
        cache.fetch_many([*"ab"], fail)
    with pytest.raises(OSError, match="down"):
        cache.fetch_many([*"abc"], fail, stale_if_error=100)


def test_afetch_many() -> None:
    cache, _ = new_cache()
    cache.set("b", "held")
    asked: list[list[str]] = []

    async def load(missing: list[str]) -> dict[str, str]:
        asked.append(missing)
        await asyncio.sleep(0)
        return {key: key.upper() for key in missing if key != "z"}

    async def main() -> None:
        assert await cache.afetch_many([*"abcz"], load) == {"a": "A", "b": "held", "c": "C"}
        assert await cache.afetch_many([*"abc"], lambda missing: {}) == {
            "a": "A",
            "b": "held",
            "c": "C",
        }
        assert await cache.fetch_many([*"ad"], load) == {"a": "A", "d": "D"}
        assert asked == [["a", "c", "z"], ["d"]]

    asyncio.run(main())
    assert_nothing_left(cache)


def test_fetch_many_with_an_unhashable_key_changes_nothing() -> None:
    cache, _ = new_cache()
    with pytest.raises(TypeError, match="unhashable"):
        cache.fetch_many(["a", []], lambda missing: dict.fromkeys(["a"], 1))
    assert cache.stats().misses == 0
    assert_nothing_left(cache)
