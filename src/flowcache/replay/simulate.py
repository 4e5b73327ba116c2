"""A trace against a real cache: the calls of an application, at the times of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final, Literal

from flowcache import Advice, Cache, EntryTooHeavyError, Limits, Namespace, Stats, create_cache

from .trace import ADD, DELETE, NO_TTL, READ, REPLACE, Trace

Observer = Callable[[int, Cache[int]], object]

LOOKS: Final = 500

Policy = Literal["lru", "tinylfu"]
Sharing = Literal["fair", "utility"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The limits of the cache, as `create_cache` takes them, and the handling of misses."""

    max_entries: int | None = None
    max_weight: int | None = None
    default_ttl: float | None = None
    child_limits: Limits | None = None
    tenants: Mapping[str, Limits] = field(default_factory=dict)
    """Limits of tenants by name, in place of `child_limits`."""
    eviction: Policy = "lru"
    sharing: Sharing = "fair"
    advice: bool = False
    """Whether the cache is asked what more room would give."""
    fill: bool = True
    """A read that misses is followed by a store, as behind `fetch`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a replay. `peak_*` are maxima over some hundred moments."""

    settings: Settings
    total: Stats
    tenants: dict[str, Stats]
    refused: int
    peak_entries: int
    peak_weight: int
    advice: Advice | None = None
    """That of the end, where it was asked for."""


class ReplayClock:
    """Shows the time of the request being replayed, in seconds."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def replay(
    trace: Trace,
    settings: Settings,
    *,
    observe: Observer | None = None,
    observe_every: int | None = None,
) -> Outcome:
    """Replay all requests and return the counters of every tenant.

    An entry's value is its size in bytes, and its weight if sizes are known. `observe(done, cache)`
    is called before every `observe_every`-th request (by default some hundred times in all) and at
    the end. Raises ConfigurationError for limits that contradict each other.
    """
    clock = ReplayClock(trace.times[0] if trace.times else 0.0)
    with create_cache(
        default_ttl=settings.default_ttl,
        max_entries=settings.max_entries,
        max_weight=settings.max_weight,
        weigher=None if trace.sizes is None else weight_of,
        child_limits=settings.child_limits,
        eviction=settings.eviction,
        sharing=settings.sharing,
        clock=clock,
        name="replay",
    ) as cache:
        for tenant, limits in settings.tenants.items():
            cache.namespace(tenant, **limits.as_settings())
        # Held views keep the counters of every tenant, for any number of tenants.
        views = [cache.namespace(tenant) for tenant in trace.tenant_names]
        peak = Peak()
        if settings.advice:
            cache.advice()  # From here on it keeps what it needs to tell.

        def look(done: int) -> None:
            peak.sample(cache)
            if observe is not None:
                observe(done, cache)

        refused = run(
            trace, settings.fill, views, clock, look, observe_every or max(1, len(trace) // LOOKS)
        )
        look(len(trace))
        return Outcome(
            settings=settings,
            total=cache.stats(),
            tenants={view.name: view.stats() for view in views},
            refused=refused,
            peak_entries=peak.entries,
            peak_weight=peak.weight,
            advice=cache.advice() if settings.advice else None,
        )


def run(
    trace: Trace,
    fill: bool,
    views: list[Namespace[int]],
    clock: ReplayClock,
    look: Callable[[int], None],
    look_every: int,
) -> int:
    """Make the trace's calls; return the number of values too heavy for a limit."""
    refused = 0
    requests = zip(
        trace.keys,
        trace.tenants or repeat(0),
        trace.operations or repeat(READ),
        trace.times or repeat(clock.now),
        trace.sizes or repeat(0),
        trace.ttls or repeat(NO_TTL),
        strict=False,
    )
    for done, (key, tenant, operation, now, size, ttl) in enumerate(requests):
        if not done % look_every:
            look(done)
        clock.now = now
        view = views[tenant]
        if operation == READ:
            if view.get(key) is not None or not fill:
                continue
        elif operation == DELETE:
            view.delete(key)
            continue
        elif operation == ADD:
            if key in view:
                continue
        elif operation == REPLACE and key not in view:
            continue
        try:
            if ttl == NO_TTL:
                view.set(key, size)
            else:
                view.set(key, size, ttl=ttl)
        except EntryTooHeavyError:
            refused += 1
    return refused


def weight_of(_key: Any, size: int) -> int:
    """Return the weight of an entry, which is its value."""
    return size


class Peak:
    """The observed peak sizes of a cache."""

    def __init__(self) -> None:
        self.entries = 0
        self.weight = 0

    def sample(self, cache: Cache[int]) -> None:
        """Record the sizes of the cache once."""
        stats = cache.stats()
        self.entries = max(self.entries, stats.entries)
        self.weight = max(self.weight, stats.weight)
