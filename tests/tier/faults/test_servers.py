"""Servers that forget, fill up, lag, hang, are replaced and come back: nothing old is served.

Promises and rules are numbered as in `flowcache.tier` and docs/fleet.md.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowcache.errors import TierUnavailableError
from harness.proxy import Proxy
from harness.servers import wait_until

from .bench import SHORT, Bench, Upstream, bus_of, is_in, tier_of, tried

pytestmark = pytest.mark.once


def holding(bench: Bench, **settings: Any) -> tuple[Any, Any, Upstream]:
    """Return two processes that both hold version 0 of a key."""
    upstream = Upstream()
    one, other = bench.space(**settings), bench.space(**settings)
    for space in (one, other):

        def holds(space: Any = space) -> bool:
            return space.fetch("k", upstream.load, tags="t") == 0 and "k" in space

        wait_until(holds)
    return one, other, upstream


def becomes(spaces: tuple[Any, ...], upstream: Upstream) -> None:
    """Wait until all processes have the upstream's version; from then on each has it always."""
    for space in spaces:
        wait_until(
            lambda space=space: space.fetch("k", upstream.load, tags="t") == upstream.version
        )
        assert space.get("k") in (upstream.version, None)


# A server that forgets


def test_a_server_that_is_emptied(each_bench: Bench) -> None:
    """FLUSHALL takes values, records, log and members. Promise 4, and 1 for what comes after."""
    one, other, upstream = holding(each_bench, lease=SHORT)
    each_bench.primary.call("FLUSHALL")
    upstream.change()
    wait_until(lambda: tried(lambda: one.invalidate_tag("t")))
    assert one.get("k") is None
    becomes((one, other), upstream)
    # The list of members is whole again, so that it can be waited for.
    wait_until(lambda: each_bench.primary.call("HLEN", tier_of(one).layout.all[0].members) == 3)
    upstream.change()
    wait_until(lambda: tried(lambda: other.clear(wait="fleet")))
    assert one.get("k") is None and other.get("k") is None
    becomes((one, other), upstream)


@pytest.mark.parametrize("record", ["unit", "root", "both"])
def test_a_record_that_is_lost_while_a_key_loads(bench: Bench, record: str) -> None:
    """Rules 2 and 5: a record of the same name is another incarnation, under which a load that
    began before stores nothing, and no value counts."""
    one, other, upstream = holding(bench)
    place = tier_of(one).layout.place(one.path)
    names = {"unit": [place.record], "root": [place.bucket.root]}
    lost = names.get(record, [place.record, place.bucket.root])

    def load() -> int:
        version = upstream.load()
        bench.primary.call("DEL", *lost)
        upstream.change()
        other.invalidate_tag("t")
        return version

    for _ in range(3):
        other.invalidate_tag("other")  # The numbers of before are not small.
    one.delete("k")
    assert one.fetch("k", load, tags="t") == 0
    assert one.get("k") is None
    assert other.get("k") is None
    becomes((one, other), upstream)


def test_a_server_that_comes_back_from_an_older_dump(each_bench: Bench) -> None:
    """The dump has the value and not its invalidation. Promise 4: the history has another name."""
    one, other, upstream = holding(each_bench)
    each_bench.primary.call("SAVE")
    upstream.change()
    one.invalidate_tag("t")
    each_bench.primary.restart()
    item = tier_of(one).item(one, "k")
    assert each_bench.primary.call("EXISTS", item.name) == 1
    for space in (one, other):
        wait_until(lambda space=space: bus_of(space)._following[0].left and is_in(space, "live"))
        assert space.get("k") is None
    becomes((one, other), upstream)


def test_a_list_of_members_from_an_older_dump(bench: Bench) -> None:
    """Rule 11 and promise 1: who joined after the dump is not on the list, and serves meanwhile."""
    one, _, upstream = holding(bench, lease=SHORT)
    bucket = tier_of(one).layout.all[0]
    following = bus_of(one)._following[0]
    following.born_at -= 2 * SHORT  # The list is an old one.
    bench.primary.call("SAVE")
    link = bench.link()
    late = bench.space(link, lease=SHORT)
    wait_until(lambda: late.fetch("k", upstream.load, tags="t") == 0 and "k" in late)
    with link.refused():
        bench.primary.restart()
        assert not bench.primary.call("HEXISTS", bucket.members, bus_of(late).member)
        wait_until(lambda: following.left and is_in(one, "live"))
        upstream.change()
        wait_until(lambda: tried(lambda: one.clear(wait="fleet")))
        assert late.peek("k") is None


