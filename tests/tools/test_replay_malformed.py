"""Lines that are malformed: each is named with its number, or skipped alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from flowcache.replay.reading import LONGEST_LINE, BinaryKeys, Layout, read_trace
from flowcache.replay.source import TraceError
from flowcache.replay.trace import Trace
from harness.replay_support import HEADER

pytestmark = pytest.mark.once


def expect_named_and_skipped_alone(
    write: Callable[..., str], before: bytes, bad: bytes, after: bytes, complaint: str
) -> None:
    """The line between two others is refused by its number, and skipped without its neighbours."""
    path = write(before + bad + b"\n" + after)
    number = before.count(b"\n") + 1
    with pytest.raises(TraceError) as caught:
        read_trace(path, Layout())
    assert f"log.csv: line {number}: {complaint}" in str(caught.value)
    skipped = read_trace(path, Layout(), skip_bad=True)
    assert skipped.skipped == 1
    assert skipped.first_skipped in str(caught.value)
    assert columns_of(skipped) == columns_of(read_trace(write(before + after), Layout()))


def columns_of(trace: Trace) -> list[object]:
    return [
        trace.keys, trace.tenants, trace.operations, trace.times, trace.sizes, trace.ttls,
        trace.tenant_names, trace.distinct_keys, trace.late,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"5,k,acme,10,get", "expected 6 fields, found 5"),
        (b"5,k,acme,10,get,0,", "expected 6 fields, found 7"),
        (b"5", "expected 6 fields, found 1"),
        (b" ", "expected 6 fields, found 1"),
        (b"now,k,acme,10,get,0", "the time is not a number: 'now'"),
        (b"nan,k,acme,10,get,0", "the time must be finite and at least 0: 'nan'"),
        (b"inf,k,acme,10,get,0", "the time must be finite and at least 0: 'inf'"),
        (b"-Infinity,k,acme,10,get,0", "the time must be finite and at least 0: '-Infinity'"),
        (b"1e999,k,acme,10,get,0", "the time must be finite and at least 0: '1e999'"),
        (b"-1,k,acme,10,get,0", "the time must be finite and at least 0: '-1'"),
        (b",k,acme,10,get,0", "the time is not a number: ''"),
        (b"5_0,k,acme,10,get,0", "the time is not a number: '5_0'"),
        ("\u0665,k,acme,10,get,0".encode(), "the time is not a number: '\u0665'"),
        (b"1e11,k,acme,10,get,0", "the time is 3,000 years or more: '1e11'"),
        (b"5,k,,10,get,0", "the tenant must be 1 to 256 characters"),
        (b"5,k, acme,10,get,0", "the tenant must be 1 to 256 characters"),
        (b"5,k," + 257 * b"a" + b",10,get,0", "the tenant must be 1 to 256 characters"),
        (b"5,k,acme,1.5,get,0", "the size must be a whole number of bytes below 2**40: '1.5'"),
        (b"5,k,acme,-1,get,0", "the size must be finite and at least 0: '-1'"),
        (b"5,k,acme,nan,get,0", "the size must be finite and at least 0: 'nan'"),
        (b"5,k,acme,1e300,get,0", "the size must be a whole number of bytes below"),
        (b"5,k,acme,1099511627776,get,0", "the size must be a whole number of bytes below"),
        (b"5,k,acme,1k,get,0", "the size is not a number: '1k'"),
        (b"5,k,acme,10,frob,0", "unknown operation 'frob'; known: get, gets"),
        (b"5,k,acme,10,,0", "unknown operation ''"),
        (b"5,k,acme,10,get,inf", "the TTL must be finite and at least 0: 'inf'"),
        (b"5,k,acme,10,get,-5", "the TTL must be finite and at least 0: '-5'"),
        (b"5,k,acme,10,get,soon", "the TTL is not a number: 'soon'"),
        (b"5,\xff,acme,10,get,0", r"the key is not UTF-8: '\udcff'"),
        (b"5,k,\xff,10,get,0", r"the tenant is not UTF-8: '\udcff'"),
        (b"5,\xed\xa0\x80,acme,10,get,0", "the key is not UTF-8"),
        (b"5,\xc0\xaf,acme,10,get,0", "the key is not UTF-8"),
        (b"5,k,acme,10,\xff,0", "unknown operation"),
    ],
)
def test_fields_that_are_out_of_range(
    write: Callable[..., str], line: bytes, complaint: str
) -> None:
    before = HEADER.encode() + b"4,k,acme,10,get,0\n"
    expect_named_and_skipped_alone(write, before, line, b"6,k,acme,10,get,0\n", complaint)


def test_fields_at_the_edge_of_their_range(write: Callable[..., str]) -> None:
    edge = "99999999999.5,k," + 256 * "a" + ",1099511627775,get,1e300\n"
    (size,) = read_trace(write(HEADER + edge), Layout()).sizes or []
    assert size == (1 << 40) - 1


def test_a_column_that_means_nothing_may_hold_anything(write: Callable[..., str]) -> None:
    path = write(b"key,agent\na,\xff\xfe\nb,nan\na,\n")
    assert list(read_trace(path, Layout()).keys) == [0, 1, 0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'5,"/page', "a quote is not closed on this line"),
        (b'"5,/page', "a quote is not closed on this line"),
        (b'5,"', "a quote is not closed on this line"),
        (b'5,"/pa""ge', "a quote is not closed on this line"),
        (b'5,/page"', "a quote stands alone in a field"),
        (b'5,/pa"ge', "a quote stands alone in a field"),
        (b'5",/page', "a quote stands alone in a field"),
        (b'5,"/page"x', "',' expected after the closing quote"),
        (b'5,"/page" ', "',' expected after the closing quote"),
        (b'5,"/pa"ge"', "',' expected after the closing quote"),
        (b'5, "/page"', "white space before a quote"),
        (b'5,\t"/page"', "white space before a quote"),
        (b'5,""/page"', "',' expected after the closing quote"),
    ],
)
def test_a_stray_quote_costs_its_own_line(
    write: Callable[..., str], line: bytes, complaint: str
) -> None:
    """No quotes below it make it lose a hundred lines of a log of 1,000."""
    above = b"time,key\n" + b"".join(b"%d,/page/%d\n" % (at, at % 7) for at in range(5))
    plain = b"".join(b"%d,/page/%d\n" % (at, at % 7) for at in range(6, 500))
    quoted = b"".join(b'%d,"/page/%d"\n' % (at, at % 7) for at in range(500, 600))
    within = b"".join(b'%d,/find?q="%d"\n' % (at, at % 7) for at in range(600, 1_000))
    for below in (plain, plain + quoted, plain + within, plain + quoted + within):
        expect_named_and_skipped_alone(write, above, line, below, complaint)


def test_several_stray_quotes_cost_a_line_each(write: Callable[..., str]) -> None:
    lines = [f"{at},/page/{at % 10}" for at in range(1_000)]
    for at in (0, 17, 18, 500, 999):
        lines[at] = f'{at},"/page/{at % 10}'
    trace = read_trace(write("\n".join(["time,key", *lines])), Layout(), skip_bad=True)
    assert (len(trace), trace.skipped, trace.distinct_keys) == (995, 5, 10)


def test_a_line_break_within_quotes_is_refused(write: Callable[..., str]) -> None:
    path = write('time,key\n1,"/a\nb"\n2,/c\n')
    with pytest.raises(TraceError, match="line 2: a quote is not closed on this line"):
        read_trace(path, Layout())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"5,a\x00b", "holds a NUL byte"),
        (b"\x00", "holds a NUL byte"),
        (b"5\x00,\x00a\x00", "holds a NUL byte"),
        (b"5,a\rb", "holds a carriage return that ends no line"),
        (b"5,a\r\r", "holds a carriage return that ends no line"),
        (b"\xef\xbb\xbf5,a", "begins with a byte order mark"),
        (b"time,key", "names the columns once more"),
        (b"\xef\xbb\xbftime,key", "begins with a byte order mark"),
        (b"5," + b"k" * (LONGEST_LINE - 1), "longer than 131,072 bytes"),
        (b"5," + b"k" * 1_000_000, "longer than 131,072 bytes"),
        (b"5," * 100_000, "longer than 131,072 bytes"),
    ],
)
def test_lines_that_are_no_text_of_a_log(
    write: Callable[..., str], line: bytes, complaint: str
) -> None:
    above, below = b"time,key\n4,a\n", b"6,b\n7,a\n"
    expect_named_and_skipped_alone(write, above, line, below, complaint)


def test_logs_that_were_joined_with_their_headers(write: Callable[..., str]) -> None:
    """A column of keys alone would take the second header for a request."""
    path = write("key\na\nb\nkey\na\n")
    with pytest.raises(TraceError, match="line 4: names the columns once more"):
        read_trace(path, Layout())
    trace = read_trace(path, Layout(), skip_bad=True)
    assert (list(trace.keys), trace.skipped) == ([0, 1, 0], 1)


def test_a_header_that_columns_repeat(write: Callable[..., str]) -> None:
    layout = Layout(columns=("tenant", "key"))
    with pytest.raises(TraceError, match="line 1: names the columns once more"):
        read_trace(write("tenant,key\nacme,a\n"), layout)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"key," + b"x" * 200_000, "line 1: longer than 131,072 bytes"),
        (b'key,"time', "line 1: a quote is not closed"),
        (b"key\x00,time", "line 1: holds a NUL byte"),
        (b"\xef\xbb\xbf\xef\xbb\xbfkey,time", "line 1: begins with a byte order mark"),
        (b"key,\rtime", "line 1: holds a carriage return"),
    ],
)
def test_a_header_that_is_malformed_cannot_be_skipped(
    write: Callable[..., str], header: bytes, complaint: str
) -> None:
    with pytest.raises(TraceError, match=complaint):
        read_trace(write(b"\n".join([header, b"a,1", b"b,2"])), Layout(), skip_bad=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_other_encodings_are_refused(
    write: Callable[..., str], encoding: str, mark: str, end: str
) -> None:
    text = mark + end.join(["time,key", "1,a", "2,ü", "3,鍵", ""])
    for layout in (Layout(), Layout(columns=("time", "key")), Layout(columns=("key",))):
        for skip_bad in (False, True):
            with pytest.raises(TraceError, match="line 1: "):
                read_trace(write(text.encode(encoding)), layout, skip_bad=skip_bad)


def test_utf_16_that_begins_within_a_log(write: Callable[..., str]) -> None:
    """As a tool that appends in the encoding of its system leaves it."""
    lines = [b"time,key\n", *(b"%d,a\n" % at for at in range(10))]
    lines += ["".join(f"{at},b\n" for at in range(10, 20)).encode("utf-16-le")]
    with pytest.raises(TraceError, match="line 12: holds a NUL byte"):
        read_trace(write(b"".join(lines)), Layout())


@pytest.mark.parametrize(("typecode", "width"), [("i", 4), ("q", 8)])
def test_a_binary_key_that_is_cut_short(
    write: Callable[..., str], typecode: str, width: int
) -> None:
    for rest in range(1, width):
        path = write(bytes(3 * width + rest), "keys")
        with pytest.raises(TraceError, match=f"record 4: {rest} bytes where a key has {width}"):
            read_trace(path, BinaryKeys(typecode))
        trace = read_trace(path, BinaryKeys(typecode), skip_bad=True)
        assert (len(trace), trace.skipped) == (3, 1)


@pytest.mark.parametrize("text", ["key\nabc\n", "0\n1\n2\n3\n", "1,a,2;5\t7" * 4, "a\r\nb\r\n"])
def test_text_that_is_taken_for_binary_keys(write: Callable[..., str], text: str) -> None:
    for typecode in ("i", "q"):
        with pytest.raises(TraceError, match="line 1: is text"):
            read_trace(write(text), BinaryKeys(typecode), skip_bad=True)


def test_binary_keys_that_look_like_a_word_are_none(write: Callable[..., str]) -> None:
    assert len(read_trace(write(b"abcdefgh", "keys"), BinaryKeys("i"))) == 2


def test_the_first_malformed_line_is_the_one_that_is_told(write: Callable[..., str]) -> None:
    path = write("time,key\n1,a\nx,a\n3,a\ny,a\n5\n")
    trace = read_trace(path, Layout(), skip_bad=True)
    assert trace.skipped == 3
    assert trace.first_skipped.endswith("log.csv: line 3: the time is not a number: 'x'")


def test_messages_are_short(write: Callable[..., str]) -> None:
    long = b"x" * 100_000
    for line in (long + b",k,a,1,get,0", b"1,\xff" + long + b",a,1,get,0", b"1,k," + long):
        with pytest.raises(TraceError) as caught:
            read_trace(write(HEADER.encode() + line + b"\n"), Layout())
        assert len(str(caught.value)) < 400
    with pytest.raises(TraceError) as caught:
        read_trace(write(b",".join([long] * 1) + b"\na\n"), Layout(roles={"key": "url"}))
    assert len(str(caught.value)) < 500


def test_every_prefix_of_a_log_is_refused_or_read_line_by_line(write: Callable[..., str]) -> None:
    """Nothing but the last line, which has no end, can differ."""
    log = HEADER.encode() + b'1,"a",acme,10,get,5\n2,b,acme,,set,\n3,a,globex,7,delete,\n'
    ends = [at for at in range(len(log)) if log[at : at + 1] == b"\n"]
    for start, stop in pairwise(ends):
        for cut in range(start + 1, stop + 1):
            try:
                trace = read_trace(write(log[:cut]), Layout())
            except TraceError:
                continue
            assert len(trace) == log[:cut].count(b"\n") + (log[cut - 1 : cut] != b"\n") - 1
