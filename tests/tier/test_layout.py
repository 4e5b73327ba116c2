"""Keys as bytes and names in the tier: equal exactly for what is equal."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowcache.tier.layout import (
    Bounded,
    Layout,
    decode_key,
    encode_key,
    plain_name,
    slot_of,
)

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**63, 2**64, -(2**63), 10**40]),
    st.floats(allow_nan=False),
    st.text(),
    st.text(st.characters(codec=None), max_size=3),
    st.binary(),
    st.sampled_from(["", "{x}", "}{", "\0", "a:b", "a", "b", "%41", "A", "é", "e\u0301"]),
)
KEYS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
NAMES = st.one_of(
    st.text(min_size=1, max_size=8),
    st.sampled_from(["a", "b", "a/b", "a%2Fb", "@", "~", "{a}", "}", "\0", ":", "x" * 200]),
)
PATHS = st.lists(NAMES, max_size=3).map(tuple)

LAYOUTS = [Layout("cache", tenant_depth=depth, buckets=4) for depth in range(4)]
MANY = Layout("{c}a}che", buckets=32)


def equal(one: Any, other: Any) -> bool:
    return bool({one: 1} == {other: 1})


@given(KEYS, KEYS)
@example(1, True)
@example(1, 1.0)
@example(0, -0.0)
@example((1, "a"), (True, "a"))
@example("1", 1)
@example("a", b"a")
@example((), ((),))
@example(("a", "b"), (("a",), "b"))
@example(2**53 + 1, float(2**53))
def test_keys_have_the_same_bytes_exactly_if_they_are_one_key(one: Any, other: Any) -> None:
    assert (encode_key(one) == encode_key(other)) == equal(one, other)


@given(KEYS)
def test_a_key_comes_back_equal(key: Any) -> None:
    encoded = encode_key(key)
    assert encoded is not None
    assert equal(decode_key(encoded), key)


@given(KEYS, st.data())
def test_a_damaged_key_is_refused_or_another_key(key: Any, data: st.DataObject) -> None:
    encoded = encode_key(key)
    assert encoded is not None
    cut = data.draw(st.integers(0, len(encoded)))
    damaged = encoded[:cut] + data.draw(st.binary(max_size=4)) + encoded[cut + 1 :]
    try:
        decoded = decode_key(damaged)
    except ValueError:
        return
    assert decoded != decoded or encode_key(decoded) is not None


class Text(str):
    __slots__ = ()


def deep(levels: int) -> Any:
    key: Any = "bottom"
    for _ in range(levels):
        key = (key,)
    return key


@pytest.mark.parametrize(
    "key",
    [math.nan, (1, math.nan), Text("a"), Decimal(1), object(), frozenset(), deep(17), ["a"]],
    ids=repr,
)
def test_keys_that_stay_in_the_process(key: Any) -> None:
    assert encode_key(key) is None


def test_a_key_may_be_nested_sixteen_deep() -> None:
    assert decode_key(encode_key(deep(16)) or b"") == deep(16)


@pytest.mark.parametrize(
    "data",
    [b"", b"Q", b"S", b"S\0\0\0\5abc", b"T\0\0\0\1", b"NN", b"I\0\0\0\0", b"T\xff\xff\xff\xff"],
)
def test_bytes_that_are_no_key_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="key: "):
        decode_key(data)


@given(st.text(), st.text())
@example("a%2Fb", "a/b")
def test_plain_names_differ_for_different_texts(one: str, other: str) -> None:
    assert (plain_name(one) == plain_name(other)) == (one == other)
    assert not set(plain_name(one)) & set("{}:/ \0@~")


@given(PATHS, KEYS, PATHS, KEYS, st.integers(0, 3))
@example(("a", "b"), "c", ("a",), "c", 1)
@example(("a",), "b", ("a", "b"), "b", 1)
@example(("a",), ("b", "c"), ("a", "b"), "c", 1)
@example((), "a", ("a",), "a", 1)
@example(("@",), "a", (), "a", 1)
def test_two_places_never_share_a_name(
    path: tuple[str, ...], key: Any, other_path: tuple[str, ...], other_key: Any, depth: int
) -> None:
    layout = LAYOUTS[depth]
    names = []
    for one, about in ((path, key), (other_path, other_key)):
        place, encoded = layout.place(one), encode_key(about)
        assert encoded is not None
        names.append(place.values + place.digest(encoded))
    assert (names[0] == names[1]) == (path == other_path and equal(key, other_key))


@given(PATHS, KEYS)
def test_all_of_a_unit_lies_in_one_slot(path: tuple[str, ...], key: Any) -> None:
    layout = MANY
    place, encoded = layout.place(path), encode_key(key)
    assert encoded is not None
    digest = place.digest(encoded)
    bucket = place.bucket
    names = (place.values + digest, place.leases + digest, place.record, bucket.root, bucket.log)
    names += (bucket.bus, bucket.members, bucket.inbox(b"member"))
    assert {slot_of(name) for name in names} == {bucket.slot}


def test_buckets_are_spread_over_the_slots() -> None:
    slots = [bucket.slot for bucket in Layout("cache", buckets=32).all]
    assert [slot // 512 for slot in slots] == list(range(32))


def test_the_slot_is_the_server_s_own() -> None:
    # Known from the specification of the cluster.
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers")
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")


def test_caches_and_prefixes_of_other_names_do_not_meet() -> None:
    prefixes = {Layout(name).all[0].prefix for name in ("a", "b", "a:b", "{a}")}
    prefixes.add(Layout("a", prefix="fc2").all[0].prefix)
    assert len(prefixes) == 5


@pytest.mark.parametrize("prefix", ["", "a:b", "{a}", "a b"])
def test_an_unsound_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix: "):
        Layout("cache", prefix=prefix)


@pytest.mark.parametrize("buckets", [0, -1, 16385, True, 2.0])
def test_an_unsound_number_of_buckets_is_refused(buckets: Any) -> None:
    with pytest.raises(ValueError, match="buckets: "):
        Layout("cache", buckets=buckets)


def test_what_is_made_again_and_again_is_bounded() -> None:
    made: list[int] = []
    bounded: Bounded[int, list[int]] = Bounded(lambda key: made.append(key) or [key], 10)
    for key in range(100):
        assert bounded(key) == [key]
        assert bounded(key) is bounded(key)
    assert len(bounded) == 10
    assert made == list(range(100))
