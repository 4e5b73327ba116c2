"""A real server for tests of integrations with a tier, and a second process of their fleet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="the extra `valkey` is not installed here")
pytest.importorskip("valkey", reason="the extra `valkey` is not installed here")

from flowcache import create_cache
from flowcache.tier import ValkeyTier
from harness.fleet import PATIENT, confirmed
from harness.servers import Server, server

__all__ = ["new_server", "other_process", "patience", "patient", "threads_of_tiers"]


@pytest.fixture(scope="session")
def new_server() -> Iterator[Server]:
    """The newest server that there is."""
    with server() as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tiers that an integration makes of a URL be patient, too, in the modules that import it.

    The time-outs of production are shorter than what a busy machine may need for an answer.
    """
    for name, seconds in PATIENT.items():
        monkeypatch.setitem(ValkeyTier.__init__.__kwdefaults__, name, seconds)  # type: ignore[arg-type]


def patient(target: Any, **settings: Any) -> ValkeyTier:
    """Return a tier for a busy machine, also for a fixture that outlives `patience`."""
    return ValkeyTier(getattr(target, "url", target), **(PATIENT | settings))


@contextmanager
def other_process(name: str, tier: ValkeyTier) -> Iterator[Any]:
    """Yield a cache of a fleet, as another process of it has one."""
    with create_cache(name=name, tier=tier, default_ttl=None) as cache:
        confirmed(cache.connect)
        yield cache


def threads_of_tiers() -> list[str]:
    """Return the names of the threads that tiers run."""
    return [one.name for one in threading.enumerate() if one.name.startswith("flowcache-")]
