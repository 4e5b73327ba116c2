"""`set` with exact `str` keys, whose store is done within one search, whatever it takes."""

from __future__ import annotations

import pytest

from flowcache import InvalidTagError, create_cache


class Value:
    """Notes the moment at which it is dropped."""

    def __init__(self, dropped: list[str], name: str) -> None:
        self.dropped, self.name = dropped, name

    def __del__(self) -> None:
        self.dropped.append(self.name)


def test_other_tags_take_the_place_of_the_old_ones() -> None:
    cache = create_cache()
    view = cache.namespace("tenant:acme")
    view.set("key", 1, tags=("crm", "old"))
    view.set("key", 2, tags=("crm", "new"))
    cache._check()
    assert cache.tags() == {"crm": 1, "new": 1}
    view.set("key", 3)
    cache._check()
    assert cache.tags() == {}
    assert view.stats().sets == 3


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_a_tag_given_twice_is_borne_once(count: int) -> None:
    cache = create_cache()
    cache.set("first", 0, tags="tag-0")
    names = tuple(f"tag-{n}" for n in range(count))
    cache.set("key", 1, tags=names[-1:] + names[:-1] + names[-1:] if count < 8 else names * 2)
    cache._check()
    assert cache.tags() == {name: 2 if name == "tag-0" else 1 for name in names}


@pytest.mark.parametrize(
    "tags", [("crm", ""), ("crm", "x" * 257), ("crm", 1), ("crm", None), (b"crm",)]
)
@pytest.mark.parametrize("key", ["held", "new"])
def test_invalid_tags_are_refused_and_change_nothing(key: str, tags: tuple[str, ...]) -> None:
    cache = create_cache()
    cache.set("held", 1, tags=("crm", "held"))
    before = cache.stats()
    with pytest.raises((InvalidTagError, TypeError), match="tag"):
        cache.set(key, 2, tags=tags)
    cache._check()
    assert cache.stats() == before
    assert dict(cache) == {"held": 1}
    assert cache.tags() == {"crm": 1, "held": 1}


def test_a_victim_elsewhere_is_dropped_before_the_call_returns() -> None:
    dropped: list[str] = []
    cache = create_cache(max_entries=2)
    large, small = cache.namespace("large"), cache.namespace("small")
    large.set("a", Value(dropped, "a"))
    large.set("b", Value(dropped, "b"))
    small.set("c", 1)
    assert dropped == ["a"]
    small.set("d", 2, tags=("crm",))
    cache._check()
    assert dropped == ["a"]
    assert list(small) == ["d"]
    assert (large.stats().evictions, small.stats().evictions) == (1, 1)


def test_what_is_due_is_dropped_before_the_call_returns() -> None:
    dropped: list[str] = []
    cache = create_cache()
    cache.set("short", Value(dropped, "short"), ttl=1e-9)
    while "short" in cache:
        pass  # The clock has a tick.
    cache.set("key", 1)
    cache._check()
    assert dropped == ["short"]
    assert cache.stats().expirations == 1


def test_a_store_without_room_is_counted_once() -> None:
    cache = create_cache(max_entries=2)
    cache.namespace("owner", reserved=2).update(a=1, b=2)
    guest = cache.namespace("guest")
    guest.set("key", 1)
    cache._check()
    stats = guest.stats()
    assert (stats.sets, stats.entries, stats.evictions, stats.evictions_caused) == (1, 0, 1, 1)


def test_a_value_replaced_with_other_tags_may_use_the_cache_as_it_goes() -> None:
    cache = create_cache(max_entries=3)
    view = cache.namespace("tenant:acme")

    class Again:
        def __del__(self) -> None:
            view.set("again", len(view), tags=("crm", "again"))

    view.set("key", Again(), tags="crm")
    view.set("key", 1, tags=("crm", "more"))
    cache._check()
    assert dict(view) == {"key": 1, "again": 1}
    assert cache.tags() == {"crm": 2, "more": 1, "again": 1}
