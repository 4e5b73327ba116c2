"""Figures for metrics: a bounded number of tenants by name, all others together.

A tenant that has a name of its own in one reading has it in all later ones. The others are counted
together by the differences of the whole, so that no figure falls when the ranks of tenants change.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowcache import _core
from flowcache.errors import CacheClosedError
from flowcache.reports import shown
from flowcache.stats import Stats

__all__ = ["COUNTERS", "GAUGES", "OTHER", "Meter", "Names", "Reading", "label_of"]

OTHER = "__other__"
"""The label of all tenants without a label of their own."""
GAUGES = ("entries", "weight", "pending", "fair_entries", "lent", "borrowed")
COUNTERS = tuple(name for name in _core.FIGURES if name not in GAUGES)


@dataclass(slots=True)
class Reading:
    """The figures of one moment; by label and field. Counters only grow."""

    cache: str
    counters: dict[str, dict[str, float]]
    gauges: dict[str, dict[str, float]]
    added: dict[str, dict[str, float]]
    """What the counters have grown by since the reading before."""
    max_entries: int | None
    max_weight: int | None
    namespaces: int


class Names(Protocol):
    """Decides which tenants have a label; what it has admitted stays so."""

    def admitted(self) -> list[str]:
        """Return the tenants that have a label."""

    def admit(self, candidates: list[str]) -> None:
        """Give labels to the first of these, as far as there is room."""


class OwnNames:
    """The tenants with a label in one process."""

    def __init__(self, most: int, pinned: tuple[str, ...]) -> None:
        self._most = most
        self._names: dict[str, None] = dict.fromkeys(pinned)

    def admitted(self) -> list[str]:
        """Return the tenants that have a label."""
        return list(self._names)

    def admit(self, candidates: list[str]) -> None:
        """Give labels to the first of these, as far as there is room."""
        for name in candidates:
            if len(self._names) >= self._most:
                return
            self._names[name] = None


@dataclass(slots=True)
class Series:
    """The counters of one label: what was last read of it, and what it has grown to."""

    life: int | None = None
    """The counters that were read last: others, of the same name, have begun at zero."""
    last: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    grown: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def follow(self, stats: Stats, life: int) -> None:
        """Add what has been counted since the last reading."""
        if life != self.life:
            self.life, self.last = life, dict.fromkeys(COUNTERS, 0)
        for name in COUNTERS:
            now, last = getattr(stats, name), self.last[name]
            # Namespaces that were forgotten during the walk are counted by the next one.
            if now > last:
                self.grown[name] += now - last
                self.last[name] = now

    def begin(self, stats: Stats, life: int) -> None:
        """Count from here on: what was before has been counted elsewhere."""
        self.life = life
        self.last = {name: getattr(stats, name) for name in COUNTERS}


class Meter:
    """Reads a cache's figures, and remembers what it has told."""

    def __init__(
        self,
        cache: _core.Namespace[Any],
        *,
        tenants: int = 20,
        pinned: Iterable[str] = (),
        names: Names | None = None,
    ) -> None:
        """Take the arguments of a collector; ``TypeError`` or ``ValueError`` names a bad one."""
        if not isinstance(cache, _core.Namespace):
            raise TypeError(f"cache: must be a cache or a namespace, got {type(cache).__name__}")
        self.cache = cache
        self.name = cache._store().name
        if not is_text(self.name):
            raise ValueError(f"cache: its name must be UTF-8 for a label, got {shown(self.name)}")
        # Of a namespace below the tenants, the parts are those right below it.
        self._depth = max(1, cache._store().tenant_depth - len(cache.path))
        chosen = checked_names(tenants, pinned)
        for name in chosen:
            if path_of(name, self._depth) is None:
                raise ValueError(
                    f"pinned: {shown(name)} is no tenant's: a tenant has {self._depth} names, "
                    "with slashes between"
                )
        self._most = tenants
        self.names = OwnNames(tenants, chosen) if names is None else names
        self._lock = threading.Lock()
        self._whole = Series()
        self._series: dict[str, Series] = {}
        self._other = dict.fromkeys(COUNTERS, 0.0)
        self._last: Reading | None = None
        meters.add(self)

    def read(self) -> Reading:
        """Walk over the namespaces, in slices, and return the figures. Costs O(namespaces)."""
        with self._lock:
            try:
                return self._read()
            except CacheClosedError:
                return self._read_closed()

    def _read(self) -> Reading:
        names = [name for name in self.names.admitted() if name != OTHER]
        room = self._most - len(names)
        paths = [path for name in names if (path := path_of(name, self._depth)) is not None]
        top = self._most + 1 if room > 0 else 0
        survey = _core.Survey(self.cache, paths, top, "entries", self._depth)
        while survey.step():
            pass
        is_first = self._last is None
        before = {label: dict(series.grown) for label, series in self._series.items()}
        before[OTHER] = dict(self._other)
        told = {label_of(path): found for path, found in survey.named.items()}
        if room > 0:
            leading = {
                label_of(path): (life, share, stats)
                for path, life, share, stats in survey.leading
                if may_label(path)
            }
            self.names.admit([name for name in leading if name not in told])
            admitted = set(self.names.admitted())
            told.update((name, one) for name, one in leading.items() if name in admitted)
        total = survey.total
        self._whole.follow(total, survey.life)
        gauges = {}
        for name in dict.fromkeys([*names, *told]):
            series = self._series.get(name)
            found = told.get(name)
            if series is None:
                series = self._series[name] = Series()
                if found is not None and not is_first:
                    series.begin(found[2], found[0])
            if found is not None:
                series.follow(found[2], found[0])
            gauges[name] = {kind: getattr(found[2], kind) if found else 0 for kind in GAUGES}
        rest = dict.fromkeys(GAUGES, 0)
        for kind in GAUGES:
            rest[kind] = getattr(total, kind) - sum(one[kind] for one in gauges.values())
        gauges[OTHER] = rest
        for name in COUNTERS:
            named = sum(series.grown[name] for series in self._series.values())
            self._other[name] = max(self._other[name], self._whole.grown[name] - named)
        return self._told(gauges, before, survey.children)

    def _told(
        self, gauges: dict[str, dict[str, float]], before: dict[str, Any], namespaces: int
    ) -> Reading:
        counters = {label: dict(series.grown) for label, series in self._series.items()}
        counters[OTHER] = dict(self._other)
        zeros = dict.fromkeys(COUNTERS, 0)
        added = {
            label: {name: now[name] - before.get(label, zeros)[name] for name in COUNTERS}
            for label, now in counters.items()
        }
        limits = self.cache.limits
        self._last = Reading(
            self.name,
            counters,
            gauges,
            added,
            limits.max_entries,
            limits.max_weight,
            namespaces,
        )
        return self._last

    def _read_closed(self) -> Reading:
        """Tell the last counters of a cache that is closed; it holds nothing."""
        last = self._last
        counters = {OTHER: dict.fromkeys(COUNTERS, 0.0)} if last is None else last.counters
        empty = {label: dict.fromkeys(GAUGES, 0.0) for label in counters}
        nothing = {label: dict.fromkeys(COUNTERS, 0.0) for label in counters}
        return Reading(self.name, counters, empty, nothing, None, None, 0)

    def after_fork(self) -> None:
        """Begin anew in a child process: what was counted before the fork is the parent's."""
        self._lock = threading.Lock()


