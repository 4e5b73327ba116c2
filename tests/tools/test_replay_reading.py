"""Logs that are right: columns, presets, line ends, quotes, numbers."""

from __future__ import annotations

import csv
import io
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from flowcache.replay.reading import (
    LONGEST_LINE,
    TWITTER,
    BinaryKeys,
    Layout,
    quoted_fields,
    read_trace,
)
from flowcache.replay.source import TraceError
from flowcache.replay.trace import READ, SET
from harness.replay_support import HEADER

pytestmark = pytest.mark.once

LINES = HEADER + "5,x,acme,10,get,0\n6,y,globex,,set,60\n6,x,acme,0,gets,\n"


def test_every_column(write: Callable[..., str]) -> None:
    trace = read_trace(write(LINES), Layout())
    assert trace.tenant_names == ["acme", "globex"]
    assert list(trace.keys) == [0, 1, 0]
    assert trace.operations == bytearray([READ, SET, READ])
    assert trace.times is not None
    assert list(trace.times) == [5.0, 6.0, 6.0]
    assert trace.sizes is not None
    assert list(trace.sizes) == [10, 0, 10]
    assert trace.ttls is not None
    assert list(trace.ttls) == [0.0, 60.0, 0.0]
    assert (trace.late, trace.skipped) == (0, 0)


def test_columns_by_other_names_in_another_order(write: Callable[..., str]) -> None:
    path = write('customer;at;ignored;url\nacme;1500;?;"/a;b"\n')
    layout = Layout(
        roles={"tenant": "customer", "time": "at", "key": "url"}, delimiter=";", time_unit="ms"
    )
    trace = read_trace(path, layout)
    assert trace.times is not None
    assert list(trace.times) == [1.5]
    assert trace.tenant_names == ["acme"]
    assert trace.operations is trace.ttls is trace.sizes is None


def test_the_twitter_preset(write: Callable[..., str]) -> None:
    """Quotes mean nothing there, and the bytes of the key count."""
    path = write('0,q:"q:1,5,249,1,get,0\n0,k,1,0,2,get,0\n1,k,1,30,2,add,60\n1,k,1,0,2,get,0\n')
    trace = read_trace(path, TWITTER)
    assert trace.tenant_names == ["1", "2"]
    assert trace.distinct_keys == 2
    assert trace.sizes is not None
    assert list(trace.sizes) == [254, 1, 31, 31]
    assert trace.ttls is not None
    assert list(trace.ttls) == [0, 0, 60, 60]


def test_binary_keys(write: Callable[..., str]) -> None:
    narrow = write(bytes.fromhex("00000001 fffffffe 00000001"), "narrow")
    assert list(read_trace(narrow, BinaryKeys("i")).keys) == [0, 1, 0]
    wide = write(bytes.fromhex("0000000100000001 0000000200000001 0000000100000001"), "wide")
    assert list(read_trace(wide, BinaryKeys("q")).keys) == [0, 1, 0]


@pytest.mark.parametrize(
    ("unit", "times", "seconds"),
    [
        ("s", ["1700000000", "1700000000.25"], [1700000000.0, 1700000000.25]),
        ("ms", ["1700000000000", "1700000000001"], [1700000000.0, 1700000000.001]),
        ("us", ["0", "29", "300"], [0.0, 0.000029, 0.0003]),
        ("ns", [" 5e3 ", "+7000"], [0.000005, 0.000007]),
    ],
)
def test_times_in_every_unit(
    write: Callable[..., str], unit: str, times: list[str], seconds: list[float]
) -> None:
    path = write("time,key\n" + "".join(f"{time},a\n" for time in times))
    trace = read_trace(path, Layout(time_unit=unit))
    assert trace.times is not None
    assert list(trace.times) == seconds


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_byte_order_mark_and_blank_lines(
    write: Callable[..., str], end: str, last: bool, mark: str
) -> None:
    lines = ["key,time", "a,1", "", "b,2", "a,3"]
    path = write(mark + end.join(lines) + (end if last else ""))
    trace = read_trace(path, Layout())
    assert trace.times is not None
    assert list(trace.times) == [1, 2, 3]
    assert list(trace.keys) == [0, 1, 0]


def test_line_ends_of_two_kinds(write: Callable[..., str]) -> None:
    trace = read_trace(write("key\r\na\nb\r\na\n"), Layout())
    assert list(trace.keys) == [0, 1, 0]


