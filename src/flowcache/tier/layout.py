"""The layout of the tier: keys as bytes, units, buckets, and the names made of them.

Two keys get the same bytes exactly when they are one key in a `dict`. Two paths get the same names
exactly when they are equal. Both hold for every choice of names and keys, hostile ones too.

    fc1:<cache>:{<tag>}:v:<unit>:<digest>   a value
    fc1:<cache>:{<tag>}:l:<unit>:<digest>   the lease of a load
    fc1:<cache>:{<tag>}:g:<unit>            the record of a unit
    fc1:<cache>:{<tag>}:r                   the record of the namespaces above the units
    fc1:<cache>:{<tag>}:m                   the members of the fleet that follow this bucket
    fc1:<cache>:{<tag>}:log                 the log behind the bus
    fc1:<cache>:{<tag>}:bus                 the channel of the bus

A unit is a tenant: the first `tenant_depth` names of a path. All of a unit lies in one bucket, and
all of a bucket in one slot of a cluster. So one script sees value, lease and record.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from binascii import b2a_base64, crc_hqx
from contextlib import suppress
from hashlib import blake2b
from math import isfinite, isnan
from numbers import Number
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from flowcache.naming import KEYWORDS

from .forking import renew_after_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = [
    "MARK",
    "Bounded",
    "Bucket",
    "Layout",
    "Place",
    "decode_fields",
    "decode_key",
    "encode_fields",
    "encode_key",
    "equal_key",
    "mark",
    "plain_name",
    "slot_of",
]

SLOTS = 16384
"""Slots of a cluster."""
MARK = 12
"""Characters of the digest that stands for a path or a tag in the field of a record."""
DEEPEST = 16
"""Tuples within tuples that a key may have."""
LONGEST = 1 << 20
"""Bytes that an encoded key may have."""
LONGEST_NAME = 120
"""Characters of a unit's readable name; a longer one is replaced by its digest."""

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_LENGTH = struct.Struct(">I")
_FLOAT = struct.Struct(">d")

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


# Keys


def encode_key(key: object) -> bytes | None:
    """Return the bytes of a key that can travel, or None for one that stays in the process.

    Exact `None`, `bool`, `int`, `float`, `str` and `bytes` can travel, and tuples of them; so can
    what sets the keywords apart in the key of a cached function's call. Keys that are equal get the
    same bytes, so `1`, `1.0` and `True` do. A NaN equals nothing and stays.
    """
    if type(key) is str:
        text = key.encode("utf-8", "surrogatepass")
        return b"S" + _LENGTH.pack(len(text)) + text if len(text) <= LONGEST - 5 else None
    pieces: list[bytes] = []
    if not _encode_into(pieces, key, DEEPEST):
        return None
    encoded = b"".join(pieces)
    return encoded if len(encoded) <= LONGEST else None


def equal_key(key: Any) -> Any:
    """Return the key that can travel and is one with a key that stays here; None without one.

    A member of a `StrEnum` stays in the process and is one key with its text there, as `1` is with
    `Decimal(1)`. Runs the key's own comparison.
    """
    found: Any = None
    if isinstance(key, str):
        found = str.__str__(key)
    elif isinstance(key, bytes):
        found = bytes.__add__(key, b"")
    elif isinstance(key, tuple):
        items = [one if encode_key(one) else equal_key(one) for one in tuple.__iter__(key)]
        found = tuple(items)
    elif isinstance(key, Number):
        with suppress(TypeError, ValueError, OverflowError):
            real: Any = key.real if isinstance(key, complex) else key
            found = float(real)
            if found != real and isfinite(found):  # Else an int of any size could take any time.
                found = int(real)
    return found if encode_key(found) and hash(found) == hash(key) and found == key else None


def encode_fields(fields: tuple[object, ...]) -> bytes:
    """Return the bytes of some keys, names and numbers together, of any length."""
    pieces: list[bytes] = []
    if not _encode_into(pieces, fields, DEEPEST + 1):
        raise TypeError("fields: one of them is no key that can travel")
    return b"".join(pieces)


def _encode_into(pieces: list[bytes], key: object, depth: int) -> bool:
    kind = type(key)
    if kind is str:
        text = key.encode("utf-8", "surrogatepass")  # type: ignore[attr-defined]
        pieces += (b"S", _LENGTH.pack(len(text)), text)
    elif kind is int or kind is bool:
        _encode_integer(pieces, int(key))  # type: ignore[call-overload]
    elif kind is bytes:
        pieces += (b"B", _LENGTH.pack(len(key)), key)  # type: ignore[arg-type]
    elif key is None:
        pieces.append(b"N")
    elif key is KEYWORDS:
        pieces.append(b"K")
    elif kind is float:
        return _encode_float(pieces, key)  # type: ignore[arg-type]
    elif kind is tuple:
        if not depth:
            return False
        pieces += (b"T", _LENGTH.pack(len(key)))  # type: ignore[arg-type]
        return all(_encode_into(pieces, item, depth - 1) for item in key)  # type: ignore[attr-defined]
    else:
        return False
    return True


