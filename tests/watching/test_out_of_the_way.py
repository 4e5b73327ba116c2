"""What looks at a cache may raise, block or be slow: no call of the cache waits for it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowcache import create_cache
from flowcache.contrib.opentelemetry import instrument
from flowcache.contrib.prometheus import FlowcacheCollector
from flowcache.page import ADMIN, CachePage, show
from flowcache.watching.families import Keys
from flowcache.watching.snapshot import Ask, Watcher


def use(cache: Any, turns: int = 300) -> None:
    """Make each kind of call; the suite's time-out is the bound on all of them."""
    view = cache.namespace("tenant:acme")
    for number in range(turns):
        view.set(number, number)
        assert view.get(number) == number
        assert view.fetch(("loaded", number), lambda: 1) == 1
        view.delete(number)


def test_readers_that_never_end_hold_nothing_up(tmp_path: Path) -> None:
    cache: Any = create_cache(name="crm")
    stuck, go_on = threading.Event(), threading.Event()

    def block(request: Any) -> Any:
        stuck.set()
        assert go_on.wait(60)
        return ADMIN

    page = CachePage(cache, authorize=block)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/data"}
    request = threading.Thread(target=lambda: page.wsgi(environ, lambda *given: None))
    request.start()
    scrape = FlowcacheCollector(cache).collect()
    next(iter(scrape))  # A scrape that stands still within.
    shown = show(cache, tmp_path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(shown.path))  # A reader that asks for nothing.
        assert stuck.wait(20)
        use(cache)
        go_on.set()
        request.join()
    shown.close()


def test_an_exporter_that_blocks_or_raises_holds_no_load_up() -> None:
    cache: Any = create_cache()
    go_on = threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            assert go_on.wait(60)
            return SpanExportResult.SUCCESS

    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(
        BatchSpanProcessor(Stuck(), schedule_delay_millis=1, max_queue_size=64,
                           max_export_batch_size=8)
    )  # fmt: skip
    meters = MeterProvider(shutdown_on_exit=False)
    instrumentation = instrument(cache, tracer_provider=tracers, meter_provider=meters)
    use(cache)
    go_on.set()
    instrumentation.close()
    tracers.shutdown()


def test_a_snapshot_that_raises_leaves_the_cache_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache: Any = create_cache()
    watcher = Watcher(cache, Keys())

    class Odd:
        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            raise RuntimeError("no text")

    told: list[Any] = []

    def load() -> int:
        told.append(watcher.look(Ask()))
        return 1

    cache.fetch(Odd(), load)
    assert told[0]["loads"][0]["key"].startswith("Odd #")
    monkeypatch.setattr(watcher.keys, "text", lambda key: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.fetch("k", load)
    use(cache)
    cache._check()


def test_a_recording_that_no_reader_fetches_ends_by_itself() -> None:
    cache: Any = create_cache()
    watcher = Watcher(cache, Keys(), seconds=0.01)
    watcher.look(Ask(record=True))
    end = threading.Event()
    end.wait(0.03)
    for _ in range(10):
        cache.get("k")  # The first one past the end ends it.
    hot = watcher.scope(()).hot
    assert hot is not None and hot._token is None
    assert hot.tell()["kept"] == 0
