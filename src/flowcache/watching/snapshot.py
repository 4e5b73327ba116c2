"""The snapshot of one process, for the page and the terminal. It has no value of any entry."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowcache import _core, wrapping
from flowcache.errors import CacheClosedError
from flowcache.events import Event
from flowcache.stats import Stats

from .families import Keys
from .history import History
from .hotkeys import SECONDS, HotKeys

__all__ = ["Ask", "Watcher"]

TOP = 50
"""Tenants that a snapshot shows at most."""
MATCHES = 500
LOADS = 50
TAGS = 20
FUNCTIONS = 20
FAILURES = 1_000
"""Places with an error type that are remembered."""
DEEPEST = 4
SCOPES = 64
"""Histories and recordings that are kept at once."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a reader wants to see: the path of a scope, and which tenants of it."""

    path: tuple[str, ...] = ()
    by: str = "entries"
    search: str = ""
    top: int = TOP
    names: tuple[str, ...] = ()
    """Tenants to be told of whatever their rank."""
    record: bool = False
    """Begin to sample the keys that are looked up."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, given: Any) -> Ask:
        """Make it of what came from outside; ``ValueError`` for what cannot be asked."""
        if not isinstance(given, dict):
            raise ValueError("ask: must be an object")
        path, names = given.get("path", ()), given.get("names", ())
        by, search = given.get("by", "entries"), given.get("search", "")
        top = given.get("top", TOP)
        for several in (path, names):
            if not isinstance(several, (list, tuple)) or len(several) > MATCHES:
                raise ValueError("ask: path and names must be short lists")
            if not all(isinstance(one, str) for one in several):
                raise ValueError("ask: path and names must be lists of text")
        if by not in _core.FIGURES:
            raise ValueError(f"ask: by must be one of {', '.join(_core.FIGURES)}")
        if not isinstance(search, str) or len(search) > 256:
            raise ValueError("ask: search must be text of at most 256 characters")
        if type(top) is not int or not 0 <= top <= MATCHES:
            raise ValueError(f"ask: top must be a number from 0 to {MATCHES}")
        return cls(tuple(path), by, search, top, tuple(names), given.get("record") is True)


class Failures:
    """Counts failed loads by place and type. It knows no cache."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._counts: OrderedDict[tuple[tuple[str, ...], str], int] = OrderedDict()

    def __call__(self, event: Event) -> None:
        """Count one."""
        place = event.path[:DEEPEST], type(event.error).__name__
        with self.lock:
            self._counts[place] = self._counts.pop(place, 0) + 1
            if len(self._counts) > FAILURES:
                self._counts.popitem(last=False)

    def within(self, path: tuple[str, ...]) -> dict[str, int]:
        """Return the counts of a scope by type."""
        told: dict[str, int] = {}
        with self.lock:
            for (place, name), count in self._counts.items():
                if len(path) <= DEEPEST and place[: len(path)] == path:
                    told[name] = told.get(name, 0) + count
        return dict(sorted(told.items(), key=lambda one: -one[1])[:10])


@dataclass(slots=True)
class Scope:
    """What is remembered of a scope that is looked at."""

    history: History = field(default_factory=History)
    hot: HotKeys | None = None


class Watcher:
    """Makes snapshots of a cache, and remembers what its readers need from one to the next.

    What it attaches to the cache hears failed loads only. Nothing runs between two snapshots.
    """

    def __init__(
        self, cache: _core.Namespace[Any], keys: Keys, *, seconds: float = SECONDS
    ) -> None:
        self.cache = cache
        self.keys = keys
        self._seconds = seconds
        self._failures = Failures()
        self.close: Callable[[], None] = cache.subscribe(self._failures, kinds="load_error")
        self._begun = time.time()
        self._lock = threading.Lock()
        self._scopes: OrderedDict[tuple[str, ...], Scope] = OrderedDict()
        watchers.add(self)

    def after_fork(self) -> None:
        """Open the locks in a child: the threads that may hold them are the parent's."""
        self._lock = threading.Lock()
        self._failures.lock = threading.Lock()

    def scope(self, path: tuple[str, ...]) -> Scope:
        """Return what is remembered of a scope; the least recent one is forgotten."""
        with self._lock:
            scope = self._scopes.pop(path, None) or Scope()
            self._scopes[path] = scope
            if len(self._scopes) > SCOPES:
                self._scopes.popitem(last=False)
            return scope

    def look(self, ask: Ask) -> dict[str, Any]:
        """Return a snapshot, ready for JSON."""
        told: dict[str, Any] = {
            "cache": self.cache._store().name,
            "pid": os.getpid(),
            "at": time.time(),
            "uptime": time.time() - self._begun,
            "path": list(ask.path),
            "by": ask.by,
            "state": "live",
            "revealed": self.keys.revealed,
        }
        try:
            view = _core.existing(self.cache, ask.path)
            if view is None:
                return told | {"state": "absent"} | nothing()
            return told | self._look(view, ask)
        except CacheClosedError:
            return told | {"state": "closed"} | nothing()

    def _look(self, view: _core.Namespace[Any], ask: Ask) -> dict[str, Any]:
        limits = view.limits
        total, tenants = tenants_of(view, ask)
        stats = total.as_dict()
        scope = self.scope(ask.path)
        scope.history.add(time.time(), stats)
        if ask.record and (scope.hot is None or scope.hot.tell()["state"] != "sampling"):
            rate = scope.history.rate()
            scope.hot = HotKeys(view, self.keys, rate=rate, seconds=self._seconds)
        if scope.hot is not None and scope.hot.is_over:
            scope.hot = None
        depth = len(ask.path)
        loads = _core.running_loads(view, LOADS)
        tags = sorted(view.tags().items(), key=lambda one: (-one[1], one[0]))
        return {
            "enabled": view.enabled,
            "limits": {
                "max_entries": limits.max_entries,
                "max_weight": limits.max_weight,
                "max_pending": limits.max_pending,
                "reserved": limits.reserved,
            },
            "stats": stats,
            "tenants": tenants,
            "loads": [
                {
                    "path": list(path[depth:]),
                    "key": self.keys.text(key),
                    "age": age,
                    "background": background,
                }
                for path, key, age, background in loads
            ],
            "failures": self._failures.within(ask.path),
            "tags": [{"tag": tag, "entries": count} for tag, count in tags[:TAGS]],
            "more_tags": max(0, len(tags) - TAGS),
            "functions": functions_of(view),
            "tier": tier_of(view, stats),
            "hot": None if scope.hot is None else scope.hot.tell(),
        }


watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()


def _after_fork() -> None:
    for watcher in list(watchers):
        watcher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def nothing() -> dict[str, Any]:
    """Return the parts of a snapshot of a scope that holds nothing."""
    zero = Stats(*(0 for _ in Stats.__slots__)).as_dict()
    return {
        "enabled": True,
        "limits": dict.fromkeys(("max_entries", "max_weight", "max_pending", "reserved")),
        "stats": zero,
        "tenants": {
            "count": 0, "matches": None, "own": 0, "rows": [], "rest": zero, "others": 0,
        },
        "loads": [],
        "failures": {},
        "tags": [],
        "more_tags": 0,
        "functions": [],
        "tier": {},
        "hot": None,
    }  # fmt: skip


def tenants_of(view: _core.Namespace[Any], ask: Ask) -> tuple[Stats, dict[str, Any]]:
    """Return the sum of a scope, and the rows of those right below it."""
    wanted: Sequence[str] = ask.names
    found = 0
    if ask.search:
        searched = ask.search.casefold()
        matching = [name for name in view.namespaces() if searched in name.casefold()]
        found = len(matching)
        wanted = [*ask.names, *matching[:MATCHES]]
    survey = _core.Survey(view, wanted, 0 if ask.search else ask.top, ask.by)
    while survey.step():
        pass
    told = {name: (share, stats) for name, (_, share, stats) in survey.named.items()}
    told |= {name: (share, stats) for name, _, share, stats in survey.leading}
    bound = view.limits.max_entries
    rows: list[dict[str, Any]] = [
        {"name": name, "fair": fair_share(bound, survey.shares, share, stats), **stats.as_dict()}
        for name, (share, stats) in told.items()
    ]
    rows.sort(key=lambda row: (-row[ask.by], row["name"]))
    if ask.search:
        rows = rows[: max(ask.top, len(ask.names))]
    total = survey.total
    return total, {
        "count": survey.children,
        "matches": found if ask.search else None,
        "own": survey.own_entries,
        "rows": rows,
        "rest": rest_of(total.as_dict(), rows),
        "others": survey.children - len(rows),
    }


def rest_of(total: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of what no row has: of all others, and of the scope itself."""
    rest: dict[str, Any] = {
        name: max(0, value - sum(row[name] for row in rows)) for name, value in total.items()
    }
    asked = rest["hits"] + rest["stale_hits"] + rest["misses"]
    rest["hit_rate"] = (rest["hits"] + rest["stale_hits"]) / asked if asked else 0.0
    return rest


def fair_share(bound: int | None, shares: float, share: float, stats: Stats) -> float | None:
    """Return the entries that a namespace holds when all that hold any are full."""
    if bound is None:
        return None
    every = shares if stats.entries else shares + share
    return bound * share / every


def tier_of(view: _core.Namespace[Any], stats: dict[str, Any]) -> dict[str, Any]:
    """Return the state and the counters of the second tier; nothing without one."""
    tier = view._store().tier
    if tier is None:
        return {}
    counters = ("tier_hits", "tier_misses", "tier_stores", "tier_errors", "untiered")
    told = {name: stats[name] for name in counters}
    return {"state": str(tier.state), "open_breakers": tier.open_breakers, **told}


def functions_of(view: _core.Namespace[Any]) -> list[dict[str, Any]]:
    """Return the cached functions of a scope with their calls there."""
    store, path = view._store(), view.path
    told: list[dict[str, Any]] = []
    for reference in wrapping.cached_functions.valuerefs():
        function = reference()
        if function is None:
            continue
        counted = function._counted_within(store, path)
        if counted is not None:
            calls, misses = counted
            told.append({"function": function._label.partition("#tags=")[0], "calls": calls,
                         "misses": misses, "entries": view._tagged(function._own_tag)})  # fmt: skip
    told.sort(key=lambda one: (-one["calls"], one["function"]))
    return told[:FUNCTIONS]
