"""Shared parts of test modules: a clock, caches on it, programs in child processes."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import flowcache
from flowcache import Cache, Namespace, create_cache

if TYPE_CHECKING:
    import pytest

SOURCE_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(flowcache.__file__)))
TESTS_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

ADDRESS_SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
"""AddressSanitizer keeps what is freed for a while, and its allocator must be the first."""


class VirtualClock:
    """A clock that stands still until a test moves it; seconds."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Colliding:
    """A key that is equal by its label, with one hash for all."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Colliding) and self.label == other.label

    def __repr__(self) -> str:
        return f"Colliding({self.label!r})"


def new_cache(**settings: Any) -> tuple[Cache[Any], VirtualClock]:
    """A cache on a clock of its own; without settings it has no bound and no TTL."""
    clock = VirtualClock()
    chosen: dict[str, Any] = {"default_ttl": None, "max_entries": None, "clock": clock}
    return create_cache(**(chosen | settings)), clock


def census(namespace: Namespace[Any]) -> dict[tuple[str, ...], Any]:
    """The contents of a namespace and those below, read without counting as use."""
    names = sorted(namespace.namespaces())
    items = list(namespace.items())
    lives = [namespace.ttl(key) for key, _ in items]
    found = {namespace.path: (items, lives, namespace.stats(), names)}
    for name in names:
        found.update(census(namespace.namespace(name)))
    return found


@contextlib.contextmanager
def unchanged(namespace: Namespace[Any]) -> Iterator[None]:
    """Assert that the block leaves a cache, or a namespace of it, exactly as it was."""
    before = census(namespace)
    yield
    namespace._check()
    assert census(namespace) == before


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """The outcome of a call, in a form that two implementations can be compared by."""
    try:
        return "returned", call()
    except Exception as error:
        return "raised", type(error)


def run_isolated(program: str, *arguments: str, seconds: float = 240) -> str:
    """Run a program in a process of its own and return what it printed.

    A crash, a hang or an error fails the test; the debug allocator fills freed memory, so that a
    use after free shows. AddressSanitizer sees it by itself, if no arenas hide it.
    """
    finished = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "error",
            "-c",
            textwrap.dedent(program),
            *arguments,
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([SOURCE_FOLDER, TESTS_FOLDER]),
            "PYTHONMALLOC": "malloc" if ADDRESS_SANITIZED else "debug",
        },
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert finished.returncode == 0, (
        f"exit {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    )
    assert "Exception ignored" not in finished.stderr, finished.stderr
    return finished.stdout


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of flowcache whose text is there, too: it follows the record.

    Other loggers may report objects that earlier tests left to the collector.
    """
    records = [record for record in caplog.records if record.name == "flowcache"]
    return [record for record in records if record.getMessage() in caplog.text]
