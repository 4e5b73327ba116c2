"""Settings: the immediate effect of a change, inheritance, and the choice of the victim."""

from __future__ import annotations

from typing import Any

import pytest

from flowcache import Cache, Event, Limits, create_cache
from harness.support import new_cache


def victims(cache: Cache[Any]) -> list[tuple[tuple[str, ...], Any, str | None]]:
    """The removals from now on, as they happen: path, key and cause."""
    seen: list[tuple[tuple[str, ...], Any, str | None]] = []

    def note(event: Event) -> None:
        seen.append((event.path, event.key, event.cause))

    cache.subscribe(note, kinds="remove")
    return seen


# ------------------------------------------------------------------------------- limits


def test_a_cache_holds_ten_thousand_entries_unless_told_otherwise() -> None:
    cache: Cache[int] = create_cache()
    for number in range(10_001):
        cache.set(number, number)
    assert len(cache) == 10_000 and 0 not in cache


def test_a_limit_holds_for_a_namespace_and_all_below_it() -> None:
    cache, _ = new_cache()
    top = cache.namespace("top", max_entries=4)
    for name in ("a", "b", "c"):
        for number in range(3):
            top.namespace(name).set(number, 1)
    assert top.stats().entries == 4
    assert cache.namespace("free").stats().entries == 0
    cache._check()


def test_a_smaller_limit_evicts_at_once() -> None:
    cache, _ = new_cache()
    ns = cache.namespace("a")
    ns.update({number: number for number in range(9)})
    ns.get(0)
    seen = victims(cache)
    ns.configure(max_entries=3)

    assert list(ns) == [7, 8, 0]
    assert seen == [(("a",), number, "over_limit") for number in range(1, 7)]
    assert ns.stats().evictions == 6 and ns.stats().evictions_caused == 0
    ns.configure(max_entries=None)
    ns.update({number: number for number in range(9)})
    assert len(ns) == 9


def test_what_is_not_named_stays_as_it_is() -> None:
    cache, _ = new_cache(weigher=lambda key, value: 1)
    ns = cache.namespace("a", max_entries=5, reserved=2, share=2.0, default_ttl=7, max_weight=9)
    ns.configure(max_entries=4)
    ns.configure()
    assert ns.limits == Limits(
        default_ttl=7.0,
        max_entries=4,
        max_weight=9,
        max_pending=None,
        reserved=2,
        share=2.0,
        eviction="lru",
        guaranteed=0.5,
    )


def test_settings_given_with_the_path_are_those_of_the_last_name() -> None:
    cache, _ = new_cache()
    cache.namespace("a", "b", max_entries=3)
    assert cache.namespace("a").limits.max_entries is None
    assert cache.namespace("a", "b").limits.max_entries == 3
    cache.namespace("a", "b", max_entries=4)
    assert cache.namespace("a", "b").limits.max_entries == 4


# ------------------------------------------------------------------------------- child_limits


def test_child_limits_are_what_children_start_with() -> None:
    cache, _ = new_cache()
    before = cache.namespace("before")
    cache.configure(child_limits=Limits(max_entries=2, child_limits=Limits(max_entries=1)))
    after = cache.namespace("after")
    below = after.namespace("below")

    assert before.limits.max_entries is None
    assert (after.limits.max_entries, below.limits.max_entries) == (2, 1)
    assert below.namespace("deeper").limits.max_entries is None
    after.configure(child_limits=None)
    cache.namespace("after", max_entries=5)
    assert after.namespace("free").limits.max_entries is None
    assert cache.namespace("after").limits.max_entries == 5
    cache.configure(child_limits=None)
    assert cache.namespace("last").limits.max_entries is None


def test_a_child_keeps_the_default_ttl_that_child_limits_gave_it() -> None:
    cache, _ = new_cache(child_limits=Limits(default_ttl=5))
    child = cache.namespace("a")
    cache.configure(default_ttl=100)
    child.set("k", 1)
    cache.set("k", 1)

    assert (child.ttl("k"), cache.ttl("k")) == (5, 100)


def test_child_limits_outlive_a_clear_of_many() -> None:
    cache, _ = new_cache()
    ns = cache.namespace("a", child_limits=Limits(max_entries=2))
    ns.update(dict.fromkeys(range(20000), 1))
    ns.clear()
    assert ns.namespace("child").limits.max_entries == 2
    cache._check()


def test_limits_say_what_was_given() -> None:
    assert repr(Limits(max_entries=5, share=2)) == "Limits(max_entries=5, share=2)"
    assert Limits(max_entries=5) == Limits(max_entries=5) != Limits(max_entries=6)


