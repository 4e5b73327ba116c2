"""Backing off: after a failed background load, a key has no other for some seconds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from flowcache.errors import CacheClosedError

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["forget_failures", "is_backing_off", "note_failure", "was_cut_off"]

SHORTEST_DELAY = 1.0
LONGEST_DELAY = 30.0
"""Seconds, on the cache's clock, in which a key is not tried again."""
LATENCY = 0.25
"""Seconds by which the deadline of a value differs between reads of a tier: the time of a reply."""
MOST_FAILURES = 10_000
"""Keys of a cache that are remembered to have failed. Of more, a tenth is forgotten.

The tenants that have most of them lose their earliest: no tenant's failures push out those of one
that has fewer.
"""


class Failure(NamedTuple):
    in_a_row: int
    again: float
    """The time at which the next load may begin, on the cache's clock."""
    was_cut_off: bool
    """It did not fail: its event loop ended first."""
    stamp: tuple[float, float]
    """Bounds of the deadline of the value to be replaced. A value stored since has a later one."""
    tenant: tuple[str, ...]


# By hashes: a record keeps neither a key nor a cache alive. If two hashes are equal, a load waits
# longer.
_failures: WeakKeyDictionary[object, dict[int, Failure]] = WeakKeyDictionary()


def stamp_of(namespace: Any, key: Hashable) -> tuple[float, float] | None:
    """Return bounds of the deadline of the key's entry; None: there is none."""
    margin = 1e-6 if namespace._store().tier is None else LATENCY
    before = namespace._now()
    held = namespace._held(key)
    return (
        None if held is None else (before + held[1] - margin, namespace._now() + held[1] + margin)
    )


def last_failure(namespace: Any, key: Hashable) -> Failure | None:
    """Return the failure of the load that was to replace the key's present entry, or None."""
    store = namespace._store()
    failures = _failures.get(store) if store.backs_off else None
    failure = None if failures is None else failures.get(hash((namespace, key)))
    if failure is None:
        return None
    stamp = stamp_of(namespace, key)
    if stamp is None or stamp[0] > failure.stamp[1] or stamp[1] < failure.stamp[0]:
        return None
    return failure


def is_backing_off(namespace: Any, key: Hashable) -> bool:
    """True while the last background load for the present entry failed too recently."""
    failure = last_failure(namespace, key)
    return failure is not None and namespace._now() < failure.again


def was_cut_off(namespace: Any, key: Hashable) -> bool:
    """True if the last background load for the present entry ended with its event loop.

    The next one would end so too where each request has a loop: the next caller loads and waits.
    """
    failure = last_failure(namespace, key)
    return failure is not None and failure.was_cut_off


def note_failure(namespace: Any, key: Hashable, *, cut_off: bool = False) -> None:
    """Remember that a background load failed: the delay is 1 s, then doubles up to 30 s.

    A load whose loop ended may be repeated at once, but not in the background of an event loop.
    """
    try:
        stamp = stamp_of(namespace, key)
    except CacheClosedError:
        stamp = None
    if stamp is None:
        return  # No entry is held any more that could be served meanwhile.
    failure = last_failure(namespace, key)
    in_a_row = (0 if failure is None else failure.in_a_row) + (not cut_off)
    delay = min(LONGEST_DELAY, SHORTEST_DELAY * 2.0 ** min(max(0, in_a_row - 1), 30))
    which = hash((namespace, key))
    store = namespace._store()
    store.backs_off = True
    failures = _failures.setdefault(store, {})
    failures.pop(which, None)  # To the end.
    again = namespace._now() + (0.0 if cut_off else delay)
    tenant = store.tenant_of(namespace.path)
    failures[which] = Failure(in_a_row, again, cut_off, stamp, tenant)
    if len(failures) > MOST_FAILURES:
        forget_some(failures, MOST_FAILURES * 9 // 10)


def forget_some(failures: dict[int, Failure], room: int) -> None:
    """Forget the earliest failures of those tenants that have most, down to `room` in all."""
    remembered = list(failures.items())
    counts = Counter(failure.tenant for _, failure in remembered)
    level = fair_level(list(counts.values()), room)
    excess = len(remembered) - room
    for which, failure in remembered:
        if excess > 0 and counts[failure.tenant] > level:
            counts[failure.tenant] -= 1
            excess -= 1
            failures.pop(which, None)


def fair_level(counts: list[int], room: int) -> int:
    """Return the most that each may have if those with less leave their room to the others."""
    counts.sort()
    for taken, count in enumerate(counts):
        level = room // (len(counts) - taken)
        if count > level:
            return level
        room -= count
    return counts[-1] if counts else 0


def forget_failures(namespace: Any, key: Hashable) -> None:
    """Forget them: a load has succeeded."""
    store = namespace._store()
    failures = _failures.get(store) if store.backs_off else None
    if failures:
        failures.pop(hash((namespace, key)), None)
