"""Values that should not be there, servers that refuse, and clusters, by members of a fleet."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from flowcache.errors import ConfigurationError, TierUnavailableError
from flowcache.tier.codec import PickleCodec
from flowcache.tier.envelope import Envelope
from flowcache.tier.script import script
from harness.fleet import Member, settable
from harness.servers import Cluster, Server, wait_until

Make = Callable[..., Member]

# Values that should not be there


def test_what_cannot_be_read_is_a_miss_and_goes(
    any_server: Server, two: tuple[Member, Member]
) -> None:
    one, _ = two
    item = one.item_of("k")
    for poison in (b"", b"x", b"fc1\1" + b"\0" * 200):
        one.put(item, "v")
        any_server.call("SET", item.name, poison)
        assert one.value_of(item) is None
        assert any_server.call("EXISTS", item.name) == 0
    any_server.call("LPUSH", item.name, "x")
    assert one.value_of(item) is None
    one.put(item, "v")
    assert one.value_of(item) == "v"


def test_a_value_that_was_copied_under_another_name_is_refused(
    any_server: Server, two: tuple[Member, Member]
) -> None:
    one, _ = two
    mine, theirs = one.item_of("k"), one.item_of("k", "tenant:other")
    one.put(mine, "acme's")
    one.put(theirs, "other's")
    any_server.call("COPY", mine.name, theirs.name, "REPLACE")
    any_server.call("COPY", mine.place.record, theirs.place.record, "REPLACE")
    assert one.value_of(theirs) is None
    one.put(theirs, "other's")
    assert one.value_of(theirs) == "other's"


def test_a_value_that_was_tampered_with_is_a_miss(any_server: Server, member: Make) -> None:
    one = member(any_server, envelope=Envelope(PickleCodec([b"k" * 16])))
    item = one.item_of("k")
    one.join(item)
    one.put(item, {"a": {1}})
    assert one.value_of(item) == {"a": {1}}
    any_server.call("SETRANGE", item.name, any_server.call("STRLEN", item.name) - 1, "x")
    assert one.value_of(item) is None
    assert one.errors == 1


def test_a_script_that_the_server_forgot_is_sent_again(
    any_server: Server, two: tuple[Member, Member]
) -> None:
    one, _ = two
    item = one.item_of("k")
    one.put(item, "v")
    any_server.call("SCRIPT", "FLUSH", "SYNC")
    one.put(item, "w")
    assert one.value_of(item) == "w"
    assert one.errors == 0


def test_the_bucket_s_fields_are_those_that_the_scripts_know() -> None:
    common = script("lease").call_in_full((b"k",))
    assert b"local FIXED_SIZE = 92" in common
    assert b"local MARK = 12" in common


# Tasks


def test_tasks_do_the_same(any_server: Server, member: Make) -> None:
    one = member(any_server)

    async def main() -> None:
        item = one.item_of("k")
        while not one.bus.is_live(item.place.bucket):
            await one.arun(one.read(item))
        await one.arun(one.set(item, one.sealed(item, "v"), 60, 0))
        found = await one.arun(one.read(item))
        assert found is not None and found.value == "v"
        items = [one.item_of(number) for number in range(64)]
        await asyncio.gather(
            *(one.arun(one.set(item, one.sealed(item, item.key), 60, 0)) for item in items)
        )
        found_all = await asyncio.gather(*(one.arun(one.read(item)) for item in items))
        assert [found.value for found in found_all if found] == list(range(64))
        await one.aclose()

    asyncio.run(main())


def test_nothing_begins_before_the_await(new_server: Server, member: Make) -> None:
    one = member(new_server)
    item = one.item_of("k")
    steps = one.arun(one.clear(item.place))
    assert inspect.iscoroutine(steps)
    assert not one.servers.is_known
    steps.close()


# Where it cannot be


def test_a_server_that_is_not_there(member: Make) -> None:
    one = member("valkey://127.0.0.1:1", hard=0.2)
    item = one.item_of("k")
    assert one.run(one.read(item)) is None
    with pytest.raises(TierUnavailableError, match="clear: the tier has not confirmed it"):
        one.run(one.clear(item.place))
    with pytest.raises(TierUnavailableError, match="set: "):
        one.put(item, "v")


def test_a_wrong_password(any_server: Server, member: Make) -> None:
    any_server.call("ACL", "SETUSER", "someone", "on", ">right", "~*", "&*", "+@all")
    url = any_server.url.replace("//", "//someone:{}@")
    wrong, right = member(url.format("wrong")), member(url.format("right"))
    item = wrong.item_of("k")
    with pytest.raises(TierUnavailableError) as refused:
        wrong.put(item, "v")
    assert "WRONGPASS" in str(refused.value) or "invalid" in str(refused.value)
    assert ":wrong" not in str(refused.value)
    right.join(item).put(item, "v")
    assert right.value_of(item) == "v"


def test_a_server_that_hides_its_history(any_server: Server, member: Make) -> None:
    any_server.call("ACL", "SETUSER", "blind", "reset", "on", ">p", "~*", "&*", "+@all", "-info")
    one = member(any_server.url.replace("//", "//blind:p@"))
    item = one.item_of("k")
    with pytest.raises(ConfigurationError, match=r"tier: .* must be Valkey or Redis 7.0"):
        one.put(item, "v")
    with pytest.raises(ConfigurationError):
        one.run(one.read(item))


@pytest.mark.parametrize(
    "settings", [{"buckets": 2}, {"tenant_depth": 2}, {"lease": 3.0}], ids=repr
)
def test_a_fleet_agrees_on_its_shape(
    new_server: Server, member: Make, settings: dict[str, Any]
) -> None:
    one, other = member(new_server), member(new_server, **settings)
    item = one.item_of("k")
    one.join(item).put(item, "v")
    with pytest.raises(ConfigurationError, match=r"tier: other processes .* with other settings"):
        other.run(other.read(other.item_of("k")))
    with pytest.raises(ConfigurationError):
        other.run(other.clear(other.layout.place(("tenant:acme",))))


@pytest.mark.parametrize(
    "target", ["http://localhost", "localhost:6379", object(), None, "valkey+sentinel://a/b"]
)
def test_an_unsound_target_is_refused_at_once(member: Make, target: Any) -> None:
    with pytest.raises(ConfigurationError, match="url_or_client: "):
        member(target)


def test_an_async_client_is_refused(member: Make) -> None:
    from valkey.asyncio import Valkey

    with pytest.raises(ConfigurationError, match="give the sync client"):
        member(Valkey())


def test_memory_that_is_full_lets_invalidations_through(member: Make) -> None:
    from harness.servers import server

    with server() as full:
        one = member(full)
        item = one.item_of("k")
        one.join(item).put(item, "v")
        full.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
        with pytest.raises(TierUnavailableError, match="OOM"):
            one.put(item, "w")
        one.run(one.clear(item.place))
        assert one.value_of(item) is None
        one.run(one.delete(item))
        late = member(full)  # It joins the fleet, for the shape is there to be read.
        late.join(item).run(late.clear(item.place))
        late.close()
        full.call("CONFIG", "SET", "maxmemory", 0)
        one.put(item, "x")
        assert one.value_of(item) == "x"
        one.close()


# A cluster


def test_a_cluster_shares_units_out(three: Cluster, member: Make) -> None:
    one, other = member(three, buckets=32), member(three, buckets=32)
    items = [one.item_of("k", f"tenant:{number}") for number in range(40)]
    for item in items:
        one.join(item)
        other.join(item)
        one.put(item, item.place.path, "t")
    assert one.servers.is_cluster
    assert len(one.servers.all) == 3
    assert [other.value_of(item) for item in items] == [item.place.path for item in items]
    sizes = [primary.call("DBSIZE") for primary in three.primaries]
    assert min(sizes) > 10
    other.run(other.invalidate_tags(items[0].place, ("t",)))
    assert one.value_of(items[0]) is None
    assert one.value_of(items[1]) == items[1].place.path
    other.run(other.clear(one.layout.place(())))
    assert [one.value_of(item) for item in items] == [None] * 40


def test_a_slot_that_has_moved_is_found_again(three: Cluster, member: Make) -> None:
    one, other = member(three, buckets=3), member(three, buckets=3)
    item = one.item_of("k")
    for each in (one, other):
        each.join(item)
    one.put(item, "v")
    slot = item.place.bucket.slot
    source = three.shard_of(slot)
    target = (source + 1) % 3
    three.move_slot(slot, source, target)
    try:
        # The values are not moved with the slot: a missing value is a miss, and never old.
        wait_until(lambda: settable(one, item))
        wait_until(lambda: other.value_of(item) == "w")
        one.run(one.clear(item.place))
        assert other.value_of(item) is None
    finally:
        three.move_slot(slot, target, source)