# ------------------------------------------------------------------------------- the fullest gives
# way


def test_the_namespace_that_holds_most_for_its_share_gives_way() -> None:
    cache, _ = new_cache(max_entries=12)
    seen = victims(cache)
    for name, share, held in (("a", 1.0, 3), ("b", 2.0, 5), ("c", 0.5, 2), ("d", 1.0, 2)):
        cache.namespace(name, share=share).update(dict.fromkeys(range(held), 1))
    # For their shares: a 3, b 2.5, c 4, d 2; after c gave one: c 2.
    for number in range(4):
        cache.namespace("d").set(f"new {number}", 1)
    assert [(path, key) for path, key, _ in seen] == [
        (("c",), 0),
        (("d",), 0),
        (("d",), 1),
        (("d",), "new 0"),
    ]


def test_a_tenant_that_scans_the_world_evicts_itself() -> None:
    cache, _ = new_cache(max_entries=100)
    for name in ("a", "b", "c"):
        cache.namespace(name).update(dict.fromkeys(range(20), 1))
    for number in range(5_000):
        cache.namespace("noisy").set(number, 1)
    assert [len(cache.namespace(name)) for name in ("a", "b", "c", "noisy")] == [20, 20, 20, 40]
    assert cache.namespace("noisy").stats().evictions == 4_960
    assert cache.stats().evictions == cache.stats().evictions_caused == 4_960


def test_its_own_entries_count_as_one_more_child() -> None:
    cache, _ = new_cache(max_entries=6)
    cache.update(a=1, b=2, c=3, d=4)
    cache.namespace("x").update(a=1, b=2)
    seen = victims(cache)
    cache.namespace("x").set("c", 3)
    assert [(path, key) for path, key, _ in seen] == [((), "a")]


def test_level_by_level() -> None:
    cache, _ = new_cache(max_entries=9)
    big, small = cache.namespace("big"), cache.namespace("small")
    for name, held in (("a", 2), ("b", 3)):
        big.namespace(name).update(dict.fromkeys(range(held), 1))
    small.namespace("c").update(dict.fromkeys(range(4), 1))
    seen = victims(cache)
    small.set("k", 1)  # of 5 in big, b holds most; small is no fuller with its new entry
    assert [path for path, _, _ in seen] in ([("small", "c")], [("big", "b")])
    cache._check()


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_of_equals_the_one_created_first_gives_way(order: str) -> None:
    cache, _ = new_cache(max_entries=6)
    for name in order:
        cache.namespace(name)
    for name in "abc":
        cache.namespace(name).update(x=1, y=2)
    seen = victims(cache)
    cache.namespace("new").set("k", 1)
    assert [path for path, _, _ in seen] == [(order[0],)]


def test_of_equals_the_one_that_is_storing_gives_way_first_and_then_own_entries() -> None:
    cache, _ = new_cache(max_entries=5)
    cache.namespace("a").update(x=1, y=2, z=3)
    cache.namespace("b").update(x=1, y=2)
    seen = victims(cache)
    cache.namespace("b").set("z", 3)  # with it, b holds as many as a
    assert [(path, key) for path, key, _ in seen] == [(("b",), "x")]

    cache.clear()
    cache.update(x=1, y=2)
    cache.namespace("a").update(x=1, y=2, z=3)
    cache.namespace("a").delete("x")
    cache.namespace("c").set("x", 1)
    seen.clear()
    cache.namespace("d").set("k", 1)
    assert [(path, key) for path, key, _ in seen] == [((), "x")]


def test_what_is_reserved_is_passed_over() -> None:
    cache, _ = new_cache(max_entries=6)
    kept = cache.namespace("kept", reserved=4)
    kept.update(a=1, b=2, c=3, d=4)
    other = cache.namespace("other")
    for number in range(10):
        other.set(number, 1)
    assert (len(kept), len(other)) == (4, 2)
    kept.set("e", 5)  # beyond its reservation, so it gives way as others do
    assert len(kept) + len(other) == 6
    kept.configure(reserved=0)
    for number in range(10):
        other.set(number, 1)
    assert len(kept) < 4
    cache._check()


def test_the_one_that_is_storing_gives_way_though_it_is_reserved() -> None:
    cache, _ = new_cache(max_entries=4)
    a = cache.namespace("a", reserved=2)
    b = cache.namespace("b", reserved=2)
    a.update(x=1, y=2)
    b.update(x=1, y=2)
    a.set("z", 3)
    assert (list(a), list(b)) == (["y", "z"], ["x", "y"])


