"""A codec returns a value equal to the encoded one, or it refuses."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections import OrderedDict, namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.tier.codec import (
    Codec,
    JsonCodec,
    MsgpackCodec,
    PickleCodec,
    UndecodableError,
    UnencodableError,
    codec_mark,
)


class Colour(Enum):
    RED = "red"
    GREEN = (1, 2)


class Level(IntEnum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Contact:
    name: str
    tags: set[str] = field(default_factory=set)
    best: Contact | None = None


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: Decimal
    length: float = field(init=False, compare=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", math.hypot(self.x, float(self.y)))


class Pair(NamedTuple):
    left: Any
    right: Any = None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    balance: Decimal
    points: tuple[Point, ...] = ()


class Working(msgspec.Struct):
    a: int

    def __post_init__(self) -> None:
        self.a += 1


Old = namedtuple("Old", "a b")
CODEC = MsgpackCodec(types=[Contact, Point, Pair, Old, Account, Colour, Level, Right])

ZONES = st.one_of(
    st.none(),
    st.just(UTC),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.just(timedelta(hours=1)), st.text(max_size=3)),
    st.sampled_from([ZoneInfo("Europe/Lisbon"), ZoneInfo("Asia/Kathmandu")]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400]),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.builds(lambda one, zone: one.replace(tzinfo=zone), st.times(), ZONES),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Colour, *Level, *Right]),
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Old, inner, inner),
    ),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(), inner, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Contact, st.text(), st.sets(st.text(), max_size=2)),
        st.builds(Point, st.integers(-9, 9), st.decimals(-9, 9)),
    ),
    max_leaves=8,
)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return all(alike(k, j) and alike(v, w) for (k, v), (j, w) in pairs)
    if isinstance(one, (list, tuple)):
        return all(map(alike, one, other))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, map(type, one))) == sorted(map(repr, map(type, other)))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, (datetime, time)):
        return one.fold == other.fold and alike_zones(one.tzinfo, other.tzinfo)
    if isinstance(one, Decimal):
        return str(one) == str(other)
    if isinstance(one, Contact):
        return alike(one.__dict__, other.__dict__)
    if isinstance(one, Point):
        return alike((one.x, one.y, one.length), (other.x, other.y, other.length))
    return True


def alike_zones(one: tzinfo | None, other: tzinfo | None) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


@given(VALUES)
def test_what_was_stored_comes_back(value: Any) -> None:
    assert alike(CODEC.decode(CODEC.encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.20"),
        Decimal("-0"),
        Decimal("Infinity"),
        Account(owner="a", balance=Decimal(1), points=(Point(1, Decimal(2)),)),
        Contact("a", {"b"}, Contact("c")),
        {1: "a", "1": "b"},
        {(1, 2): {3}, None: b"", Colour.RED: Pair(1, (2,))},
        datetime(2024, 10, 27, 1, 30, tzinfo=ZoneInfo("Europe/Lisbon"), fold=1),
        [[], {}, (), set(), frozenset()],
        True,
        -0.0,
    ],
    ids=repr,
)
def test_particular_values_come_back(value: Any) -> None:
    assert alike(CODEC.decode(CODEC.encode(value)), value)


def test_values_that_equal_nothing_come_back() -> None:
    assert math.isnan(CODEC.decode(CODEC.encode(math.nan)))
    assert str(CODEC.decode(CODEC.encode(Decimal("sNaN12")))) == "sNaN12"


def test_a_dataclass_comes_back_without_a_call_of_its_init() -> None:
    point = Point(3, Decimal(4))
    object.__setattr__(point, "length", 7.0)
    assert CODEC.decode(CODEC.encode(point)).length == 7.0


class Child(Contact):
    pass


class Text(str):
    __slots__ = ()


class Zone(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(0)


def within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def bearing_more() -> Contact:
    contact = Contact("a")
    contact.more = 1  # type: ignore[attr-defined]
    return contact


def lacking() -> Contact:
    contact = Contact("a")
    del contact.name
    return contact


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Child("a"),
        Text("a"),
        OrderedDict(),
        bytearray(),
        1j,
        range(3),
        len,
        Contact,
        Working(1),
        Right.READ | Right.WRITE,
        datetime(2024, 1, 1, tzinfo=Zone()),
        "\ud800",
        within_itself(),
        bearing_more(),
        lacking(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [(value,)]}])
def test_what_cannot_come_back_is_refused(value: Any, wrap: Any) -> None:
    with pytest.raises(UnencodableError, match="value: "):
        CODEC.encode(wrap(value))


def test_the_type_at_fault_is_named() -> None:
    with pytest.raises(UnencodableError) as refused:
        CODEC.encode([{"a": Child("b")}])
    assert refused.value.kind is Child
    assert "Child" in str(refused.value)


@pytest.mark.parametrize(
    ("types", "error"),
    [
        ([int], TypeError),
        (["Contact"], TypeError),
        ([Working], ValueError),
        ([type("Contact", (Pair,), {"__module__": __name__, "__qualname__": "Contact"})], None),
    ],
)
def test_classes_that_cannot_be_known_by_name_are_refused(
    types: list[Any], error: type[Exception] | None
) -> None:
    with pytest.raises(error or ValueError, match="types: "):
        MsgpackCodec(types=[Contact, *types])


def test_a_local_class_is_refused() -> None:
    @dataclass
    class Local:
        a: int

    with pytest.raises(ValueError, match="label is not its own"):
        MsgpackCodec(types=[Local])


def test_a_value_of_a_class_with_other_fields_is_refused() -> None:
    data = MsgpackCodec(types=[Pair]).encode(Pair(1, 2))
    with pytest.raises(UndecodableError, match="not registered"):
        MsgpackCodec().decode(data)
    changed = data.replace(b"right", b"Right")
    assert changed != data
    with pytest.raises(UndecodableError, match="other fields"):
        CODEC.decode(changed)


@given(st.binary(max_size=40))
def test_hostile_bytes_are_a_value_or_undecodable(data: bytes) -> None:
    with suppress(UndecodableError):
        CODEC.decode(data)


def test_deeply_nested_bytes_are_undecodable() -> None:
    with pytest.raises(UndecodableError):
        CODEC.decode(b"\x91" * 100_000 + b"\xc0")


# Pickle

KEYS = [b"k" * 16, b"old key of 16 by"]


def test_a_pickle_comes_back_under_its_signature() -> None:
    codec = PickleCodec(KEYS)
    signed = codec.sign(b"name", b"header", codec.encode(Child("a")))
    assert codec.decode(codec.verify(b"name", b"header", signed)) == Child("a")


def test_keys_rotate() -> None:
    signed = PickleCodec(KEYS[1:]).sign(b"name", b"header", b"body")
    assert PickleCodec(KEYS).verify(b"name", b"header", signed) == b"body"
    with pytest.raises(UndecodableError, match="signature"):
        PickleCodec(KEYS[:1]).verify(b"name", b"header", signed)
    # The first key signs.
    assert PickleCodec(KEYS[:1]).verify(
        b"name", b"header", PickleCodec(KEYS).sign(b"name", b"header", b"body")
    )


@given(st.integers(0, 47), st.integers(1, 255))
def test_a_forged_pickle_is_never_unpickled(at: int, mask: int) -> None:
    codec = PickleCodec(KEYS)
    signed = bytearray(codec.sign(b"name", b"header", b"body of 16 bytes"))
    signed[at] ^= mask
    with pytest.raises(UndecodableError, match="signature"):
        codec.verify(b"name", b"header", bytes(signed))


@pytest.mark.parametrize(
    ("name", "header"), [(b"na", b"meheader"), (b"other", b"header"), (b"name", b"Header")]
)
def test_a_signature_is_of_one_name_and_header(name: bytes, header: bytes) -> None:
    codec = PickleCodec(KEYS)
    signed = codec.sign(b"name", b"header", b"body")
    with pytest.raises(UndecodableError, match="signature"):
        codec.verify(name, header, signed)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def test_what_cannot_be_pickled_is_refused() -> None:
    for value in (Unpicklable(), lambda: None):
        with pytest.raises(UnencodableError, match="cannot be pickled"):
            PickleCodec(KEYS).encode(value)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (b"k" * 16, TypeError),
        ("k" * 16, TypeError),
        ([], ValueError),
        ([b"short"], ValueError),
        (["k" * 16], TypeError),
        ([b"k" * 16, b"short"], ValueError),
    ],
)
def test_unsound_keys_are_refused(keys: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="keys: "):
        PickleCodec(keys)


def test_no_key_is_shown() -> None:
    assert "kkkk" not in repr(PickleCodec(KEYS))


# JSON

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON)
def test_json_gives_back_what_it_takes(value: Any) -> None:
    assert alike(JsonCodec().decode(JsonCodec().encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        (1,),
        {1: 2},
        {1},
        math.nan,
        math.inf,
        "\ud800",
        b"",
        Level.LOW,
        Text("a"),
        10**5000,
        within_itself(),
        UUID(int=1),
        date(2024, 1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_refuses_what_it_would_change(value: Any) -> None:
    with pytest.raises(UnencodableError, match="value: "):
        JsonCodec().encode({"a": [value]})


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        JsonCodec().decode(data)


# Codecs at large


def test_each_codec_has_a_mark_of_its_own() -> None:
    class Own:
        def encode(self, value: Any, /) -> bytes:
            return pickle.dumps(value)

        def decode(self, data: bytes, /) -> Any:
            return pickle.loads(data)

    codecs = [MsgpackCodec(), PickleCodec(KEYS), JsonCodec(), Own()]
    assert all(isinstance(codec, Codec) for codec in codecs)
    marks = {codec_mark(codec) for codec in codecs}
    assert len(marks) == 4
    assert {len(one) for one in marks} == {4}
    assert codec_mark(MsgpackCodec([Pair])) == codec_mark(MsgpackCodec())


def test_without_msgspec_the_other_codecs_work() -> None:
    code = """
import sys
sys.modules["msgspec"] = None
from flowcache import ConfigurationError, create_cache
from flowcache.tier import JsonCodec, MsgpackCodec, ValkeyTier
create_cache(tier=ValkeyTier("valkey://127.0.0.1:1/0", codec=JsonCodec()))
for make in (MsgpackCodec, lambda: create_cache(tier="valkey://127.0.0.1:1/0")):
    try:
        make()
    except ConfigurationError as error:
        assert "codec: MsgpackCodec needs the package msgspec" in str(error), error
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
