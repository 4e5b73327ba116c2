"""Metrics and traces for OpenTelemetry: the cache's own counters, and a span around each load.

instrumentation = instrument(cache)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from flowcache import Cache, _core
from flowcache.events import Event
from flowcache.reports import shown
from flowcache.watching.meter import Meter as Figures
from flowcache.watching.meter import Reading, label_of

__all__ = ["Instrumentation", "instrument"]

CACHE = "flowcache.cache"
TENANT = "flowcache.tenant"
RESULT = "flowcache.result"
# Of each counter: its name, its unit, what it counts, and the fields with their results.
COUNTERS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "flowcache.requests",
        "{request}",
        "Look-ups, by their result.",
        {"hits": "hit", "stale_hits": "stale", "misses": "miss"},
    ),
    (
        "flowcache.loads",
        "{load}",
        "Loads that ended, by their result.",
        {"loads": "success", "load_failures": "error"},
    ),
    ("flowcache.load.time", "s", "Seconds spent in loaders.", {"load_seconds": ""}),
    ("flowcache.coalesced", "{request}", "Misses that joined a running load.", {"coalesced": ""}),
    ("flowcache.sets", "{entry}", "Values stored.", {"sets": ""}),
    ("flowcache.evictions", "{entry}", "Entries evicted before their time.", {"evictions": ""}),
    (
        "flowcache.evictions.caused",
        "{entry}",
        "Entries of any tenant that were evicted for a store of this one.",
        {"evictions_caused": ""},
    ),
    ("flowcache.rejections", "{entry}", "New entries evicted for older ones.", {"rejections": ""}),
    ("flowcache.expirations", "{entry}", "Entries whose time was over.", {"expirations": ""}),
    (
        "flowcache.invalidations",
        "{entry}",
        "Entries deleted, cleared or invalidated.",
        {"invalidations": ""},
    ),
)
# The same, of a cache with a second tier.
TIERED: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "flowcache.tier.requests",
        "{request}",
        "Look-ups in the second tier, by their result.",
        {"tier_hits": "hit", "tier_misses": "miss"},
    ),
    ("flowcache.tier.stores", "{entry}", "Values stored in the second tier.", {"tier_stores": ""}),
    (
        "flowcache.tier.errors",
        "{call}",
        "Calls that the second tier did not answer, or did not confirm.",
        {"tier_errors": ""},
    ),
    ("flowcache.untiered", "{entry}", "Values that stayed in the process.", {"untiered": ""}),
)
# The same, of a cache with sharing="utility".
LENT: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "flowcache.lost_hits",
        "{request}",
        "Misses that would have been hits with the fair share.",
        {"lost_hits": ""},
    ),
)
LENT_GAUGES = (
    ("flowcache.fair_entries", "{entry}", "Entries that fair shares would give.", "fair_entries"),
    ("flowcache.lent_entries", "{entry}", "Entries of these that other tenants hold.", "lent"),
    ("flowcache.borrowed_entries", "{entry}", "Entries held beyond these.", "borrowed"),
)
GAUGES = (
    ("flowcache.entries", "{entry}", "Entries held.", "entries"),
    ("flowcache.weight", "1", "Weight of the entries held.", "weight"),
    ("flowcache.pending_loads", "{load}", "Loads that run.", "pending"),
)
WHOLE = (
    ("flowcache.max_entries", "{entry}", "The bound on entries.", "max_entries"),
    ("flowcache.max_weight", "1", "The bound on the weight.", "max_weight"),
    ("flowcache.namespaces", "{namespace}", "Namespaces of tenants.", "namespaces"),
)
DURATION = ("flowcache.load.duration", "s", "Durations of loads.")


def instrument(
    cache: Cache[Any],
    *,
    tenants: int = 20,
    pinned: str | Iterable[str] = (),
    record_keys: bool = False,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Let OpenTelemetry read the counters of ``cache``, and make a span for each of its loads.

    The tenants are the namespaces at the cache's ``tenant_depth``, right below it by default; the
    attribute of a deeper one is ``tenant/acme``. At most ``tenants`` of them have an attribute of
    their own in metrics, ``pinned`` ones first; all others are ``__other__``.

    A span ``flowcache.load`` surrounds each loader, and what the loader does is within it. Its
    parent is the span of the call that began it. A background load is a trace of its own, with a
    link to that span. Calls that join a load are links, too. Attributes: ``flowcache.cache``,
    ``flowcache.tenant``, ``flowcache.background``, ``flowcache.stored`` and ``error.type``; with
    ``record_keys`` also ``flowcache.key``, escaped and shortened.

    ``tracer_provider`` and ``meter_provider``: by default the global ones. Returns what ``close()``
    ends. Raises ``TypeError`` or ``ValueError`` that names the argument.
    """
    if not isinstance(cache, Cache):
        raise TypeError(f"cache: must be a Cache, got {type(cache).__name__}")
    if not isinstance(record_keys, bool):
        raise TypeError(f"record_keys: must be a bool, got {type(record_keys).__name__}")
    figures = Figures(cache, tenants=tenants, pinned=pinned)
    meter = metrics.get_meter("flowcache", meter_provider=meter_provider)
    tracer = trace.get_tracer("flowcache", tracer_provider=tracer_provider)
    return Instrumentation(cache, figures, meter, tracer, record_keys=record_keys)


