"""From a log to a Trace: CSV with named columns, binary keys, malformed lines."""

from __future__ import annotations

import codecs
import io
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

from .source import Log, TraceError, open_log
from .times import Times
from .trace import NO_TTL, ONE_TENANT, OPERATIONS, READ, Trace, TraceBuilder

Progress = Callable[[int], object]

ROLES: Final = ("time", "key", "tenant", "size", "operation", "ttl")
TIME_UNITS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
BINARY_KEYS: Final = {"int32be": "i", "int64be": "q"}

# Bytes of a line, without its end. The rest of a longer line is never held.
LONGEST_LINE: Final = 1 << 17
# A longer key is replaced by its digest, so that long keys cannot fill the memory.
LONGEST_KEY: Final = 200
LINES_PER_REPORT: Final = 4_096
KEYS_PER_CHUNK: Final = 1 << 17
BUFFER: Final = 1 << 18

# The year 5138 in seconds, and 1973 in milliseconds.
LATEST_TIME: Final = 1e11
LARGEST_SIZE: Final = 1 << 40

BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    codecs.BOM_UTF32_BE: "UTF-32",
}
"""The mark of UTF-32, little-endian, begins with that of UTF-16."""

QUOTED: Final = re.compile(r'"((?:[^"]|"")*+)"')
TEXT_BYTES: Final = bytes((*range(0x20, 0x7F), *b"\t\r\n"))
ENOUGH_TEXT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of the columns of a CSV log, and the role of each."""

    columns: tuple[str, ...] | None = None
    """Names in order, for a log without a header; None: the first line names them."""
    roles: dict[str, str] | None = None
    """Column names by role, for columns whose name is not that of the role."""
    delimiter: str = ","
    quoting: bool = True
    time_unit: str = "s"
    overhead: str | None = None
    """A column whose bytes are added to the size of each entry, known or not."""


@dataclass(frozen=True, slots=True)
class BinaryKeys:
    """A log of keys alone, big-endian and signed; `typecode` is that of `array`."""

    typecode: str


TWITTER: Final = Layout(
    columns=("time", "key", "key_size", "size", "tenant", "operation", "ttl"),
    quoting=False,
    overhead="key_size",
)


def read_trace(
    path: str,
    layout: Layout | BinaryKeys,
    *,
    compression: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Trace:
    """Read a whole log.

    `path` "-" is standard input. `progress` is called with the number of bytes read from the file.
    Raises TraceError with the line's number at the first malformed line, unless `skip_bad`. It
    raises also with `skip_bad` if the log is damaged or its times cannot be true.
    """
    binary = isinstance(layout, BinaryKeys)
    with open_log(path, compression, binary=binary) as log:

        def report() -> None:
            if progress is not None:
                progress(log.file.taken)

        if isinstance(layout, BinaryKeys):
            trace = read_keys(log, layout, skip_bad, report)
        else:
            trace = read_csv(log, layout, skip_bad, report)
    if not len(trace):
        why = f"; {trace.skipped:,} malformed, {trace.first_skipped}" if trace.skipped else ""
        raise TraceError(f"{log.name}: holds no request{why}")
    return trace


def read_keys(log: Log, layout: BinaryKeys, skip_bad: bool, report: Callable[[], None]) -> Trace:
    """Read big-endian signed keys alone: each is one read."""
    start = log.content.start
    if not start.strip(TEXT_BYTES) and (len(start) >= ENOUGH_TEXT or b"\n" in start):
        raise TraceError(f"{log.name}: line 1: is text, where binary keys are expected")
    builder = TraceBuilder()
    width = array(layout.typecode).itemsize
    records = 0
    rest = b""
    with log.place_named(lambda: f"record {records + 1}"):
        stream = io.BufferedReader(log.content, BUFFER)
        while chunk := stream.read(width * KEYS_PER_CHUNK):
            chunk = rest + chunk
            whole = len(chunk) - len(chunk) % width
            rest = chunk[whole:]
            keys = array(layout.typecode)
            keys.frombytes(chunk[:whole])
            if sys.byteorder == "little":
                keys.byteswap()
            builder.add_keys(keys)
            records += len(keys)
            report()
    if rest:
        reason = f"{log.name}: record {records + 1}: {len(rest)} bytes where a key has {width}"
        if not skip_bad:
            raise TraceError(reason)
        builder.skip(reason)
    return builder.finish()


class Lines:
    """The lines of a log, each read with a bound and without its end.

    Lines end with a line feed, or with a carriage return and a line feed. In a log that begins
    without any line feed they end with a carriage return alone.
    """

    def __init__(self, log: Log) -> None:
        start = log.content.start
        for mark, encoding in BYTE_ORDER_MARKS.items():
            if start.startswith(mark):
                raise TraceError(
                    f"{log.name}: line 1: is {encoding}: convert it to UTF-8 before it is read"
                )
        raw: io.RawIOBase = log.content
        if b"\r" in start.removesuffix(b"\r") and b"\n" not in start:
            raw = CarriageReturns(raw)
        self._stream = io.BufferedReader(raw, BUFFER)
        if start.startswith(codecs.BOM_UTF8):
            self._stream.read(len(codecs.BOM_UTF8))
        self._log = log
        self.number = 0
        """The number of the last line read."""

    def __iter__(self) -> Iterator[bytes | None]:
        """Yield each line that is not empty; None for one that is too long."""
        readline = self._stream.readline
        with self._log.place_named(lambda: f"line {self.number + 1}"):
            while line := readline(LONGEST_LINE + 2):
                self.number += 1
                ended = line.endswith(b"\n")
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                if len(line) > LONGEST_LINE:
                    yield None
                    while not ended and (line := readline(LONGEST_LINE)):
                        ended = line.endswith(b"\n")
                elif line:
                    yield line


class CarriageReturns(io.RawIOBase):
    """A stream with line feeds in place of carriage returns."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return True: this is a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end."""
        block = self._stream.read(len(buffer)) or b""
        buffer[: len(block)] = block.replace(b"\r", b"\n")
        return len(block)


