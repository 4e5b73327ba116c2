"""Values as bytes. A decoded value equals the stored one exactly, or decoding fails.

The algorithm comes from the configuration, never from the data. Each value bears the mark of the
codec that wrote it, and another codec refuses it unread.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import pickle
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flowcache.errors import ConfigurationError

from .layout import mark

try:
    import msgspec
except ImportError:  # Not for CPython 3.13 without the GIL: the other codecs work there.
    msgspec = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Encoder = Callable[[Any, int], Any]

__all__ = [
    "Codec",
    "JsonCodec",
    "MsgpackCodec",
    "PickleCodec",
    "UndecodableError",
    "UnencodableError",
    "check_codec",
    "codec_mark",
]

DEEPEST: Final = 64
"""Containers within containers that a value may have; a value that holds itself has more."""
TOO_DEEP: Final = f"value: nested more than {DEEPEST} deep, or within itself"
SHORTEST_KEY: Final = 16
"""Bytes that a signing key has at least."""
SIGNATURE: Final = 32

_SMALLEST, _LARGEST = -(1 << 63), (1 << 64) - 1
_LENGTHS = struct.Struct(">III")


class UnencodableError(TypeError):
    """A value that cannot travel, and so stays in the process; `kind` is the type at fault."""

    def __init__(self, kind: type, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class UndecodableError(ValueError):
    """Bytes that are no value of this configuration; a read of them is a miss."""


@runtime_checkable
class Codec(Protocol):
    """The protocol of `codec=`. `encode` raises for a value that `decode` would not return equal.

    A codec may have two methods more, `sign(name, header, body)` and `verify(name, header,
    signed)`, which return bytes; `verify` raises `UndecodableError`. Any exception of `decode` or
    `verify` is a miss, and with any of `encode` or `sign` the value stays in the process.
    """

    def encode(self, value: Any, /) -> bytes:
        """Return the bytes of a value."""
        ...

    def decode(self, data: bytes, /) -> Any:
        """Return the value that the bytes stand for."""
        ...


def check_codec(codec: object) -> None:
    """Raise `TypeError` for an object that is no codec."""
    if not isinstance(codec, Codec):
        raise TypeError(
            "codec: must have methods encode and decode, as MsgpackCodec() has, "
            f"got {type(codec).__name__}"
        )
    signs = [callable(getattr(codec, name, None)) for name in ("sign", "verify")]
    if signs[0] != signs[1]:
        raise TypeError(
            "codec: must have both of the methods sign and verify, or none; "
            f"{type(codec).__name__} has one"
        )
    name = getattr(codec, "name", "")
    if not isinstance(name, str):
        raise TypeError(f"codec: its name must be a str, got {type(name).__name__}")


def codec_mark(codec: Codec) -> bytes:
    """Return the four bytes that tell values of one codec from those of another."""
    kind = type(codec)
    name = getattr(codec, "name", f"{kind.__module__}.{kind.__qualname__}")
    return mark(name.encode("utf-8", "surrogatepass"))[:4]


# MessagePack

# Codes of MessagePack's extension types. They are part of what lies in the tier.
_TUPLE, _SET, _FROZENSET, _BIG, _PAIRS = 1, 2, 3, 4, 5
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = 16, 17, 18, 19, 20, 21
_ENUM, _DATACLASS, _NAMED, _STRUCT = 32, 33, 34, 35


class MsgpackCodec:
    """MessagePack in which Python's own types, and the classes given here, come back as they were.

    `types` are dataclasses, NamedTuples, msgspec structs and Enums. Known without it: `None`,
    `bool`, `int` of any size, `float`, `str`, `bytes`, `list`, `dict`, `tuple`, `set`, `frozenset`,
    `datetime`, `date`, `time`, `timedelta`, `Decimal` and `UUID`. A value that holds anything else,
    a subclass of these included, raises `UnencodableError`.

    A dataclass comes back without a call of its `__init__`. A class is known by its module and
    qualified name, and a value of it whose fields are not the class's own now is refused.
    """

    name = "msgpack-1"

    def __init__(self, types: Iterable[type] = ()) -> None:
        if msgspec is None:
            raise ConfigurationError(
                "codec: MsgpackCodec needs the package msgspec; install flowcache[valkey], or give "
                "codec=JsonCodec() or codec=PickleCodec(keys=[...])"
            )
        self._encoders: dict[type, Encoder] = {
            list: self._plain_list,
            dict: self._plain_dict,
            tuple: self._plain_tuple,
            set: self._plain_set,
            frozenset: self._plain_set,
            datetime: self._plain_datetime,
            date: self._plain_date,
            time: self._plain_time,
            timedelta: self._plain_timedelta,
            Decimal: self._plain_decimal,
            UUID: self._plain_uuid,
        }
        self._classes: dict[str, tuple[type, int, tuple[str, ...]]] = {}
        for one in types:
            self._register(one)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._rebuild).decode

    def encode(self, value: Any, /) -> bytes:
        """Return the bytes of a value; `UnencodableError` if one that it holds cannot travel."""
        try:
            return self._encode(self._plain(value, DEEPEST))
        except UnicodeEncodeError:
            raise UnencodableError(str, "value: it holds a str with lone surrogates") from None

    def decode(self, data: bytes, /) -> Any:
        """Return the encoded value; `UndecodableError` for any other bytes."""
        try:
            return self._decode(data)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(f"the value cannot be decoded: {error}") from error

    # Encoding

    def _plain(self, value: Any, depth: int) -> Any:
        """Return a value that MessagePack gives back; the same one if it holds nothing special."""
        kind = type(value)
        if kind is str or kind is bool or value is None or kind is float or kind is bytes:
            return value
        if kind is int:
            if _SMALLEST <= value <= _LARGEST:
                return value
            data = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
            return msgspec.msgpack.Ext(_BIG, data)
        encoder = self._encoders.get(kind)
        if encoder is None:
            raise UnencodableError(kind, _unknown(kind))
        if not depth:
            raise UnencodableError(
                kind, f"value: nested more than {DEEPEST} deep, or within itself"
            )
        return encoder(value, depth - 1)

    def _extension(self, code: int, plain: Any) -> msgspec.msgpack.Ext:
        return msgspec.msgpack.Ext(code, self._encode(plain))

    def _plain_list(self, value: list[Any], depth: int) -> list[Any]:
        plain = self._plain
        return [plain(item, depth) for item in value]

    def _plain_dict(self, value: dict[Any, Any], depth: int) -> Any:
        plain = self._plain
        for key in value:
            if type(key) is not str:
                pairs = [[plain(k, depth), plain(v, depth)] for k, v in value.items()]
                return self._extension(_PAIRS, pairs)
        return {key: plain(item, depth) for key, item in value.items()}

    def _plain_tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return self._extension(_TUPLE, self._plain_list(value, depth))  # type: ignore[arg-type]

    def _plain_set(self, value: set[Any] | frozenset[Any], depth: int) -> Any:
        code = _SET if type(value) is set else _FROZENSET
        return self._extension(code, self._plain_list(list(value), depth))

    def _plain_datetime(self, value: datetime, depth: int) -> Any:
        parts = [value.year, value.month, value.day, *_clock(value), _zone(value.tzinfo)]
        return self._extension(_DATETIME, parts)

    def _plain_date(self, value: date, depth: int) -> Any:
        return self._extension(_DATE, value.toordinal())

    def _plain_time(self, value: time, depth: int) -> Any:
        return self._extension(_TIME, [*_clock(value), _zone(value.tzinfo)])

    def _plain_timedelta(self, value: timedelta, depth: int) -> Any:
        return self._extension(_TIMEDELTA, [value.days, value.seconds, value.microseconds])

    def _plain_decimal(self, value: Decimal, depth: int) -> Any:
        return msgspec.msgpack.Ext(_DECIMAL, str(value).encode())

    def _plain_uuid(self, value: UUID, depth: int) -> Any:
        return msgspec.msgpack.Ext(_UUID, value.bytes)

    # Classes

    def _register(self, one: type) -> None:
        if not isinstance(one, type):
            raise TypeError(f"types: must be classes, got {one!r}")
        label = f"{one.__module__}:{one.__qualname__}"
        if "<locals>" in label or self._classes.get(label, (one,))[0] is not one:
            raise ValueError(f"types: {label} names no class, or two: its label is not its own")
        if issubclass(one, Enum):
            known: tuple[int, tuple[str, ...]] = (_ENUM, ())
        elif issubclass(one, msgspec.Struct):
            if hasattr(one, "__post_init__"):
                raise ValueError(f"types: {label} has a __post_init__, which would run again")
            known = (_STRUCT, one.__struct_fields__)
        elif dataclasses.is_dataclass(one):
            known = (_DATACLASS, tuple(field.name for field in dataclasses.fields(one)))
            slots = {name for base in one.__mro__ for name in _slots(base)}
            if not slots <= {*known[1], "__dict__", "__weakref__"}:
                raise ValueError(f"types: {label} has slots that are no fields")
        elif issubclass(one, tuple) and hasattr(one, "_fields"):
            known = (_NAMED, tuple(one._fields))
        else:
            raise TypeError(
                f"types: {label} is no dataclass, NamedTuple, msgspec struct or Enum; "
                "give its values with a codec of your own"
            )
        code, fields = known
        self._classes[label] = (one, code, fields)
        self._encoders[one] = self._encoder(label, one, code, fields)

    def _encoder(self, label: str, one: type, code: int, fields: tuple[str, ...]) -> Encoder:
        def member(value: Enum, depth: int) -> Any:
            if getattr(one, "_member_map_", {}).get(value.name) is not value:
                raise UnencodableError(one, f"value: {value!r} is no single member of {label}")
            return self._extension(_ENUM, [label, value.name])

        def tupled(value: Any, depth: int) -> Any:
            if getattr(value, "__dict__", None):
                raise UnencodableError(one, f"value: a {label} bears attributes that are no fields")
            plain = [self._plain(item, depth) for item in tuple.__iter__(value)]
            return self._extension(code, [label, list(fields), plain])

        def fielded(value: Any, depth: int) -> Any:
            extra = getattr(value, "__dict__", {}).keys() - set(fields)
            if extra:
                raise UnencodableError(
                    one, f"value: a {label} bears {min(extra)!r}, which is no field"
                )
            try:
                plain = [self._plain(getattr(value, name), depth) for name in fields]
            except AttributeError as error:
                raise UnencodableError(one, f"value: a {label} lacks a field: {error}") from None
            return self._extension(code, [label, list(fields), plain])

        return member if code == _ENUM else tupled if code == _NAMED else fielded

    # Decoding

    def _rebuild(self, code: int, view: memoryview) -> Any:
        data = bytes(view)
        if code == _BIG:
            return int.from_bytes(data, "big", signed=True)
        if code == _DECIMAL:
            return Decimal(data.decode("ascii"))
        if code == _UUID:
            return UUID(bytes=data)
        plain = self._decode(data)
        if code == _TUPLE:
            return tuple(plain)
        if code == _SET:
            return set(plain)
        if code == _FROZENSET:
            return frozenset(plain)
        if code == _PAIRS:
            return dict(plain)
        if code == _DATETIME:
            *parts, fold, zone = plain
            naive = datetime(*parts, fold=fold)  # noqa: DTZ001  it may have been a naive one
            return naive.replace(tzinfo=_zoned(zone))
        if code == _DATE:
            return date.fromordinal(plain)
        if code == _TIME:
            *parts, fold, zone = plain
            return time(*parts, fold=fold).replace(tzinfo=_zoned(zone))
        if code == _TIMEDELTA:
            return timedelta(*plain)
        return self._rebuild_instance(code, plain)

    def _rebuild_instance(self, code: int, plain: list[Any]) -> Any:
        label = plain[0]
        one, expected, fields = self._classes.get(label, (object, -1, ()))
        if expected != code:
            raise UndecodableError(f"the value is of a class that is not registered: {label}")
        if code == _ENUM:
            return one[plain[1]]  # type: ignore[index]
        _, names, values = plain
        if tuple(names) != fields or len(values) != len(fields):
            raise UndecodableError(f"the value is of a {label} with other fields")
        if code == _NAMED:
            return tuple.__new__(one, values)
        if code == _STRUCT:
            return one(**dict(zip(fields, values, strict=True)))
        rebuilt: Any = object.__new__(one)
        for name, value in zip(fields, values, strict=True):
            object.__setattr__(rebuilt, name, value)
        return rebuilt


def _unknown(kind: type) -> str:
    label = f"{kind.__module__}.{kind.__qualname__}"
    return f"value: a {label} cannot travel; MsgpackCodec(types=[...]) takes classes of your own"


def _slots(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _clock(value: datetime | time) -> tuple[int, int, int, int, int]:
    return value.hour, value.minute, value.second, value.microsecond, value.fold


def _zone(zone: tzinfo | None) -> Any:
    """Return a time zone as MessagePack knows it; only those that come back equal can travel."""
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset.days, offset.seconds, offset.microseconds, *name]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise UnencodableError(
        type(zone), f"value: a time zone of type {type(zone).__name__} cannot travel"
    )


def _zoned(plain: Any) -> tzinfo | None:
    if plain is None:
        return None
    if type(plain) is str:
        try:
            return ZoneInfo(plain)
        except ZoneInfoNotFoundError as error:
            raise UndecodableError(f"the value's time zone is not known here: {error}") from None
    days, seconds, microseconds, *name = plain
    offset = timedelta(days, seconds, microseconds)
    return UTC if not offset and not name else timezone(offset, *name)


# The others


class PickleCodec:
    """Pickle, signed: for values of any class, among processes that share a secret.

    `keys` are secrets of at least 16 bytes. The first signs, each verifies. To change a key, put
    the new one first, and drop the old one when the values that it signed are gone. The signature
    is an HMAC-SHA256 over the value's name, header and body, and is checked before anything is
    unpickled. The class is responsible that its objects unpickle to equal ones.
    """

    name = "pickle-1"

    def __init__(self, keys: Sequence[bytes]) -> None:
        given: Any = keys
        if isinstance(given, (bytes, bytearray, str)):
            raise TypeError("keys: must be a sequence of bytes, not a single key")
        self._keys = tuple(keys)
        if not self._keys:
            raise ValueError("keys: at least one is needed")
        for key in self._keys:
            if type(key) is not bytes:
                raise TypeError(f"keys: must be bytes, got {type(key).__name__}")
            if len(key) < SHORTEST_KEY:
                raise ValueError(f"keys: must have at least {SHORTEST_KEY} bytes each")

    def __repr__(self) -> str:
        return f"PickleCodec({len(self._keys)} keys)"

    def encode(self, value: Any, /) -> bytes:
        """Return the pickle of a value; `UnencodableError` if it has none."""
        try:
            return pickle.dumps(value, protocol=5)
        except Exception as error:
            raise UnencodableError(type(value), f"value: it cannot be pickled: {error}") from error

    def decode(self, data: bytes, /) -> Any:
        """Return the value of a pickle whose signature was verified."""
        return pickle.loads(data)

    def sign(self, name: bytes, header: bytes, body: bytes, /) -> bytes:
        """Return the body with its signature before it."""
        return _signature(self._keys[0], name, header, body) + body

    def verify(self, name: bytes, header: bytes, signed: bytes, /) -> bytes:
        """Return the body; `UndecodableError` if no key made its signature."""
        signature, body = signed[:SIGNATURE], signed[SIGNATURE:]
        for key in self._keys:
            if hmac.compare_digest(signature, _signature(key, name, header, body)):
                return body
        raise UndecodableError("the value's signature is by none of the keys")


def _signature(key: bytes, name: bytes, header: bytes, body: bytes) -> bytes:
    lengths = _LENGTHS.pack(len(name), len(header), len(body))
    return hmac.digest(key, lengths + name + header + body, "sha256")


class JsonCodec:
    """JSON, for a tier that other languages read. It takes only values that JSON returns equal.

    `None`, `bool`, `int`, finite `float`, `str`, `list`, and `dict` with `str` keys.
    """

    name = "json-1"

    def encode(self, value: Any, /) -> bytes:
        """Return the JSON of a value; `UnencodableError` if it would come back as another."""
        _check_json(value, DEEPEST)
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()
        except ValueError as error:  # A lone surrogate, or an int of too many digits.
            raise UnencodableError(type(value), f"value: JSON cannot hold it: {error}") from None

    def decode(self, data: bytes, /) -> Any:
        """Return the value that the JSON stands for; `UndecodableError` if it is none."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(f"the value is no JSON: {error}") from None


def _check_json(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None or kind is int:
        return
    if kind is float:
        if value - value != 0:
            raise UnencodableError(float, "value: JSON has no infinity and no NaN")
        return
    if kind is not dict and kind is not list:
        raise UnencodableError(kind, f"value: JSON gives no {kind.__qualname__} back")
    if not depth:
        raise UnencodableError(kind, TOO_DEEP)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise UnencodableError(type(key), "value: JSON's keys are str")
        value = value.values()
    for item in value:
        _check_json(item, depth - 1)
