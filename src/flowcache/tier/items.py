"""One key of a namespace as the tier knows it, and the judgement of its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .envelope import NEVER, Envelope, Packed, tag_mark
from .layout import MARK, Bounded, Layout, Place, encode_key
from .link import Read, Records

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Found", "Item", "Items", "all_tags_item", "prefix_item", "soft_end"]

_CORE: Final = (b"i", b"p", b"f", b"q")
_KIND, _NUMBER, _PATH, _LENGTH = 1, 16, MARK, 8
_ITEM: Final = _KIND + _NUMBER + _PATH + _LENGTH
LONGEST_ITEM: Final = 85 * MARK
"""Bytes of a prefix, or of the digests of tags, that a record lists for each invalidation."""


class Item:
    """A key that can travel: its names in the tier."""

    __slots__ = ("digest", "encoded", "key", "name", "place")

    def __init__(self, place: Place, key: Hashable, encoded: bytes) -> None:
        self.place = place
        self.key = key
        self.encoded = encoded
        self.digest = place.digest(encoded)
        self.name = place.values + self.digest

    @property
    def lease(self) -> bytes:
        """The name under which the lease of a load lies."""
        return self.place.leases + self.digest

    @property
    def text(self) -> bytes:
        """The text that a script compares with prefixes: only a `str` key has an `S` first."""
        return b"S" + self.encoded[5:] if self.encoded[:1] == b"S" else b"-"

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The names that every script of a key works on."""
        bucket = self.place.bucket
        return self.name, self.place.record, bucket.root, self.lease, bucket.log

    def __repr__(self) -> str:
        return f"<Item {self.key!r} of {self.place!r}>"


class Found(NamedTuple):
    """A valid value that was read, and how long it may be used."""

    value: Any
    tags: tuple[str, ...]
    until: float | None
    """The monotonic time until which it is fresh, counted from before it was asked for."""
    last: float | None
    """The monotonic time until which it may be used stale."""
    ttl: float | None
    """Seconds of freshness that it was stored with."""

    def is_fresh(self, now: float) -> bool:
        """Tell if it is fresh at this monotonic time."""
        return self.until is None or now < self.until


class Items:
    """Makes items, and judges what was read of them (rule 4)."""

    __slots__ = ("_layout", "_records", "envelope")

    def __init__(self, layout: Layout, envelope: Envelope) -> None:
        self._layout = layout
        self.envelope = envelope
        self._records: Bounded[tuple[tuple[str, ...], tuple[str, ...]], Records] = Bounded(
            self._make_records, 10_000
        )

    def item(self, path: tuple[str, ...], key: Hashable) -> Item | None:
        """Return a key's item; None for a key that stays in the process."""
        encoded = encode_key(key)
        return None if encoded is None else Item(self._layout.place(path), key, encoded)

    def read(self, item: Item, tags: tuple[str, ...]) -> Read:
        """Return what reads a value and the records that judge it, by these tags."""
        name = item.name
        command = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)
        return Read(command, self._records((item.place.path, tags)))

    def _make_records(self, about: tuple[tuple[str, ...], tuple[str, ...]]) -> Records:
        path, tags = about
        place = self._layout.place(path)
        marks = [tag_mark(tag) for tag in tags]
        return Records(
            place.record,
            place.bucket.root,
            (*_CORE, *_fields(place.unit_marks, marks)),
            (*_CORE, *_fields(place.root_marks, marks)),
            tags,
        )

    def judge(
        self, item: Item, read: Read, replid: bytes, now: int, sent: float
    ) -> Found | tuple[str, ...] | None:
        """Return the value if it is valid, the tags to read it with again, or None.

        Raises `UndecodableError` for what lies under the name and is no value of this key.
        """
        data, unit, root = read.data, read.unit, read.root
        if type(data) is not bytes or type(unit) is not list or type(root) is not list:
            return None
        packed = self.envelope.open(item.place, item.encoded, data)
        if packed.unit != unit[0] or packed.root != root[0]:
            return None
        if unit[1] != replid or root[1] != replid:
            return None
        known = read.records.tags
        if packed.tags and not set(packed.tags) <= set(known):
            return tuple(sorted({*packed.tags, *known}))
        soft = 0
        for record, number, marks in (
            (unit, packed.unit_number, item.place.unit_marks),
            (root, packed.root_number, item.place.root_marks),
        ):
            floor = record[2]
            if floor and number < int(floor):
                return None
            if record[3] and _is_listed(record[3], int(number), item, marks, packed.tags):
                return None
            if any(record[4:]):
                markers = _markers(record, number, len(marks), known, packed.tags)
                if markers is None:
                    return None
                soft = max(soft, markers)
        return self._found(item, packed, soft, now, sent)

    def _found(self, item: Item, packed: Packed, soft: int, now: int, sent: float) -> Found | None:
        deadline, last = packed.deadline, packed.last
        if soft:
            deadline, last = soft_end(deadline, last, soft, now)
        if deadline != NEVER and last <= now:
            return None
        return self._usable(item, packed, deadline, last, now, sent)

    def _usable(
        self, item: Item, packed: Packed, deadline: float, last: float, now: int, sent: float
    ) -> Found:
        value = self.envelope.value(item.name, packed)
        ttl = packed.ttl / 1000 if packed.ttl else None
        if deadline == NEVER:
            return Found(value, packed.tags, None, None, ttl)
        return Found(
            value, packed.tags, sent + (deadline - now) / 1000, sent + (last - now) / 1000, ttl
        )

    def value(self, item: Item, data: bytes) -> Any:
        """Return a value that a script has judged, and no more of it."""
        packed = self.envelope.open(item.place, item.encoded, data)
        return self.envelope.value(item.name, packed)

    def found(
        self, item: Item, data: bytes, deadline: float, last: float, now: int, sent: float
    ) -> Found:
        """Return a value that a script has judged; `UndecodableError` if it is none."""
        packed = self.envelope.open(item.place, item.encoded, data)
        return self._usable(item, packed, deadline, last, now, sent)