def read_csv(log: Log, layout: Layout, skip_bad: bool, report: Callable[[], None]) -> Trace:
    """Read a CSV log, each line one request."""
    lines = Lines(log)
    parser: RowParser | None = None
    if layout.columns is not None:
        parser = RowParser(layout.columns, layout, log.name, log.name)
    for line in lines:
        number = lines.number
        try:
            fields = fields_of(line, layout)
            if parser is None:
                parser = RowParser(tuple(fields), layout, log.name, f"{log.name}: line {number}")
            else:
                parser.parse(fields, number)
        except ValueError as error:
            reason = f"{log.name}: line {number}: {error}"
            if parser is None:
                raise TraceError(reason) from error
            if not skip_bad:
                raise TraceError(f"{reason} (--skip-bad counts such lines and goes on)") from error
            parser.builder.skip(reason)
        if not number % LINES_PER_REPORT:
            report()
    if parser is None:
        raise TraceError(f"{log.name}: holds no request: it is empty")
    return parser.finish()


def fields_of(line: bytes | None, layout: Layout) -> list[str]:
    """Return the fields of a line; a ValueError tells why the line is malformed."""
    if line is None:
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    if b"\0" in line:
        raise ValueError("holds a NUL byte: the log is damaged, or UTF-16, or no text")
    if b"\r" in line:
        raise ValueError("holds a carriage return that ends no line")
    text = line.decode("utf-8", "surrogateescape")
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte order mark: were several logs joined?")
    if layout.quoting and '"' in text:
        return quoted_fields(text, layout.delimiter)
    return text.split(layout.delimiter)


