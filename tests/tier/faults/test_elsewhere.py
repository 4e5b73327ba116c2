"""Twelve faults that other libraries had, each with its issue; here each is a promise that holds.

Promises and rules are numbered as in `flowcache.tier` and docs/fleet.md.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from flowcache import Loaded
from flowcache.errors import TierUnavailableError
from harness.fleet import gone, run
from harness.servers import wait_until

from .bench import SHORT, Bench, Calling, Marker, Upstream, bus_of, is_in, tier_of, tried

INVALIDATIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("delete", lambda space: space.delete("k")),
    ("tag", lambda space: space.invalidate_tag("t")),
    ("late tag", lambda space: space.invalidate_tag("late")),
    ("prefix", lambda space: space.invalidate_prefix("k")),
    ("clear", lambda space: space.clear()),
]


@pytest.mark.parametrize(
    "invalidate", [one for _, one in INVALIDATIONS], ids=[name for name, _ in INVALIDATIONS]
)
def test_an_invalidation_while_the_key_loads(
    bench: Bench, invalidate: Callable[[Any], Any]
) -> None:
    """FusionCache #535 and #625. Promise 2: a load that began before is stored in no tier."""
    one, other = bench.space(), bench.space()
    upstream, begun, opened = Upstream(), threading.Event(), threading.Event()

    def load() -> Any:
        version = upstream.load()
        begun.set()
        assert opened.wait(60)
        return Loaded(version, tags=("late",))

    with Calling(lambda: one.fetch("k", load, tags="t")) as fetching:
        assert begun.wait(60)
        upstream.change()
        invalidate(other)
        opened.set()
    assert fetching.result() == 0  # Its caller asked before.
    assert one.get("k") is None
    assert other.get("k") is None
    assert one.fetch("k", upstream.load) == other.fetch("k", upstream.load) == 1


def test_a_tag_that_is_invalidated_while_tags_are_checked(bench: Bench) -> None:
    """FusionCache #628, dotnet/extensions #7771. Promise 1: a value that is judged twice, for its
    tags were not known, is judged by the records of after its bytes."""
    link = bench.link()
    reader, writer = bench.space(link), bench.space()
    writer.set("k", "old", tags="t")
    Marker(reader, writer).wait()  # The message is there, and the connection is open.
    before = bus_of(reader).messages
    with ExitStack() as requests:
        with link.held("commands", way="replies"):
            reading = Calling(lambda: reader.get("k")).begin()
            link.wait_held("commands", way="replies")
            requests.enter_context(link.held("commands", way="requests"))
        # It has the value and its tags now, and asks again with them.
        link.wait_held("commands", way="requests")
        writer.invalidate_tag("t")
        wait_until(lambda: bus_of(reader).messages > before)
    assert reading.result() is None
    assert reader.get("k") is None


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_an_invalidation_is_told_once(bench: Bench) -> None:
    """FusionCache #627: a message that is applied is sent again by no receiver, and it evicts only
    what it covers."""
    spaces = [bench.space() for _ in range(3)]
    spaces[0].set_many({"a": 1, "b": 2})
    for space in spaces:
        Marker(space, spaces[0]).wait()
        assert space.get_many(["a", "b"]) == {"a": 1, "b": 2}
    markers = [Marker(reader, spaces[0]) for reader in spaces]
    log = tier_of(spaces[0]).layout.all[0].log
    before = bench.primary.call("XLEN", log)
    for number in range(20):
        spaces[number % 3].invalidate_tag(f"tag:{number}")
    for marker in markers:
        marker.wait()
    assert bench.primary.call("XLEN", log) == before + 20 + len(markers)
    assert all({"a", "b"} <= set(space.keys()) for space in spaces)


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_reply_that_comes_after_the_invalidation(bench: Bench) -> None:
    """lettuce #3481. Rule 1: what was read before a message is held by no reader of it."""
    link = bench.link()
    reader, writer = bench.space(link), bench.space()
    writer.set("k", "old")
    Marker(reader, writer).wait()  # The message is there, and the connection is open.
    before = bus_of(reader).messages
    with link.held("commands", way="replies"):
        reading = Calling(lambda: reader.get("k")).begin()
        link.wait_held("commands", way="replies")
        writer.set("k", "new")
        wait_until(lambda: bus_of(reader).messages > before)
    assert reading.result() in ("old", None)  # It asked before.
    wait_until(lambda: reader.get("k") == "new")
    assert reader.get("k") != "old"


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_bus_that_died_without_a_word(bench: Bench) -> None:
    """redis #13082. Promise 1: a process that hears nothing stops when its lease is over, though
    its commands are answered."""
    link = bench.link()
    reader, writer = bench.space(link, lease=SHORT), bench.space(lease=SHORT)
    wait_until(lambda: tried(lambda: writer.set("k", "old")))
    wait_until(lambda: reader.get("k") == "old" and "k" in reader)
    with link.lost("bus"):
        writer.set("k", "new")
        wait_until(lambda: is_in(reader, "apart"))
        for _ in range(20):
            assert reader.get("k") is None
            assert reader.fetch("k", lambda: "new") == "new"
    wait_until(lambda: is_in(reader, "live"))
    wait_until(lambda: reader.get("k") == "new")


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_bus_hears_after_a_fail_over(two: tuple[Bench, Any]) -> None:
    """redisson #4653. Promise 1 goes on after another server took over."""
    bench, _ = two
    settings = {"soft_timeout": 1.0, "hard_timeout": 1.0}
    reader, writer = bench.space(**settings), bench.space(**settings)
    wait_until(lambda: tried(lambda: writer.set("k", 1)))
    wait_until(lambda: reader.get("k") == 1)
    bench.promote()
    for link in bench.links:
        link.cut()
    for version in range(2, 8):
        wait_until(lambda version=version: tried(lambda: writer.set("k", version)))
        wait_until(lambda version=version: reader.get("k") == version and "k" in reader)


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_fill_is_told_to_no_process(bench: Bench) -> None:
    """JetCache #972: what is loaded or read costs the other processes nothing."""
    one, other = bench.space(), bench.space()
    log = tier_of(one).layout.all[0].log
    Marker(other, one).wait()
    heard, length = bus_of(other).messages, bench.primary.call("XLEN", log)
    for number in range(50):
        assert one.fetch(f"k{number}", lambda number=number: number) == number
        assert one.get(f"k{number}") == number
        assert one.add(f"a{number}", number)
    assert bench.primary.call("XLEN", log) == length
    one.delete("k0")
    wait_until(lambda: bus_of(other).messages > heard)
    assert bus_of(other).messages == heard + 1


