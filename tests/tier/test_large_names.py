"""Keys, tags, prefixes and paths at the bounds of what may travel, and beyond them."""

from __future__ import annotations

from typing import Any

import pytest

from flowcache.tier.layout import DEEPEST, LONGEST
from harness.fleet import gone


def nested(depth: int) -> Any:
    key: Any = "k"
    for _ in range(depth):
        key = (key,)
    return key


KEYS = {
    "nested": nested(DEEPEST),
    "nested too deeply": nested(DEEPEST + 1),
    "long": "k" * (LONGEST - 5),
    "too long": "k" * (LONGEST - 4),
    "of wide characters": "\U0001f600" * (LONGEST // 4 - 2),
    "of surrogates": "\ud83d\ude00\0{}" * 20_000,
    "bytes": bytes(LONGEST - 5),
    "a large number": 1 << (8 * LONGEST - 80),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_each_call_takes_a_key_of_any_size(pair: tuple[Any, Any], key: Any) -> None:
    one, other = pair
    travels = key not in (KEYS["nested too deeply"], KEYS["too long"])
    for store in (one.set, one.add):
        store(key, "v")
        assert one.get(key) == "v"
        assert other.get(key) == ("v" if travels else None)
        assert one.delete(key)
        gone(other, key)
        assert other.get(key) is None
    assert one.fetch(key, lambda: "loaded") == "loaded"
    assert other.fetch(key, lambda: "own") == ("loaded" if travels else "own")
    one.set(key, "v", wait="fleet")
    assert one.touch(key, 50)
    assert one.expire(key)
    assert one.incr(key) == 1
    assert one.pop(key) == 1
    assert one.get(key) is None


def test_tags_are_as_many_and_as_long_as_they_may_be(pair: tuple[Any, Any]) -> None:
    one, other = pair
    tags = [f"{number:04}" + "\U0001f600" * 252 for number in range(1024)]
    for store in (
        lambda: one.set("k", "v", tags=tags),
        lambda: one.fetch("k", lambda: "v", tags=tags),
    ):
        store()
        assert other.get("k") == "v"
        one.invalidate_tags(tags, match="all", wait="fleet")
        assert "k" not in other
        assert other.get("k") is None
        store()
        assert other.get("k") == "v"
        one.invalidate_tags(tags, wait="fleet")
        assert "k" not in other


def test_a_prefix_may_be_longer_than_any_key(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", "v", wait="fleet")
    assert other.get("k") == "v"
    assert one.invalidate_prefix("p" * (2 * LONGEST), wait="fleet") == 0
    assert "k" in other