def quoted_fields(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line with quotes; each quote must close on its own line.

    A pair of quotes within an unquoted field, as in `/search?q="x"`, is part of it. The csv module
    fails here: it reads on after an unclosed quote. It also accepts a quote that stands alone or
    follows a space as part of the field, without an error.
    """
    fields = []
    start = 0
    while True:
        if line.startswith('"', start):
            field = QUOTED.match(line, start)
            if field is None:
                raise ValueError("a quote is not closed on this line")
            end = field.end()
            if not line.startswith(delimiter, end) and end < len(line):
                raise ValueError(f"{delimiter!r} expected after the closing quote")
            fields.append(field[1].replace('""', '"'))
        else:
            end = line.find(delimiter, start)
            end = len(line) if end < 0 else end
            plain = line[start:end]
            if plain.count('"') % 2:
                raise ValueError("a quote stands alone in a field")
            if plain.lstrip().startswith('"'):
                raise ValueError("white space before a quote that opens a field")
            fields.append(plain)
        if end == len(line):
            return fields
        start = end + 1


class RowParser:
    """Turns the fields of a line into a request; a ValueError names its fault."""

    def __init__(self, columns: tuple[str, ...], layout: Layout, name: str, place: str) -> None:
        self._header = list(columns)
        names = [column.strip() for column in columns]
        given = layout.roles or {}
        for role, column in given.items():
            if column not in names:
                raise TraceError(
                    f"{place}: no column {column!r} for the {role}; there are: "
                    + shortened(", ".join(map(repr, names)))
                )
        at = {
            role: names.index(given.get(role, role))
            for role in ROLES
            if given.get(role, role) in names
        }
        if "key" not in at:
            raise TraceError(
                f"{place}: no column 'key'; name the one that holds the key with "
                "--key-column, or all of them with --columns if there is no header"
            )
        for role, index in at.items():
            if names.count(names[index]) > 1:
                raise TraceError(
                    f"{place}: several columns are named {names[index]!r:.60}, and the {role} "
                    "is one of them"
                )
        self._key = at["key"]
        self._tenant = at.get("tenant")
        self._operation = at.get("operation")
        self._time = at.get("time")
        self._size = at.get("size")
        self._ttl = at.get("ttl")
        self._overhead = None if layout.overhead is None else names.index(layout.overhead)
        self._per_second = TIME_UNITS[layout.time_unit]
        self._times = Times(name)
        self.builder = TraceBuilder(
            with_tenants=self._tenant is not None,
            with_operations=self._operation is not None,
            with_times=self._time is not None,
            with_sizes=self._size is not None,
            with_ttls=self._ttl is not None,
        )

    def parse(self, row: list[str], line: int) -> None:
        """Add the request of one line; nothing is added if a field of it is malformed."""
        if len(row) != len(self._header):
            raise ValueError(f"expected {len(self._header)} fields, found {len(row)}")
        if row == self._header:
            raise ValueError("names the columns once more: were several logs joined?")
        key = key_of(row[self._key])
        tenant = ONE_TENANT if self._tenant is None else tenant_of(row[self._tenant])
        operation = READ if self._operation is None else operation_of(row[self._operation])
        size = 0 if self._size is None else size_of(row[self._size], "size")
        ttl = NO_TTL if self._ttl is None else number_of(row[self._ttl] or "0", "TTL")
        overhead = 0 if self._overhead is None else size_of(row[self._overhead], "key size")
        time = 0.0
        if self._time is not None:
            # Last, because a malformed line must not move the clock.
            time = self._times.take(time_of(row[self._time], self._per_second), line)
        self.builder.add(key, tenant, operation, time, size, ttl, overhead)

    def finish(self) -> Trace:
        """Return the collected trace."""
        self._times.finish()
        return self.builder.finish(late=self._times.late)


def shortened(text: str) -> str:
    """Return a text shortened for a message."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def checked_text(field: str, what: str) -> str:
    """Return a field that must be UTF-8."""
    if not field.isascii():
        try:
            field.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the {what} is not UTF-8: {field[:60]!a}") from None
    return field


def key_of(field: str) -> str | bytes:
    """Return a key, or the digest of a long key."""
    checked_text(field, "key")
    return field if len(field) <= LONGEST_KEY else blake2b(field.encode(), digest_size=16).digest()


def tenant_of(field: str) -> str:
    """Return a field that must be a valid name of a namespace."""
    if not field or field != field.strip() or len(field) > 256:
        raise ValueError(
            f"the tenant must be 1 to 256 characters without white space around them: {field!r:.60}"
        )
    return checked_text(field, "tenant")


def operation_of(field: str) -> int:
    """Return the operation that a field names."""
    try:
        return OPERATIONS[field.strip().lower()]
    except KeyError:
        raise ValueError(
            f"unknown operation {field!r:.60}; known: {', '.join(OPERATIONS)}"
        ) from None


def number_of(field: str, what: str) -> float:
    """Return a field that must be a number, finite and not negative."""
    try:
        # float() alone accepts digits of other scripts, and underscores between digits.
        number = float(field) if field.isascii() and "_" not in field else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"the {what} is not a number: {field!r:.60}")
    if not isfinite(number) or number < 0:
        raise ValueError(f"the {what} must be finite and at least 0: {field!r:.60}")
    return number


def time_of(field: str, per_second: int) -> float:
    """Return a field that must be a time, in seconds."""
    time = number_of(field, "time") / per_second
    if time >= LATEST_TIME:
        raise ValueError(
            f"the time is 3,000 years or more: {field!r:.60} (--time-unit ms, us or ns?)"
        )
    return time


def size_of(field: str, what: str) -> int:
    """Return a field that must be a whole number of bytes; an empty one counts as 0, unknown."""
    number = number_of(field or "0", what)
    if not number.is_integer() or number >= LARGEST_SIZE:
        raise ValueError(f"the {what} must be a whole number of bytes below 2**40: {field!r:.60}")
    return int(number)
