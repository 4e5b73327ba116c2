"""Prometheus: what a scrape tells, over time, of many tenants and of several processes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flowcache import create_cache
from flowcache.contrib.prometheus import OTHER, FlowcacheCollector
from harness.sharing_support import lending
from harness.support import run_isolated

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "metrics"
PROMTOOL = shutil.which("promtool")


def promtool(*arguments: str, given: str = "", folder: Path = EXAMPLES) -> str:
    if PROMTOOL is None:
        pytest.skip(
            "promtool is not installed: metrics, dashboard and alerts were not checked by it"
        )
    finished = subprocess.run(
        [PROMTOOL, *arguments], input=given, capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def registered(*collectors: FlowcacheCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    text = generate_latest(registry).decode()
    order = ("cache", "tenant", "result", "le")
    return {
        (sample.name, *(sample.labels[one] for one in order if one in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def used(name: str = "crm", **settings: Any) -> Any:
    cache: Any = create_cache(name=name, **settings)
    acme = cache.namespace("tenant:acme")
    acme.set("none", None)
    acme.get("none")  # A hit, though its value is None.
    acme.get("absent")
    acme.fetch("k", lambda: 1)
    with pytest.raises(KeyError):
        acme.fetch("bad", lambda: {}["no"])
    cache.namespace("tenant:beta").set("k", 1)
    return cache


def test_a_scrape_tells_what_stats_tell() -> None:
    cache = used(max_entries=500)
    told = scraped(registered(FlowcacheCollector(cache)))
    acme = ("crm", "tenant:acme")
    assert told["flowcache_requests_total", *acme, "hit"] == 1
    assert told["flowcache_requests_total", *acme, "stale"] == 0
    assert told["flowcache_requests_total", *acme, "miss"] == 3
    assert told["flowcache_loads_total", *acme, "success"] == 1
    assert told["flowcache_loads_total", *acme, "error"] == 1
    assert told["flowcache_sets_total", *acme] == 2
    assert told["flowcache_entries", *acme] == 2
    assert told["flowcache_entries", "crm", "tenant:beta"] == 1
    assert told["flowcache_entries", "crm", OTHER] == 0
    assert told["flowcache_max_entries", "crm"] == 500
    assert ("flowcache_max_weight", "crm") not in told
    assert told["flowcache_namespaces", "crm"] == 2
    stats = cache.stats()
    for name, field in (
        ("flowcache_load_seconds_total", "load_seconds"),
        ("flowcache_coalesced_total", "coalesced"),
        ("flowcache_evictions_total", "evictions"),
        ("flowcache_evictions_caused_total", "evictions_caused"),
        ("flowcache_rejections_total", "rejections"),
        ("flowcache_expirations_total", "expirations"),
        ("flowcache_invalidations_total", "invalidations"),
        ("flowcache_weight", "weight"),
        ("flowcache_pending_loads", "pending"),
    ):
        values = [value for key, value in told.items() if key[0] == name]
        assert len(values) == 3 and sum(values) == pytest.approx(getattr(stats, field))


def test_a_cache_that_shares_by_utility_tells_what_tenants_lend() -> None:
    cache = lending(name="crm")
    told = scraped(registered(FlowcacheCollector(cache, tenants=1, pinned="b")))
    for name, field in (
        ("flowcache_lost_hits_total", "lost_hits"),
        ("flowcache_fair_entries", "fair_entries"),
        ("flowcache_lent_entries", "lent"),
        ("flowcache_borrowed_entries", "borrowed"),
    ):
        own = getattr(cache.namespace("b").stats(), field)
        assert told[name, "crm", "b"] == own
        assert told[name, "crm", OTHER] == getattr(cache.stats(), field) - own
        assert (name, "crm", OTHER) not in scraped(registered(FlowcacheCollector(used())))


def test_the_durations_of_loads_are_a_histogram() -> None:
    cache: Any = create_cache(name="crm")
    registry = registered(FlowcacheCollector(cache))
    assert scraped(registry)["flowcache_load_duration_seconds_count", "crm"] == 0
    cache.namespace("a").fetch("k", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        cache.namespace("b").fetch("k", lambda: 1 / 0)
    told = scraped(registry)
    assert told["flowcache_load_duration_seconds_count", "crm"] == 2
    assert told["flowcache_load_duration_seconds_bucket", "crm", "+Inf"] == 2


def test_a_load_within_a_trace_leaves_its_trace_as_exemplar() -> None:
    cache: Any = create_cache(name="crm")
    registry = registered(FlowcacheCollector(cache))
    context = trace.SpanContext(0xABC, 0xDEF, False, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        cache.fetch("k", lambda: 1)
    text = generate_openmetrics(registry).decode()
    (line,) = re.findall(r"(?m)^flowcache_load_duration_seconds_bucket.*#.*$", text)
    assert f'trace_id="{0xABC:032x}"' in line and f'span_id="{0xDEF:016x}"' in line


def test_a_trace_that_is_not_kept_leaves_none() -> None:
    cache: Any = create_cache(name="crm")
    registry = registered(FlowcacheCollector(cache))
    context = trace.SpanContext(0xABC, 0xDEF, False, trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)):
        cache.fetch("k", lambda: 1)
    assert "trace_id" not in generate_openmetrics(registry).decode()


def test_an_exemplar_that_raises_breaks_neither_the_load_nor_the_scrape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache: Any = create_cache(name="crm")
    registry = registered(FlowcacheCollector(cache, exemplar=lambda: {}["no"]))
    with caplog.at_level(logging.ERROR, "flowcache"):
        assert cache.fetch("k", lambda: 1) == 1
    assert "a listener for 'load' raised" in caplog.text
    assert scraped(registry)["flowcache_load_duration_seconds_count", "crm"] == 0


def test_three_hundred_tenants_take_at_most_twenty_two_values_and_none_falls() -> None:
    cache: Any = create_cache(name="crm", max_entries=2_000)
    registry = registered(FlowcacheCollector(cache))
    before = scraped(registry)
    for turn in range(4):
        for number in range(300):
            view = cache.namespace(f"tenant:{number}")
            for key in range((number * 7 + turn * 31) % 40):
                view.fetch(key, lambda: 1)
        told = scraped(registry)
        tenants = {key[2] for key in told if key[0] == "flowcache_entries"}
        assert len(tenants) <= 22
        for key, value in before.items():
            assert key in told
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert told[key] >= value, key
        stats = cache.stats()
        misses = [
            v for k, v in told.items() if k[0] == "flowcache_requests_total" and k[3] == "miss"
        ]
        assert sum(misses) == stats.misses
        entries = [value for key, value in told.items() if key[0] == "flowcache_entries"]
        assert sum(entries) == stats.entries
        before = told


def test_names_with_quotes_and_newlines_are_labels_as_they_are() -> None:
    cache: Any = create_cache(name="crm")
    names = ['a"b', "a\\b", "line\nbreak", "<b>&", "\u202egnp", "x" * 256]
    for name in names:
        cache.namespace(name).set("k", 1)
    told = scraped(registered(FlowcacheCollector(cache)))
    assert {key[2] for key in told if key[0] == "flowcache_entries"} == {*names, OTHER}


def test_several_caches_are_told_of_together() -> None:
    first, second = used("first"), used("second")
    told = scraped(registered(FlowcacheCollector([first, second])))
    assert told["flowcache_sets_total", "first", "tenant:acme"] == 2
    assert told["flowcache_sets_total", "second", "tenant:acme"] == 2
    told = scraped(registered(FlowcacheCollector(first), FlowcacheCollector(second)))
    assert told["flowcache_load_duration_seconds_count", "second"] == 0


def test_a_scrape_of_a_closed_cache_tells_its_last_counts() -> None:
    cache = used()
    collector = FlowcacheCollector(cache)
    registry = registered(collector)
    before = scraped(registry)
    cache.close()
    after = scraped(registry)
    assert before["flowcache_sets_total", "crm", "tenant:acme"] == 2
    assert after["flowcache_sets_total", "crm", "tenant:acme"] == 2
    assert after["flowcache_entries", "crm", "tenant:acme"] == 0


def test_close_ends_the_subscriptions() -> None:
    cache: Any = create_cache(name="crm")
    collector = FlowcacheCollector(cache)
    registry = registered(collector)
    cache.fetch("a", lambda: 1)
    collector.close()
    collector.close()
    collector.flush()
    cache.fetch("b", lambda: 1)
    assert scraped(registry)["flowcache_load_duration_seconds_count", "crm"] == 1


def test_scrapes_beside_calls_never_fall_and_end_with_the_whole() -> None:
    cache: Any = create_cache(name="crm", max_entries=500, max_idle_namespaces=20)
    registry = registered(FlowcacheCollector(cache, tenants=5))
    over = threading.Event()

    def call(begin: int) -> None:
        number = begin
        while not over.is_set():
            number += 1
            cache.namespace(f"tenant:{number % 600}").fetch(number % 7, lambda: 1)

    threads = [threading.Thread(target=call, args=(n * 100,)) for n in range(3)]
    for thread in threads:
        thread.start()
    before: dict[tuple[str, ...], float] = {}
    try:
        for _ in range(12):
            told = scraped(registry)
            for key, value in before.items():
                if key[0].endswith("_total"):
                    assert told[key] >= value, key
            before = told
    finally:
        over.set()
        for thread in threads:
            thread.join()
    told = scraped(registry)
    stats = cache.stats()
    for name, field in (
        ("sets", "sets"),
        ("evictions", "evictions"),
        ("expirations", "expirations"),
    ):
        values = [v for key, v in told.items() if key[0] == f"flowcache_{name}_total"]
        assert sum(values) == getattr(stats, field)


@pytest.mark.parametrize(
    ("given", "settings", "error", "message"),
    [
        (3, {}, TypeError, "cache: must be a cache or several, got int"),
        ([3], {}, TypeError, "cache: each must be a cache, got int"),
        ([], {}, ValueError, "cache: must be at least one"),
        ("two", {}, ValueError, "cache: two have the name"),
        ("one", {"exemplar": 3}, TypeError, "exemplar: must be callable or None, got int"),
        ("one", {"interval": 0}, ValueError, "interval: must be more than 0 seconds"),
        ("one", {"tenants": -1}, ValueError, "tenants: must be from 0"),
    ],
)
def test_what_cannot_be_collected(given: Any, settings: Any, error: Any, message: str) -> None:
    cache = create_cache()
    if isinstance(given, str):
        given = {"one": cache, "two": [cache, create_cache()]}[given]
    with pytest.raises(error, match=message):
        FlowcacheCollector(given, **settings)


# ---------------------------------------------------------------------- several processes

PREFORK = """
import os, sys, tempfile, time
folder = tempfile.mkdtemp()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.parser import text_string_to_metric_families
from flowcache import create_cache
from flowcache.contrib.prometheus import FlowcacheCollector

