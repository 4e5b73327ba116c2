"""No call takes long for the work of others: removals of many, mass expiry, growth.

Beyond a thousand entries, removed entries are out of reach at once, and their memory is released in
slices. Here the slices are a few entries, so that small caches show them; the model's machine
(test_model) mixes them with every other call.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcache import Cache, CacheClosedError, Event, Namespace
from flowcache._core import _testing
from harness.support import Colliding, VirtualClock, new_cache, run_isolated

AT_ONCE = 4
MANY = 40


class Value:
    """An object that a weak reference can watch."""


def sliced(**settings: Any) -> tuple[Cache[Any], VirtualClock]:
    """A cache with a table that splits at eight; a call removes four entries itself."""
    cache, clock = new_cache(**settings)
    _testing.slice(cache, AT_ONCE, 8)
    return cache, clock


def fill(namespace: Namespace[Any], count: int = MANY, **options: Any) -> list[Any]:
    """Store that many values, with one tag for all and one for half; return weak references."""
    watches = []
    for number in range(count):
        value = Value()
        watches.append(weakref.ref(value))
        tags = ("all", "even") if number % 2 == 0 else ("all",)
        namespace.set(f"key:{number}", value, tags=tags, **options)
        del value
    return watches


def left(watches: list[Any]) -> int:
    return sum(watch() is not None for watch in watches)


REMOVALS: dict[str, Callable[[Namespace[Any]], int]] = {
    "clear": lambda namespace: namespace.clear(),
    "tag": lambda namespace: namespace.invalidate_tag("all"),
    "tags": lambda namespace: namespace.invalidate_tags(("all", "even")),
    "prefix": lambda namespace: namespace.invalidate_prefix("key:"),
}
CAUSES = {"clear": "cleared", "tag": "tag", "tags": "tag", "prefix": "prefix"}
PLACES: dict[str, Callable[[Cache[Any]], Namespace[Any]]] = {
    "root": lambda cache: cache,
    "tenant": lambda cache: cache.namespace("tenant"),
    "parent": lambda cache: cache.namespace("tenant"),
}


@pytest.fixture(params=[(removal, place) for removal in REMOVALS for place in PLACES], ids="-".join)
def removed(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A namespace from which MANY entries were removed, before their memory is released."""
    removal, place = request.param
    cache, _ = sliced(default_ttl=60)
    namespace = PLACES[place](cache)
    if place == "parent":
        # A record of each tag stands below, so no list can be cut off as a whole.
        namespace.namespace("below").set("kept", 1, tags="below")
    watches = fill(namespace)
    other = cache.namespace("other")
    other.set("key:0", "theirs", tags=("all", "even"))
    expected = MANY + (place == "root") * (removal in ("clear", "tag", "tags"))
    expected += (place == "parent") * (removal == "clear")
    assert REMOVALS[removal](namespace) == expected
    assert _testing.debris(cache) >= MANY - 2 * AT_ONCE
    cache._check()
    yield cache, namespace, watches
    cache._check()


def test_what_was_removed_is_unreachable_while_its_memory_is_still_there(removed: Any) -> None:
    cache, namespace, watches = removed
    held = _testing.debris(cache)
    assert left(watches) >= MANY - 2 * AT_ONCE
    assert len(namespace) == 0
    assert list(namespace) == list(namespace.items()) == list(namespace.values()) == []
    for number in range(MANY):
        key = f"key:{number}"
        assert namespace.get(key) is None
        assert namespace.peek(key) is None
        assert key not in namespace
        assert not namespace.touch(key)
        assert not namespace.delete(key)
        with pytest.raises(KeyError):
            namespace.ttl(key)
        with pytest.raises(KeyError):
            namespace.pop(key)
    with pytest.raises(KeyError):
        namespace.popitem()
    assert namespace.get_many([f"key:{number}" for number in range(MANY)]) == {}
    below = cache.stats().entries if namespace is cache else namespace.stats().entries
    assert namespace._tagged("all") == namespace._tagged("even") == (namespace is cache and below)
    assert namespace.invalidate_prefix("") == 0
    assert namespace.invalidate_tags(("all", "even"), match="all") == (namespace is cache and below)
    assert namespace.invalidate_tag("all") == 0
    assert namespace.clear() == namespace.stats().entries + (namespace is not cache and below)
    assert namespace.stats().entries == 0
    assert namespace.stats().weight == 0
    # Calls that remove nothing may reclaim, but only a little.
    assert _testing.debris(cache) > held - MANY // 2


def test_the_counts_are_exact_at_once(removed: Any) -> None:
    cache, namespace, _ = removed
    for stats in (namespace.stats(), cache.stats()):
        assert stats.entries == stats.sets - stats.invalidations < MANY
        assert stats.expirations == stats.evictions == 0


def test_a_load_does_not_see_what_was_removed(removed: Any) -> None:
    _, namespace, _ = removed
    assert namespace.fetch("key:0", lambda: "loaded", stale=True) == "loaded"
    assert namespace.get("key:0") == "loaded"


