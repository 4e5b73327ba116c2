"""Belady's optimum: the hit ratio of a cache that knows the future, as the bound for a real one.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966. The entry
with the latest next read is evicted first. Every value that a replay would store is stored, as in
the real cache.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from itertools import repeat
from math import inf

from .trace import ADD, DELETE, NO_TTL, READ, REPLACE, Trace


def next_reads(trace: Trace) -> array[int]:
    """Return, for each request, the position of the next read that its entry could serve.

    `len(trace)` stands for none: a delete, a write that replaces the entry, or the end of the log
    comes first. O(requests).
    """
    never = len(trace)
    upcoming = array("q", [never]) * trace.distinct_keys
    following = array("q", bytes(8 * never))
    operations = trace.operations
    for position in range(never - 1, -1, -1):
        key = trace.keys[position]
        following[position] = upcoming[key]
        operation = READ if operations is None else operations[position]
        if operation == READ:
            upcoming[key] = position
        elif operation != REPLACE:
            # An entry held before ends with this request. A REPLACE needs a present entry, so an
            # entry held until then still serves the next read.
            upcoming[key] = never
    return following


def optimum_hits(
    trace: Trace,
    capacity: int,
    following: array[int],
    *,
    default_ttl: float | None = None,
    fill: bool = True,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Return the number of hits if the entry with the latest next read is evicted.

    One cache of `capacity` entries without tenants, weights or limits below it; a TTL ends an entry
    as it does in the replay. `following` comes from `next_reads`. Exact where no TTL runs out, a
    close estimate where some do. O(requests x log capacity).
    """
    never = len(trace)
    keys = trace.keys
    held: dict[int, int] = {}
    deadlines: dict[int, float] = {}
    timed = trace.times is not None and (default_ttl is not None or trace.ttls is not None)
    # Positions of next reads, negated: the top is the entry with the latest read. An entry without
    # a next read counts as `never + key`, past every position. An item is live while it holds its
    # key's current position; dead items are dropped when they reach the top.
    latest: list[int] = []
    hits = 0
    requests = zip(
        keys,
        trace.operations or repeat(READ),
        trace.times or repeat(0.0),
        trace.ttls or repeat(NO_TTL),
        following,
        strict=False,
    )
    for position, (key, operation, now, ttl, upcoming) in enumerate(requests):
        if progress is not None and not position % 16_384:
            progress(position)
        present = key in held
        if present and timed and deadlines[key] <= now:
            del held[key]
            present = False
        if operation == READ:
            hits += present
            stores = fill and not present
        elif operation == DELETE:
            held.pop(key, None)
            continue
        elif operation == ADD:
            stores = not present
        else:
            stores = present or operation != REPLACE
        if not present and not stores:
            continue
        if not present and len(held) >= capacity:
            while True:
                farthest = -heapq.heappop(latest)
                victim = keys[farthest] if farthest < never else farthest - never
                if held.get(victim) == farthest:
                    del held[victim]
                    break
        if timed and stores:
            lifetime = ttl or default_ttl
            deadlines[key] = inf if lifetime is None else now + lifetime
        lost = upcoming == never or (
            timed and trace.times is not None and trace.times[upcoming] >= deadlines[key]
        )
        held[key] = never + key if lost else upcoming
        heapq.heappush(latest, -held[key])
        if len(latest) > 2 * len(held) + 10_000:
            latest = [-waiting for waiting in held.values()]
            heapq.heapify(latest)
    return hits