def work(cache, seed):
    for number in range(900):
        view = cache.namespace(f"tenant:{(number * seed) % 50}")
        view.fetch(number % 11, lambda: 1)
        view.get(number % 13)

def told():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=folder)
    text = generate_latest(registry).decode()
    return [one for family in text_string_to_metric_families(text) for one in family.samples]

preload = sys.argv[1] == "preload"
cache = None
if preload:
    cache = create_cache(name="crm", max_entries=200)
    collector = FlowcacheCollector(cache, interval=0.05)
    work(cache, 1)
    if len(sys.argv) > 2:
        collector.flush()
before = cache.stats() if preload else None
ends = []
for seed in (3, 7):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        if not preload:
            cache = create_cache(name="crm", max_entries=200)
            collector = FlowcacheCollector(cache, interval=0.05)
        work(cache, seed)
        time.sleep(0.1)
        work(cache, seed + 1)
        collector.close()
        stats = cache.stats()
        asked = stats.hits + stats.misses
        if preload:
            asked -= before.hits + before.misses
        os.write(writer, f"{asked} {stats.sets - (before.sets if preload else 0)}".encode())
        os._exit(0)
    os.close(writer)
    ends.append((pid, reader))
asked = sets = 0
for pid, reader in ends:
    one, other = os.read(reader, 100).split()
    asked, sets = asked + int(one), sets + int(other)
    os.waitpid(pid, 0)
    multiprocess.mark_process_dead(pid)
