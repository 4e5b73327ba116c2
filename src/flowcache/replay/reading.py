"""From a file to a Trace: decompression, CSV with named columns, binary keys, malformed lines."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from .extras import ReplayError, need
from .trace import NO_TTL, ONE_TENANT, OPERATIONS, READ, Trace, TraceBuilder

Progress = Callable[[int], object]

MAGIC: Final = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}
COMPRESSIONS: Final = ("none", *MAGIC.values())
ROLES: Final = ("time", "key", "tenant", "size", "operation", "ttl")
TIME_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
LINES_PER_REPORT: Final = 4_096
KEYS_PER_CHUNK: Final = 1 << 18


class TraceError(ReplayError):
    """The trace cannot be read, or a line of it is malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the columns of a CSV log are named, and which of them mean what."""

    columns: tuple[str, ...] | None = None
    """Names in order, for a log without a header; None: the first line names them."""
    roles: dict[str, str] | None = None
    """Column names by role, for those that are not named as the role is."""
    delimiter: str = ","
    quoting: bool = True
    time_unit: str = "s"
    overhead: str | None = None
    """A column whose bytes are added to the size of each entry, known or not."""


TWITTER: Final = Layout(
    columns=("time", "key", "key_size", "size", "tenant", "operation", "ttl"),
    quoting=False,
    overhead="key_size",
)


class ZstdReader(io.RawIOBase):
    """Decompresses zstandard frames one after the other; a cut frame raises EOFError."""

    def __init__(self, source: Any) -> None:
        self._zstandard = need("zstandard", "a .zst trace")
        self._source = source
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        """Return True: this is a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end."""
        while not self._ready:
            compressed = b"" if self._frame is None else self._frame.unused_data
            if self._frame is None or self._frame.eof:
                compressed = compressed or self._source.read(1 << 16)
                if not compressed:
                    return 0
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            else:
                compressed = self._source.read(1 << 16)
                if not compressed:
                    raise EOFError("the last zstandard frame is cut short")
            try:
                self._ready = self._frame.decompress(compressed)
            except self._zstandard.ZstdError as error:
                raise OSError(str(error)) from error
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def compression_of(path: str, source: Any) -> str:
    """Return how a trace is compressed: by a file's suffix, or by standard input's first bytes."""
    if path != "-":
        suffix = Path(path).suffix.lstrip(".").lower()
        return suffix if suffix in COMPRESSIONS else "none"
    start = source.peek(8)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), "none")


def decompressed(source: Any, compression: str) -> Any:
    """Return a stream of the trace's own bytes."""
    match compression:
        case "xz":
            return lzma.open(source)
        case "gz":
            return gzip.open(source)
        case "zst":
            return io.BufferedReader(ZstdReader(source), 1 << 18)
        case _:
            return source


