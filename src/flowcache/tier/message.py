"""Messages on the bus: the invalidation, its sender, and whether the sender waits."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from .layout import decode_fields, encode_fields

__all__ = ["Kind", "Message"]


class Kind(IntEnum):
    """The kinds of messages. The numbers are part of the data in the tier."""

    DROP = 1
    """A key has another value, or none; `data` is the key."""
    EXPIRE = 2
    """A key's value is stale from now on; `data` is the key."""
    CLEAR = 3
    """All below a path is void."""
    TAGS_ANY = 4
    """Each value with one of the tags in `data` is void."""
    TAGS_ALL = 5
    """Each value with all of the tags in `data` is void."""
    PREFIX = 6
    """The `str` keys of a namespace that begin with `data` are void."""
    EXPIRE_TAGS = 7
    """Each value with one of the tags in `data` is stale from now on."""
    RELEASED = 8
    """A lease that others wait for was given back; `data` is the key. Voids nothing."""


TAGGED = (Kind.TAGS_ANY, Kind.TAGS_ALL, Kind.EXPIRE_TAGS)


class Message(NamedTuple):
    """One message. `member` sent it, and `operation` is its name for it."""

    kind: Kind
    path: tuple[str, ...]
    data: object
    member: bytes
    operation: bytes
    is_awaited: bool = False
    """The sender waits until each member has applied it."""

    def encode(self) -> bytes:
        """Return the message as it travels."""
        fields = (int(self.kind), self.path, self.data, self.member, self.operation)
        return encode_fields((*fields, int(self.is_awaited)))

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Return the message that was sent; `ValueError` for any other bytes."""
        fields = decode_fields(data)
        if len(fields) != 6:
            raise ValueError("message: it has other fields")
        kind, path, about, member, operation, is_awaited = fields
        if type(path) is not tuple or type(member) is not bytes or type(operation) is not bytes:
            raise ValueError("message: its fields are of other types")
        kind = Kind(kind)
        is_tags = type(about) is tuple and all(type(tag) is str for tag in about)
        if not all(type(name) is str for name in path) or (
            (kind in TAGGED and not is_tags) or (kind is Kind.PREFIX and type(about) is not str)
        ):
            raise ValueError("message: what it covers is of another type")
        return cls(kind, path, about, member, operation, bool(is_awaited))
