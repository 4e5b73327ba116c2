"""Listeners are counted by kind, in whichever way a listener ends."""

from __future__ import annotations

import gc
from typing import Any

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
