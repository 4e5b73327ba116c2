"""Keys that stay in the process and equal one that travels, and values that stay under it."""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

import pytest

from flowcache.tier.layout import equal_key
from harness.fleet import gone, run


class Text(str):
    __slots__ = ()


class Member(StrEnum):
    K = "k"


class Number(IntEnum):
    ONE = 1


class Pair(NamedTuple):
    first: Any
    second: Any


class Other(str):
    """Equal to its text, and another key: its hash differs."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


EQUAL: dict[str, tuple[Any, Any]] = {
    "text": (Text("k"), "k"),
    "member": (Member.K, "k"),
    "number": (Number.ONE, True),
    "decimal": (Decimal("1.0"), 1),
    "fraction": (Fraction(1, 2), 0.5),
    "complex": (complex(2, 0), 2),
    "pair": (Pair(Member.K, 1), ("k", 1.0)),
    "nested": (((Number.ONE,), b"b"), ((1,), b"b")),
}


@pytest.mark.parametrize(("stays", "travels"), EQUAL.values(), ids=EQUAL)
def test_the_equal_key_is_found(stays: Any, travels: Any) -> None:
    found = equal_key(stays)
    assert found == travels
    assert type(found) in (str, int, float, tuple)


@pytest.mark.parametrize(
    "key",
    [
        Other("k"),
        Decimal("NaN"),
        Decimal("1e999999999"),
        complex(1, 1),
        float("nan"),
        object(),
        (Other("k"),),
    ],
    ids=repr,
)
def test_other_keys_equal_none(key: Any) -> None:
    assert equal_key(key) is None


@pytest.mark.parametrize(("stays", "travels"), EQUAL.values(), ids=EQUAL)
def test_what_a_write_covers_is_not_served_from_the_tier(
    pair: tuple[Any, Any], stays: Any, travels: Any
) -> None:
    one, other = pair
    for write, held in (
        (lambda: one.delete(stays, wait="fleet"), None),
        (lambda: one.delete_many([stays]), None),
        (lambda: one.expire(stays), None),
        (lambda: one.pop(stays), None),
        (lambda: one.set(stays, "own", wait="fleet"), "own"),
        (lambda: one.set_many({stays: "own"}), "own"),
        (lambda: run(one.aset(stays, "own")), "own"),
    ):
        one.set(travels, "old", wait="fleet")
        assert other.get(travels) == "old"
        write()
        assert one.get(travels) == held
        gone(other, travels)
        assert other.get(travels) is None  # What is written under such a key stays here.
        assert one.get(stays) == held
        assert one.delete(stays) is (held is not None)
    one.set(travels, "old")
    assert other.add(stays, "own") is False
    assert other.get(travels) == "old"
    one.delete(travels, wait="fleet")
    one.set(travels, 5, wait="fleet")
    assert other.incr(stays) == 1  # A counter of this process alone.
    assert other.incr(stays) == 2
    assert one.get(travels, "none") in (5, "none")
    gone(one, travels)
    assert one.get(travels) is None


def test_a_value_that_stays_here_is_there_for_add_and_incr(pair: tuple[Any, Any]) -> None:
    one, other = pair
    stays = object()
    one.set("k", stays)
    assert one.add("k", "v") is False
    assert one.setdefault("k", "v") is stays
    with pytest.raises(TypeError, match="key: its value is no int but object"):
        one.incr("k")
    assert one.get("k") is stays
    assert other.add("k", "v") is True  # It is not held there, nor in the tier.


def test_a_counter_says_what_it_cannot_count(pair: tuple[Any, Any]) -> None:
    one, _ = pair
    for value in (1 << 64, 1.5, "1", True):
        one.set("k", value)
        with pytest.raises(TypeError, match="key: its value is no int of 64 bits"):
            one.incr("k")


def test_a_touch_reaches_what_the_server_has_dropped(new_server: Any, make: Any) -> None:
    cache = make(new_server, name="touched", tier={"local_ttl": 50})
    namespace = cache.namespace("tenant:acme")
    namespace.set("k", "v", ttl=20)
    for name in new_server.call("KEYS", "fc1:touched:*:v:*"):
        new_server.call("DEL", name)
    assert namespace.touch("k", 1000) is True
    assert 20 < namespace.ttl("k") <= 50
    assert namespace.get("k") == "v"
    assert namespace.touch("none", 1000) is False
