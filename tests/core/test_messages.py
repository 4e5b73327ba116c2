"""Keys in messages and logs: short, escaped, never the cause of another error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import LoadTimeoutError, RecursiveLoadError, create_cache
from flowcache.reports import shown


class Unprintable:
    def __repr__(self) -> str:
        raise LookupError("asked the database")


class Lines:
    def __repr__(self) -> str:
        return "line\nline \x1b[31m\udc80"


KEYS: dict[str, Any] = {
    "long str": "x" * 1_000_000,
    "long bytes": b"x" * 1_000_000,
    "long tuple": ("session", "x" * 1_000_000),
    "long int": 10**10_000,
    "unprintable": Unprintable(),
    "nested": (1, (Unprintable(),)),
    "lines": Lines(),
    "control characters": "a\x00\n\x1b\u202e",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_is_shown_short_and_escaped(key: Any) -> None:
    text = shown(key)
    assert 0 < len(text) <= 200
    assert text.isprintable()


def test_a_short_key_is_shown_whole() -> None:
    assert shown(("contacts", 7, b"\xff")) == r"('contacts', 7, b'\xff')"
    assert shown("x" * 198) == repr("x" * 198)
    assert shown("x" * 199) == "'" + "x" * 196 + "..."


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_the_error_of_a_wait_names_the_key_and_is_not_hidden_by_it(key: Any) -> None:
    cache = create_cache()
    end = threading.Event()
    with pytest.raises(LoadTimeoutError, match=r"^timeout: key ") as caught:
        cache.fetch(key, end.wait, timeout=0.01)
    end.set()
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_the_error_of_a_ring_names_the_key_and_is_not_hidden_by_it(key: Any) -> None:
    cache = create_cache()

    def load() -> Any:
        return cache.fetch(key, load)

    with pytest.raises(RecursiveLoadError, match=r"asks for its own key$") as caught:
        cache.fetch(key, load)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("level", "is_named"), [(logging.WARNING, False), (logging.DEBUG, True)])
def test_the_log_has_the_key_of_a_failed_load_only_where_debugging_is_on(
    caplog: pytest.LogCaptureFixture, level: int, is_named: bool
) -> None:
    now = 0.0
    cache = create_cache(clock=lambda: now)
    failed = threading.Event()
    cache.subscribe(lambda event: failed.set(), kinds="load_error")
    cache.set(("login", "hunter2"), "old", ttl=1, stale=True)
    now = 2.0
    caplog.set_level(level, "flowcache")

    def fail() -> Any:
        raise ConnectionError("down")

    assert cache.fetch(("login", "hunter2"), fail, stale=True) == "old"
    assert failed.wait(20)
    wait_for(lambda: "failed" in caplog.text)  # Formatted after it is recorded.
    assert ("hunter2" in caplog.text) is is_named
    assert "a background load in namespace () failed" in caplog.text


def wait_for(condition: Callable[[], object]) -> None:
    settled = threading.Event()
    for _ in range(2_000):
        if condition():
            return
        settled.wait(0.01)
    raise AssertionError("it did not come")
