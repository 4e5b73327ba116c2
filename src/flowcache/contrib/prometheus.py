"""Metrics for Prometheus: each scrape reads the counters that the cache keeps anyway.

from prometheus_client import REGISTRY

REGISTRY.register(FlowcacheCollector(cache))
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from hashlib import sha256
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowcache import Namespace, _core
from flowcache.events import Event
from flowcache.reports import report, shown
from flowcache.watching.meter import OTHER, Meter, Reading, checked_names

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

__all__ = ["OTHER", "FlowcacheCollector"]

LABELS = ("cache", "tenant")
# Of each counter: its name, what it counts, and the fields of Stats with the values of one label.
Counters = tuple[tuple[str, str, dict[str, str]], ...]
COUNTERS: Counters = (
    (
        "flowcache_requests",
        "Look-ups, by their result.",
        {"hits": "hit", "stale_hits": "stale", "misses": "miss"},
    ),
    (
        "flowcache_loads",
        "Loads that ended, by their result.",
        {"loads": "success", "load_failures": "error"},
    ),
    ("flowcache_load_seconds", "Seconds spent in loaders.", {"load_seconds": ""}),
    ("flowcache_coalesced", "Misses that joined a running load.", {"coalesced": ""}),
    ("flowcache_sets", "Values stored.", {"sets": ""}),
    ("flowcache_evictions", "Entries evicted before their time.", {"evictions": ""}),
    (
        "flowcache_evictions_caused",
        "Entries of any tenant that were evicted for a store of this one.",
        {"evictions_caused": ""},
    ),
    ("flowcache_rejections", "New entries evicted for older ones.", {"rejections": ""}),
    ("flowcache_expirations", "Entries whose time was over.", {"expirations": ""}),
    ("flowcache_invalidations", "Entries deleted, cleared or invalidated.", {"invalidations": ""}),
)
# The same, of a cache with a second tier.
TIERED: Counters = (
    (
        "flowcache_tier_requests",
        "Look-ups in the second tier, by their result.",
        {"tier_hits": "hit", "tier_misses": "miss"},
    ),
    ("flowcache_tier_stores", "Values stored in the second tier.", {"tier_stores": ""}),
    (
        "flowcache_tier_errors",
        "Calls that the second tier did not answer, or did not confirm.",
        {"tier_errors": ""},
    ),
    ("flowcache_untiered", "Values that cannot travel, and stayed here.", {"untiered": ""}),
)
# The same, of a cache with sharing="utility".
LENT: Counters = (
    (
        "flowcache_lost_hits",
        "Misses that would have been hits with the fair share.",
        {"lost_hits": ""},
    ),
)
Gauges = tuple[tuple[str, str, str], ...]
GAUGES: Gauges = (
    ("flowcache_entries", "Entries held.", "entries"),
    ("flowcache_weight", "Weight of the entries held.", "weight"),
    ("flowcache_pending_loads", "Loads that run.", "pending"),
)
LENT_GAUGES: Gauges = (
    ("flowcache_fair_entries", "Entries that fair shares would give.", "fair_entries"),
    ("flowcache_lent_entries", "Entries of these that other tenants hold.", "lent"),
    ("flowcache_borrowed_entries", "Entries held beyond these.", "borrowed"),
)
WHOLE = (
    ("flowcache_max_entries", "The bound on entries.", "max_entries"),
    ("flowcache_max_weight", "The bound on the weight.", "max_weight"),
    ("flowcache_namespaces", "Namespaces of tenants that the cache knows.", "namespaces"),
)
DURATION = ("flowcache_load_duration_seconds", "Durations of loads.")


class FlowcacheCollector(Collector):
    """Collects the figures of ``cache``, or of several caches with different names.

    The tenants are the namespaces at the ``tenant_depth`` of ``cache``, right below it by default;
    ``cache`` may itself be a namespace. The label of a deeper one is ``tenant/acme``. At most
    ``tenants`` of them have a label of their own, ``pinned`` ones first, then those with the most
    entries; all others are counted as ``__other__``. A tenant keeps its label for the life of the
    process. No counter falls when ranks change, and the sum over the labels is the cache's own
    total. ``exemplar() -> dict | None`` gives the labels of a load's exemplar; by default the trace
    that OpenTelemetry has as current.

    A scrape walks over the namespaces in slices of microseconds. Nothing is added to a look-up;
    only the ends of loads are listened to, for their durations.

    With ``PROMETHEUS_MULTIPROC_DIR`` set, a scrape cannot reach the collectors of other processes.
    There a thread adds the differences to ordinary counters, every ``interval`` seconds and at the
    end of the process. All processes of the folder give labels to the same tenants. Gauges are the
    sum over the processes that live: call ``mark_process_dead`` as for any such gauge.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """

    def __init__(
        self,
        cache: Namespace[Any] | Iterable[Namespace[Any]],
        *,
        tenants: int = 20,
        pinned: str | Iterable[str] = (),
        exemplar: Callable[[], dict[str, str] | None] | None = None,
        interval: float = 5.0,
    ) -> None:
        caches = (cache,) if isinstance(cache, Namespace) else tuple(checked_caches(cache))
        if exemplar is not None and not callable(exemplar):
            raise TypeError(f"exemplar: must be callable or None, got {type(exemplar).__name__}")
        seconds = _core.duration(interval, "interval")
        if seconds == 0:
            raise ValueError("interval: must be more than 0 seconds")
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        pinned = checked_names(tenants, pinned)
        self._meters = [Meter(one, tenants=tenants, pinned=pinned) for one in caches]
        names = [meter.name for meter in self._meters]
        if len(set(names)) < len(names):
            raise ValueError(f"cache: two have the name {shown(names[0])}: create_cache(name=...)")
        self._durations = Histogram(*DURATION, ("cache",), registry=None)
        observe = Observer(self._durations, exemplar or current_trace)
        self._ends = []
        for one, meter in zip(caches, self._meters, strict=True):
            self._durations.labels(meter.name)
            self._ends.append(one.subscribe(observe, kinds=("load", "load_error")))
        stores = [one._store() for one in caches]
        self._counters, self._gauges = COUNTERS, GAUGES
        if any(store.tier is not None for store in stores):
            self._counters += TIERED
        if any(store.shares_by_utility for store in stores):
            self._counters += LENT
            self._gauges += LENT_GAUGES
        self._exporter = None
        if folder is not None:
            for meter in self._meters:
                meter.names = SharedNames(Path(folder), meter.name, tenants, pinned)
            self._exporter = Exporter(self._meters, self._counters, self._gauges, seconds)

    def describe(self) -> Iterable[Metric]:
        """Name no metrics, so that a registry takes one collector a cache."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the caches, and yield the metrics; none where processes share a folder."""
        if self._exporter is not None:
            return
        readings = [meter.read() for meter in self._meters]
        yield from counters_of(readings, self._counters)
        yield from gauges_of(readings, self._gauges)
        yield from self._durations.collect()

    def flush(self) -> None:
        """Add what has changed to the counters of ``PROMETHEUS_MULTIPROC_DIR`` now."""
        if self._exporter is not None:
            self._exporter.push()

    def close(self) -> None:
        """End the subscriptions, and the thread after a last ``flush``. A second call does none."""
        for end in self._ends:
            end()
        self._ends.clear()
        if self._exporter is not None:
            self._exporter.close()