def read_trace(
    path: str,
    layout: Layout | None,
    *,
    compression: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Trace:
    """Read a whole trace; `layout` None means big-endian 32-bit keys.

    `path` "-" is standard input. `progress` is told the bytes of the file that were read. Raises
    TraceError with the line's number at the first malformed line, unless `skip_bad`.
    """
    name = "standard input" if path == "-" else path
    try:
        # Closed below, unless it is standard input.
        source: Any = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    try:
        stream = decompressed(source, compression or compression_of(path, source))

        def report() -> None:
            if progress is not None and path != "-":
                progress(source.tell())

        if layout is None:
            trace = read_keys(stream, name, skip_bad, report)
        else:
            trace = read_csv(stream, name, layout, skip_bad, report)
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise TraceError(f"{name}: damaged or cut short: {error}") from error
    finally:
        if path != "-":
            source.close()
    if not len(trace):
        why = f"; {trace.skipped:,} malformed, {trace.first_skipped}" if trace.skipped else ""
        raise TraceError(f"{name}: holds no request{why}")
    return trace


def read_keys(stream: Any, name: str, skip_bad: bool, report: Callable[[], None]) -> Trace:
    """Read big-endian signed 32-bit keys, nothing else: each is one read."""
    builder = TraceBuilder()
    records = 0
    rest = b""
    while chunk := stream.read(4 * KEYS_PER_CHUNK):
        chunk = rest + chunk
        whole = len(chunk) - len(chunk) % 4
        rest = chunk[whole:]
        keys = array("i")
        keys.frombytes(chunk[:whole])
        if sys.byteorder == "little":
            keys.byteswap()
        builder.add_keys(keys)
        records += len(keys)
        report()
    if rest:
        reason = f"{name}: record {records + 1}: {len(rest)} bytes where a key has 4"
        if not skip_bad:
            raise TraceError(reason)
        builder.skip(reason)
    return builder.finish()


def read_csv(
    stream: Any, name: str, layout: Layout, skip_bad: bool, report: Callable[[], None]
) -> Trace:
    """Read a CSV log, each line one request."""
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(
        text,
        delimiter=layout.delimiter,
        quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE,
        strict=True,
    )
    columns = layout.columns or header_of(rows, name)
    parser = RowParser(columns, layout, name)
    builder = parser.builder
    while True:
        # A quote that is never closed takes in the lines after it: the one it is on is named.
        line = rows.line_num + 1
        try:
            row = next(rows)
            if row:
                parser.parse(row)
        except StopIteration:
            break
        except (ValueError, csv.Error) as error:
            reason = f"{name}: line {line}: {error}"
            if not skip_bad:
                raise TraceError(f"{reason} (--skip-bad counts such lines and goes on)") from error
            builder.skip(reason)
        if not line % LINES_PER_REPORT:
            report()
    text.detach()
    return builder.finish()


def header_of(rows: Iterator[list[str]], name: str) -> tuple[str, ...]:
    """Return the names that the first line gives to the columns."""
    try:
        return tuple(column.strip() for column in next(rows))
    except StopIteration:
        raise TraceError(f"{name}: holds no request: it is empty") from None
    except csv.Error as error:
        raise TraceError(f"{name}: line 1: {error}") from error


class RowParser:
    """Turns the fields of a line into a request; a ValueError says what is wrong with it."""

    def __init__(self, columns: tuple[str, ...], layout: Layout, name: str) -> None:
        given = layout.roles or {}
        for role, column in given.items():
            if column not in columns:
                raise TraceError(
                    f"{name}: no column {column!r} for the {role}; there are: "
                    + ", ".join(map(repr, columns))
                )
        self._place = {
            role: columns.index(given.get(role, role))
            for role in ROLES
            if given.get(role, role) in columns
        }
        if "key" not in self._place:
            raise TraceError(
                f"{name}: no column 'key'; name the one that holds the key with --key-column, or "
                "all of them with --columns if there is no header"
            )
        self._width = len(columns)
        self._unit = TIME_UNITS[layout.time_unit]
        self._overhead = None if layout.overhead is None else columns.index(layout.overhead)
        self.builder = TraceBuilder(
            with_tenants="tenant" in self._place,
            with_operations="operation" in self._place,
            with_times="time" in self._place,
            with_sizes="size" in self._place,
            with_ttls="ttl" in self._place,
        )

    def parse(self, row: list[str]) -> None:
        """Add the request of one line; nothing is added if a field of it is malformed."""
        if len(row) != self._width:
            raise ValueError(f"expected {self._width} fields, found {len(row)}")
        place = self._place
        self.builder.add(
            key=text_of(row[place["key"]], "key"),
            tenant=tenant_of(row[place["tenant"]]) if "tenant" in place else ONE_TENANT,
            operation=operation_of(row[place["operation"]]) if "operation" in place else READ,
            time=number_of(row[place["time"]], "time") * self._unit if "time" in place else 0.0,
            size=size_of(row[place["size"]], "size") if "size" in place else 0,
            ttl=number_of(row[place["ttl"]] or "0", "TTL") if "ttl" in place else NO_TTL,
            overhead=0 if self._overhead is None else size_of(row[self._overhead], "key size"),
        )


def text_of(field: str, what: str) -> str:
    """Return a field that must be UTF-8."""
    if not field.isascii():
        try:
            field.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the {what} is not UTF-8: {field!a}") from None
    return field


def tenant_of(field: str) -> str:
    """Return a field that must do as a namespace's name."""
    if not field or field != field.strip() or len(field) > 256:
        raise ValueError(
            f"the tenant must be 1 to 256 characters without white space around them: {field!r:.60}"
        )
    return text_of(field, "tenant")


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
        number = float(field)
    except ValueError:
        raise ValueError(f"the {what} is not a number: {field!r:.60}") from None
    if not isfinite(number) or number < 0:
        raise ValueError(f"the {what} must be finite and at least 0: {field!r:.60}")
    return number


def size_of(field: str, what: str) -> int:
    """Return a field that must be a whole number of bytes; nothing counts as 0, unknown."""
    number = number_of(field or "0", what)
    if not number.is_integer() or number >= 1 << 48:
        raise ValueError(f"the {what} must be a whole number of bytes: {field!r:.60}")
    return int(number)
