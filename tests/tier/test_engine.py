"""Each call in the tier, by two members of a fleet, on every available server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowcache._core import lease_time as monotonic
from flowcache.tier.answers import Grant
from flowcache.tier.engine import MOST_ITEMS, MOST_MARKERS
from flowcache.tier.items import Found
from flowcache.tier.link import Ask
from flowcache.tier.message import Kind
from flowcache.tier.script import script
from harness.fleet import Member
from harness.servers import Server, wait_until

Make = Callable[..., Member]
TOKENS = [bytes([65 + number]) * 16 for number in range(4)]


def grant_of(one: Member, item: Any, token: bytes = TOKENS[0]) -> Grant:
    granted = one.run(one.lead(item, token))
    assert isinstance(granted, Grant)
    return granted


# Values


@pytest.mark.parametrize("value", [None, 0, {"a": (1, {2})}, "x" * 100_000])
def test_a_value_that_one_sets_the_other_reads(two: tuple[Member, Member], value: Any) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, value, "a", "b", ttl=60, window=30)
    found = other.run(other.read(item, ("a", "b")))
    assert isinstance(found, Found)
    assert (found.value, found.tags, found.ttl) == (value, ("a", "b"), 60)
    assert found.until is not None and found.last is not None
    assert 59 < found.until - monotonic() <= 60
    assert found.last - found.until == pytest.approx(30)


def test_a_value_without_a_ttl_has_no_end(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, "v", ttl=None)
    found = other.run(other.read(item))
    assert found == Found("v", (), None, None, None)


@pytest.mark.parametrize("tags", [(), ("a",), ("b", "c"), ("a", "b", "z")])
def test_tags_that_a_reader_does_not_name_are_judged_too(
    two: tuple[Member, Member], tags: tuple[str, ...]
) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, "v", "a", "b")
    assert other.value_of(item, *tags) == "v"
    other.run(other.invalidate_tags(item.place, ("b",)))
    assert one.value_of(item, *tags) is None


def test_a_tag_that_only_the_reader_names_voids_nothing(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, "v", "a")
    other.run(other.invalidate_tags(item.place, ("b",)))
    assert one.value_of(item, "a", "b") == "v"


def test_many_values_are_read_together(two: tuple[Member, Member]) -> None:
    one, other = two
    items = [one.item_of(number) for number in range(5)]
    for number, item in enumerate(items[:4]):
        one.put(item, f"v{number}", *("a",) * (number % 2))
    found = other.run(other.read_many(items))
    assert {item: one.value for item, one in found.items()} == {
        item: f"v{number}" for number, item in enumerate(items[:4])
    }
    assert other.run(other.read_many([])) == {}


def test_a_value_goes_stale_by_the_server_s_clock(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, "v", ttl=0.05, window=60)
    wait_until(lambda: other.value_of(item) is None)
    found = other.run(other.read(item))
    assert found is not None
    assert found.value == "v"
    assert not found.is_fresh(monotonic())
    assert found.last is not None and found.last > monotonic() + 50


def test_add_stores_once(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    assert one.run(one.add(item, one.sealed(item, "first"), 60, 0)).is_stored
    added = other.run(other.add(item, one.sealed(item, "second"), 60, 0))
    assert not added.is_stored
    assert added.held is not None and added.held.value == "first"
    one.run(one.clear(item.place))
    assert other.run(other.add(item, one.sealed(item, "third"), 60, 0)).is_stored
    assert one.value_of(item) == "third"


def test_a_counter_counts_for_all(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("n")
    counts = [one.run(one.incr(item, 5, 10, 60, 0)), other.run(other.incr(item, -20, 0, 60, 0))]
    assert counts == [15, -5]
    assert one.value_of(item) == -5
    one.put(item, 2**62)
    assert other.run(other.incr(item, 2**62 - 1, 0, None, 0)) == 2**63 - 1
    with pytest.raises(OverflowError, match="delta: "):
        other.run(other.incr(item, 1, 0, None, 0))
    assert one.value_of(item) == 2**63 - 1
    one.put(item, "text")
    with pytest.raises(TypeError, match="no int"):
        other.run(other.incr(item, 1, 0, None, 0))
    assert one.value_of(item) == "text"
    one.run(one.clear(item.place))
    assert other.run(other.incr(item, 1, 0, None, 0)) == 1


def test_a_counter_keeps_its_tags_and_its_deadline(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("n")
    one.put(item, 1, "a", ttl=60)
    before = one.run(one.read(item))
    other.run(other.incr(item, 1, 0, 5, 0))
    found = one.run(one.read(item))
    assert found is not None and before is not None
    assert (found.value, found.tags) == (2, ("a",))
    assert found.until == pytest.approx(before.until, abs=0.05)


def test_delete_and_pop_tell_if_it_was_there(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    assert not one.run(one.delete(item))
    one.put(item, "v")
    assert other.run(other.delete(item))
    assert one.value_of(item) is None
    one.put(item, None)
    assert other.run(other.pop(item)) == (None,)
    assert other.run(other.pop(item)) is None
    one.put(item, "v")
    one.run(one.clear(item.place))
    assert other.run(other.pop(item)) is None


def test_touch_moves_the_deadline_and_keeps_the_window(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    assert not one.run(one.touch(item, 60))
    one.put(item, "v", "a", ttl=5, window=7)
    assert other.run(other.touch(item, 100))
    found = one.run(one.read(item))
    assert found is not None and found.until is not None and found.last is not None
    assert (found.ttl, found.tags) == (100, ("a",))
    assert 99 < found.until - monotonic() <= 100
    assert found.last - found.until == pytest.approx(7)
    assert other.run(other.touch(item, None))
    assert one.run(one.read(item)) == Found("v", ("a",), None, None, None)
    one.run(one.invalidate_tags(item.place, ("a",)))
    assert not other.run(other.touch(item, 60))


def test_expire_ends_freshness_and_keeps_the_window(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    assert not one.run(one.expire(item))
    one.put(item, "v", ttl=60, window=60)
    assert other.run(other.expire(item))
    found = one.run(one.read(item))
    assert found is not None and not found.is_fresh(monotonic())
    assert found.last is not None and found.last - monotonic() == pytest.approx(60, abs=1)
    one.put(item, "v", ttl=60, window=0)
    assert other.run(other.expire(item))
    assert one.run(one.read(item)) is None


def test_expire_tags_makes_older_values_stale(two: tuple[Member, Member]) -> None:
    one, other = two
    windowed, bare, other_tag = one.item_of("w"), one.item_of("b"), one.item_of("o")
    one.put(windowed, "v", "a", ttl=60, window=60)
    one.put(bare, "v", "a", ttl=None)
    one.put(other_tag, "v", "b")
    other.run(other.expire_tags(windowed.place, ("a",)))
    found = one.run(one.read(windowed))
    assert found is not None and found.value == "v" and not found.is_fresh(monotonic())
    assert one.run(one.read(bare, ("a",))) is None
    assert one.value_of(other_tag) == "v"
    # The lease agrees with the reader.
    assert isinstance(one.run(one.lead(windowed, TOKENS[0])), Grant)
    one.put(windowed, "new", "a", ttl=60)
    assert other.value_of(windowed) == "new"


# Invalidations


def test_an_invalidation_covers_what_lies_below(any_server: Server, member: Make) -> None:
    one, other = member(any_server), member(any_server)
    paths = [(), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "x"), ("aa",)]
    items = {path: one.items.item(path, "k") for path in paths}
    for item in items.values():
        assert item is not None
        one.join(item)
        other.join(item)

    def covered_by(invalidate: Callable[[Any], Any], path: tuple[str, ...]) -> list[Any]:
        for item in items.values():
            one.put(item, "v", "t")
        other.run(invalidate(one.layout.place(path)))
        return [path for path, item in items.items() if one.value_of(item) is None]

    for path in paths:
        below = [below for below in paths if below[: len(path)] == path]
        assert covered_by(other.clear, path) == below
        assert covered_by(lambda place: other.invalidate_tags(place, ("x", "t")), path) == below
        assert covered_by(lambda place: other.invalidate_tags(place, ("u",)), path) == []
        assert covered_by(lambda place: other.expire_tags(place, ("t",)), path) == below
        assert covered_by(lambda place: other.invalidate_prefix(place, "k"), path) == [path]
        assert covered_by(lambda place: other.invalidate_prefix(place, "kk"), path) == []


def test_a_unit_may_be_two_names_deep(any_server: Server, member: Make) -> None:
    one, other = (member(any_server, tenant_depth=2, buckets=4) for _ in range(2))
    paths = [("t",), ("t", "acme"), ("t", "other"), ("u", "acme")]
    items = {path: one.items.item(path, "k") for path in paths}
    for item in items.values():
        one.join(item)
        other.join(item)
        one.put(item, "v", "x")
    other.run(other.clear(one.layout.place(("t", "other"))))
    assert [one.value_of(item) for item in items.values()] == ["v", "v", None, "v"]
    other.run(other.invalidate_tags(one.layout.place(("t",)), ("x",)))
    assert [one.value_of(item) for item in items.values()] == [None, None, None, "v"]
    other.run(other.clear(one.layout.place(())))
    assert one.value_of(items["u", "acme"]) is None


def test_all_of_some_tags(two: tuple[Member, Member]) -> None:
    one, other = two
    both, left, none = one.item_of("both"), one.item_of("left"), one.item_of("none")
    for item, tags in ((both, ("a", "b", "c")), (left, ("a",)), (none, ())):
        one.put(item, "v", *tags)
    other.run(other.invalidate_tags(both.place, ("b", "a"), match="all"))
    assert [one.value_of(item) for item in (both, left, none)] == [None, "v", "v"]
    assert isinstance(one.run(one.lead(both, TOKENS[0])), Grant)
    one.put(both, "new", "a", "b")
    assert other.value_of(both) == "new"


@pytest.mark.parametrize(
    ("prefix", "gone"), [("", "str"), ("a", "a ab"), ("ab", "ab"), ("é", ""), ("\ud800", "")]
)
def test_a_prefix_covers_str_keys_alone(two: tuple[Member, Member], prefix: str, gone: str) -> None:
    one, other = two
    keys: list[Any] = ["a", "ab", "b", b"ab", 1, ("a",), None]
    items = [one.item_of(key) for key in keys]
    for item in items:
        one.put(item, "v")
    other.run(other.invalidate_prefix(items[0].place, prefix))
    expected = ["a", "ab", "b"] if gone == "str" else gone.split()
    assert [item.key for item in items if one.value_of(item) is None] == expected
    for item in items:
        granted = one.run(one.lead(item, TOKENS[0]))
        assert isinstance(granted, Grant) == (item.key in expected)


def test_prefixes_are_bounded_and_overflow_into_a_clear(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    one.put(item, "v")
    for number in range(MOST_ITEMS):
        other.run(other.invalidate_prefix(item.place, f"p{number}"))
    assert one.value_of(item) == "v"
    other.run(other.invalidate_prefix(item.place, "q"))
    assert one.value_of(item) is None
    one.put(item, "v")
    other.run(other.invalidate_prefix(item.place, "q"))
    assert one.value_of(item) == "v"


def test_markers_are_bounded_and_the_floor_rises(two: tuple[Member, Member]) -> None:
    one, other = two
    old, new = one.item_of("old"), one.item_of("new")
    one.put(old, "v")
    tags = tuple(f"tag:{number}" for number in range(MOST_MARKERS))
    for first in range(0, MOST_MARKERS, 256):
        other.run(other.invalidate_tags(old.place, tags[first : first + 256]))
    assert one.value_of(old) == "v"
    one.put(new, "v")
    other.run(other.invalidate_tags(old.place, ("one more", "and one")))
    # Too much is void then, never too little.
    assert one.value_of(old) is None
    assert isinstance(one.run(one.lead(old, TOKENS[0])), Grant)
    assert one.value_of(new) == "v"


def test_the_number_of_invalidations_does_not_matter_to_a_record_s_size(
    new_server: Server, member: Make
) -> None:
    one = member(new_server)
    item = one.item_of("k")
    one.join(item)
    for first in range(0, 20_000, 500):
        tags = tuple(f"a tag of some length:{number}" for number in range(first, first + 500))
        one.run(one.invalidate_tags(item.place, tags))
    assert new_server.call("MEMORY", "USAGE", item.place.record, "SAMPLES", 0) < 512 << 10


# Loads


def test_one_load_a_key_in_the_fleet(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    granted = grant_of(one, item)
    assert other.run(other.lead(item, TOKENS[1])) is None
    assert grant_of(one, item) == granted  # Asked again, it is the same one.
    assert one.run(one.store(item, granted, one.sealed(item, "v"), 60, 0)) is not None
    found = other.run(other.lead(item, TOKENS[1]))
    assert isinstance(found, Found) and found.value == "v"
    assert isinstance(other.run(other.lead(item, TOKENS[1], force=True)), Grant)


def test_a_released_lease_is_the_next_one_s(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    granted = grant_of(one, item)
    other.run(other.release(item, Grant(TOKENS[1], granted.terms)))  # Not its own.
    assert other.run(other.lead(item, TOKENS[1])) is None
    bell = other.bus.awaited.listen(item.place.path, item.key)
    one.run(one.release(item, granted))
    assert bell.wait(10)  # It is contended, so the other is told.
    grant_of(other, item, TOKENS[1])


def test_a_lease_can_be_renewed_while_it_is_one_s_own(
    any_server: Server, two: tuple[Member, Member]
) -> None:
    one, other = two
    item = one.item_of("k")
    granted = grant_of(one, item)
    any_server.call("PEXPIRE", item.lease, 500)
    assert renewed(one, item, granted.token)
    assert any_server.call("PTTL", item.lease) > 5000
    assert not renewed(other, item, TOKENS[1])
    any_server.call("DEL", item.lease)
    assert not renewed(one, item, granted.token)


def renewed(one: Member, item: Any, token: bytes) -> bool:
    """Renew a lease as the bus does; tell if it was still held."""
    command = script("renew").call_in_full((item.lease, item.place.record), token, 10_000)
    return bool(one.servers.all[0].ask(Ask(10.0, calls=(command,))).replies[0] == 1)


def void_by_clear(one: Member, item: Any) -> None:
    one.run(one.clear(item.place))


def void_by_root_clear(one: Member, item: Any) -> None:
    one.run(one.clear(one.layout.place(())))


def void_by_tag(one: Member, item: Any) -> None:
    one.run(one.invalidate_tags(item.place, ("a",)))


def void_by_root_tag(one: Member, item: Any) -> None:
    one.run(one.invalidate_tags(one.layout.place(()), ("a",)))


def void_by_all_tags(one: Member, item: Any) -> None:
    one.run(one.invalidate_tags(item.place, ("a", "b"), match="all"))


def void_by_soft_tag(one: Member, item: Any) -> None:
    one.run(one.expire_tags(item.place, ("a",)))


def void_by_prefix(one: Member, item: Any) -> None:
    one.run(one.invalidate_prefix(item.place, "k"))


def void_by_set(one: Member, item: Any) -> None:
    one.put(item, "set")


def void_by_delete(one: Member, item: Any) -> None:
    one.run(one.delete(item))


def void_by_expire(one: Member, item: Any) -> None:
    one.run(one.expire(item))


def void_by_add(one: Member, item: Any) -> None:
    assert one.run(one.add(item, one.sealed(item, "set"), 60, 0)).is_stored


VOIDING = [value for name, value in list(globals().items()) if name.startswith("void_by_")]


@pytest.mark.parametrize("void", VOIDING, ids=lambda void: void.__name__)
def test_a_load_that_began_before_an_invalidation_is_not_stored(
    two: tuple[Member, Member], void: Callable[[Member, Any], None]
) -> None:
    one, other = two
    item = one.item_of("k")
    granted = grant_of(one, item)
    void(other, item)
    assert one.run(one.store(item, granted, one.sealed(item, "old", ("a", "b")), 60, 0)) is None
    assert one.value_of(item) in (None, "set")
    if one.value_of(item) is None:
        granted = grant_of(one, item, TOKENS[1])
        assert one.run(one.store(item, granted, one.sealed(item, "new", ("a", "b")), 60, 0))
        assert other.value_of(item) == "new"


def test_an_invalidation_of_something_else_lets_a_load_land(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    granted = grant_of(one, item)
    other.run(other.clear(one.layout.place(("tenant:other",))))
    other.run(other.invalidate_tags(item.place, ("c",)))
    other.run(other.invalidate_tags(item.place, ("a", "c"), match="all"))
    other.run(other.invalidate_prefix(item.place, "x"))
    assert one.run(one.store(item, granted, one.sealed(item, "v", ("a", "b")), 60, 0)) is not None
    assert other.value_of(item) == "v"


@pytest.mark.parametrize("which", ["unit", "root"])
def test_what_a_lost_record_judged_is_void(
    any_server: Server, two: tuple[Member, Member], which: str
) -> None:
    one, other = two
    item, loading = one.item_of("k"), one.item_of("l")
    one.put(item, "v")
    granted = grant_of(one, loading)
    record = item.place.record if which == "unit" else item.place.bucket.root
    any_server.call("DEL", record)
    assert one.value_of(item) is None
    other.run(other.invalidate_tags(item.place, ("a",)))  # Makes a new record, perhaps.
    assert one.value_of(item) is None
    assert one.run(one.store(loading, granted, one.sealed(item, "v"), 60, 0)) is None
    again = grant_of(one, loading)
    assert again != granted  # Rule 5: the incarnation has changed.
    assert one.run(one.store(loading, again, one.sealed(loading, "v"), 60, 0)) is not None


@pytest.mark.parametrize("field", ["i", "p", "s", "f"])
def test_a_record_that_lacks_a_field_is_void(
    any_server: Server, two: tuple[Member, Member], field: str
) -> None:
    one, _ = two
    item = one.item_of("k")
    one.put(item, "v")
    any_server.call("HDEL", item.place.record, field)
    granted = one.run(one.lead(item, TOKENS[0]))
    assert isinstance(granted, Grant)


def test_a_record_lives_as_long_as_its_values(
    any_server: Server, two: tuple[Member, Member]
) -> None:
    one, _ = two
    item = one.item_of("k")
    grant_of(one, item)
    assert 0 < any_server.call("PTTL", item.place.record) <= 600_000
    one.put(item, "v", ttl=10_000)
    one.put(one.item_of("l"), "v", ttl=1)
    assert any_server.call("PTTL", item.place.record) > 10_000_000
    one.put(one.item_of("m"), "v", ttl=None)
    assert any_server.call("PTTL", item.place.record) == -1
    one.put(item, "v", ttl=10_000)
    assert any_server.call("PTTL", item.place.record) == -1
    assert any_server.call("PTTL", item.name) > 9_000_000


def test_only_a_refresh_tells_the_others(two: tuple[Member, Member]) -> None:
    one, other = two
    item = one.item_of("k")
    one.run(one.store(item, grant_of(one, item), one.sealed(item, "v"), 60, 0))
    granted = one.run(one.lead(item, TOKENS[0], force=True))
    assert isinstance(granted, Grant)
    assert not other.hearing.messages
    one.run(one.store(item, granted, one.sealed(item, "v"), 60, 0, drops=True))
    wait_until(lambda: [one.kind for one in other.hearing.messages] == [Kind.DROP])
