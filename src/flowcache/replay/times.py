"""The times of a log: they are checked, and small steps back are corrected.

A cache's clock cannot run backwards. Lines of several writers are a little out of order, and such a
request counts as simultaneous with the newest before it. A log is refused if its times step back
further, jump by the factor of another unit, or are out of order throughout. Its figures could not
be right.
"""

from __future__ import annotations

from array import array
from typing import Final

from .source import TraceError

# Seconds by which a request may be older than the newest before it.
LATEST: Final = 10.0
# A request later by more than this part of the log's span is far out of order ...
FAR: Final = 0.1
# ... and so may this part of the requests be, or one.
MANY: Final = 0.25
# Three years: no log has such a gap, but a time of 0 may come before one since 1970.
LONGEST_GAP: Final = 1e8
# A jump to another unit multiplies the time by about 1,000 and dwarfs every gap before it.
UNIT_STEPS: Final = (1e3, 1e6, 1e9)
UNIT_GAP: Final = 600.0

UNSURE: Final = "so the order of the requests is not certain: sort the log by time"


class Times:
    """The clock of a log, which receives the times of its lines one by one, in seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._requests = 0
        self._oldest = 0.0
        self._newest = 0.0
        self._newest_line = 0
        self._longest_gap = 0.0
        # Seconds and line of each request that may yet prove far out of order.
        self._far = array("d")
        self._far_lines = array("q")
        self.late = 0
        """Requests older than the newest before them."""

    def take(self, time: float, line: int) -> float:
        """Return the time at which to replay a line's request: its own, or the newest before it."""
        self._requests += 1
        gap = time - self._newest
        if self._requests == 1:
            self._oldest, self._newest, self._newest_line = time, time, line
        elif gap >= 0:
            if gap > self._longest_gap:
                self._check_gap(gap, time, line)
                self._longest_gap = gap
            self._newest, self._newest_line = time, line
        else:
            self._note_late(-gap, time, line)
        return self._newest

    def _check_gap(self, gap: float, time: float, line: int) -> None:
        """Refuse a jump that another unit or a missing time explains, and no gap in the log."""
        before = self._newest
        jumps = (
            gap >= UNIT_GAP
            and 0 < 1_000 * self._longest_gap <= gap
            and before > 0
            and any(0.95 * step <= time / before <= 2 * step for step in UNIT_STEPS)
        )
        if jumps or gap > LONGEST_GAP:
            raise TraceError(
                f"{self._name}: line {line}: the time jumps from {before:,.15g} s on line "
                f"{self._newest_line} to {time:,.15g} s: are seconds and milliseconds mixed, or "
                "is a time wrong?"
            )

    def _note_late(self, seconds: float, time: float, line: int) -> None:
        if seconds > LATEST:
            raise TraceError(
                f"{self._name}: line {line}: the time runs backwards, from {self._newest:,.15g} s "
                f"on line {self._newest_line} to {time:,.15g} s, {UNSURE}, or mend the wrong time"
            )
        self.late += 1
        self._oldest = min(self._oldest, time)
        if seconds > FAR * (self._newest - self._oldest):
            self._far.append(seconds)
            self._far_lines.append(line)

    def finish(self) -> None:
        """Refuse a log that is out of order throughout."""
        span = self._newest - self._oldest
        far = [at for at, seconds in enumerate(self._far) if seconds > FAR * span]
        if len(far) > max(1, MANY * self._requests):
            seconds, line = self._far[far[0]], self._far_lines[far[0]]
            raise TraceError(
                f"{self._name}: line {line}: the time is {seconds:,.6g} s before that of an "
                f"earlier line, and {len(far):,} of {self._requests:,} requests are as much out of "
                f"order, {UNSURE}"
            )