def test_scripts_that_the_server_forgets(each_bench: Bench) -> None:
    """NOSCRIPT: a script that did not run is sent in full, and one that ran is not run again."""
    one, other = each_bench.space(), each_bench.space()
    flush = lambda: each_bench.primary.call("SCRIPT", "FLUSH")  # noqa: E731
    for number in range(1, 6):
        flush()
        assert one.incr("count") == number
    calls = (
        lambda: one.set("k", 1, tags="t"),
        lambda: one.set_many({"k": 1, "m": 2}, tags="t"),
        lambda: one.touch("k", 60),
        lambda: one.expire("m"),
        lambda: one.add("new", 1),
        lambda: other.fetch("k", lambda: 3),
        lambda: other.fetch("loaded", lambda: 3),
        lambda: other.invalidate_tag("t"),
        lambda: one.pop("count"),
        lambda: one.delete("new"),
        one.clear,
    )
    for call in calls:
        flush()
        call()
    assert one.get("count") is None and other.get("k") is None
    assert other.incr("count") == 1


# A server that is full

POLICIES = (
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-random",
    "volatile-ttl",
)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_is_full(bench: Bench, policy: str) -> None:
    """Promises 1 and 4 with each policy of eviction: it may evict records, logs and values."""
    one, other, upstream = holding(bench, lease=SHORT)
    used = bench.primary.call("INFO", "memory")["used_memory"]
    bench.primary.call("CONFIG", "SET", "maxmemory-policy", policy)
    bench.primary.call("CONFIG", "SET", "maxmemory", used + (1 << 20))
    for number in range(150):
        pad = random.Random(number).randbytes(10_000).hex()  # It cannot be made much smaller.
        tried(lambda number=number, pad=pad: one.set(f"pad:{number}", pad))
        if number % 30 == 29:
            upstream.change()
            wait_until(lambda: tried(lambda: other.invalidate_tag("t")))
            assert other.get("k") in (None, upstream.version)
            wait_until(lambda: one.fetch("k", upstream.load, tags="t") == upstream.version)
            wait_until(lambda: other.fetch("k", upstream.load, tags="t") == upstream.version)
    bench.primary.call("CONFIG", "SET", "maxmemory", 0)
    becomes((one, other), upstream)
    wait_until(lambda: tried(lambda: one.set("k", upstream.version, tags="t")))


# Replicas


def test_a_replica_that_lags(two: tuple[Bench, Proxy]) -> None:
    """Rule 7: what the replica has not is not confirmed. The lease ends, for this may be a primary
    no more; reads then cost nothing, and all comes back with the replica."""
    bench, between = two
    one, other, upstream = holding(bench, lease=SHORT, hard_timeout=1.0, soft_timeout=1.0)
    with between.held("replication", way="replies"):
        upstream.change()
        with pytest.raises(TierUnavailableError):
            one.invalidate_tag("t")
        assert one.get("k") is None
        for space in (one, other):
            wait_until(lambda space=space: is_in(space, "apart"))
            # From then on no call waits for a lease that cannot come.
            wait_until(lambda space=space: "0 of 1 replicas" in str(bus_of(space).trouble))
            assert space.get("k") is None
            assert space.fetch("k", upstream.load) == 1
    wait_until(lambda: tried(lambda: one.invalidate_tag("t")))
    becomes((one, other), upstream)
    for space in (one, other):
        wait_until(lambda space=space: is_in(space, "live"))