def _encode_integer(pieces: list[bytes], number: int) -> None:
    data = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    pieces += (b"I", _LENGTH.pack(len(data)), data)


def _encode_float(pieces: list[bytes], number: float) -> bool:
    if isnan(number):
        return False
    if number.is_integer():
        _encode_integer(pieces, int(number))
    else:
        pieces += (b"F", _FLOAT.pack(number))
    return True


def decode_key(data: bytes) -> object:
    """Return a key that equals the one that was encoded; `ValueError` for any other bytes."""
    return _decode(data, DEEPEST)


def decode_fields(data: bytes) -> tuple[Any, ...]:
    """Return the fields that were encoded; `ValueError` for any other bytes."""
    fields = _decode(data, DEEPEST + 1)
    if type(fields) is not tuple:
        raise ValueError("fields: they are no tuple")
    return fields


def _decode(data: bytes, depth: int) -> object:
    try:
        key, end = _decode_from(data, 0, depth)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"key: the encoding is damaged: {error}") from None
    if end != len(data):
        raise ValueError(f"key: {len(data) - end} bytes follow the encoding")
    return key


def _decode_from(data: bytes, at: int, depth: int) -> tuple[object, int]:
    kind = data[at : at + 1]
    at += 1
    if kind == b"N":
        return None, at
    if kind == b"K":
        return KEYWORDS, at
    if kind == b"F":
        return _FLOAT.unpack_from(data, at)[0], at + 8
    (length,) = _LENGTH.unpack_from(data, at)
    at += 4
    if kind == b"T":
        if not depth:
            raise ValueError("key: tuples are nested too deeply")
        items = []
        for _ in range(length):
            item, at = _decode_from(data, at, depth - 1)
            items.append(item)
        return tuple(items), at
    end = at + length
    body = data[at:end]
    if len(body) != length:
        raise ValueError("key: the encoding is cut short")
    if kind == b"S":
        return body.decode("utf-8", "surrogatepass"), end
    if kind == b"B":
        return body, end
    if kind == b"I" and length:
        return int.from_bytes(body, "big", signed=True), end
    raise ValueError(f"key: {kind!r} is no kind of key")


# Names


def plain_name(text: str) -> str:
    """Return a name in characters that mean nothing to the server; different names stay different.

    Only letters, digits, `_`, `-` and `.` stand for themselves; any other byte is `%` and two
    digits.
    """
    data = text.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in data)