def checked_caches(given: object) -> Iterator[Namespace[Any]]:
    """Yield the caches of an iterable; raise for what is none."""
    if not isinstance(given, Iterable):
        raise TypeError(f"cache: must be a cache or several, got {type(given).__name__}")
    found = False
    for one in given:
        found = True
        if not isinstance(one, Namespace):
            raise TypeError(f"cache: each must be a cache, got {type(one).__name__}")
        yield one
    if not found:
        raise ValueError("cache: must be at least one")


def counters_of(readings: list[Reading], counters: Counters) -> Iterator[Metric]:
    """Yield the counters, with what each label has grown to."""
    for name, text, fields in counters:
        labels = (*LABELS, "result") if len(fields) > 1 else LABELS
        family = CounterMetricFamily(name, text, labels=labels)
        for reading in readings:
            for tenant, figures in reading.counters.items():
                for column, result in fields.items():
                    values = [reading.cache, tenant, result][: len(labels)]
                    family.add_metric(values, figures[column])
        yield family


def gauges_of(readings: list[Reading], gauges: Gauges) -> Iterator[Metric]:
    """Yield what is held, and the bounds."""
    for name, text, column in gauges:
        family = GaugeMetricFamily(name, text, labels=LABELS)
        for reading in readings:
            for tenant, figures in reading.gauges.items():
                family.add_metric([reading.cache, tenant], figures[column])
        yield family
    for name, text, column in WHOLE:
        family = GaugeMetricFamily(name, text, labels=("cache",))
        for reading in readings:
            value = getattr(reading, column)
            if value is not None:
                family.add_metric([reading.cache], value)
        yield family


class Observer:
    """Listens to the ends of loads. It knows the histogram, and no cache."""

    def __init__(self, durations: Histogram, exemplar: Callable[[], dict[str, str] | None]) -> None:
        self._durations = durations
        self._exemplar = exemplar

    def __call__(self, event: Event) -> None:
        """Count one load."""
        self._durations.labels(event.cache).observe(event.seconds, exemplar=self._exemplar())


