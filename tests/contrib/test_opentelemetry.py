"""OpenTelemetry: the counters as instruments, and a span around each load."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowcache import Loaded, create_cache
from flowcache.contrib.opentelemetry import instrument
from harness.sharing_support import lending
from harness.support import VirtualClock


class Telemetry:
    """A cache with instruments and spans, and exporters in memory."""

    def __init__(self, clock: VirtualClock, cache: Any = None, **settings: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("test")
        self.cache: Any = create_cache(name="crm", clock=clock) if cache is None else cache
        self.instrumentation = instrument(
            self.cache, tracer_provider=self.tracers, meter_provider=self.meters, **settings
        )

    def spans(self, name: str = "flowcache.load") -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """Collect, and return the points of each metric by the values of their attributes."""
        data = self.reader.get_metrics_data()
        told: dict[str, dict[tuple[Any, ...], float]] = {}
        for resource in data.resource_metrics if data is not None else []:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    told[metric.name] = {
                        tuple(value for _, value in sorted((point.attributes or {}).items())): (
                            point.value if hasattr(point, "value") else point.count
                        )
                        for point in metric.data.data_points
                    }
        return told


@pytest.fixture
def telemetry(clock: VirtualClock) -> Iterator[Telemetry]:
    one = Telemetry(clock)
    yield one
    one.instrumentation.close()
    one.meters.shutdown()
    one.tracers.shutdown()


def test_the_instruments_tell_what_stats_tell(telemetry: Telemetry) -> None:
    acme = telemetry.cache.namespace("tenant:acme")
    acme.set("none", None)
    acme.get("none")
    acme.fetch("k", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        acme.fetch("bad", lambda: 1 / 0)
    told = telemetry.points()
    assert told["flowcache.requests"]["crm", "hit", "tenant:acme"] == 1
    assert told["flowcache.requests"]["crm", "miss", "tenant:acme"] == 2
    assert told["flowcache.requests"]["crm", "miss", "__other__"] == 0
    assert told["flowcache.loads"]["crm", "success", "tenant:acme"] == 1
    assert told["flowcache.loads"]["crm", "error", "tenant:acme"] == 1
    assert told["flowcache.entries"]["crm", "tenant:acme"] == 2
    assert told["flowcache.max_entries"] == {("crm",): 10_000}
    assert "flowcache.max_weight" not in told
    assert told["flowcache.load.duration"] == {("ZeroDivisionError", "crm"): 1, ("crm",): 1}
    acme.get("none")
    assert telemetry.points()["flowcache.requests"]["crm", "hit", "tenant:acme"] == 2


def test_a_cache_that_shares_by_utility_tells_what_tenants_lend(
    telemetry: Telemetry, clock: VirtualClock
) -> None:
    fair = telemetry.points()
    sharing = Telemetry(clock, lending(name="crm"), tenants=1, pinned="b")
    told, stats = sharing.points(), sharing.cache.stats()
    for name, field in (
        ("flowcache.lost_hits", "lost_hits"),
        ("flowcache.fair_entries", "fair_entries"),
        ("flowcache.lent_entries", "lent"),
        ("flowcache.borrowed_entries", "borrowed"),
    ):
        own = getattr(sharing.cache.namespace("b").stats(), field)
        expected = {("crm", "b"): own, ("crm", "__other__"): getattr(stats, field) - own}
        assert told[name] == expected
        assert name not in fair
    sharing.instrumentation.close()
    sharing.meters.shutdown()
    sharing.tracers.shutdown()


def test_one_collection_reads_the_cache_once(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = telemetry.instrumentation._readings
    assert readings is not None
    figures: Any = readings._figures
    read, taken = figures.read, []
    monkeypatch.setattr(figures, "read", lambda: taken.append(1) or read())
    telemetry.points()
    assert len(taken) == 1
    telemetry.points()
    assert len(taken) == 2


def test_a_load_is_a_child_of_its_call_and_the_parent_of_what_it_does(
    telemetry: Telemetry,
) -> None:
    def load() -> int:
        with telemetry.tracer.start_as_current_span("query"):
            return 1

    with telemetry.tracer.start_as_current_span("request") as request:
        telemetry.cache.namespace("tenant:acme").fetch("k", load)
    (span,) = telemetry.spans()
    (query,) = telemetry.spans("query")
    assert span.parent.span_id == request.get_span_context().span_id
    assert query.parent.span_id == span.context.span_id
    assert dict(span.attributes) == {
        "flowcache.cache": "crm",
        "flowcache.tenant": "tenant:acme",
        "flowcache.background": False,
        "flowcache.stored": True,
    }


def test_a_hit_has_no_span(telemetry: Telemetry) -> None:
    telemetry.cache.set("k", 1)
    telemetry.cache.fetch("k", lambda: 2)
    telemetry.cache.get("k")
    assert telemetry.spans() == []


def test_an_awaited_load_has_a_span_as_well(telemetry: Telemetry) -> None:
    async def load() -> int:
        with telemetry.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)
        return 1

    async def request() -> None:
        with telemetry.tracer.start_as_current_span("request"):
            await telemetry.cache.namespace("a").afetch("k", load)

    asyncio.run(request())
    (span,), (query,), (outer,) = map(telemetry.spans, ("flowcache.load", "query", "request"))
    assert span.parent.span_id == outer.context.span_id
    assert query.parent.span_id == span.context.span_id
    assert span.attributes["flowcache.stored"] is True


def test_a_failed_load_has_its_error(telemetry: Telemetry) -> None:
    with pytest.raises(KeyError):
        telemetry.cache.fetch("secret", lambda: {}["secret"])
    (span,) = telemetry.spans()
    assert span.attributes["error.type"] == "KeyError"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "secret" not in span.to_json()  # Neither the key nor the error's text.


@pytest.mark.parametrize("how", ["told", "fenced", "ttl"])
def test_a_value_that_is_not_stored_is_told_of(telemetry: Telemetry, how: str) -> None:
    def load() -> Any:
        if how == "fenced":
            telemetry.cache.set("k", 2)
        return Loaded(1, store=False) if how == "told" else 1

    telemetry.cache.fetch("k", load, ttl=0 if how == "ttl" else 9)
    (span,) = telemetry.spans()
    assert span.attributes["flowcache.stored"] is False


def test_a_load_behind_its_call_is_a_trace_of_its_own_with_a_link(
    telemetry: Telemetry, clock: VirtualClock
) -> None:
    telemetry.cache.set("k", 1, ttl=1, stale=100)
    clock.advance(2)
    loaded = threading.Event()
    telemetry.cache.subscribe(lambda event: loaded.set(), kinds="load")
    with telemetry.tracer.start_as_current_span("request") as request:
        assert telemetry.cache.fetch("k", lambda: 2) == 1
    assert loaded.wait(20)
    (span,) = telemetry.spans()
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [request.get_span_context().span_id]
    assert span.attributes["flowcache.background"] is True


def test_a_call_that_joins_a_load_is_a_link_of_it(telemetry: Telemetry) -> None:
    began, ends = threading.Event(), threading.Event()
    seen: dict[str, int] = {}

    def load() -> int:
        began.set()
        assert ends.wait(20)
        return 1

    def ask(name: str) -> None:
        with telemetry.tracer.start_as_current_span(name) as span:
            seen[name] = span.get_span_context().span_id
            telemetry.cache.fetch("k", load)

    first = threading.Thread(target=ask, args=("first",))
    first.start()
    assert began.wait(20)
    second = threading.Thread(target=ask, args=("second",))
    second.start()
    while telemetry.cache.stats().coalesced < 1:
        pass
    ends.set()
    first.join()
    second.join()
    (span,) = telemetry.spans()
    assert span.parent.span_id == seen["first"]
    assert [link.context.span_id for link in span.links] == [seen["second"]]


def test_a_load_of_many_keys_is_one_span(telemetry: Telemetry) -> None:
    telemetry.cache.fetch_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1))
    (span,) = telemetry.spans()
    assert span.attributes["flowcache.keys"] == 2
    assert telemetry.points()["flowcache.load.duration"] == {("crm",): 2}


def test_a_key_is_told_on_request_only_and_escaped(clock: VirtualClock) -> None:
    telemetry = Telemetry(clock, record_keys=True)
    telemetry.cache.fetch("a\nb" + "x" * 500, lambda: 1)
    (span,) = telemetry.spans()
    assert span.attributes["flowcache.key"].startswith(r"'a\nb")
    assert len(span.attributes["flowcache.key"]) == 200


def test_an_interrupted_load_ends_its_span(telemetry: Telemetry) -> None:
    def load() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        telemetry.cache.fetch("k", load)
    (span,) = telemetry.spans()
    assert span.attributes["error.type"] == "KeyboardInterrupt"


def test_the_application_s_own_surroundings_stay_and_come_back(clock: VirtualClock) -> None:
    cache: Any = create_cache()
    entered: list[Any] = []

    @contextmanager
    def own(path: tuple[str, ...], key: Any) -> Iterator[None]:
        entered.append(key)
        yield

    cache.around_load = own
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(shutdown_on_exit=False)
    instrumentation = instrument(cache, tracer_provider=tracers, meter_provider=meters)
    cache.fetch("a", lambda: 1)
    instrumentation.close()
    instrumentation.close()
    assert cache.around_load is own
    cache.fetch("b", lambda: 1)
    assert entered == ["a", "b"] and len(exporter.get_finished_spans()) == 1


def test_nothing_is_told_after_the_end(telemetry: Telemetry) -> None:
    telemetry.instrumentation.close()
    telemetry.cache.fetch("k", lambda: 1)
    assert telemetry.spans() == []
    assert "flowcache.requests" not in telemetry.points()


def test_an_exporter_that_raises_breaks_no_call(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            raise OSError("the collector is down")

    telemetry.tracers.add_span_processor(SimpleSpanProcessor(Broken()))
    with caplog.at_level(logging.ERROR):
        assert telemetry.cache.fetch("k", lambda: 1) == 1
        assert telemetry.cache.fetch("k", lambda: 2) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"record_keys": 1}, "record_keys: must be a bool, got int"),
        ({"tenants": None}, "tenants: must be an int, got NoneType"),
    ],
)
def test_what_cannot_be_instrumented(settings: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        instrument(create_cache(), **settings)
    with pytest.raises(TypeError, match="cache: must be a Cache, got Namespace"):
        instrument(create_cache().namespace("a"))  # type: ignore[arg-type]
