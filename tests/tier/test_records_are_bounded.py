"""The size of a tenant's record, whatever one call names."""

from __future__ import annotations

from flowcache.tier.engine import MOST_ITEMS, MOST_MARKERS
from harness.fleet import Member
from harness.servers import Server

MOST_BYTES = 1 << 19


def record_of(one: Member) -> str:
    return str(one.item_of("k").place.record.decode())


def test_one_call_names_more_tags_than_there_is_room_for(
    two: tuple[Member, Member], any_server: Server
) -> None:
    one, other = two
    item = one.item_of("k")
    tags = tuple(f"tag:{number}" for number in range(3 * MOST_MARKERS))
    one.put(item, "old", tags[-1])
    place = item.place
    one.run(one.invalidate_tags(place, tags))
    assert int(any_server.call("HLEN", record_of(one))) <= MOST_MARKERS + 7
    assert other.value_of(item, tags[-1]) is None
    one.put(item, "new", tags[0], tags[-1])
    assert other.value_of(item, tags[0], tags[-1]) == "new"
    one.run(one.invalidate_tags(place, tags[-1:]))
    assert other.value_of(item, tags[0], tags[-1]) is None


def test_long_prefixes_and_many_tags_take_bounded_room(
    two: tuple[Member, Member], any_server: Server
) -> None:
    one, other = two
    place = one.item_of("k").place
    long = "\U0001f600" * (1 << 16)
    tags = tuple(f"tag:{number}" for number in range(1000))
    covered, kept = one.item_of(long + "k"), one.item_of("k")
    tagged, other_tags = one.item_of("tagged"), one.item_of("other tags")
    one.put(covered, "old")
    one.put(tagged, "old", *tags)
    one.put(kept, "v")
    one.put(other_tags, "v", *(f"other:{number}" for number in range(1000)))
    for number in range(MOST_ITEMS // 2):
        one.run(one.invalidate_prefix(place, f"{long}{number or 'k'}"))
        one.run(one.invalidate_tags(place, tags, match="all"))
    size = int(any_server.call("MEMORY", "USAGE", record_of(one), "SAMPLES", 0))
    assert size < MOST_BYTES
    assert other.value_of(covered) is None
    assert other.value_of(tagged, *tags) is None
    assert other.value_of(kept) == "v"
    assert other.value_of(other_tags) == "v"
