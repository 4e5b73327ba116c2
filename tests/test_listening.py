"""Who listens is counted by kind, whatever way a listener goes."""

from __future__ import annotations

import gc

from support import new_cache


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


def test_a_listener_that_is_forgotten_with_its_namespace_leaves_the_others_listening() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    heard: list[tuple[str, ...]] = []
    cache.subscribe(lambda event: heard.append(event.path), kinds="set")
    cache.namespace("gone").subscribe(heard.append, kinds=("set", "miss"))
    gc.collect()
    cache.namespace("made-to-forget-the-other")

    assert list(cache.namespaces()) == []
    cache.namespace("a").set("k", 1)
    assert heard == [("a",)]
