"""Records of the logger `flowcache`: fields for machines, no value, and no key unless at DEBUG."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from flowcache import create_cache
from harness.support import new_cache


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name.startswith("flowcache_")}


def fail_behind(key: str) -> None:
    cache, clock = new_cache(name="crm")
    view = cache.namespace("tenant:acme", "users")
    view.set(key, "value", ttl=1, stale=100)
    clock.advance(2)
    over = threading.Event()
    view.subscribe(lambda event: over.set(), kinds="load_error")
    assert view.fetch(key, lambda: {}["no"]) == "value"
    assert over.wait(20)


def record_of(caplog: pytest.LogCaptureFixture, event: str) -> logging.LogRecord:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for record in caplog.records:
            if fields_of(record).get("flowcache_event") == event:
                return record
        time.sleep(0.01)
    raise AssertionError(f"no record of {event}")


def test_a_failed_load_is_told_with_its_place_and_without_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "flowcache"):
        fail_behind("secret")
        record = record_of(caplog, "load_failed")
    assert fields_of(record) == {
        "flowcache_event": "load_failed",
        "flowcache_cache": "crm",
        "flowcache_namespace": ["tenant:acme", "users"],
        "flowcache_tenant": "tenant:acme",
        "flowcache_error": "KeyError",
    }
    assert "secret" not in record.getMessage() and "value" not in record.getMessage()


def test_at_debug_the_key_is_a_field_escaped_and_short(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flowcache"):
        fail_behind("line\nbreak" + "x" * 500)
        key = fields_of(record_of(caplog, "load_failed"))["flowcache_key"]
    assert key.startswith(r"'line\nbreak") and len(key) == 200


def test_a_listener_that_raises_is_told_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    cache: Any = create_cache(name="crm")
    cache.subscribe(lambda event: 1 / 0, kinds="set")
    with caplog.at_level(logging.INFO, "flowcache"):
        cache.namespace("a").set("secret", 1)
        cache.set("secret", 1)
    told = [fields_of(record) for record in caplog.records]
    assert [(one["flowcache_tenant"], one["flowcache_error"]) for one in told] == [
        ("a", "ZeroDivisionError"),
        (None, "ZeroDivisionError"),
    ]
    assert "secret" not in caplog.text.replace("test_logs", "")


def test_a_sweep_that_raises_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set():
            raise OSError("no clock")
        return 1.0

    cache: Any = create_cache(name="crm", clock=clock, sweep_interval=0.01)
    with caplog.at_level(logging.INFO, "flowcache"):
        broken.set()
        record = record_of(caplog, "sweep_failed")
    broken.clear()
    cache.close()
    assert fields_of(record) == {
        "flowcache_event": "sweep_failed",
        "flowcache_cache": "crm",
        "flowcache_error": "OSError",
    }
