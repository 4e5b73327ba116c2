"""From a path to the content of a log, in bounded memory: compression, archives, damage.

The first bytes decide, not the name: a file named .csv may be gzip, and one named .gz may be plain.
"""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .extras import ReplayError, need

# Enough bytes for every signature below, and for nearly every first line.
LOOK_AHEAD: Final = 1 << 16
BLOCK: Final = 1 << 16
# `xz -9` needs 65 MiB to decompress. A file names the memory that it needs, and may name any.
XZ_MEMORY: Final = 128 << 20

SIGNATURES: Final = {
    "xz": (b"\xfd7zXZ\x00",),
    "gz": (b"\x1f\x8b\x08",),
    # A file may begin with skippable frames, which have sixteen magic numbers.
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([number, 0x2A, 0x4D, 0x18]) for number in range(80, 96))),
}
COMPRESSIONS: Final = ("none", *SIGNATURES)
UNREADABLE: Final = (
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file"),
    (0, b"\x1f\x9d", "a file of compress"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (257, b"ustar", "a tar archive"),
)

Damage = tuple[type[Exception], ...]
Take = Callable[[int], bytes | None]


class TraceError(ReplayError):
    """The log cannot be read, or its figures would be wrong."""


class Ahead(io.RawIOBase):
    """A stream with its first bytes, `start`, read in advance.

    Its bytes come from `take(size)`, and `taken` counts them. Damage found in advance is raised
    after the bytes before it have been read.
    """

    def __init__(self, take: Take, damage: Damage) -> None:
        self._take = take
        self._error: Exception | None = None
        self.taken = 0
        blocks: list[bytes] = []
        try:
            while self.taken < LOOK_AHEAD and (block := self._next(LOOK_AHEAD - self.taken)):
                blocks.append(block)
        except damage as error:
            self._error = error
        self.start = b"".join(blocks)
        self._unread = self.start

    def _next(self, size: int) -> bytes:
        block = self._take(size)
        if block is None:
            # No data yet, which must not be taken for the end.
            raise BlockingIOError("the stream does not wait for data")
        self.taken += len(block)
        return block

    def readable(self) -> bool:
        """Return True: this is a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end."""
        if self._unread:
            block = self._unread[: len(buffer)]
            self._unread = self._unread[len(block) :]
        elif self._error is not None:
            raise self._error
        else:
            block = self._next(len(buffer))
        buffer[: len(block)] = block
        return len(block)


class XzReader(io.RawIOBase):
    """The content of all xz streams of a file, one after the other.

    `lzma.LZMAFile` fails here: after the first stream it ignores bytes that do not begin like a
    stream. So a log of several streams, damaged or padded, would end early without an error.
    """

    def __init__(self, source: Ahead) -> None:
        self._source = source
        self._decoder = self._new_decoder()
        self._ended = False

    @staticmethod
    def _new_decoder() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        """Return True: this is a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end."""
        content = b""
        while not content and not self._ended:
            compressed = b""
            if self._decoder.eof:
                compressed = self._next_stream()
                self._ended = not compressed
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input:
                compressed = self._source.read(BLOCK) or b""
                if not compressed:
                    raise EOFError("the last xz stream has no end")
            content = self._decoder.decompress(compressed, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _next_stream(self) -> bytes:
        """Return bytes from the beginning of the next stream, or none at the end of the file.

        Zeros may stand between streams and after the last, in a multiple of four.
        """
        block: bytes | None = self._decoder.unused_data
        zeros = 0
        while block is not None:
            following = block.lstrip(b"\0")
            zeros += len(block) - len(following)
            if following:
                break
            block = self._source.read(BLOCK) or None
        if zeros % 4:
            raise lzma.LZMAError(f"{zeros} zeros after a stream, which is no multiple of four")
        return following


@dataclass(frozen=True, slots=True)
class Log:
    """An open log: its name for messages, the stream of the file and that of the content."""

    name: str
    file: Ahead
    content: Ahead
    damage: Damage

    @contextmanager
    def place_named(self, place: Callable[[], str]) -> Iterator[None]:
        """Turn damage found within the block into a TraceError that names the place."""
        try:
            yield
        except self.damage as error:
            raise TraceError(
                f"{self.name}: {place()}: damaged or cut short, here or after: {error}"
            ) from error


@contextmanager
def open_log(path: str, compression: str | None, *, binary: bool) -> Iterator[Log]:
    """Open a log; `path` "-" is standard input; `compression` None: the first bytes decide.

    `binary` content may begin with any bytes, so there a name that promises compression must be
    true. Raises TraceError if there is no such file, and for formats that cannot be read.
    """
    name = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise TraceError("standard input: closed")
    try:
        # Standard input stays open.
        opened: Any = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    try:
        file = Ahead(opened.read, (OSError,))
        kind = compression or kind_of(file.start, name)
        promised = Path(path).suffix.lstrip(".").lower()
        if binary and compression is None and kind == "none" and promised in SIGNATURES:
            raise TraceError(
                f"{name}: is no .{promised} file, in spite of its name "
                "(--compression none reads it as it is)"
            )
        take, damage = decompressed(file, kind)
        content = Ahead(take, damage)
        if compression is None and kind != "none":
            inner = kind_of(content.start, name)
            if inner != "none":
                raise TraceError(f"{name}: compressed twice, as .{inner} within .{kind}: unpack it")
        yield Log(name, file, content, damage)
    finally:
        if path != "-":
            opened.close()


def kind_of(start: bytes, name: str) -> str:
    """Return the compression of content that begins with `start`."""
    for offset, signature, kind in UNREADABLE:
        if start.startswith(signature, offset):
            raise TraceError(f"{name}: is {kind}, which must be unpacked before it is read")
    for kind, signatures in SIGNATURES.items():
        if start.startswith(signatures):
            return kind
    return "none"


def decompressed(file: Ahead, kind: str) -> tuple[Take, Damage]:
    """Return a function that reads the content, and the errors by which it tells of damage.

    It is `read1` where there is one: a `read` of several blocks loses those before the damage.
    """
    match kind:
        case "xz":
            return XzReader(file).read, (EOFError, lzma.LZMAError, OSError)
        case "gz":
            members = gzip.GzipFile(fileobj=file, mode="rb")
            return members.read1, (EOFError, zlib.error, OSError)
        case "zst":
            zstd = need_zstd()
            return zstd.ZstdFile(file).read1, (EOFError, zstd.ZstdError, OSError)
        case _:
            return file.read, (OSError,)


def need_zstd() -> Any:
    """Return the module for zstandard: the standard library's, from 3.14 on."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd
    return need("backports.zstd", "a .zst log")