class Instrumentation:
    """What :func:`instrument` has attached to a cache."""

    def __init__(
        self,
        cache: Cache[Any],
        figures: Figures,
        meter: Meter,
        tracer: trace.Tracer,
        *,
        record_keys: bool,
    ) -> None:
        self._readings: Readings | None = Readings(figures)
        store = cache._store()
        register(
            meter,
            self._readings,
            is_tiered=store.tier is not None,
            lends=store.shares_by_utility,
        )
        duration = meter.create_histogram(DURATION[0], unit=DURATION[1], description=DURATION[2])
        self._spans = Spans(cache, tracer, duration, record_keys=record_keys)
        self._cache: Cache[Any] | None = cache
        self._before = cache.around_load
        cache.around_load = self._around = self._spans.around(self._before)
        self._ends = [
            cache.subscribe(self._spans.ended, kinds=("load", "load_error")),
            cache.subscribe(self._spans.missed, kinds="miss"),
        ]

    def close(self) -> None:
        """End the spans and the metrics of the cache. A second call has no effect."""
        cache, self._cache = self._cache, None
        if cache is None:
            return
        for end in self._ends:
            end()
        if cache.around_load is self._around:
            cache.around_load = self._before
        if self._readings is not None:
            # The instruments cannot be taken back; they observe nothing any more.
            self._readings.close()


class Readings:
    """One reading of the cache for all instruments of a collection."""

    def __init__(self, figures: Figures) -> None:
        self._figures: Figures | None = figures
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._served: set[str] = set()

    def of(self, instrument: str) -> Reading | None:
        """Return the reading for an instrument: one that it has not had yet."""
        with self._lock:
            if self._figures is None:
                return None
            if self._reading is None or instrument in self._served:
                self._reading = self._figures.read()
                self._served.clear()
            self._served.add(instrument)
            return self._reading

    def close(self) -> None:
        """Tell nothing any more."""
        with self._lock:
            self._figures = self._reading = None


def register(meter: Meter, readings: Readings, *, is_tiered: bool, lends: bool) -> None:
    """Register the observable instruments."""
    counters = COUNTERS + (TIERED if is_tiered else ()) + (LENT if lends else ())
    for name, unit, text, fields in counters:
        meter.create_observable_counter(
            name, [observe_counter(readings, name, fields)], unit=unit, description=text
        )
    for name, unit, text, column in GAUGES + (LENT_GAUGES if lends else ()):
        meter.create_observable_up_down_counter(
            name, [observe_held(readings, name, column)], unit=unit, description=text
        )
    for name, unit, text, column in WHOLE:
        meter.create_observable_up_down_counter(
            name, [observe_whole(readings, name, column)], unit=unit, description=text
        )


Callback = Callable[[CallbackOptions], Iterator[Observation]]


def observe_counter(readings: Readings, name: str, fields: dict[str, str]) -> Callback:
    """Return the callback of a counter."""

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        reading = readings.of(name)
        if reading is None:
            return
        for tenant, figures in reading.counters.items():
            for column, result in fields.items():
                attributes = {CACHE: reading.cache, TENANT: tenant}
                if result:
                    attributes[RESULT] = result
                yield Observation(figures[column], attributes)

    return observe


def observe_held(readings: Readings, name: str, column: str) -> Callback:
    """Return the callback of a figure that tenants have."""

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        reading = readings.of(name)
        if reading is None:
            return
        for tenant, figures in reading.gauges.items():
            yield Observation(figures[column], {CACHE: reading.cache, TENANT: tenant})

    return observe


def observe_whole(readings: Readings, name: str, column: str) -> Callback:
    """Return the callback of a figure of the cache."""

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        reading = readings.of(name)
        value = None if reading is None else getattr(reading, column)
        if reading is not None and value is not None:
            yield Observation(value, {CACHE: reading.cache})

    return observe