def _fields(marks: tuple[bytes, ...], tags: list[bytes]) -> list[bytes]:
    """Return the fields of markers, in the order in which `_markers` reads them."""
    fields = []
    for one in marks:
        fields.append(b"c" + one)
        for tag in tags:
            fields += (b"t" + one + tag, b"x" + one + tag)
    return fields


def _markers(
    record: list[bytes | None],
    number: float,
    marks: int,
    known: tuple[str, ...],
    tags: tuple[str, ...],
) -> int | None:
    """Return the highest soft marker above a number, 0 without one; None if a hard one is."""
    soft = 0
    width = 1 + 2 * len(known)
    places = [known.index(tag) for tag in tags]
    for path in range(marks):
        at = 4 + path * width
        if int(record[at] or 0) > number:
            return None
        for place in places:
            if int(record[at + 1 + 2 * place] or 0) > number:
                return None
            softened = int(record[at + 2 + 2 * place] or 0)
            if softened > number:
                soft = max(soft, softened)
    return soft


def _is_listed(
    items: bytes, number: int, item: Item, marks: tuple[bytes, ...], tags: tuple[str, ...]
) -> bool:
    """Tell if an invalidation of a prefix, or of several tags at once, covers a value."""
    at = 0
    held = {tag_mark(tag) for tag in tags}
    while at < len(items):
        kind = items[at : at + 1]
        when = int(items[at + 1 : at + 1 + _NUMBER])
        path = items[at + 17 : at + 17 + _PATH]
        size = int(items[at + 29 : at + 29 + _LENGTH], 16)
        data = items[at + _ITEM : at + _ITEM + size]
        at += _ITEM + size
        if when <= number:
            continue
        if kind == b"p":
            if path == item.place.marks[-1] and item.text.startswith(b"S" + data):
                return True
        elif path in marks and held.issuperset(
            data[first : first + MARK] for first in range(0, size, MARK)
        ):
            return True
    return False


def soft_end(deadline: float, last: float, soft: int, now: float) -> tuple[float, float]:
    """Return the deadlines of a value that became stale at a marker, in ms.

    It is stale at any time of the clock: a record's numbers may be ahead of it.
    """
    at = min(soft // 1000, now)
    if deadline == NEVER:
        return at, at
    if at < deadline:
        return at, at + last - deadline
    return deadline, last


def prefix_item(place: Place, prefix: str) -> bytes:
    """Return the invalidation of a prefix, for a record's list; a script adds its number.

    What is left out of a long one only lets it cover more.
    """
    data = prefix[:LONGEST_ITEM].encode("utf-8", "surrogatepass")[:LONGEST_ITEM]
    return b"p" + place.marks[-1] + b"%08x" % len(data) + data


def all_tags_item(place: Place, tags: tuple[str, ...]) -> bytes:
    """Return the invalidation of what bears all of some tags, for a record's list.

    What is left out of many only lets it cover more.
    """
    data = b"".join(sorted({tag_mark(tag) for tag in tags}))[:LONGEST_ITEM]
    return b"a" + place.marks[-1] + b"%08x" % len(data) + data