def test_the_same_keys_and_tags_begin_anew(removed: Any) -> None:
    cache, namespace, watches = removed
    cache.namespace("other").clear()
    anew = fill(namespace)
    cache._check()
    assert len(namespace) == MANY
    assert left(anew) == MANY
    assert namespace._tagged("even") == MANY // 2
    assert namespace.invalidate_tag("even") == MANY // 2
    cache._check()
    assert [namespace.peek(f"key:{number}") for number in range(MANY)] == [
        None if number % 2 == 0 else anew[number]() for number in range(MANY)
    ]
    assert left(watches) == 0  # forty stores have released all of it


def test_stores_hand_the_memory_back_a_few_entries_at_a_time(removed: Any) -> None:
    cache, namespace, watches = removed
    before = _testing.debris(cache)
    steps = 0
    while _testing.debris(cache):
        namespace.set("another", steps)
        cache._check()
        assert before - 4 <= _testing.debris(cache) < before
        before = _testing.debris(cache)
        steps += 1
    assert steps > MANY // 8
    assert left(watches) == 0


def test_a_sweep_hands_all_of_it_back(removed: Any) -> None:
    cache, _, watches = removed
    assert cache.sweep() == 0
    assert _testing.debris(cache) == left(watches) == 0


def test_closing_hands_all_of_it_back(removed: Any) -> None:
    cache, namespace, watches = removed
    cache.close()
    assert left(watches) == 0
    with pytest.raises(CacheClosedError):
        namespace.get("key:0")


@pytest.mark.parametrize("removal", REMOVALS)
def test_the_end_of_the_cache_hands_all_of_it_back(removal: str) -> None:
    cache, _ = sliced()
    watches = fill(cache)
    REMOVALS[removal](cache)
    del cache
    assert left(watches) == 0


@pytest.mark.parametrize("removal", REMOVALS)
def test_the_collector_sees_what_is_still_there(removal: str) -> None:
    """A cycle through an entry that was removed is found, and one that is in use is not."""
    cache, _ = sliced()
    for number in range(MANY):
        cache.set(f"key:{number}", [cache], tags="all")
    alive = weakref.ref(cache)
    REMOVALS[removal](cache) if removal != "tags" else cache.invalidate_tags(("all",))
    assert _testing.debris(cache)
    gc.collect()
    cache._check()
    del cache
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("removal", REMOVALS)
def test_listeners_are_told_of_each_removal_before_the_call_returns(removal: str) -> None:
    cache, _ = sliced()
    fill(cache)
    told: list[Event] = []
    cache.subscribe(told.append, kinds="remove")
    assert REMOVALS[removal](cache) == MANY
    assert sorted(event.key for event in told) == sorted(f"key:{number}" for number in range(MANY))
    assert {event.cause for event in told} == {CAUSES[removal]}
    assert _testing.debris(cache) == 0


def test_a_listener_hears_nothing_of_what_went_before_it_came() -> None:
    cache, _ = sliced()
    fill(cache)
    cache.invalidate_tag("all")
    assert _testing.debris(cache)
    told: list[Event] = []
    cache.subscribe(told.append, kinds="remove")
    cache.sweep()
    assert told == []


def test_a_finalizer_that_fills_and_removes_again() -> None:
    cache, _ = sliced()
    calls = []

    class Restless:
        def __del__(self) -> None:
            calls.append(len(cache))
            if len(calls) < MANY:
                cache.set(f"from a finalizer:{len(calls)}", "value", tags="all")
                cache.invalidate_tag("all")

    for number in range(MANY):
        cache.set(number, Restless(), tags="all")
    cache.invalidate_tag("all")
    cache.sweep()
    cache._check()
    assert len(calls) == MANY
    assert len(cache) == cache.stats().entries == 0


def test_an_eq_that_removes_what_is_being_looked_for() -> None:
    cache, _ = sliced()

    class Treacherous(Colliding):
        def __eq__(self, other: object) -> bool:
            cache.invalidate_tag("all")
            return super().__eq__(other)

        __hash__ = Colliding.__hash__

    for number in range(MANY):
        cache.set(Colliding(str(number)), number, tags="all")
    assert cache.get(Treacherous("7")) is None
    assert len(cache) == 0
    cache._check()


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("place", ["root", "tenant"])
def test_what_had_expired_is_no_part_of_what_was_removed(removal: str, place: str) -> None:
    cache, clock = sliced()
    namespace = PLACES[place](cache)
    fill(namespace, 10, ttl=5)
    for number in range(MANY):
        namespace.set(f"key:later:{number}", number, tags="all", ttl=50)
    clock.advance(10)
    assert REMOVALS[removal](namespace) == MANY
    stats = namespace.stats()
    assert (stats.expirations, stats.invalidations, stats.entries) == (10, MANY, 0)
    cache._check()


def test_shrinking_is_exact_at_once() -> None:
    cache, _ = sliced()
    watches = fill(cache)
    cache.configure(max_entries=10)
    cache._check()
    assert list(cache) == [f"key:{number}" for number in range(MANY - 10, MANY)]
    assert cache.stats().evictions == MANY - 10
    assert _testing.debris(cache) == MANY - 10 - AT_ONCE
    cache.sweep()
    assert left(watches) == 10


