"""Invalidations that wait: each primary's by itself."""

from __future__ import annotations

from typing import Any

import pytest

from flowcache.errors import TierUnavailableError
from flowcache.tier import queue as queue_module
from flowcache.tier.layout import Layout
from flowcache.tier.steps import Steps
from harness.fleet import Make
from harness.servers import Server


@pytest.fixture(autouse=True)
def no_thread_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module.Queue, "_begin", lambda _: None)


def places(layout: Layout) -> list[Any]:
    """Return a tenant of each bucket."""
    found: dict[int, Any] = {}
    number = 0
    while len(found) < layout.buckets:
        place = layout.place((f"tenant:{number}",))
        found.setdefault(place.bucket.number, place)
        number += 1
    return list(found.values())


def test_a_primary_that_is_gone_holds_up_no_other(new_server: Server, make: Make) -> None:
    cache = make(new_server, tier={"queue_invalidations": 9, "buckets": 2})
    assert cache.tier is not None
    engine = cache.tier.engine
    gone, there = places(engine.layout)
    tried: list[str] = []

    def fail() -> Steps[None]:
        tried.append("gone")
        raise TierUnavailableError("gone")
        yield

    def send() -> Steps[None]:
        tried.append("there")
        return
        yield

    for name, place, steps in (
        ("first", gone, fail),
        ("second", gone, fail),
        ("third", there, send),
        ("fourth", there, send),
    ):
        assert engine.queue.add(place, name, steps)
    namespace = cache.namespace(*there.path)
    namespace.set("k", "v")
    assert tried == ["gone", "there", "there"]
    assert namespace.get("k") == "v"
    assert cache.tier.queued == 2
    assert engine.queue.blocks(gone)
    with pytest.raises(TierUnavailableError, match="gone"):
        cache.namespace(*gone.path).set("k", "v")


def test_what_covers_all_tenants_holds_them_all_up(new_server: Server, make: Make) -> None:
    cache = make(new_server, tier={"queue_invalidations": 9, "buckets": 2})
    assert cache.tier is not None
    engine = cache.tier.engine

    def fail() -> Steps[None]:
        raise TierUnavailableError("gone")
        yield

    assert engine.queue.add(engine.layout.place(()), "all", fail)
    for place in places(engine.layout):
        with pytest.raises(TierUnavailableError, match="gone"):
            cache.namespace(*place.path).set("k", "v")
