"""Settings: what a change does at once, and what children take from those above."""

from __future__ import annotations

from flowcache import Event, Limits
from support import new_cache


def test_a_limit_on_weight_takes_from_the_heaviest_where_all_is_reserved() -> None:
    cache, _ = new_cache(weigher=lambda key, value: value)
    taken: list[tuple[str, ...]] = []

    def note(event: Event) -> None:
        taken.append(event.path)

    cache.subscribe(note, kinds="remove")
    for name, weight in (("a", 2), ("b", 2), ("c", 1)):
        cache.namespace(name, reserved=1).set("k", weight)
    cache.configure(max_weight=3)

    assert taken == [("a",)]
    cache._check()


def test_what_weighs_nothing_is_not_evicted_for_weight() -> None:
    cache, _ = new_cache(weigher=lambda key, value: value)
    top = cache.namespace("top", max_weight=4)
    top.set("light", 0)
    top.namespace("kept", reserved=1).set("k", 4)
    top.namespace("new").set("k", 2)

    assert list(top) == ["light"]
    assert list(top.namespace("kept")) == ["k"] and list(top.namespace("new")) == []
    cache._check()


def test_a_child_keeps_the_default_ttl_that_child_limits_gave_it() -> None:
    cache, _ = new_cache(child_limits=Limits(default_ttl=5))
    child = cache.namespace("a")
    cache.configure(default_ttl=100)
    child.set("k", 1)
    cache.set("k", 1)

    assert (child.ttl("k"), cache.ttl("k")) == (5, 100)