class TestMassExpiry:
    COUNT = 5_000

    @pytest.fixture
    def due(self) -> tuple[Cache[Any], VirtualClock]:
        """5,000 entries past their TTL, a hundred of them still stale, and ten fresh ones."""
        cache, clock = new_cache()
        for number in range(self.COUNT):
            cache.set(number, number, ttl=5, stale=100 if number % 50 == 0 else None)
        for number in range(10):
            cache.set(f"fresh:{number}", number, ttl=50)
        clock.advance(10)
        return cache, clock

    def test_len_counts_what_it_does_not_reclaim(self, due: Any) -> None:
        cache, clock = due
        assert len(cache) == len(list(cache)) == 10
        assert 0 < cache.stats().expirations < self.COUNT
        cache._check()
        while cache.stats().expirations < self.COUNT - self.COUNT // 50:
            assert len(cache) == 10
        assert len(cache) == 10
        assert cache.stats().entries == 10 + self.COUNT // 50
        clock.advance(100)
        assert len(cache) == 0

    def test_a_store_reclaims_a_few(self, due: Any) -> None:
        cache, _ = due
        for number in range(100):
            before = cache.stats().expirations
            cache.set(f"new:{number}", number)
            assert before < cache.stats().expirations <= before + 3
        cache._check()

    def test_a_sweep_reclaims_all(self, due: Any) -> None:
        cache, _ = due
        assert cache.sweep() == self.COUNT - self.COUNT // 50
        assert cache.stats().entries == 10 + self.COUNT // 50

    def test_seats_that_are_out_of_date_are_put_right_a_few_a_store(self) -> None:
        cache, clock = new_cache()
        for ttl in (5, 50):
            for number in range(self.COUNT):
                cache.set(number, number, ttl=ttl)
        clock.advance(10)
        cache.set("new", 1)
        assert cache.sweep() == 0
        assert len(cache) == self.COUNT + 1
        clock.advance(50)
        assert cache.sweep() == self.COUNT
        cache._check()


class TestGrowth:
    def test_the_table_splits_as_it_fills_and_loses_nothing(self) -> None:
        cache, _ = sliced()
        tenants = [cache.namespace(name) for name in "abc"]
        for number in range(600):
            tenants[number % 3].set(number, str(number))
            if number % 50 == 0:
                cache._check()
        assert _testing.parts(cache) > 50
        for number in range(600):
            assert tenants[number % 3].get(number) == str(number)
        for number in range(0, 600, 2):
            assert tenants[number % 3].delete(number)
        cache._check()
        assert sum(map(len, tenants)) == 300
        cache.clear()
        cache.sweep()
        cache._check()
        for number in range(600):
            tenants[number % 3].set(number, str(number))
        cache._check()

    def test_a_small_bound_that_is_raised_later(self) -> None:
        cache, _ = new_cache(max_entries=10)
        cache.configure(max_entries=None)
        for number in range(40_000):
            cache.set(number, number)
        assert _testing.parts(cache) > 1
        assert all(cache.peek(number) == number for number in range(40_000))

    def test_keys_that_collide_do_not_split_the_table_for_ever(self) -> None:
        cache, _ = sliced()
        for number in range(200):
            cache.set(Colliding(str(number)), number)
        assert _testing.parts(cache) <= 64
        assert cache.get(Colliding("150")) == 150
        cache._check()

    def test_a_look_up_that_outlives_the_directory_of_the_table(self) -> None:
        """Its key's __eq__ splits its own part of the table, and those around it."""
        program = """
        from flowcache._core import _testing
        from harness.support import Colliding, new_cache

        cache, _ = new_cache()
        _testing.slice(cache, 4, 8)

        class Splitting(Colliding):
            done = False

            def __eq__(self, other):
                if not Splitting.done:
                    Splitting.done = True
                    for number in range(2_000):
                        cache.set(number, number)
                return super().__eq__(other)

            __hash__ = Colliding.__hash__

        for number in range(5):
            cache.set(Colliding(str(number)), number)
        assert cache.get(Splitting("3")) == 3
        assert cache.set(Splitting("4"), "new") is None
        assert cache.get(Colliding("4")) == "new"
        assert _testing.parts(cache) > 100
        cache._check()
        """
        run_isolated(program)


def test_tags_in_pages_come_and_go() -> None:
    """More links than one page holds, and as many again after all of them went."""
    cache, _ = sliced()
    for _ in range(2):
        for number in range(6_000):
            cache.set(number, number, tags=("all", f"tag:{number % 7}"))
        cache._check()
        assert cache.invalidate_tags(("all", "tag:3"), match="all") == len(range(3, 6_000, 7))
        assert cache.invalidate_tag("all") == 6_000 - len(range(3, 6_000, 7))
        cache.sweep()
        cache._check()
        assert cache._tagged("tag:1") == 0
