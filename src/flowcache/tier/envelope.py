"""A value as it lies in the tier: a fixed part that scripts write, a header, and the body.

The fixed part bears the fields that only the server knows or that change. They are the incarnations
and numbers under which the value is valid, and its deadlines on the server's clock. The header
repeats the path and the key, which are compared when the value is read: a value that came under
another name is refused. The layout is known to `scripts/_common.lua`, which reads marks and
deadlines.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from .codec import UndecodableError, UnencodableError, codec_mark
from .layout import MARK, decode_fields, encode_fields, mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from .codec import Codec
    from .layout import Place

    Sign = Callable[[bytes, bytes, bytes], bytes]

__all__ = ["COUNTER", "FIXED", "Envelope", "Packed", "tag_mark"]

MAGIC: Final = b"fc1\x01"
FIXED: Final = struct.Struct(">4s16s16s16sddddd")
"""Magic; incarnation of the unit's record and of the bucket's; the operation that stored it; the
numbers of both records; the deadline and the last moment for stale use, and the TTL, in ms."""
_HEADER: Final = struct.Struct(">4sBBBHIII")
"""Codec; packing; marks above the unit; marks within it; tags; bytes of path and key, of tags, and
of the body before it was packed."""
_BOTH: Final = struct.Struct(FIXED.format + _HEADER.format[1:])
COUNTER: Final = b"\0int"
"""Stands where a codec's mark does: the body is an `int` in decimal, which a script can count."""
NEVER: Final = 0.0
"""A deadline that never comes."""
_PLAIN, _DEFLATED = 0, 1
_MOST_TAGS = 1024
_SMALLEST_INT, _LARGEST_INT = -(1 << 63), (1 << 63) - 1


class Packed(NamedTuple):
    """A value that was read, before its body is decoded: the part that scripts write comes first.

    One tuple and not two, as each read makes it.
    """

    unit: bytes
    root: bytes
    unit_number: float
    root_number: float
    deadline: float
    last: float
    ttl: float
    tags: tuple[str, ...]
    body: bytes
    """The bytes of the codec, packed or not."""
    header: bytes
    packing: int
    length: int
    is_counter: bool


def tag_mark(tag: str) -> bytes:
    """Return the digest that stands for a tag in a record's field."""
    return mark(tag.encode("utf-8", "surrogatepass"))


