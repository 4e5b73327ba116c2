"""Metrics of a cache whose tenants have several names: a label for each, and the whole together."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowcache import create_cache
from flowcache._core import Survey
from flowcache.watching.meter import COUNTERS, GAUGES, OTHER, Meter, label_of


def surveyed(namespace: Any, names: Any = (), top: int = 0, depth: int = 1) -> Survey:
    survey = Survey(namespace, names, top, "entries", depth)
    while survey.step():
        pass
    return survey


def busy(tenants: int, seed: int = 7) -> Any:
    """Return a cache of tenants with two names, and with entries above and below them."""
    rolled = random.Random(seed)
    cache: Any = create_cache(tenant_depth=2, max_entries=tenants * 3 + 9, max_idle_namespaces=20)
    for number in range(tenants):
        view = cache.namespace(f"region{number % 3}", f"t{number}")
        for _ in range(rolled.randrange(8)):
            view.namespace(f"user{rolled.randrange(3)}").set(rolled.randrange(5), 2)
            view.get(rolled.randrange(5))
            view.fetch(rolled.randrange(5), lambda: 3)
    cache.set("own", 1)
    cache.namespace("region1").set("above", 1)
    cache.namespace("no tenant below").set("above", 1)
    return cache


@pytest.mark.parametrize("tenants", [0, 1, 2, 40, 700])
def test_a_survey_of_deeper_children_reads_every_count_once(tenants: int) -> None:
    cache = busy(tenants)
    survey = surveyed(cache, top=tenants + 1, depth=2)
    assert survey.total == cache.stats()
    assert survey.own_entries == 3
    told = {path: stats for path, _, _, stats in survey.leading}
    assert len(told) == survey.children
    for path, stats in told.items():
        assert stats == cache.namespace(*path).stats()


def test_the_named_ones_are_found_by_their_paths() -> None:
    cache = busy(40)
    wanted = [("region0", "t0"), ("region1", "t1"), ("region1", "t0"), ("absent", "t1")]
    survey = surveyed(cache, wanted, depth=2)
    assert survey.named.keys() == set(wanted[:2])
    assert survey.named["region1", "t1"][2] == cache.namespace("region1", "t1").stats()


def test_a_survey_that_is_dropped_between_two_slices_leaves_nothing_behind() -> None:
    cache = busy(700)
    for steps in (1, 2, 300):
        survey = Survey(cache, [("region0", "t0")], 5, "entries", 2)
        for _ in range(steps):
            assert survey.step()
        del survey
    cache._check()


@pytest.mark.parametrize(
    ("names", "depth", "error", "message"),
    [
        ((), 0, ValueError, "depth: must be at least 1"),
        (["acme"], 2, TypeError, "names: each must be a tuple of 2 str, got 'acme'"),
        ([("a", "b", "c")], 2, TypeError, "names: each must be a tuple of 2 str"),
        ([("a", 1)], 2, TypeError, "names: each must be a str, got int"),
    ],
)
def test_unsound_arguments(names: Any, depth: int, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Survey(create_cache(), names, 0, "entries", depth)


def test_each_tenant_has_a_label_and_the_labels_add_up() -> None:
    cache = busy(40)
    meter = Meter(cache, tenants=10, pinned=("region2/t2",))
    for _ in range(3):
        reading = meter.read()
        stats = cache.stats()
        for field in (*COUNTERS, *GAUGES):
            told = reading.gauges if field in GAUGES else reading.counters
            whole = sum(figures[field] for figures in told.values())
            assert whole == pytest.approx(getattr(stats, field)), field
        cache.namespace("region0", "t0").get("k")
    assert len(reading.counters) == 11
    assert {"region2/t2", OTHER} <= reading.counters.keys()
    own = cache.namespace("region2", "t2").stats()
    assert reading.gauges["region2/t2"]["entries"] == own.entries
    assert reading.counters["region2/t2"]["sets"] == own.sets


def test_below_a_name_above_the_tenants_and_below_a_tenant() -> None:
    cache: Any = create_cache(tenant_depth=2)
    cache.namespace("tenant", "acme", "user").set("k", 1)
    for path, label in (((), "tenant/acme"), (("tenant",), "acme"), (("tenant", "acme"), "user")):
        meter = Meter(cache.namespace(*path) if path else cache)
        assert meter.read().gauges.keys() == {label, OTHER}


def test_no_two_tenants_have_one_label() -> None:
    names = ["a", "a/b", "b", "b/c", "%2F", "/", "%", "a%2Fb", "\\"]
    paths = [(one, other) for one in names for other in names]
    cache: Any = create_cache(tenant_depth=2)
    for number, path in enumerate(paths):
        for key in range(number + 1):
            cache.namespace(*path).set(key, 1)
    assert len(set(map(label_of, paths))) == len(paths)
    meter = Meter(cache, tenants=len(paths))
    for _ in range(2):  # Found by rank, and then by label.
        gauges = meter.read().gauges
        for number, path in enumerate(paths):
            assert gauges[label_of(path)]["entries"] == number + 1


def test_a_pinned_tenant_has_as_many_names() -> None:
    with pytest.raises(ValueError, match="pinned: 'acme' is no tenant's: a tenant has 2 names"):
        Meter(create_cache(tenant_depth=2), pinned="acme")
    with pytest.raises(ValueError, match="pinned: 'a/b/c' is no tenant's"):
        Meter(create_cache(tenant_depth=2), pinned="a/b/c")


def test_half_a_surrogate_pair_has_no_label_of_its_own() -> None:
    cache: Any = create_cache(tenant_depth=2)
    cache.namespace("tenant", "\ud800").set("k", 1)
    assert Meter(cache).read().gauges.keys() == {OTHER}
    assert label_of(("\ud800",)) == "\\ud800"


def test_a_span_bears_the_same_label() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from flowcache.contrib.opentelemetry import instrument

    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    for depth, label in ((1, "eu"), (2, "eu/a%2Fb"), (9, "eu/a%2Fb/user")):
        cache: Any = create_cache(tenant_depth=depth)
        instrumentation = instrument(cache, tracer_provider=tracers)
        cache.namespace("eu", "a/b", "user").fetch("k", lambda: 1)
        instrumentation.close()
        (span,) = exporter.get_finished_spans()
        assert span.attributes is not None
        assert span.attributes["flowcache.tenant"] == label
        exporter.clear()
