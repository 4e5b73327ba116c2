"""A value as it lies in the tier: repeated path and key, limits, packing, signatures."""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.tier.codec import (
    JsonCodec,
    MsgpackCodec,
    PickleCodec,
    UndecodableError,
    UnencodableError,
)
from flowcache.tier.envelope import COUNTER, FIXED, MAGIC, Envelope
from flowcache.tier.layout import Layout, encode_key

LAYOUT = Layout("cache")
PLACE = LAYOUT.place(("tenant:acme",))
KEY = encode_key("k") or b""
FIXED_PART = FIXED.pack(MAGIC, b"i" * 16, b"r" * 16, b"o" * 16, 1.0, 2.0, 3.0, 4.0, 5.0)
SIGNED = PickleCodec([b"k" * 16])


def sealed(envelope: Envelope, value: Any, tags: tuple[str, ...] = (), name: bytes = b"n") -> bytes:
    return FIXED_PART + envelope.seal(PLACE, name, KEY, value, tags)


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec(), SIGNED], ids=repr)
@pytest.mark.parametrize("value", [None, "", "a" * 2047, "a" * 100_000, [1, {"a": None}], 7, -1])
def test_a_value_comes_back_with_its_tags(codec: Any, value: Any) -> None:
    envelope = Envelope(codec)
    data = sealed(envelope, value, ("a", "\0", "é"))
    packed = envelope.open(PLACE, KEY, data)
    assert envelope.value(b"n", packed) == value
    assert packed.tags == ("a", "\0", "é")
    assert packed[:7] == (b"i" * 16, b"r" * 16, 1.0, 2.0, 3.0, 4.0, 5.0)


def test_a_value_is_packed_from_two_kibibytes_if_that_makes_it_smaller() -> None:
    envelope = Envelope(MsgpackCodec())
    assert len(sealed(envelope, "a" * 2000)) > 2000
    assert len(sealed(envelope, "a" * 3000)) < 400
    random = bytes(zlib.compress(bytes(range(256)) * 8)) * 8
    assert envelope.open(PLACE, KEY, sealed(envelope, random)).length >= len(random)
    assert len(sealed(Envelope(MsgpackCodec(), pack_from=None), "a" * 3000)) > 3000


def test_an_int_of_64_bits_is_a_counter_and_no_bool_is() -> None:
    envelope = Envelope(MsgpackCodec())
    for value in (0, -1, 2**63 - 1, -(2**63)):
        packed = envelope.open(PLACE, KEY, sealed(envelope, value))
        assert packed.is_counter
        assert envelope.value(b"n", packed) == value
    for value in (True, 2**63, -(2**63) - 1, 1.0):
        packed = envelope.open(PLACE, KEY, sealed(envelope, value))
        assert not packed.is_counter
        back = envelope.value(b"n", packed)
        assert back == value
        assert type(back) is type(value)


def test_a_value_under_another_path_or_key_is_refused() -> None:
    envelope = Envelope(MsgpackCodec())
    data = sealed(envelope, "acme's")
    for path, key in (
        (("tenant:other",), "k"),
        (("tenant:acme", "x"), "k"),
        ((), "k"),
        (("tenant:acme",), "K"),
        (("tenant:acme",), b"k"),
    ):
        with pytest.raises(UndecodableError, match="another path or key"):
            envelope.open(LAYOUT.place(path), encode_key(key) or b"", data)


def test_a_value_of_another_codec_is_refused_unread() -> None:
    data = sealed(Envelope(JsonCodec()), "a")
    with pytest.raises(UndecodableError, match="another codec"):
        Envelope(MsgpackCodec()).open(PLACE, KEY, data)


def test_a_value_that_is_too_large_stays() -> None:
    envelope = Envelope(MsgpackCodec(), limit=1000)
    with pytest.raises(UnencodableError, match="at most 1000 can travel"):
        envelope.seal(PLACE, b"n", KEY, "a" * 1000, ())
    with pytest.raises(UnencodableError, match="tags: 1025; at most 1024"):
        envelope.seal(PLACE, b"n", KEY, 1, tuple(map(str, range(1025))))


