"""The tenants, the delays of the CRM, and the load of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tenant:
    """Describe the traffic of one customer in the traffic part of the demo."""

    name: str
    readers: int = 3
    limits: Sequence[int] = (10, 25, 50, 100)
    pause: float = 0.1
    """Seconds that a reader waits between two dashboards."""
    writes_every: float | None = None
    """Seconds between two changes (a new contact, or a cleared cache); None: only reads."""


# No name is part of another, so that a name in the wrong response proves a leak. Two tenants only
# read: for them only the end of a TTL may cause a call upstream.
TENANTS = (
    Tenant("acme-corp", writes_every=1.1),
    Tenant("tech-start", writes_every=1.7),
    Tenant("blue-bakery"),
    Tenant("north-clinic"),
    Tenant("data-hoover", readers=6, limits=range(1, 201), pause=0.02, writes_every=2.3),
)


@dataclass(frozen=True)
class Scenario:
    """Hold every number of one run. Durations are seconds."""

    tenants: Sequence[Tenant] = TENANTS
    concurrent: int = 200
    seconds: float = 10.0
    contacts_ttl: float = 5.0
    stats_ttl: float = 2.0
    contacts_delay: float = 0.08
    stats_delay: float = 0.12
    max_entries: int = 60
    """The quiet tenants need about 20 entries; the noisy one alone needs more than 200."""

    def ttl(self, key: str) -> float:
        """Return the TTL of a cache key, in seconds."""
        return self.stats_ttl if key == "stats" else self.contacts_ttl
