"""Cycles through any object that a cache holds are found and freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, create_cache
from harness.support import run_isolated


class Node:
    """Refers to anything; also a key and a loader."""

    def __init__(self, refers: object = None) -> None:
        self.refers = refers

    def __call__(self, *_: object) -> Any:
        return 1


def through_key(cache: Cache[Any], node: Node) -> None:
    cache.set(node, 1)


def through_key_in_tuple(cache: Cache[Any], node: Node) -> None:
    cache.set(("key", node), 1)


def through_value(cache: Cache[Any], node: Node) -> None:
    cache.set("key", node)


def through_value_below(cache: Cache[Any], node: Node) -> None:
    cache.namespace("tenant", "user").set("key", [node], tags="red", stale=True)


def through_listener(cache: Cache[Any], node: Node) -> None:
    node.refers = (node.refers, cache.namespace("tenant").subscribe(node))


def through_view(cache: Cache[Any], node: Node) -> None:
    node.refers = cache.namespace("tenant")
    cache.namespace("tenant").set("key", node)


def through_another_cache(cache: Cache[Any], node: Node) -> None:
    other = create_cache()
    other.set("cache", cache)
    other.set("node", node)
    cache.set("other", other.namespace("view"))


def through_cached_function(cache: Cache[Any], node: Node) -> None:
    cached = cache.namespace("tenant").cached()(node.__call__)
    cached(1)
    node.refers = (node.refers, cached)


def through_ready(cache: Cache[Any], node: Node) -> None:
    cache.set("key", node)
    cache.set("ready", cache.afetch("key", node))


def through_running_load(cache: Cache[Any], node: Node) -> None:
    from flowcache._core import Options

    cache._begin(node, Options("fetch", {}), None, [])


def through_tags(cache: Cache[Any], node: Node) -> None:
    class Tag(str):
        __slots__ = ("node",)
        node: Node

    tag = Tag("red")
    tag.node = node
    cache.set("key", 1, tags=[tag])


WAYS = [value for name, value in list(globals().items()) if name.startswith("through_")]


@pytest.mark.parametrize("way", WAYS)
def test_a_cycle_is_collected(way: Callable[[Cache[Any], Node], None]) -> None:
    cache = create_cache()
    node = Node(cache)
    gone = [weakref.ref(node), weakref.ref(cache)]
    way(cache, node)

    del cache, node
    gc.collect()

    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize("way", [through_key, through_value, through_value_below, through_listener])
def test_without_a_cycle_no_collector_is_needed(way: Callable[[Cache[Any], Node], None]) -> None:
    cache = create_cache()
    node = Node()
    gone = weakref.ref(node)
    way(cache, node)
    gc.disable()
    try:
        del cache, node
        assert gone() is None or way is through_listener  # Whose end is held by the node itself.
    finally:
        gc.enable()


def test_what_a_weigher_and_a_clock_refer_to_is_collected() -> None:
    node = Node()
    cache: Cache[Any] = create_cache(weigher=node, clock=node)
    node.refers = cache
    gone = weakref.ref(node)

    del cache, node
    gc.collect()

    assert gone() is None


def test_a_value_that_cannot_refer_to_anything_is_not_shown_to_the_collector() -> None:
    cache = create_cache(max_entries=None)
    store = cache._store()
    for n in range(1000):
        cache.set(f"key:{n}", f"value:{n}")
    plain = len(gc.get_referents(store))
    for n in range(10):
        cache.set(f"key:{n}", [n])

    assert plain < 20
    assert len(gc.get_referents(store)) == plain + 20


def test_entries_of_a_cleared_namespace_are_seen_until_they_are_gone() -> None:
    cache = create_cache(max_entries=None)
    node = Node(cache)
    cache.update(dict.fromkeys(range(20_000), node))
    cache.clear()  # They are out of reach at once, and their memory goes in slices.
    gone = weakref.ref(node)

    del cache, node
    gc.collect()

    assert gone() is None


def test_the_collector_may_come_at_any_allocation() -> None:
    run_isolated(
        """
    import gc
    from flowcache import create_cache

    class Meddler:
        def __init__(self):
            self.me = self
        def __del__(self):
            if busy:
                Meddler()
            for name in ("a", "b", "c", "d"):
                cache.namespace(name).get("x")
            tenant.set("key", 1, tags="red")
            tenant.clear()

    cache = create_cache(max_idle_namespaces=0, max_entries=None)
    tenant = cache.namespace("tenant")
    cache.subscribe(lambda event: None, "remove")
    busy = True
    Meddler()
    gc.set_threshold(1, 1, 1)
    for n in range(500):
        view = cache.namespace("tenant", f"n{n % 7}")
        view.set(n, n, tags=("red", f"t{n}"))
        view.items(), list(view), view.stats()
        cache.invalidate_tag("red")
        tenant.fetch(n, lambda: n, tags="red")
        cache.namespace(f"n{n % 5}")
    busy = False
    gc.set_threshold(700, 10, 10)
    gc.collect()
    cache._check()
    """
    )


def test_frozen_generations_and_referents_hurt_nothing() -> None:
    run_isolated(
        """
    import gc
    from flowcache import create_cache
    cache = create_cache()
    cache.set("key", [cache])
    gc.freeze()
    cache.set("other", [cache])
    gc.collect()
    gc.unfreeze()
    assert any(cache is holder for holder in gc.get_referrers(cache._store()))
    del cache
    gc.collect()
    """
    )