meters: weakref.WeakSet[Meter] = weakref.WeakSet()


def checked_names(tenants: Any, pinned: Any) -> tuple[str, ...]:
    """Return the pinned tenants; raise for what cannot be labels, or for too many."""
    if isinstance(tenants, bool) or not isinstance(tenants, int):
        raise TypeError(f"tenants: must be an int, got {type(tenants).__name__}")
    if not 0 <= tenants <= MOST:
        raise ValueError(f"tenants: must be from 0 to {MOST}, got {shown(tenants)}")
    if not isinstance(pinned, Iterable) or isinstance(pinned, (bytes, bytearray)):
        raise TypeError(
            f"pinned: must be a str or an iterable of them, got {type(pinned).__name__}"
        )
    chosen = (pinned,) if isinstance(pinned, str) else tuple(pinned)
    for name in chosen:
        _core.check_name(name, "pinned")
        if not may_label(name):
            raise ValueError(f"pinned: {shown(name)} cannot be a label of its own")
    if len(set(chosen)) > tenants:
        raise ValueError(f"pinned: must be at most tenants={tenants} names, got {len(set(chosen))}")
    return chosen


def may_label(tenant: str | tuple[str, ...]) -> bool:
    """Whether a tenant can have a label of its own: UTF-8, and not the label of the others."""
    return tenant != OTHER and is_text("".join(tenant))


def label_of(tenant: str | tuple[str, ...]) -> str:
    """Return the label of a tenant: its name, or its names with slashes between.

    Of several names, slashes and percent signs are escaped as in URLs, so that no two tenants have
    one label. Halves of surrogate pairs are escaped, since exporters write UTF-8.
    """
    if not isinstance(tenant, str):
        tenant = (
            tenant[0]
            if len(tenant) == 1
            else "/".join(name.replace("%", "%25").replace("/", "%2F") for name in tenant)
        )
    return tenant.encode("utf-8", "backslashreplace").decode()


def path_of(label: str, depth: int) -> str | tuple[str, ...] | None:
    """Return the tenant of a label, as a survey names it; None: no tenant has this label."""
    if depth == 1:
        return label
    names = tuple(part.replace("%2F", "/").replace("%25", "%") for part in label.split("/"))
    return names if len(names) == depth else None


def is_text(name: str) -> bool:
    """Whether a name can be encoded: it has no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


MOST = 1_000
"""Labels of one cache at most: each is a time series for every metric."""


def _after_fork() -> None:
    for meter in list(meters):
        meter.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