def test_the_inflated_size_is_checked_before_anything_is_inflated() -> None:
    envelope = Envelope(MsgpackCodec())
    data = sealed(Envelope(MsgpackCodec(), limit=1 << 24), "a" * (1 << 23))
    assert len(data) < 50_000
    with pytest.raises(UndecodableError, match="limits"):
        envelope.open(PLACE, KEY, data)


def test_a_bomb_that_states_a_small_size_is_refused() -> None:
    envelope = Envelope(MsgpackCodec())
    packed = envelope.open(PLACE, KEY, sealed(envelope, "a" * 3000))
    bomb = packed._replace(body=zlib.compress(b"a" * 10_000_000))
    with pytest.raises(UndecodableError, match="inflated length"):
        envelope.value(b"n", bomb)
    with pytest.raises(UndecodableError, match="inflated length"):
        envelope.value(b"n", packed._replace(body=packed.body + b"more"))
    with pytest.raises(UndecodableError):
        envelope.value(b"n", packed._replace(packing=9))


@given(st.integers(0, 300), st.integers(1, 255))
def test_a_value_that_was_tampered_with_is_never_unpickled(at: int, mask: int) -> None:
    envelope = Envelope(SIGNED)
    data = bytearray(sealed(envelope, {"a": "b" * 100}, ("tag",)))
    at = FIXED.size + at % (len(data) - FIXED.size)
    data[at] ^= mask
    with pytest.raises(UndecodableError):
        envelope.value(b"n", envelope.open(PLACE, KEY, bytes(data)))


def test_a_signed_value_that_was_moved_is_refused() -> None:
    envelope = Envelope(SIGNED)
    packed = envelope.open(PLACE, KEY, sealed(envelope, [1], name=b"n"))
    with pytest.raises(UndecodableError, match="signature"):
        envelope.value(b"other", packed)


@given(st.binary(max_size=300))
def test_hostile_bytes_are_undecodable(data: bytes) -> None:
    envelope = Envelope(MsgpackCodec())
    for hostile in (data, FIXED_PART + data):
        with pytest.raises(UndecodableError):
            envelope.value(b"n", envelope.open(PLACE, KEY, hostile))


@given(st.integers(0, 400), st.binary(max_size=3))
def test_damaged_bytes_are_undecodable_or_a_value(at: int, other: bytes) -> None:
    envelope = Envelope(MsgpackCodec())
    data = sealed(envelope, ["a", 1, (2,)], ("tag",))
    at %= len(data)
    with suppress(UndecodableError):
        envelope.value(b"n", envelope.open(PLACE, KEY, data[:at] + other + data[at + 1 :]))


def test_a_codec_that_raises_or_returns_no_bytes() -> None:
    class Odd:
        def encode(self, value: Any, /) -> Any:
            return "text"

        def decode(self, data: bytes, /) -> Any:
            raise KeyError("no")

    envelope = Envelope(Odd())
    with pytest.raises(UnencodableError, match="codec: encode"):
        envelope.seal(PLACE, b"n", KEY, "a", ())
    own = Envelope(MsgpackCodec())
    packed = own.open(PLACE, KEY, sealed(own, "a"))
    with pytest.raises(UndecodableError, match=r"codec: decode\(\) raised KeyError"):
        envelope.value(b"n", packed)


def test_a_counter_that_is_no_number_is_undecodable() -> None:
    envelope = Envelope(MsgpackCodec())
    packed = envelope.open(PLACE, KEY, sealed(envelope, 12))
    assert packed.header.startswith(COUNTER)
    with pytest.raises(UndecodableError, match="counter"):
        envelope.value(b"n", packed._replace(body=b"x"))
