"""Replies out of a stream, however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.tier.resp import ProtocolError, Push, Replies, ReplyError, pack

STREAM = (
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"_\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n_\r\n*1\r\n:1\r\n", [b"a", None, [1]]),
    (b"%2\r\n$1\r\na\r\n:1\r\n+b\r\n*1\r\n_\r\n", {b"a": 1, b"b": [None]}),
    (b">3\r\n+smessage\r\n$1\r\nc\r\n$2\r\nhi\r\n", Push([b"smessage", b"c", b"hi"])),
    (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b"(123456789012345678901234567890\r\n", 123456789012345678901234567890),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"*2\r\n$10\r\n1795745700\r\n$6\r\n123456\r\n", [b"1795745700", b"123456"]),
    (b"*2\r\n$10\r\n1795745700\r\n$8\r\n12345\r\n1\r\n", [b"1795745700", b"12345\r\n1"]),
)


def all_of(replies: Replies, name: str = "next") -> list[Any]:
    found = []
    while (reply := getattr(replies, name)()) is not Replies.NONE:
        found.append(reply)
    return found


@given(st.lists(st.sampled_from(STREAM), max_size=8), st.data())
def test_replies_come_out_however_the_stream_is_cut(
    stream: list[tuple[bytes, Any]], data: st.DataObject
) -> None:
    sent = b"".join(one for one, _ in stream)
    replies, found = Replies(), []
    while sent:
        cut = data.draw(st.integers(1, len(sent)))
        replies.feed(sent[:cut])
        sent = sent[cut:]
        found += all_of(replies, data.draw(st.sampled_from(("next", "next_time"))))
    assert found == [value for _, value in stream]
    assert [type(one) for one in found] == [type(value) for _, value in stream]
    assert replies.is_empty


def test_a_refusal_is_returned_with_its_kind() -> None:
    replies = Replies()
    replies.feed(b"-MOVED 1 a:2\r\n!9\r\nOOM no ro\r\n")
    moved, oom = all_of(replies)
    assert isinstance(moved, ReplyError)
    assert moved.kind == "MOVED"
    assert str(moved) == "MOVED 1 a:2"
    assert oom.kind == "OOM"


@pytest.mark.parametrize(
    "data", [b"?\r\n", b"$x\r\n", b":\r\n", b"*1\r\n" * 20 + b"_\r\n", b"HTTP/1.1 400\r\n"]
)
def test_bytes_that_are_no_reply_are_refused(data: bytes) -> None:
    replies = Replies()
    replies.feed(data)
    with pytest.raises(ProtocolError):
        replies.next()


def test_a_command_is_packed_by_lengths() -> None:
    assert pack(b"SET", b"a\r\n", 12) == b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$2\r\n12\r\n"