# ---------------------------------------------------------------------- spans

Place = tuple[tuple[str, ...], Hashable]
"""A namespace's path and a key."""
MOST_ENDING = 1_000
"""Spans that wait for the event of their load."""


class Spans:
    """The spans of running loads."""

    def __init__(
        self, cache: Cache[Any], tracer: trace.Tracer, duration: Any, *, record_keys: bool
    ) -> None:
        self._name = cache.name
        self._depth = cache._store().tenant_depth
        self._tracer = tracer
        self._duration = duration
        self._record_keys = record_keys
        self._lock = threading.Lock()
        self._running: dict[Place, Span] = {}
        self._ending: OrderedDict[Place, tuple[Span, Any]] = OrderedDict()

    def around(self, outer: Any) -> Callable[[tuple[str, ...], Hashable], Any]:
        """Return an ``around_load`` that is within the one of the application, if it has any."""

        @contextmanager
        def around(path: tuple[str, ...], key: Hashable) -> Iterator[None]:
            with ExitStack() as stack:
                if outer is not None:
                    stack.enter_context(outer(path, key))
                stack.enter_context(self.load(path, key))
                yield

        return around

    @contextmanager
    def load(self, path: tuple[str, ...], key: Any) -> Iterator[None]:
        """Make the span of one load, current while its loader runs."""
        load: Any = _core.current_load()
        is_behind = load is not None and load.background
        many = load is not None and load.key != key
        attributes: dict[str, Any] = {CACHE: self._name, "flowcache.background": is_behind}
        if path:
            attributes[TENANT] = label_of(path[: self._depth])
        if many:
            attributes["flowcache.keys"] = len(key)
        if self._record_keys:
            attributes["flowcache.key"] = shown(key)
        caller = trace.get_current_span().get_span_context()
        within = contexts.get_current()
        links = []
        if is_behind:
            within = trace.set_span_in_context(trace.INVALID_SPAN)
            if caller.is_valid:
                links.append(Link(caller, {"flowcache.link": "refreshed for"}))
        span = self._tracer.start_span(
            "flowcache.load",
            context=within,
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            links=links,
        )
        places: list[Place] = [(path, one) for one in (key if many else (key,))]
        with self._lock:
            self._running.update(dict.fromkeys(places, span))
        token = contexts.attach(trace.set_span_in_context(span, within))
        try:
            yield
        except BaseException as error:
            kind = type(error)
            name = (
                kind.__qualname__
                if kind.__module__ == "builtins"
                else (f"{kind.__module__}.{kind.__qualname__}")
            )
            span.set_attribute("error.type", name)
            span.set_status(Status(StatusCode.ERROR))
            self._leave(places)
            span.end()
            raise
        else:
            self._leave(places)
            if many:
                span.end()
            else:
                self._await_event(places[0], span, load)
        finally:
            contexts.detach(token)

    def _leave(self, places: list[Place]) -> None:
        with self._lock:
            for place in places:
                self._running.pop(place, None)

    def _await_event(self, place: Place, span: Span, load: Any) -> None:
        with self._lock:
            ended = [self._ending.pop(place, None)]
            self._ending[place] = span, load
            if len(self._ending) > MOST_ENDING:
                ended.append(self._ending.popitem(last=False)[1])
        for one in ended:
            if one is not None:
                one[0].end()

    def ended(self, event: Event) -> None:
        """End the span of a load, which knows by now whether its value was stored."""
        attributes = {CACHE: self._name}
        if event.error is not None:
            attributes["error.type"] = type(event.error).__qualname__
        self._duration.record(event.seconds, attributes)
        with self._lock:
            span, load = self._ending.pop((event.path, event.key), (None, None))
        if span is None:
            return
        if span.is_recording():
            span.set_attribute("flowcache.stored", self._is_stored(event, load))
        span.end()

    def _is_stored(self, event: Event, load: Any) -> bool:
        if event.error is not None or load is None or load.fenced:
            return False
        held = load.namespace.inspect(event.key)
        return held is not None and held.held

    def missed(self, event: Event) -> None:
        """Link a call that is about to join a load to the load's span."""
        if not self._running:
            return
        caller = trace.get_current_span().get_span_context()
        if not caller.is_valid:
            return
        with self._lock:
            span = self._running.get((event.path, event.key))
        if span is not None and span.get_span_context().span_id != caller.span_id:
            span.add_link(caller, {"flowcache.link": "joined by"})