class Envelope:
    """Packs values for the tier and opens them, by one configuration.

    `limit` bounds a value's bytes before they are packed; a value of `pack_from` bytes or more is
    deflated if that makes it smaller.
    """

    __slots__ = ("_sign", "_verify", "codec", "limit", "mark", "pack_from")

    def __init__(self, codec: Codec, *, limit: int = 1 << 20, pack_from: int | None = 2048) -> None:
        self.codec = codec
        self.limit = limit
        self.pack_from = pack_from
        self.mark = codec_mark(codec)
        self._sign: Sign | None = getattr(codec, "sign", None)
        self._verify: Sign | None = getattr(codec, "verify", None)

    def seal(
        self, place: Place, name: bytes, encoded_key: bytes, value: object, tags: tuple[str, ...]
    ) -> bytes:
        """Return header and body, to which a script adds the fixed part.

        `name` is the one under which the value will lie. Raises `UnencodableError` if the value
        cannot be encoded or is too large.
        """
        if type(value) is int and _SMALLEST_INT <= value <= _LARGEST_INT:
            codec, body = COUNTER, b"%d" % value
        else:
            codec, body = self.mark, self._encode(value)
            if type(body) is not bytes:
                raise UnencodableError(
                    type(value), f"codec: encode() returned a {type(body).__name__}"
                )
        length = len(body)
        if length > self.limit:
            raise UnencodableError(
                type(value), f"value: {length} bytes encoded; at most {self.limit} can travel"
            )
        if len(tags) > _MOST_TAGS:
            raise UnencodableError(
                type(value), f"tags: {len(tags)}; at most {_MOST_TAGS} can travel"
            )
        packing = _PLAIN
        if self.pack_from is not None and length >= self.pack_from:
            deflated = zlib.compress(body, 1)
            if len(deflated) < length:
                packing, body = _DEFLATED, deflated
        encoded_tags = encode_fields(tags)
        root, unit = place.root_marks, place.unit_marks
        header = b"".join(
            (
                _HEADER.pack(
                    codec,
                    packing,
                    len(root),
                    len(unit),
                    len(tags),
                    len(place.encoded) + len(encoded_key),
                    len(encoded_tags),
                    length,
                ),
                *root,
                *unit,
                *map(tag_mark, tags),
                place.encoded,
                encoded_key,
                encoded_tags,
            )
        )
        if codec is not COUNTER and self._sign is not None:
            body = self._signed(self._sign, name, header, body, value)
        return header + body

    def _encode(self, value: object) -> bytes:
        try:
            return self.codec.encode(value)
        except UnencodableError:
            raise
        except Exception as error:
            raise UnencodableError(
                type(value), f"codec: encode() raised {type(error).__name__}: {error}"
            ) from error

    def _signed(self, sign: Sign, name: bytes, header: bytes, body: bytes, value: object) -> bytes:
        try:
            signed = sign(name, header, body)
        except UnencodableError:
            raise
        except Exception as error:
            raise UnencodableError(
                type(value), f"codec: sign() raised {type(error).__name__}: {error}"
            ) from error
        if type(signed) is not bytes:
            raise UnencodableError(type(value), f"codec: sign() returned a {type(signed).__name__}")
        return signed

    def open(self, place: Place, encoded_key: bytes, data: bytes) -> Packed:
        """Take a value apart; `UndecodableError` if it is not one of this path and key."""
        try:
            (
                magic, unit, root, _, unit_number, root_number, deadline, last, ttl,
                codec, packing, roots, units, tags, identity, tagged, length,
            ) = _BOTH.unpack_from(data)  # fmt: skip
        except struct.error:
            raise UndecodableError("the value is cut short") from None
        if magic != MAGIC:
            raise UndecodableError("the value was written by another version")
        if codec != self.mark and codec != COUNTER:
            raise UndecodableError("the value was written with another codec")
        start = _BOTH.size + (roots + units + tags) * MARK
        middle = start + identity
        end = middle + tagged
        if data[start:middle] != place.encoded + encoded_key:
            raise UndecodableError("the value belongs to another path or key")
        if end > len(data) or length > self.limit:
            raise UndecodableError("the value's lengths are beyond its limits")
        return Packed(
            unit,
            root,
            unit_number,
            root_number,
            deadline,
            last,
            ttl,
            _tags(data[middle:end]) if tags else (),
            data[end:],
            data[FIXED.size : end],
            packing,
            length,
            codec == COUNTER,
        )

    def value(self, name: bytes, packed: Packed) -> object:
        """Return the value; `UndecodableError` if it was tampered with or cannot be decoded.

        A signature is checked before anything else is looked at, and the size of what was packed
        before it is unpacked.
        """
        body = packed.body
        if packed.is_counter:
            try:
                return int(body)
            except ValueError:
                raise UndecodableError("the counter is no number") from None
        if self._verify is not None:
            body = self._verified(self._verify, name, packed.header, body)
        if packed.packing == _DEFLATED:
            body = _inflate(body, packed.length)
        elif packed.packing != _PLAIN:
            raise UndecodableError("the value is packed in an unknown way")
        if len(body) != packed.length:
            raise UndecodableError("the value's length is not the one it states")
        try:
            return self.codec.decode(body)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(
                f"codec: decode() raised {type(error).__name__}: {error}"
            ) from error

    def _verified(self, verify: Sign, name: bytes, header: bytes, signed: bytes) -> bytes:
        try:
            body = verify(name, header, signed)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(
                f"codec: verify() raised {type(error).__name__}: {error}"
            ) from error
        if type(body) is not bytes:
            raise UndecodableError(f"codec: verify() returned a {type(body).__name__}")
        return body


def _tags(encoded: bytes) -> tuple[str, ...]:
    try:
        tags = decode_fields(encoded)
    except ValueError as error:
        raise UndecodableError(f"the tags cannot be read: {error}") from None
    if not all(type(tag) is str for tag in tags):
        raise UndecodableError("the tags are no strings")
    return tags


def _inflate(body: bytes, length: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(body, length + 1)
    except zlib.error as error:
        raise UndecodableError(f"the value cannot be inflated: {error}") from None
    if len(inflated) != length or not inflater.eof or inflater.unused_data:
        raise UndecodableError("the value's inflated length is not the one it states")
    return inflated