NAMES = ("a", "a:b", "a\0", "{a}", "A", "a/b", "@", "a b")


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_clear_empties_its_own_namespace(bench: Bench) -> None:
    """bentocache #32. Promise 5 over the bus: no name stands for another, whatever it contains."""
    one, other = bench.cache(), bench.cache()
    paths = [(name,) for name in NAMES] + [("a", "b"), ("a", "@"), ("a", "b", "c")]
    for path in paths:
        one.namespace(*path).set("k", path)
    for cleared in (("a:b",), ("a", "b"), ("@",), ("a",)):
        marked = other.namespace("marked"), one.namespace("marked")
        Marker(*marked).wait()
        for path in paths:
            assert other.namespace(*path).get("k") == path
        marker = Marker(*marked)
        one.namespace(*cleared).clear()
        marker.wait()
        for path in paths:
            is_below = path[: len(cleared)] == cleared
            assert ("k" in other.namespace(*path)) != is_below, (cleared, path)
            assert other.namespace(*path).get("k") == (None if is_below else path)
            if is_below:
                one.namespace(*path).set("k", path)


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_tags_take_no_room_of_their_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """laravel #43850: a tag is no key and no list; its invalidations are bounded."""
    monkeypatch.setattr("flowcache.tier.engine.MOST_MARKERS", 64)
    space = bench.space()
    record = tier_of(space).layout.place(space.path).record
    for number in range(300):
        space.set("k", number, tags=f"t{number}")
    keys = bench.primary.call("DBSIZE")
    for number in range(300):
        space.invalidate_tag(f"t{number}")
    assert bench.primary.call("DBSIZE") <= keys
    assert bench.primary.call("HLEN", record) <= 64 + 5


def test_a_cancelled_call_keeps_its_reply_from_others(bench: Bench) -> None:
    """redis-py #2665. Promise 5: replies that no call waits for any more reach no other call."""
    link = bench.link()
    cache, writer = bench.cache(link), bench.cache()
    spaces = [(cache.namespace(f"tenant:{n}"), writer.namespace(f"tenant:{n}")) for n in range(40)]
    for number, (_, there) in enumerate(spaces):
        there.set("k", number)

    async def read() -> None:
        assert await cache.aget("other") is None  # The connection is open.
        for first in range(2):
            with link.held("commands", way="replies"):
                calls = [asyncio.ensure_future(here.aget("k")) for here, _ in spaces]
                await asyncio.to_thread(link.wait_held, "commands", way="replies")
                for call in calls[first::2]:
                    call.cancel()
                await asyncio.wait(calls[first::2])
                later = [asyncio.ensure_future(here.aget("k")) for here, _ in spaces]
                await asyncio.sleep(0)
            told = await asyncio.gather(*calls, return_exceptions=True)
            assert told[1 - first :: 2] == list(range(1 - first, 40, 2))
            assert await asyncio.gather(*later) == list(range(40))
            for here, there in spaces:  # It is read again.
                await there.atouch("k", 60)
                await asyncio.to_thread(gone, here, "k")
        await cache.aclose()

    run(read())


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_fail_over_that_loses_an_invalidation(two: tuple[Bench, Any]) -> None:
    """redis #6062. Promise 4: the replica has the value and not the invalidation; what it holds
    from before it took over is served by no process."""
    bench, between = two
    one, other = (bench.space(soft_timeout=1.0, hard_timeout=1.0) for _ in range(2))
    wait_until(lambda: tried(lambda: one.set("k", "old", tags="t")))
    wait_until(lambda: other.get("k") == "old")
    item = tier_of(one).item(one, "k")
    with between.held("replication", way="replies"):
        with pytest.raises(TierUnavailableError):
            one.invalidate_tag("t")
        assert one.peek("k") is None  # Here it is done.
        bench.promote()
    for link in bench.links:
        link.cut()
    assert bench.replica is not None and bench.replica.call("EXISTS", item.name) == 1
    for space in (one, other):
        wait_until(lambda space=space: bus_of(space)._following[0].left)
        assert space.get("k") is None
        wait_until(lambda space=space: is_in(space, "live"))
        assert space.get("k") is None
    assert one.fetch("k", lambda: "new") == "new"
