"""The order of a namespace's entries in plain Python, and the one that gives way, by either policy.

For reading and not for speed. The counts of the sketch are lists, and the marks are dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Literal

Policy = Literal["lru", "tinylfu"]

COUNTERS: Final = 127
ENTRIES_A_LINE: Final = 16
ADDS_A_LINE: Final = 240
MOST_COUNTED: Final = 15
SKETCHED: Final = 16
MOST_PASSED: Final = 64
OFTEN: Final = 6
DICE: Final = 128
NOTHING: Final = object()


class Line:
    """The counters of some hashes, and the epoch in which they were last halved."""

    def __init__(self, epoch: int, counts: list[int]) -> None:
        self.epoch = epoch
        self.counts = counts


class Sketch:
    """How often keys were stored lately, about."""

    def __init__(self, entries: int) -> None:
        self.wanted = lines_for(entries)
        self.lines = [Line(0, [0] * COUNTERS) for _ in range(self.wanted)]
        self.epoch = self.adds = self.cursor = self.dice = 0

    def line(self, number: int) -> Line:
        """A line, brought up to date."""
        line = self.lines[number]
        if line.epoch != self.epoch:
            assert line.epoch == self.epoch - 1
            line.counts = [count // 2 for count in line.counts]
            line.epoch = self.epoch
        return line

    def parent(self, number: int) -> int:
        """The line that the hashes of a line are in while it is not there: the highest bit goes."""
        return number & ((1 << (number.bit_length() - 1)) - 1)

    def find(self, hashed: int) -> tuple[Line, list[int]]:
        """The line of a hash, and its two counters there."""
        mixed = hashed * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        bits = (len(self.lines) - 1).bit_length()
        number = (mixed >> 32) & ((1 << bits) - 1)
        if number >= len(self.lines):
            number = self.parent(number)
        return self.line(number), [(mixed >> shift & 1023) * COUNTERS >> 10 for shift in (2, 12)]

    def count(self, hashed: int) -> int:
        line, counters = self.find(hashed)
        return min(line.counts[counter] for counter in counters)

    def add(self, hashed: int) -> None:
        if len(self.lines) < self.wanted:
            source = self.line(self.parent(len(self.lines)))
            self.lines.append(Line(source.epoch, list(source.counts)))
        elif len(self.lines) > self.wanted:
            last = self.line(len(self.lines) - 1)
            into = self.line(self.parent(len(self.lines) - 1))
            into.counts = list(map(max, into.counts, last.counts))
            self.lines.pop()
            if self.cursor >= len(self.lines):
                self.cursor = 0
        line, counters = self.find(hashed)
        for counter in set(counters):  # They may be one.
            line.counts[counter] = min(MOST_COUNTED, line.counts[counter] + 1)
        self.adds += 1
        if self.adds >= ADDS_A_LINE * max(self.wanted, len(self.lines)):
            self.adds = 0
            self.epoch += 1
        self.line(self.cursor)
        self.cursor = (self.cursor + 1) % len(self.lines)

    def fit(self, entries: int) -> None:
        wanted = lines_for(entries)
        if self.wanted < wanted or self.wanted >= 4 * wanted:
            self.wanted = wanted


def lines_for(entries: int) -> int:
    lines = 1
    while lines * ENTRIES_A_LINE < entries:
        lines *= 2
    return lines


class Order:
    """The keys of a namespace, each with its mark: the old ones, then the young ones."""

    def __init__(self, policy: Policy, hash_of: Callable[[Hashable], int]) -> None:
        self.policy: Policy = policy
        self.hash_of = hash_of
        self.old: dict[Hashable, int] = {}
        self.young: dict[Hashable, int] = {}
        self.sketch: Sketch | None = None
        self.rejections = 0

    def __len__(self) -> int:
        return len(self.old) + len(self.young)

    def listed(self) -> list[Hashable]:
        return [*self.old, *self.young]

    def switch(self, policy: Policy) -> None:
        if policy != self.policy:
            self.old |= self.young
            self.young = {}
            self.sketch = None
            self.policy = policy

    def window(self) -> int:
        return max(1, len(self) * 10 // 100)

    def pass_one(self) -> Hashable:
        key = next(iter(self.young))
        self.old[key] = self.young.pop(key)
        return key

    def enter(self, key: Hashable) -> None:
        """A store of an absent key."""
        if self.policy == "lru":
            self.old[key] = 0
            return
        self.young[key] = 0
        if self.sketch is not None:
            self.sketch.add(self.hash_of(key))
            if len(self.young) > self.window() + 1:
                self.pass_one()
            return
        for _ in range(2):
            if len(self.young) > 1:
                self.pass_one()

    def touch(self, key: Hashable) -> None:
        """A hit, or a store over a value."""
        if self.policy == "lru":
            self.old[key] = self.old.pop(key)
        else:
            part = self.young if key in self.young else self.old
            part[key] = min(3, part[key] + 1)

    def renew(self, key: Hashable) -> None:
        """A store over a value that weighs less."""
        if self.policy == "tinylfu":
            part = self.young if key in self.young else self.old
            self.young[key] = part.pop(key)

    def remove(self, key: Hashable) -> None:
        (self.young if key in self.young else self.old).pop(key)

    def rival(self, spare: Hashable = NOTHING) -> Hashable:
        """The oldest old entry without a mark, or NOTHING: only `spare` is old."""
        left = MOST_PASSED
        while True:
            key = next(iter(self.old or self.young))
            if key is spare:
                return NOTHING
            if key in self.young or left == 0 or self.old[key] == 0:
                return key
            left -= 1
            if self.sketch is not None:
                self.sketch.add(self.hash_of(key))
            self.old[key] = self.old.pop(key) - 1
            if spare is not NOTHING:
                self.old[spare] = self.old.pop(spare)

    def victim(self) -> Hashable:
        """The key of the entry that gives way. The caller removes it."""
        if self.policy == "lru":
            return next(iter(self.old))
        if len(self) >= SKETCHED:
            if self.sketch is None:
                self.sketch = Sketch(len(self))
            else:
                self.sketch.fit(len(self))
        sketch = self.sketch
        if sketch is None or len(self.young) <= self.window():
            return self.rival()
        candidate = self.pass_one()
        seen = self.old[candidate] > 0
        if seen:
            sketch.add(self.hash_of(candidate))
        rival = self.rival(candidate)
        if rival is NOTHING:
            return candidate
        count = sketch.count(self.hash_of(candidate))
        admitted = seen or count > max(1, sketch.count(self.hash_of(rival)))
        if not admitted and count >= OFTEN:
            sketch.dice += 1
            admitted = sketch.dice % DICE == 0
        self.old[candidate] = 0
        if admitted:
            return rival
        self.rejections += 1
        return candidate