def test_lines_longer_than_a_block_of_the_file(write: Callable[..., str]) -> None:
    """The bound is of the line without its end, in bytes."""
    keys = ["a" * LONGEST_LINE, "b" * (LONGEST_LINE - 1), "é" * (LONGEST_LINE // 2), "c"]
    for end in ("\n", "\r\n"):
        trace = read_trace(write(end.join(["key", *keys, *keys]) + end), Layout())
        assert list(trace.keys) == [0, 1, 2, 3] * 2


def test_long_keys_that_differ_at_their_end_are_two(write: Callable[..., str]) -> None:
    long = "k" * 5_000
    trace = read_trace(write(f"key\n{long}a\n{long}b\n{long}a\n"), Layout())
    assert list(trace.keys) == [0, 1, 0]


def test_long_keys_do_not_stay_in_memory(write: Callable[..., str]) -> None:
    path = write("key\n" + "".join(f"{at}{'k' * 50_000}\n" for at in range(200)))
    tracemalloc.start()
    try:
        trace = read_trace(path, Layout())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert trace.distinct_keys == 200
    assert most < 4_000_000


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('"a",b', ["a", "b"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"say ""hi""",c', ['say "hi"', "c"]),
        ('"",""', ["", ""]),
        ('a,""', ["a", ""]),
        ('/search?q="x",b', ['/search?q="x"', "b"]),
        ('"a",', ["a", ""]),
        (',"a"', ["", "a"]),
    ],
)
def test_quotes(line: str, fields: list[str]) -> None:
    assert quoted_fields(line, ",") == fields
    assert next(csv.reader([line], strict=True)) == fields


def test_well_formed_quotes_are_read_as_the_csv_module_reads_them() -> None:
    draw = random.Random(7)
    for delimiter in (",", ";", "\t", " ", "é"):
        for _ in range(2_000):
            fields = ["".join(draw.choices('ab" ,;\té', k=draw.randrange(5))) for _ in range(4)]
            text = io.StringIO()
            csv.writer(text, delimiter=delimiter, lineterminator="").writerow(fields)
            if '"' in text.getvalue():
                assert quoted_fields(text.getvalue(), delimiter) == fields


def test_progress_ends_at_the_size_of_the_file(write: Callable[..., str]) -> None:
    told: list[int] = []
    path = write("key\n" + "".join(f"{at}\n" for at in range(30_000)))
    read_trace(path, Layout(), progress=told.append)
    assert told == sorted(told)
    assert Path(path).stat().st_size / 2 < told[-1] <= Path(path).stat().st_size


@pytest.mark.parametrize(
    ("text", "layout", "complaint"),
    [
        ("a,b\n1,2\n", Layout(), "line 1: no column 'key'; name the one"),
        ("\n\na,b\n1,2\n", Layout(), "line 3: no column 'key'; name the one"),
        (
            "a,b\n1,2\n",
            Layout(roles={"key": "url"}),
            "line 1: no column 'url' for the key; there are: 'a', 'b'",
        ),
        ("key,key\n1,2\n", Layout(), "line 1: several columns are named 'key', and the key is"),
        (
            "time,url, time\n1,a,2\n",
            Layout(roles={"key": "url"}),
            "line 1: several columns are named 'time', and the time is",
        ),
        ("a,a\n", Layout(columns=("key", "key")), "several columns are named 'key'"),
    ],
)
def test_columns_that_are_not_there_or_there_twice(
    write: Callable[..., str], text: str, layout: Layout, complaint: str
) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(write(text), layout, skip_bad=True)
    assert f"log.csv: {complaint}" in str(caught.value)


def test_columns_of_one_name_that_mean_nothing(write: Callable[..., str]) -> None:
    assert len(read_trace(write("note,key,note,\nx,a,y,\n"), Layout())) == 1


@pytest.mark.parametrize(
    "text", ["", "\n", "\ufeff", "\r\n\r\n", "key\n", "key\r", "key", "key,time\nx,y\n"]
)
def test_a_log_without_requests(write: Callable[..., str], text: str) -> None:
    with pytest.raises(TraceError, match=r"log\.csv: holds no request"):
        read_trace(write(text), Layout(), skip_bad=True)


def test_no_binary_keys(write: Callable[..., str]) -> None:
    with pytest.raises(TraceError, match="holds no request"):
        read_trace(write(b"", "keys"), BinaryKeys("i"))
