"""The promises of the demo, and the evidence for and against each."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from crm.upstream import Call

IN_FLIGHT = 5.0
"""Seconds that a call may need from the dashboard to the CRM on a busy machine. An invalidation may
follow the start of a load and still end before the CRM sees the call."""


@dataclass
class Check:
    """Collect the evidence of one promise; a promise without evidence was not kept."""

    title: str
    examined: int = 0
    failures: list[str] = field(default_factory=list)

    def expect(self, kept: bool, failure: str) -> None:
        """Count one look at the promise, and note `failure` if it was broken."""
        self.examined += 1
        if not kept:
            self.failures.append(failure)

    @property
    def passed(self) -> bool:
        """True if the promise was tested and never broken."""
        return self.examined > 0 and not self.failures


class Checks:
    """Hold the promises of the demo, in the order of the report."""

    def __init__(self) -> None:
        self.answered = Check("every request was answered as it should be")
        self.own_data = Check("a response holds the data of its own tenant only")
        self.one_call = Check("a cold start costs one upstream call per tenant and key")
        self.writes = Check("a dashboard asked for after a write shows the write")
        self.clears = Check("a dashboard asked for after a clear is loaded anew")
        self.early = Check("an entry lives out its TTL, unless its own tenant writes or clears")
        self.bounded = Check("the cache stays within its bound")
        self.fairness = Check("a tenant that fills the cache evicts its own entries only")
        self.refused = Check("a request without a valid tenant or limit is refused")

    def __iter__(self) -> Iterator[Check]:
        return iter(vars(self).values())

    @property
    def passed(self) -> bool:
        """True if every promise was tested and kept."""
        return all(check.passed for check in self)


@dataclass(frozen=True)
class Invalidation:
    """Remember a write or a clear: it took effect at some moment between the two times."""

    tenant: str
    began: float
    ended: float
    everything: bool

    def covers(self, call: Call) -> bool:
        """Tell whether this removed the entry that `call` was made for."""
        return call.tenant == self.tenant and (self.everything or call.key != "stats")


def check_early_calls(
    check: Check,
    calls: Iterable[Call],
    invalidations: Iterable[Invalidation],
    ttl: Callable[[str], float],
) -> None:
    """Examine every two calls in a row for one tenant and key.

    An entry lives from the end of its load until the end of its TTL, so the next call comes at
    least a TTL later. The tenant's own write or clear can remove the entry earlier, and each of
    those explains one call. Any other call shows a lost entry, a load that was not shared, or an
    invalidation by another tenant.
    """
    calls_of: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in calls:
        calls_of[call.tenant, call.key].append(call)
    by_time = sorted(invalidations, key=lambda invalidation: invalidation.began)
    for (tenant, key), in_order in calls_of.items():
        reasons = deque(reason for reason in by_time if reason.covers(in_order[0]))
        for earlier, later in pairwise(in_order):
            gap = later.started - earlier.started
            early = gap < ttl(key)
            if early:
                while reasons and reasons[0].ended < earlier.started - IN_FLIGHT:
                    reasons.popleft()
                if reasons and reasons[0].began < later.started:
                    reasons.popleft()
                    early = False
            check.expect(not early, f"{tenant}: {key!r} was loaded again after {gap:.3f} s")