def current_trace() -> dict[str, str] | None:
    """Return the trace that OpenTelemetry has as current, if it is in use and keeps it."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return {
        "trace_id": format(context.trace_id, "032x"),
        "span_id": format(context.span_id, "016x"),
    }


# ---------------------------------------------------------------------- several processes


class SharedNames:
    """The tenants with a label in all processes of a folder: a file of names, one a line."""

    def __init__(self, folder: Path, cache: str, most: int, pinned: tuple[str, ...]) -> None:
        self._file = folder / f"flowcache-{sha256(cache.encode()).hexdigest()[:16]}.names"
        self._most = most
        self._names: dict[str, None] = {}
        self._take(pinned, first=True)

    def admitted(self) -> list[str]:
        """Return the tenants that have a label, whichever process gave it to them."""
        if len(self._names) < self._most:
            self._take(())
        return list(self._names)

    def admit(self, candidates: list[str]) -> None:
        """Give labels to the first of these, as far as there is room."""
        if len(self._names) < self._most and candidates:
            self._take(candidates)

    def _take(self, candidates: Iterable[str], *, first: bool = False) -> None:
        with self._file.open("a+", encoding="utf-8") as shared:
            if fcntl is not None:
                fcntl.flock(shared, fcntl.LOCK_EX)
            shared.seek(0)
            for line in shared:
                self._names[json.loads(line)] = None
            for name in candidates:
                # The pinned ones of each process have a label, whatever others took before.
                if name not in self._names and (first or len(self._names) < self._most):
                    self._names[name] = None
                    shared.write(json.dumps(name) + "\n")


class Exporter:
    """A thread that adds the differences of several readings to counters that processes share."""

    def __init__(
        self, meters: list[Meter], counters: Counters, gauges: Gauges, interval: float
    ) -> None:
        self._meters = meters
        self._told = counters
        self._held = gauges
        self._interval = min(interval, threading.TIMEOUT_MAX)
        self.lock = threading.RLock()
        self._counters = {
            name: Counter(
                name, text, LABELS + (("result",) if len(fields) > 1 else ()), registry=None
            )
            for name, text, fields in counters
        }
        self._gauges = {
            name: Gauge(name, text, LABELS, registry=None, multiprocess_mode="livesum")
            for name, text, _ in gauges
        }
        self._whole = {
            name: Gauge(name, text, ("cache",), registry=None, multiprocess_mode="livesum")
            for name, text, _ in WHOLE
        }
        self._start()
        exporters.add(self)

    def _start(self) -> None:
        self._stopped = threading.Event()
        # In an empty context: a thread with its starter's context would keep it alive.
        thread = threading.Thread(
            target=_run,
            args=(self, self._stopped, self._interval),
            name="flowcache-prometheus",
            daemon=True,
        )
        Context().run(thread.start)

    def push(self) -> None:
        """Read the caches and add what has changed."""
        with self.lock:
            for meter in self._meters:
                self._add(meter.read())

    def _add(self, reading: Reading) -> None:
        for name, _, fields in self._told:
            for tenant, figures in reading.added.items():
                for column, result in fields.items():
                    values = [reading.cache, tenant, *([result] if len(fields) > 1 else [])]
                    self._counters[name].labels(*values).inc(figures[column])
        for name, _, column in self._held:
            for tenant, held in reading.gauges.items():
                self._gauges[name].labels(reading.cache, tenant).set(held[column])
        for name, _, column in WHOLE:
            value = getattr(reading, column)
            if value is not None:
                self._whole[name].labels(reading.cache).set(value)

    def close(self) -> None:
        """End the thread after a last push."""
        exporters.discard(self)
        if not self._stopped.is_set():
            self._stopped.set()
            self.push()

    def after_fork(self) -> None:
        """Begin anew in a child: what came before the fork, the parent adds."""
        self.lock = threading.RLock()
        if self._stopped.is_set():
            return
        for meter in self._meters:
            meter.read()
        self._start()


def _run(exporter: Exporter, stopped: threading.Event, interval: float) -> None:
    while not stopped.wait(interval):
        try:
            exporter.push()
        except Exception as error:  # noqa: BLE001  a full disk, a folder that is gone; reported
            report("ERROR", "metrics could not be written", event="metrics_failed", error=error)


def _at_exit() -> None:
    for exporter in list(exporters):
        with suppress(OSError):  # The folder may be gone before the process.
            exporter.close()


atexit.register(_at_exit)


exporters: set[Exporter] = set()
"""Those that have not been closed: a collector need not be kept by a registry."""


held: list[Exporter] = []
"""The exporters whose locks a fork holds: prometheus_client's own lock must be open in the child,
and the threads of exporters are those that take it again and again."""


def _before_fork() -> None:
    for exporter in list(exporters):
        exporter.lock.acquire()
        held.append(exporter)


def _after_fork_in_parent() -> None:
    while held:
        held.pop().lock.release()


def _after_fork_in_child() -> None:
    held.clear()
    for exporter in list(exporters):
        exporter.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
