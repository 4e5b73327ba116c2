"""Stats: the counters of a namespace and those below it, and their entries."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the namespace was made, or since ``reset_stats()``, and current sizes."""

    hits: int
    """Look-ups that found a fresh value."""
    misses: int
    """Look-ups that found nothing usable."""
    stale_hits: int
    """Look-ups that were served a value past its TTL, within its window."""
    coalesced: int
    """Misses that joined a load that was running already."""
    loads: int
    """Loads that ended with a value."""
    load_failures: int
    """Loads that raised."""
    load_seconds: float
    """Time spent in loaders, in seconds."""
    sets: int
    """Values stored, by any call."""
    evictions: int
    """Entries evicted before their time."""
    evictions_caused: int
    """Entries of any namespace that were evicted so that a value could be stored here."""
    rejections: int
    """Those of the evictions that took a new entry, as an older one was asked for more often."""
    expirations: int
    """Entries reclaimed because their time was over."""
    invalidations: int
    """Entries removed by ``delete``, ``pop``, ``clear`` and ``invalidate_*``."""
    entries: int
    """Entries held now, stale ones and those not yet reclaimed included."""
    weight: int
    """The weight of the entries held now; 0 without a weigher."""
    pending: int
    """Loads that run now."""
    tier_hits: int = 0
    """Values that the second tier gave."""
    tier_misses: int = 0
    """Look-ups there that found nothing usable."""
    tier_stores: int = 0
    """Values stored there."""
    tier_errors: int = 0
    """Calls that the tier did not answer, or did not confirm."""
    untiered: int = 0
    """Values that cannot travel, or were too many, and stayed in the process."""
    fair_entries: int = 0
    """Entries that tenants would hold by fair shares. With ``sharing="utility"``, as all below."""
    lent: int = 0
    """Entries that other tenants hold of those now."""
    borrowed: int = 0
    """Entries held beyond those now."""
    lost_hits: int = 0
    """Misses that would have been hits with the fair share; about, where keys are sampled."""

    @property
    def hit_rate(self) -> float:
        """The part of look-ups that were served from the cache, from 0 to 1; 0 before the first."""
        served = self.hits + self.stale_hits
        asked = served + self.misses
        return served / asked if asked else 0.0

    def as_dict(self) -> dict[str, int | float]:
        """Return all fields, and ``hit_rate``, by name: ready for JSON."""
        counts: dict[str, int | float] = {name: getattr(self, name) for name in self.__slots__}
        return {**counts, "hit_rate": self.hit_rate}