def test_where_all_else_is_reserved_the_newcomer_is_not_kept() -> None:
    cache, _ = new_cache(max_entries=2)
    cache.namespace("a", reserved=2).update(x=1, y=2)
    late = cache.namespace("late")
    late.set("k", 1)
    assert not late.add("k", 1)
    assert list(late) == [] and late.stats().evictions == 2
    cache._check()


def test_reservations_are_released_with_their_namespace() -> None:
    cache, _ = new_cache(max_entries=5, max_idle_namespaces=0, child_limits=Limits(reserved=4))
    for name in ("a", "b", "c"):
        assert cache.namespace(name).limits.reserved == 4
    cache._check()


# ------------------------------------------------------------------------------- weight


def test_a_weight_is_asked_for_once_a_store_and_summed_up() -> None:
    asked: list[tuple[Any, Any]] = []

    def weigh(key: Any, value: Any) -> int:
        asked.append((key, value))
        return int(value)

    cache, _ = new_cache(max_weight=10, weigher=weigh)
    a, b = cache.namespace("a"), cache.namespace("b")
    a.set("k", 3)
    b.set("k", 4)
    a.set("k", 2)
    a.get("k")
    assert asked == [("k", 3), ("k", 4), ("k", 2)]
    assert (a.stats().weight, b.stats().weight, cache.stats().weight) == (2, 4, 6)
    b.set("new", 5)
    assert cache.stats().weight <= 10
    cache.clear()
    assert cache.stats().weight == 0
    cache._check()


def test_the_heaviest_for_its_share_gives_way() -> None:
    cache, _ = new_cache(max_weight=10, weigher=lambda key, value: value)
    cache.namespace("many").update(dict.fromkeys(range(4), 1))
    cache.namespace("heavy").set("k", 5)
    cache.namespace("new").set("k", 2)
    assert (len(cache.namespace("many")), len(cache.namespace("heavy"))) == (4, 0)


def test_a_replacement_that_weighs_more_makes_room() -> None:
    cache, _ = new_cache(max_weight=10, weigher=lambda key, value: value)
    cache.update(a=4, b=4)
    cache.set("b", 8)
    assert dict(cache) == {"b": 8}
    cache.set("b", 1)
    assert cache.stats().weight == 1


def test_a_replacement_without_room_takes_the_old_value_along() -> None:
    cache, _ = new_cache(max_weight=10, weigher=lambda key, value: value)
    cache.namespace("kept", reserved=1).set("k", 8)
    late = cache.namespace("late")
    late.set("k", 2)
    late.set("k", 5)
    assert list(late) == [] and cache.stats().weight == 8
    cache._check()


def test_a_limit_on_weight_takes_from_the_heaviest_where_all_is_reserved() -> None:
    cache, _ = new_cache(weigher=lambda key, value: value)
    for name, weight in (("a", 2), ("b", 2), ("c", 1)):
        cache.namespace(name, reserved=1).set("k", weight)
    seen = victims(cache)
    cache.configure(max_weight=3)

    assert seen == [(("a",), "k", "over_limit")]
    cache._check()


def test_what_weighs_nothing_is_not_evicted_for_weight() -> None:
    cache, _ = new_cache(weigher=lambda key, value: value)
    top = cache.namespace("top", max_weight=4, reserved=1)
    top.set("light", 0)
    top.namespace("kept", reserved=1).set("k", 4)
    top.namespace("new").set("k", 2)

    assert list(top) == ["light"]
    assert list(top.namespace("kept")) == ["k"] and list(top.namespace("new")) == []
    cache._check()


@pytest.mark.parametrize("limit", ["max_entries", "max_weight"])
def test_every_limit_above_is_kept(limit: str) -> None:
    cache, _ = new_cache(weigher=lambda key, value: 1)
    settings: dict[str, Any] = {}
    for depth, bound in enumerate((9, 6, 3)):
        settings[limit] = bound
        cache.namespace(*"abc"[: depth + 1], **settings)
    for number in range(20):
        for depth in range(1, 4):
            cache.namespace(*"abc"[:depth]).set(number, 1)
            cache.namespace(*"abc"[:depth], "beside").set(number, 1)
        cache._check()
    held = [cache.namespace(*"abc"[:depth]).stats().entries for depth in (1, 2, 3)]
    assert held[0] == 9 and held[1] <= 6 and held[2] <= 3