if preload:
    collector.close()
    stats = cache.stats()
    asked, sets = asked + stats.hits + stats.misses, sets + stats.sets
samples = told()
assert asked > 7_000
assert sum(one.value for one in samples if one.name == "flowcache_requests_total") == asked
assert sum(one.value for one in samples if one.name == "flowcache_sets_total") == sets
tenants = {one.labels["tenant"] for one in samples if one.name == "flowcache_sets_total"}
assert len(tenants) == 21, tenants
loads = [one.value for one in samples if one.name == "flowcache_load_duration_seconds_count"]
assert sum(loads) == sets
held = [one.value for one in samples if one.name == "flowcache_entries"]
assert sum(held) == (200 if preload else 0), held
print("exact")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("mode", ["apart", "preload", "preload flushed"])
def test_the_totals_of_two_workers_add_up_exactly(mode: str) -> None:
    assert run_isolated(PREFORK, *mode.split()) == "exact\n"


# ---------------------------------------------------------------------- Grafana, alerts


def metrics_told() -> set[str]:
    cache = used(weigher=lambda key, value: 1, max_weight=10)
    return {key[0] for key in scraped(registered(FlowcacheCollector(cache)))}


def expressions() -> list[str]:
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    known = metrics_told()
    alerts = (EXAMPLES / "alerts.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\bflowcache_\w+", "\n".join([*expressions(), alerts])))
    assert len(asked) > 12
    assert asked <= known, asked - known
    variables = json.loads((EXAMPLES / "dashboard.json").read_text(encoding="utf-8"))["templating"]
    assert set(re.findall(r"\bflowcache_\w+", json.dumps(variables))) <= known


@pytest.mark.once
def test_promtool_finds_no_fault_with_a_scrape() -> None:
    cache = used(weigher=lambda key, value: 1, max_weight=10)
    text = generate_latest(registered(FlowcacheCollector(cache))).decode()
    promtool("check", "metrics", given=text)


@pytest.mark.once
def test_promtool_runs_the_alerts_as_their_tests_say() -> None:
    assert "7 rules" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


@pytest.mark.once
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    page = {"groups": [{"name": "dashboard", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(page), encoding="utf-8")
    promtool("check", "rules", "rules.yml", folder=tmp_path)