def test_a_primary_that_is_replaced_while_it_sleeps_and_wakes(two: tuple[Bench, Proxy]) -> None:
    """Rules 7 and 8: woken, it calls itself a primary and answers with the old value, on the
    connections that were open all the time."""
    bench, _ = two
    one, other, upstream = holding(bench, lease=SHORT, hard_timeout=1.0, soft_timeout=1.0)
    assert bench.replica is not None
    with bench.primary.stopped():
        bench.promote()
        upstream.change()
        # Each bus finds the new one; their commands' connections still lead to the old one.
        for space in (one, other):
            wait_until(lambda space=space: bus_of(space)._following[0].left)
        wait_until(lambda: tried(lambda: one.invalidate_tag("t")))
        wait_until(lambda: one.fetch("k", upstream.load, tags="t") == 1)
    for _ in range(20):
        assert other.get("k") in (None, 1)
    # It gives up the old connection for a new one, and reads what the fleet has.
    wait_until(lambda: other.get("k") == 1)
    assert one.get("k") in (None, 1)


def test_a_bus_that_is_sent_back_to_a_server_that_was_left(two: tuple[Bench, Proxy]) -> None:
    """Rule 8: a history that was left never comes back, and the bus goes on trying."""
    bench, _ = two
    one, other, upstream = holding(bench, lease=SHORT, hard_timeout=1.0, soft_timeout=1.0)
    link = bench.links[1]
    with bench.primary.stopped():
        bench.promote()
        for space in (one, other):
            wait_until(lambda space=space: bus_of(space)._following[0].left)
    upstream.change()
    wait_until(lambda: tried(lambda: one.invalidate_tag("t")))
    link.target = bench.primary.port
    link.cut()
    # It is refused by its name: neither is the lease extended, nor is the thread gone.
    wait_until(lambda: "left" in str(bus_of(other).trouble))
    wait_until(lambda: is_in(other, "apart"))
    for _ in range(5):
        assert other.get("k") is None
    assert other.fetch("k", upstream.load, tags="t") == 1
    assert bench.replica is not None
    link.target = bench.replica.port
    link.cut()
    wait_until(lambda: is_in(other, "live"))
    becomes((one, other), upstream)


@pytest.mark.parametrize("stays", ["reader", "writer"])
def test_a_fleet_that_is_split(two: tuple[Bench, Proxy], stays: str) -> None:
    """Rule 7: of two that call themselves primaries only one has a replica to wait for, or none
    that could be promoted. On the other one no write counts and no lease is extended."""
    bench, _ = two
    settings = {"lease": SHORT, "hard_timeout": 1.0, "soft_timeout": 1.0}
    reader, writer, upstream = holding(bench, **settings)
    assert bench.replica is not None
    bench.promote()
    moved = bench.links[0 if stays == "writer" else 1]
    moved.cut()
    if stays == "writer":
        wait_until(lambda: bus_of(reader)._following[0].left)
        wait_until(lambda: reader.fetch("k", upstream.load, tags="t") == 0 and "k" in reader)
        upstream.change()
        if tried(lambda: writer.invalidate_tag("t")):
            becomes((reader,), upstream)
        # It finds its way when its connections end.
        bench.links[1].cut()
    else:
        wait_until(lambda: bus_of(writer)._following[0].left)
        upstream.change()
        wait_until(lambda: tried(lambda: writer.invalidate_tag("t")))
        wait_until(lambda: is_in(reader, "apart"))
        assert reader.get("k") != 0
        bench.links[0].cut()
    wait_until(lambda: tried(lambda: writer.invalidate_tag("t")))
    becomes((reader, writer), upstream)


def test_a_primary_that_becomes_a_replica(two: tuple[Bench, Proxy]) -> None:
    """Rule 9: the role is asked for at each beat; open connections to a server that became a
    replica are given up, and no call is sent there for ever."""
    bench, _ = two
    one, other, upstream = holding(bench, lease=SHORT, hard_timeout=1.0, soft_timeout=1.0)
    assert bench.replica is not None
    bench.promote()
    bench.primary.call("REPLICAOF", "127.0.0.1", bench.replica.port)
    upstream.change()
    wait_until(lambda: tried(lambda: one.invalidate_tag("t")))
    becomes((one, other), upstream)
    wait_until(lambda: other.get("k") == 1)
