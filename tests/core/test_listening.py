"""Listeners are counted by kind, in whichever way a listener ends."""

from __future__ import annotations

import gc
from typing import Any

from flowcache.events import Event
from flowcache.tenancy import current_tenant, tenant
from harness.support import new_cache


def test_a_kind_is_heard_until_its_last_listener_ends() -> None:
    cache, _ = new_cache()
    heard: list[str] = []
    end_first = cache.subscribe(lambda event: heard.append("first"), kinds="hit")
    end_second = cache.namespace("a").subscribe(lambda event: heard.append("second"), kinds="hit")
    cache.namespace("a").set("k", 1)

    cache.namespace("a").get("k")
    end_first()
    end_first()
    cache.namespace("a").get("k")
    end_second()
    cache.namespace("a").get("k")

    assert sorted(heard) == ["first", "second", "second"]


def test_a_namespace_that_is_listened_to_is_not_forgotten() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    heard: list[Any] = []
    end = cache.namespace("a").subscribe(lambda event: heard.append(event.key), kinds="set")
    cache.namespace("a").subscribe(lambda event: heard.append(event.kind), kinds="set")
    for name in ("b", "c", "d"):
        cache.namespace(name)
    gc.collect()

    assert list(cache.namespaces()) == ["a"]
    cache.namespace("a").set("k", 1)
    assert heard == ["k", "set"]
    end()
    cache.namespace("a").set("k", 1)
    assert heard == ["k", "set", "set"]


def test_a_namespace_is_forgotten_once_it_has_no_listener_any_more() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    end = cache.namespace("a").subscribe(print)
    end()
    end()
    del end

    assert list(cache.namespaces()) == []


def test_a_listener_hears_of_a_removal_without_a_tenant() -> None:
    """Acme's listener would store acme's value for beta, whose store evicts it."""
    told: list[tuple[Any, ...]] = []
    cache, _ = new_cache(max_entries=2)
    with cache:
        mine = cache.for_current_tenant()

        def hear(event: Event) -> None:
            told.append((event.cause, event.key, current_tenant.get(None)))
            mine.set("last", event.value)  # Raises without a tenant.

        with tenant("acme"):
            mine.set_many({"a": 1, "b": 2})
            mine.subscribe(hear, kinds="remove")
        with tenant("beta"):
            mine["c"] = 3
            cache.namespace("tenant:acme").delete("b")
            assert current_tenant.get() == "beta"
            assert "last" not in mine
    assert told == [("evicted", "a", None), ("deleted", "b", None)]


def test_a_listener_hears_of_other_calls_for_the_tenant_of_the_call() -> None:
    told: list[tuple[Any, ...]] = []
    cache, _ = new_cache()
    with cache:
        mine = cache.for_current_tenant()
        cache.subscribe(
            lambda event: told.append((event.kind, current_tenant.get(None))),
            kinds=("miss", "set", "load", "hit"),
        )
        with tenant("acme"):
            mine.fetch("a", lambda: 1)
            mine.get("a")
    assert {kind for kind, _ in told} == {"miss", "set", "load", "hit"}
    assert {name for _, name in told} == {"acme"}
