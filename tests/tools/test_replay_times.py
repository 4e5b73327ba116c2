"""The times of a log: a little disorder is corrected, impossible times are refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from flowcache.replay.reading import Layout, read_trace
from flowcache.replay.source import TraceError
from flowcache.replay.trace import Trace

pytestmark = pytest.mark.once

EPOCH = 1_700_000_000


@pytest.fixture
def read(write: Callable[..., str]) -> Callable[..., Trace]:
    """Reads a log of these times, with a key each, under any line number."""

    def read(times: Iterable[float | str], unit: str = "s", skip_bad: bool = False) -> Trace:
        lines = [f"{time},/page/{at % 10}\n" for at, time in enumerate(times)]
        layout = Layout(time_unit=unit)
        return read_trace(write("time,key\n" + "".join(lines)), layout, skip_bad=skip_bad)

    return read


def expect_refusal(
    read: Callable[..., Trace], line: int, complaint: str, *arguments: object
) -> None:
    """Refused with the line's number, and no less when malformed lines are to be skipped."""
    for skip_bad in (False, True):
        with pytest.raises(TraceError, match=rf"log\.csv: line {line}: {complaint}"):
            read(*arguments, skip_bad=skip_bad)


class TestOrder:
    def test_a_request_that_is_a_little_late_counts_as_simultaneous(
        self, read: Callable[..., Trace]
    ) -> None:
        trace = read([5, 4, 6])
        assert (list(trace.times or []), trace.late) == ([5, 5, 6], 1)

    def test_late_by_as_much_as_is_allowed(self, read: Callable[..., Trace]) -> None:
        trace = read([*range(200), 189, 200])
        assert (list(trace.times or [])[-2:], trace.late) == ([199, 200], 1)
        expect_refusal(read, 202, "the time runs backwards", [*range(200), 188.9, 200])

    def test_writers_whose_lines_mix(self, read: Callable[..., Trace]) -> None:
        """A request is logged when it ends, under the time at which it began."""
        draw = random.Random(1)
        began = sorted(EPOCH + 60 * draw.random() for _ in range(3_000))
        logged = sorted(began, key=lambda time: time + 2 * draw.random())
        late = sum(time < max(logged[:at]) for at, time in enumerate(logged) if at)
        assert late > 2_000
        trace = read(logged)
        assert trace.late == late
        assert list(trace.times or []) == sorted(trace.times or [])

    def test_whole_seconds_of_a_log_of_one_second(self, read: Callable[..., Trace]) -> None:
        assert read([0] * 500 + [1, 0] * 2 + [1] * 500).late == 2

    @pytest.mark.parametrize(
        ("times", "line"),
        [
            # From the newest to the oldest, in large steps, small steps, and within a second.
            (range(EPOCH + 1_000, EPOCH, -1), 13),
            (range(100, 80, -1), 13),
            ([3, 2, 1], 3),
            ([EPOCH - at * 3_600 for at in range(24)], 3),
            ([1 - at / 1_000 for at in range(1_000)], 102),
            # With several requests at a time.
            ([9 - at // 10 for at in range(100)], 12),
            # Two files joined in the wrong order, and three in that of their names.
            ([*range(500, 1_000), *range(500)], 502),
            ([*range(5, 9), *range(1, 5)], 6),
            (
                [0.5 + at / 2_000 for at in range(1_000)] + [at / 2_000 for at in range(1_000)],
                1_002,
            ),
            ([*range(60), *range(600, 660), *range(60, 120)], 122),
            # One time that is too far ahead, then the rest.
            ([*range(500), 900, *range(500, 1_000)], 503),
            # A time that is missing.
            ([EPOCH, EPOCH + 1, 0, EPOCH + 2], 4),
        ],
    )
    def test_a_log_that_runs_backwards(
        self, read: Callable[..., Trace], times: Iterable[float], line: int
    ) -> None:
        expect_refusal(
            read, line, "the time (runs backwards|is .* before that of an earlier line)", times
        )

    def test_the_line_that_was_newest_is_named_too(self, read: Callable[..., Trace]) -> None:
        complaint = "the time runs backwards, from 900 s on line 12 to 11 s"
        expect_refusal(read, 13, complaint, [*range(10), 900, 11])

    def test_a_line_that_is_malformed_does_not_move_the_clock(
        self, write: Callable[..., str]
    ) -> None:
        path = write("time,key,size\n1,a,1\n5000,b,x\n2,c,1\n")
        trace = read_trace(path, Layout(), skip_bad=True)
        assert (list(trace.times or []), trace.skipped, trace.late) == ([1, 2], 1, 0)


class TestJumps:
    @pytest.mark.parametrize(
        ("times", "unit", "line"),
        [
            # Seconds, then milliseconds or less, for good or for a line.
            ([at if at < 500 else at * 1_000 for at in range(1_000)], "s", 502),
            ([at if at != 500 else at * 1_000 for at in range(1_000)], "s", 502),
            ([at if at < 999 else at * 1_000 for at in range(1_000)], "s", 1_001),
            ([at if at < 40 else at * 1_000 for at in range(50)], "s", 42),
            ([at if at < 40 else at * 1_000_000 for at in range(50)], "s", 42),
            ([1, 2, 3_000], "s", 4),
            ([EPOCH + at if at < 9 else (EPOCH + at) * 1_000 for at in range(20)], "ms", 11),
            ([EPOCH + at if at < 9 else (EPOCH + at) * 1_000 for at in range(20)], "us", 11),
            # A first time that is missing.
            ([0, EPOCH, EPOCH + 1], "s", 3),
            ([1, EPOCH, EPOCH + 1], "s", 3),
        ],
    )
    def test_a_jump_to_another_unit(
        self, read: Callable[..., Trace], times: Iterable[float], unit: str, line: int
    ) -> None:
        expect_refusal(read, line, "the time jumps from", times, unit)

    @pytest.mark.parametrize(
        ("times", "line"),
        [
            ([at * 1_000 if at < 500 else at for at in range(1_000)], 502),
            ([at * 1_000 if at == 500 else at for at in range(1_000)], 502),
            ([at * 1_000 if at < 20 else at for at in range(40)], 22),
            ([EPOCH * 1_000 if at == 1 else EPOCH for at in range(3)], 3),
        ],
    )
    def test_a_jump_to_a_coarser_unit_or_back(
        self, read: Callable[..., Trace], times: Iterable[float], line: int
    ) -> None:
        with pytest.raises(TraceError, match=rf"log\.csv: line {line}: the time "):
            read(times)

    @pytest.mark.parametrize("factor", [1_000, 1_000_000, 1_000_000_000])
    def test_a_whole_log_in_another_unit(self, read: Callable[..., Trace], factor: int) -> None:
        """Milliseconds since 1970, taken for seconds, would let no entry live."""
        times = [(EPOCH + at) * factor for at in range(10)]
        with pytest.raises(TraceError, match=r"line 2: the time is 3,000 years or more.*unit ms"):
            read(times)

    @pytest.mark.parametrize(
        "times",
        [
            # A gap of minutes, a night, a week.
            [0.001, 0.002, 500, 501],
            [*range(100), 30_000, 30_001],
            [EPOCH, EPOCH + 1, EPOCH + 604_800],
            # The second request of a log after any time.
            [1, 1_000],
            [0, 1_000_000],
            [100, 100_000, 200_000],
            # Gaps that grow.
            [10**at for at in range(8)],
            [2**at for at in range(26)],
            # A year of a request a day.
            [86_400 * at for at in range(365)],
        ],
    )
    def test_silence_is_no_jump(self, read: Callable[..., Trace], times: list[float]) -> None:
        trace = read(times)
        assert list(trace.times or []) == times
        assert trace.late == 0
