"""What ``inspect()``, ``children()`` and ``advice()`` return: looks that count nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from .stats import Stats

__all__ = ["Advice", "Child", "Children", "Inspection"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """The entry of one key, without its value, and the running load of the key."""

    held: bool
    """Whether there is an entry, fresh or in its grace; without one only a load runs."""
    fresh: bool
    """Whether the entry is within its TTL."""
    ttl: float | None
    """Seconds that it stays fresh; 0 past its TTL, ``None``: for ever."""
    age: float | None
    """Seconds since it was stored, or got a new TTL; ``None``: it never expires."""
    grace: float
    """Seconds past its TTL for which it is held; ``inf``: for ever."""
    sliding: float | None
    """Seconds for which a hit renews it; ``None``: no hit does."""
    tags: tuple[str, ...]
    """The tags that it bears."""
    weight: int
    """Its weight; 0 without a weigher."""
    loading: float | None
    """Seconds for which a load of the key has been running; ``None``: none runs."""
    background: bool
    """Whether that load runs in the background, for callers that have a value already."""


@dataclass(frozen=True, slots=True)
class Child:
    """One namespace right below another."""

    name: str
    stats: Stats
    fair_share: float | None
    """The entries that it holds when all that hold any are full; ``None``: nothing bounds them."""


@dataclass(frozen=True, slots=True)
class Children:
    """The leading namespaces right below by one field, and the sum of the others."""

    top: tuple[Child, ...]
    """The leading ones; the first has the most."""
    rest: Stats
    """The sum of the figures of all others."""
    others: int
    """How many those are."""


@dataclass(frozen=True, slots=True)
class Advice:
    """The hit rates that a namespace, with those below it, would have with more room.

    Estimates, from samples in a large cache; ``None``: not yet known. In a cache that had evicted
    before the first call, they are known once as many entries were evicted as are held.
    """

    hit_rate: float
    """The rate now, as in :class:`Stats`, from 0 to 1."""
    at_125: float | None
    """The rate with a quarter more room."""
    at_150: float | None
    """The rate with half as much room again."""
    at_200: float | None
    """The rate with twice the room; rather more than less than this."""