def mark(*data: bytes) -> bytes:
    """Return the digest that stands for a path or a tag in a record's field.

    Two that meet void each other's values: too much, never too little, and only within a unit.
    """
    digest = blake2b(digest_size=MARK * 3 // 4)
    for piece in data:
        digest.update(_LENGTH.pack(len(piece)))
        digest.update(piece)
    return urlsafe_b64encode(digest.digest())


def _readable(path: tuple[str, ...]) -> str:
    """Return the name of a unit: its names, plain, each behind a slash; `@` for the root's own."""
    text = "".join("/" + plain_name(name) for name in path) or "@"
    if len(text) <= LONGEST_NAME:
        return text
    return "~" + blake2b(encode_fields(path), digest_size=20).hexdigest()


def slot_of(key: bytes) -> int:
    """Return the slot of a cluster that a key lies in: CRC16 of its hash tag, or of all of it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def _bucket_tag(number: int, buckets: int) -> str:
    """Return the hash tag of a bucket: the first that lies in its share of the slots."""
    low, high = number * SLOTS // buckets, (number + 1) * SLOTS // buckets
    suffix = 0
    while True:
        tag = f"{number}.{suffix}" if suffix else f"{number}"
        if low <= slot_of(tag.encode()) < high:
            return tag
        suffix += 1


class Bounded(dict[K, V]):
    """A mapping that makes what is missing, and forgets the least recently made beyond a size."""

    __slots__ = ("__weakref__", "_lock", "_make", "_most")
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __call__ = dict.__getitem__
    """Return what is held for a key, without a call of Python code; `__missing__` makes it."""

    def __init__(self, make: Callable[[K], V], most: int) -> None:
        super().__init__()
        self._make = make
        self._most = most
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin with a lock that no thread holds."""
        self._lock = RLock()

    def __missing__(self, key: K) -> V:
        """Return what is made for the key, and held from now on."""
        made = self._make(key)
        with self._lock:
            made = self.setdefault(key, made)
            while len(self) > self._most:
                with suppress(RuntimeError):  # A call within this one has changed it.
                    self.pop(next(iter(self)), None)
        return made


class Bucket:
    """One bucket: the slot that it lies in, and the names that all its units share."""

    __slots__ = ("bus", "log", "members", "number", "prefix", "root", "slot")

    def __init__(self, layout: Layout, number: int) -> None:
        tag = _bucket_tag(number, layout.buckets)
        self.number = number
        self.prefix = f"{layout.prefix}:{plain_name(layout.name)}:{{{tag}}}".encode()
        self.slot = slot_of(self.prefix)
        self.root = self.prefix + b":r"
        self.members = self.prefix + b":m"
        self.log = self.prefix + b":log"
        self.bus = self.prefix + b":bus"

    def inbox(self, member: bytes) -> bytes:
        """Return the channel on which a member of the fleet is told of acknowledgements."""
        return self.prefix + b":a:" + member

    def __repr__(self) -> str:
        return f"<Bucket {self.number} in slot {self.slot}>"


class Place:
    """A namespace as the tier knows it: its unit, its bucket, and the names of its records."""

    __slots__ = (
        "_digest",
        "bucket",
        "depth",
        "encoded",
        "is_above",
        "leases",
        "marks",
        "path",
        "record",
        "root_marks",
        "unit",
        "unit_marks",
        "values",
    )

    def __init__(self, layout: Layout, path: tuple[str, ...]) -> None:
        unit = path[: layout.tenant_depth]
        name = _readable(unit).encode()
        self.path = path
        self.unit = unit
        self.is_above = len(path) < layout.tenant_depth
        """An invalidation of this whole namespace is marked above the units, in every bucket."""
        self.bucket = layout.bucket_of(unit)
        self.record = self.bucket.prefix + b":g:" + name
        self.depth = layout.tenant_depth
        self.encoded = encode_fields(path)
        self.marks = tuple(
            mark(*(one.encode("utf-8", "surrogatepass") for one in path[:length]))
            for length in range(len(path) + 1)
        )
        """The digests of the root, of each namespace below it, and of this one at the end."""
        self.root_marks = self.marks[: self.depth]
        """The digests whose markers stand in the bucket's record."""
        self.unit_marks = self.marks[self.depth :]
        """The digests whose markers stand in the unit's record."""
        self.values = self.bucket.prefix + b":v:" + name + b":"
        """What the names of all its values begin with; the digest of a key follows."""
        self.leases = self.bucket.prefix + b":l:" + name + b":"
        """The same for leases of loads."""
        self._digest = blake2b(encode_fields(path[layout.tenant_depth :]), digest_size=20)

    def digest(self, encoded_key: bytes) -> bytes:
        """Return what stands for a key in the names of its value and its lease."""
        digest = self._digest.copy()
        digest.update(encoded_key)
        # As `urlsafe_b64encode` does, in one call less, for each read of a key.
        return b2a_base64(digest.digest(), newline=False).translate(_URL_SAFE)[:-1]

    def __repr__(self) -> str:
        return f"<Place {self.path!r} in {self.bucket!r}>"


class Layout:
    """How a cache lies in the tier; all processes of a fleet have to agree on it."""

    def __init__(
        self, name: str, *, buckets: int = 1, tenant_depth: int = 1, prefix: str = "fc1"
    ) -> None:
        if type(buckets) is not int or not 1 <= buckets <= SLOTS:
            raise ValueError(f"buckets: must be an int from 1 to {SLOTS}, got {buckets!r}")
        if not prefix or plain_name(prefix) != prefix:
            raise ValueError(
                f"prefix: must be letters, digits, '_', '-' and '.' only, got {prefix!r}"
            )
        self.name = name
        self.prefix = prefix
        self.tenant_depth = tenant_depth
        self.buckets = buckets
        self.all = tuple(Bucket(self, number) for number in range(buckets))
        self.shape = f"{prefix}:{plain_name(name)}:shape".encode()
        """The name under which the fleet keeps what all its processes must agree on."""
        self.place: Bounded[tuple[str, ...], Place] = Bounded(
            lambda path: Place(self, path), 10_000
        )

    def bucket_of(self, unit: tuple[str, ...]) -> Bucket:
        """Return the bucket of a unit."""
        if self.buckets == 1:
            return self.all[0]
        digest = blake2b(encode_fields(unit), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        return self.all[number % self.buckets]
