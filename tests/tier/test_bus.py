"""Messages in the fleet, the lease without messages, and the end of a gap."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from flowcache._core import lease_time as monotonic
from flowcache.errors import TierUnavailableError
from flowcache.tier import awaited
from flowcache.tier.answers import Stored
from flowcache.tier.awaited import Sending
from flowcache.tier.bus import BEAT, LATE
from flowcache.tier.errors import UnreachableError
from flowcache.tier.following import SUSPECT, Following
from flowcache.tier.layout import Bucket
from flowcache.tier.link import Ask
from flowcache.tier.message import Kind, Message
from flowcache.tier.resp import pack
from harness.fleet import LONG, Hearing, Member, confirmed, settable
from harness.servers import STARTS_WITHIN, Server, sentinel, server, wait_until

Make = Callable[..., Member]
LEASE = 2.0


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that this test alone uses, and may stop."""
    with server() as running:
        yield running


def joined(member: Make, target: Any, count: int = 2, **settings: Any) -> list[Member]:
    settings.setdefault("lease", LEASE)
    members = [member(target, **settings) for _ in range(count)]
    for one in members:
        one.join(one.item_of("k"))
        one.hearing.heard.clear()
    return members


def in_place(*members: Member) -> bool:
    """Tell if the members hear of each other: a lease lives on while the connection is gone."""
    return all(one.bus._following[0].state == "live" for one in members)


def kill_bus(target: Server) -> int:
    """End the connections that are subscribed to something, as an operator or a firewall does."""
    clients = target.call("CLIENT", "LIST", "TYPE", "PUBSUB")
    lines = clients if isinstance(clients, list) else clients.decode().splitlines()
    ids = [one["id"] if isinstance(one, dict) else one.split()[0][3:] for one in lines]
    return sum(target.call("CLIENT", "KILL", "ID", one) for one in ids)


# Hearing


EVERY_KIND: list[tuple[Callable[[Member, Any], Any], Kind, Any]] = [
    (lambda one, item: one.set(item, one.sealed(item, 1), 60, 0), Kind.DROP, "k"),
    (lambda one, item: one.delete(item), Kind.DROP, "k"),
    (lambda one, item: one.pop(item), Kind.DROP, "k"),
    (lambda one, item: one.touch(item, 5), Kind.DROP, "k"),
    (lambda one, item: one.incr(item, 1, 0, None, 0), Kind.DROP, "k"),
    (lambda one, item: one.expire(item), Kind.EXPIRE, "k"),
    (lambda one, item: one.clear(item.place), Kind.CLEAR, None),
    (lambda one, item: one.invalidate_tags(item.place, ("a", "b")), Kind.TAGS_ANY, ("a", "b")),
    (
        lambda one, item: one.invalidate_tags(item.place, ("a", "b"), match="all"),
        Kind.TAGS_ALL,
        ("a", "b"),
    ),
    (lambda one, item: one.expire_tags(item.place, ("a",)), Kind.EXPIRE_TAGS, ("a",)),
    (lambda one, item: one.invalidate_prefix(item.place, "p"), Kind.PREFIX, "p"),
]


@pytest.mark.parametrize(("call", "kind", "data"), EVERY_KIND)
def test_what_one_does_the_others_hear_once(
    any_server: Server, member: Make, call: Callable[[Member, Any], Any], kind: Kind, data: Any
) -> None:
    # On a busy machine the server may answer late. That is a gap, after which a message may be
    # heard again: a long lease waits for the answer.
    one, other, third = joined(member, any_server, 3, lease=LONG)
    item = one.item_of("k")
    one.run(call(one, item))
    for hears in (other, third):
        wait_until(lambda hears=hears: hears.hearing.messages)
        (message,) = hears.hearing.messages
        assert message[:4] == (kind, ("tenant:acme",), data, one.bus.member)
    # One's own echo is ignored.
    other.run(other.clear(item.place))
    wait_until(lambda: one.hearing.messages)
    assert [message.member for message in one.hearing.messages] == [other.bus.member]


def test_a_fill_tells_nobody(new_server: Server, member: Make) -> None:
    one, other = joined(member, new_server)
    for number in range(100):
        item = one.item_of(number)
        granted = one.run(one.lead(item, b"t" * 16))
        one.run(one.store(item, granted, one.sealed(item, number), 60, 0))
        one.run(one.add(one.item_of(-1 - number), one.sealed(item, number), 60, 0))
    one.run(one.delete(one.item_of("end")))
    wait_until(lambda: other.hearing.messages)
    assert [message.data for message in other.hearing.messages] == ["end"]


@pytest.mark.parametrize(
    "key", [None, 1, True, 1.5, "a\0{b}", b"\xff", ("a", (1, None)), "\ud800", 10**30]
)
def test_a_key_arrives_as_it_was_sent(new_server: Server, member: Make, key: Any) -> None:
    one, other = joined(member, new_server)
    one.run(one.delete(one.item_of(key, "tenant", "{x}", "\0")))
    wait_until(lambda: other.hearing.messages)
    (message,) = other.hearing.messages
    assert (message.path, message.data) == (("tenant", "{x}", "\0"), key)


def test_messages_come_before_the_lease_that_follows_them(new_server: Server, member: Make) -> None:
    """A lease that a beat's reply extends has seen all messages published before the beat."""
    one, other = joined(member, new_server)
    item = one.item_of("k")
    for number in range(200):
        one.run(one.invalidate_tags(item.place, (f"tag:{number}",)))
    until = other.hearing.until
    wait_until(lambda: other.hearing.until > until)
    assert len(other.hearing.messages) == 200


# The lease


def test_a_bucket_is_lent_before_it_is_told_to_be_live(member: Make, new_server: Server) -> None:
    """A call that waits for it stores a value, and then finds it here."""
    one = member(new_server)
    item = one.item_of("k")
    lend, seen = one.hearing.lend, []

    def noted(until: float) -> None:
        seen.append((until > 0, one.bus.is_live(item.place.bucket)))
        lend(until)

    one.hearing.lend = noted  # type: ignore[method-assign]
    one.join(item)
    assert next(is_live for is_lent, is_live in seen if is_lent) is False


def test_the_lease_is_extended_while_the_server_answers(own_server: Server, member: Make) -> None:
    (one,) = joined(member, own_server, 1, lease=LONG)
    wait_until(lambda: in_place(one))
    ends, due, beat = {one.hearing.until}, [], one.bus._beat

    def noted(line: Any) -> None:
        due.append(line.next_beat)
        beat(line)

    one.bus._beat = noted  # type: ignore[method-assign]
    wait_until(lambda: ends.add(one.hearing.until) or len(ends) == 4)
    assert len(due) >= 3
    assert all(later - earlier >= BEAT for earlier, later in pairwise(due))
    assert one.hearing.until - monotonic() < LONG


def test_the_lease_runs_out_when_the_server_hangs(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    with own_server.stopped():
        stopped_at = monotonic()
        wait_until(lambda: not one.hearing.is_live)
        assert one.hearing.until < stopped_at + LEASE
        assert not one.bus.is_live(item.place.bucket)
    wait_until(lambda: one.hearing.is_live and other.hearing.is_live)
    other.run(other.clear(item.place))
    wait_until(lambda: one.hearing.messages)


def test_a_value_is_not_taken_without_a_lease(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    other.put(item, "v")
    assert one.value_of(item) == "v"
    one.bus._following[0].lease = 0.0
    assert one.run(one.read(item)) is None or one.bus.is_live(item.place.bucket)


# Gaps


def test_a_cut_connection_replays_what_was_missed(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    wait_until(lambda: in_place(one, other))
    for round_ in range(5):
        gaps = [each.bus._following[0].generation for each in (one, other)]
        assert kill_bus(own_server) == 2
        one.run(one.invalidate_tags(item.place, (f"tag:{round_}",)))
        for each, gap in zip((one, other), gaps, strict=True):
            wait_until(lambda each=each, gap=gap: each.bus._following[0].generation > gap)
        wait_until(lambda: in_place(one, other))
        wait_until(lambda: other.hearing.messages)
        # Heard once or twice is the same; nothing was cleared.
        assert other.hearing.messages == other.hearing.heard
        assert {message.data for message in other.hearing.messages} == {(f"tag:{round_}",)}
        for each in (one, other):
            each.hearing.heard.clear()


@pytest.mark.parametrize("loss", ["DEL", "FLUSHALL", "XTRIM"])
def test_a_log_that_lost_the_last_entry_ends_the_gap_with_a_clear(
    own_server: Server, member: Make, loss: str
) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    bucket = item.place.bucket
    one.run(one.clear(item.place))
    wait_until(lambda: other.hearing.messages)
    other.hearing.heard.clear()
    own_server.call("DEL", bucket.members)
    if loss == "XTRIM":
        own_server.call("XTRIM", bucket.log, "MAXLEN", 0)
    elif loss == "DEL":
        own_server.call("DEL", bucket.log)
    else:
        own_server.call("FLUSHALL")
    kill_bus(own_server)  # Or the members' list is missed first.
    wait_until(lambda: any(isinstance(told, Bucket) for told in other.hearing.heard))
    other.join(item)


def test_a_member_that_was_struck_from_the_list_joins_again(
    own_server: Server, member: Make
) -> None:
    one, other = joined(member, own_server)
    bucket = one.item_of("k").place.bucket
    own_server.call("HDEL", bucket.members, other.bus.member)
    wait_until(lambda: own_server.call("HEXISTS", bucket.members, other.bus.member))
    own_server.call("DEL", bucket.members)
    wait_until(lambda: own_server.call("HLEN", bucket.members) == 3)
    wait_until(lambda: one.hearing.is_live and other.hearing.is_live)


def test_a_restarted_server_voids_what_was_held(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    one.put(item, "v")
    replid = one.bus._following[0].replid
    own_server.restart()
    for each in (one, other):
        wait_until(lambda each=each: any(isinstance(told, Bucket) for told in each.hearing.heard))
        wait_until(lambda each=each: each.bus.is_live(item.place.bucket))
    assert one.bus.has_left(item.place.bucket, replid)
    assert one.value_of(item) is None
    wait_until(lambda: settable(one, item))
    assert other.value_of(item) == "w"


def test_an_old_dump_brings_nothing_back(member: Make) -> None:
    """The dump has the value and not the marker; the history's name tells that it is an old one."""
    with server(None) as saved:
        one, other = joined(member, saved)
        item = one.item_of("k")
        one.put(item, "old", "t")
        saved.call("SAVE")
        one.run(one.invalidate_tags(item.place, ("t",)))
        replid = one.bus._following[0].replid
        saved.restart()
        assert saved.call("EXISTS", item.name) == 1
        for each in (one, other):
            wait_until(lambda each=each: each.bus.has_left(item.place.bucket, replid))
            assert each.value_of(item) is None
        granted = one.run(one.lead(item, b"t" * 16))
        assert not hasattr(granted, "value")
        assert other.value_of(item) is None
        one.close()
        other.close()


def test_keep_takes_values_along(member: Make) -> None:
    with server(None) as saved:
        (one,) = joined(member, saved, 1, keep_on_change=True)
        item = one.item_of("k")
        one.put(item, "v")
        saved.call("SAVE")
        replid = one.bus._following[0].replid
        saved.restart()
        wait_until(lambda: one.bus.has_left(item.place.bucket, replid))
        one.join(item)
        found = one.run(one.lead(item, b"t" * 16))
        assert getattr(found, "value", None) == "v"
        assert one.value_of(item) == "v"
        one.close()


def test_a_follower_that_raises_begins_again_with_a_clear(
    own_server: Server, member: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    apply = other.hearing.apply
    other.hearing.apply = lambda message: 1 / 0  # type: ignore[method-assign, assignment]
    one.run(one.clear(item.place))
    wait_until(lambda: any(isinstance(told, Bucket) for told in other.hearing.heard))
    other.hearing.apply = apply  # type: ignore[method-assign]
    other.join(item).hearing.heard.clear()
    one.run(one.clear(item.place))
    wait_until(lambda: other.hearing.messages)
    assert "could not apply" in caplog.text


def test_a_message_that_cannot_be_read_is_a_gap(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    bucket = one.item_of("k").place.bucket
    own_server.call("SPUBLISH", bucket.bus, b"1-1 nonsense")
    for each in (one, other):
        wait_until(lambda each=each: bucket_of(each) in each.hearing.heard)
    other.join(one.item_of("k")).run(other.clear(one.item_of("k").place))
    wait_until(lambda: one.hearing.messages)


NONSENSE = (
    b"nonsense",
    Message(Kind.DROP, ("tenant:acme", 1), "k", b"m", b"o").encode(),  # type: ignore[arg-type]
    Message(Kind.TAGS_ANY, ("tenant:acme",), "tag", b"m", b"o").encode(),
    Message(Kind.TAGS_ALL, ("tenant:acme",), (1, None), b"m", b"o").encode(),
    Message(Kind.EXPIRE_TAGS, ("tenant:acme",), None, b"m", b"o").encode(),
    Message(Kind.PREFIX, ("tenant:acme",), b"p", b"m", b"o").encode(),
    Message(Kind.CLEAR, ("tenant:acme",), None, b"m", b"o").encode().replace(b"\x03", b"\x63", 1),
)


def test_nonsense_in_the_log_is_cleared_over_and_not_replayed(
    own_server: Server, member: Make
) -> None:
    one, other = joined(member, own_server)
    bucket = one.item_of("k").place.bucket
    told = (
        b"local id = redis.call('XADD', KEYS[1], '*', 'm', ARGV[1]) "
        b"return redis.call('SPUBLISH', KEYS[2], id .. ' ' .. ARGV[1])"
    )
    for data in NONSENSE:
        cleared = one.hearing.heard.count(bucket)
        wire = one.servers.all[0].dial()
        wire.ask(pack(b"EVAL", told, 2, bucket.log, bucket.bus, data), patience=STARTS_WITHIN)
        wire.close()
        wait_until(lambda cleared=cleared: one.hearing.heard.count(bucket) > cleared)
    other.join(one.item_of("k")).run(other.clear(one.item_of("k").place))
    wait_until(lambda: one.hearing.messages)


def bucket_of(one: Member) -> Any:
    return one.item_of("k").place.bucket


def test_a_bus_whose_thread_cannot_be_started_is_begun_by_a_later_call(
    own_server: Server, member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = member(own_server)
    item = one.item_of("k")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert one.run(one.read(item)) is None
        assert "can't start" in str(one.bus.trouble)
    one.join(item).put(item, "v")
    assert one.value_of(item) == "v"


# Doubt


def test_a_set_whose_answer_was_lost_hears_its_own_echo(own_server: Server, member: Make) -> None:
    one, _ = joined(member, own_server, hard=0.3, soft=0.2)
    item = one.item_of("k")
    confirmed(lambda: one.put(item, "v"))
    with own_server.stopped(), pytest.raises(TierUnavailableError, match="set: "):
        one.put(item, "w")
    # The server had it in its socket, and did it when it went on.
    wait_until(lambda: one.hearing.messages)
    assert one.hearing.messages[0].data == "k"


def test_a_store_whose_answer_was_lost_hears_its_own_echo(own_server: Server, member: Make) -> None:
    one, _ = joined(member, own_server, hard=0.3, soft=0.2)
    item = one.item_of("k")

    def refresh(value: str) -> Stored | None:
        return one.run(one.store(item, granted, one.sealed(item, value), 60, 0, drops=True))

    granted = confirmed(lambda: one.run(one.lead(item, b"t" * 16, force=True)))
    assert refresh("v") is not None
    granted = confirmed(lambda: one.run(one.lead(item, b"u" * 16, force=True)))
    with own_server.stopped():
        assert refresh("w") is None
    wait_until(lambda: one.hearing.messages)
    assert one.hearing.messages[0].data == "k"


def test_an_own_message_is_applied_if_many_came_after_it(
    new_server: Server, member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = joined(member, new_server, lease=LONG)
    monkeypatch.setattr(awaited, "MOST_OWN", 0)
    one.put(one.item_of("k"), "v")
    wait_until(lambda: one.hearing.messages)
    assert one.hearing.messages[0].member == one.bus.member


def test_each_echo_of_a_call_that_failed_is_applied(new_server: Server, member: Make) -> None:
    """A call above tenants has one in each bucket, and a call that is sent again one more."""
    one, _ = joined(member, new_server, lease=LONG)
    item = one.item_of("k")
    bucket = item.place.bucket
    message = Message(Kind.CLEAR, (), None, one.bus.member, b"o" * 16).encode()
    with pytest.raises(TierUnavailableError), Sending(one.bus.awaited, "clear", b"o" * 16):
        raise UnreachableError("the connection ended")
    for number in (1, 2):
        new_server.call("SPUBLISH", bucket.bus, b"- " + message)
        wait_until(lambda number=number: len(one.hearing.messages) == number)


@pytest.mark.parametrize("name", ["delete", "touch", "expire", "clear"])
def test_a_call_that_was_sent_again_hears_the_echo_of_its_first(
    new_server: Server, member: Make, name: str
) -> None:
    """The first may be done at any time: what was stored here meanwhile is not there any more."""
    one, _ = joined(member, new_server, lease=LONG)
    item = one.item_of("k")
    calls = {
        "delete": lambda: one.delete(item),
        "touch": lambda: one.touch(item, 5),
        "expire": lambda: one.expire(item),
        "clear": lambda: one.clear(item.place),
    }
    one.run(calls[name]())  # So that the server knows the script.
    (server,) = one.servers.all
    ask, lost = server.ask, list[Ask]()

    def asked(asking: Ask) -> Ask:
        if lost:
            return ask(asking)
        lost.append(asking)
        raise UnreachableError("the connection ended")

    server.ask = asked  # type: ignore[method-assign]
    one.run(calls[name]())
    heard = one.bus.messages
    ask(Ask(lost[0].patience, calls=lost[0].calls))
    wait_until(lambda: one.bus.messages > heard)
    wait_until(lambda: [m for m in one.hearing.messages if m.member == one.bus.member][1:])


def test_what_is_known_of_own_messages_is_bounded() -> None:
    own = awaited.Awaited()
    for number in range(awaited.MOST_OWN + 1):
        own.own(b"%d" % number)
    assert not own.is_own(b"0")
    assert own.is_own(b"1")


# The whole fleet


def test_fleet_waits_until_each_has_applied_it(new_server: Server, member: Make) -> None:
    one, other, third = joined(member, new_server, 3, lease=LONG)
    item = one.item_of("k")
    settled(one, item)
    applied = []

    def slowly(message: Message) -> None:
        threading.Event().wait(0.2)
        applied.append(message)

    other.hearing.apply = slowly  # type: ignore[method-assign]
    for call in (
        one.clear(item.place, fleet=True),
        one.invalidate_tags(item.place, ("a",), fleet=True),
        one.invalidate_prefix(item.place, "a", fleet=True),
        one.clear(one.layout.place(()), fleet=True),
    ):
        applied.clear()
        third.hearing.heard.clear()
        one.run(call)
        assert len(applied) == 1
        assert len(third.hearing.messages) == 1


def settled(one: Member, item: Any) -> None:
    """Have a member know the fleet, as if it had seen the list for a whole lease."""
    following = one.bus._following[item.place.bucket.number]
    following.born_at -= one._lease + LATE
    assert one.bus.knows_members(item.place.bucket, following.birth, following.replid)


def test_fleet_waits_for_the_lease_of_a_member_that_is_gone(
    new_server: Server, member: Make
) -> None:
    one, other = joined(member, new_server)
    item = one.item_of("k")
    settled(one, item)
    other.bus._leave = lambda: None  # type: ignore[method-assign]
    other.close()  # It ends without a word, as a process that is killed.
    began = monotonic()
    one.run(one.clear(item.place, fleet=True))
    assert monotonic() - began >= LEASE
    # Only its acknowledgement may have been lost. It is not waited for a third time.
    assert mark_of(new_server, other).endswith(SUSPECT)
    began = monotonic()
    one.run(one.clear(item.place, fleet=True))
    assert monotonic() - began >= LEASE
    assert not mark_of(new_server, other)
    one.run(one.clear(item.place, fleet=True))


def mark_of(target: Server, one: Member) -> bytes:
    """Return what the list of members has of one; nothing if it is not on it."""
    (bucket,) = one.layout.all
    return target.call("HGET", bucket.members, one.bus.member) or b""


def test_a_member_whose_acknowledgement_is_lost_stays_on_the_list(
    new_server: Server, member: Make
) -> None:
    """It is suspected, finds that at its next beat and joins again; until then it is waited for."""
    one, other = joined(member, new_server)
    item = one.item_of("k")
    settled(one, item)
    joined_at = mark_of(new_server, other)
    other.bus._acknowledge = lambda *_: None  # type: ignore[method-assign]
    one.run(one.clear(item.place, fleet=True))
    wait_until(lambda: mark_of(new_server, other) != joined_at)
    del other.bus._acknowledge
    while mark_of(new_server, other).endswith(SUSPECT):
        assert mark_of(new_server, other)
    assert int(mark_of(new_server, other)) > int(joined_at)
    wait_until(lambda: in_place(one, other))
    began = monotonic()
    one.run(one.clear(item.place, fleet=True))
    assert monotonic() - began < LEASE


def test_a_process_without_a_lease_suspects_no_member(new_server: Server, member: Make) -> None:
    """What did not arrive there says nothing of the members."""
    one, other = joined(member, new_server)
    item = one.item_of("k")
    settled(one, item)
    joined_at = mark_of(new_server, other)
    other.bus._acknowledge = lambda *_: None  # type: ignore[method-assign]
    one.bus._beaten = lambda *_: None  # type: ignore[method-assign]
    one.bus._following[0].lease = 0.0
    one.run(one.clear(item.place, fleet=True))
    assert mark_of(new_server, other) == joined_at


def test_fleet_waits_for_the_lease_when_the_list_was_lost(own_server: Server, member: Make) -> None:
    one, other = joined(member, own_server)
    item = one.item_of("k")
    settled(one, item)
    own_server.call("DEL", item.place.bucket.members)
    began = monotonic()
    one.run(one.clear(item.place, fleet=True))
    assert monotonic() - began >= LEASE
    assert other.hearing.messages


def test_a_list_is_not_known_before_its_time(own_server: Server, member: Make) -> None:
    """Whatever the bus's thread has written by then of the list and its history."""
    one, _ = joined(member, own_server)
    item = one.item_of("k")
    settled(one, item)
    following = one.bus._following[0]
    birth, replid = following.birth, following.replid
    known = []

    class Watched(Following):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if (self.birth, self.replid) != (birth, replid):
                known.extend(
                    (name, one)
                    for one in (self.birth, b"")
                    if bus.knows_members(item.place.bucket, one, self.replid)
                )

    bus = one.bus
    following.__class__ = Watched
    own_server.call("DEL", item.place.bucket.members)
    wait_until(lambda: following.birth not in (birth, b""))
    assert not known
    following.born_at -= one._lease + LATE
    birth = following.birth
    known.clear()
    own_server.restart()
    wait_until(lambda: following.replid != replid and following.birth)
    assert not known


def test_a_member_acknowledges_once_it_is_live(new_server: Server, member: Make) -> None:
    one, other = joined(member, new_server, lease=LONG)
    item = one.item_of("k")
    settled(one, item)
    other.bus._beaten = lambda *_: None  # type: ignore[method-assign]
    other.bus._following[0].lease = 0.0
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(one.run, one.clear(item.place, fleet=True))
        wait_until(lambda: other.hearing.messages)
        assert not call.done()
        del other.bus._beaten
        call.result(60)


# Replicas


@contextmanager
def with_replica() -> Iterator[tuple[Server, Server]]:
    with (
        server() as primary,
        server(None, "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        wait_until(lambda: replica.call("INFO", "replication")["master_link_status"] == "up")
        yield primary, replica


def test_what_no_replica_confirms_is_not_confirmed(member: Make) -> None:
    with with_replica() as (primary, replica):
        (one,) = joined(member, primary, 1, soft=1.0, hard=1.0)
        item = one.item_of("k")
        confirmed(lambda: one.put(item, "v"))
        wait_until(lambda: one.bus.replicas_of(item.place.bucket) == 1)
        with replica.stopped():
            for call in (
                lambda: one.clear(item.place),
                lambda: one.set(item, one.sealed(item, "w"), 60, 0),
                lambda: one.delete(item),
            ):
                wait_until(lambda call=call: "0 of 1 replicas" in refusal(one, call))
            # Nor is a heart-beat, so the lease runs out: this may be a primary no more.
            wait_until(lambda: not one.hearing.is_live)
        wait_until(lambda: one.hearing.is_live)
        wait_until(lambda: settable(one, item))
        one.close()


def refusal(one: Member, call: Callable[[], Any]) -> str:
    """Return why a call is not confirmed; on a busy machine the primary may be late as well."""
    with pytest.raises(TierUnavailableError) as refused:
        one.run(call())
    return str(refused.value)


def test_an_old_primary_that_wakes_is_not_believed(member: Make) -> None:
    """It answers reads with the old value and calls itself master; only its WAIT is refused."""
    with sentinel() as fleet:
        one, other = joined(member, fleet.master(), soft=0.5, hard=0.5)
        item = one.item_of("k")
        confirmed(lambda: one.put(item, "old"))
        wait_until(lambda: other.value_of(item) == "old")
        old = one.bus._following[0].replid
        with fleet.primary.stopped():
            fleet.fail_over()
            wait_until(lambda: one.bus.has_left(item.place.bucket, old))
            wait_until(lambda: settable(one, item))
            # The other has heard of it, or its lease has run out.
            wait_until(lambda: other.value_of(item) == "w" or not other.hearing.is_live)
        for each in (one, other):
            assert each.value_of(item) in ("w", None)
        # A Sentinel that was held up does nothing for half a minute, and demotes it then.
        wait_until(lambda: other.value_of(item) == "w")
        one.close()
        other.close()


# Forks and ends


def test_a_fork_has_a_bus_of_its_own(new_server: Server, member: Make) -> None:
    (one,) = joined(member, new_server, 1)
    item = one.item_of("k")
    one.put(item, "v")
    parent = one.bus.member
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        told = b"failed"
        try:
            # Its entries may not be served: it receives no messages yet.
            assert one.hearing.until == 0.0
            assert not one.bus.is_live(item.place.bucket)
            one.join(item)
            assert one.bus.member != parent
            assert one.value_of(item) == "v"
            one.run(one.clear(item.place))
            assert one.value_of(item) is None
            told = b"done"
        finally:
            os.write(writes, told)
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        assert pipe.read() == b"done"
    os.waitpid(pid, 0)
    wait_until(lambda: one.hearing.messages)
    assert one.value_of(item) is None
    one.put(item, "w")
    assert one.value_of(item) == "w"


def test_a_bus_that_nothing_holds_ends_its_thread(new_server: Server) -> None:
    one = Member(new_server.url, name="dropped member")
    one.join(one.item_of("k"))
    thread = one.bus._thread
    assert thread is not None and thread.is_alive()
    one.servers.close()
    del one
    import gc

    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_member_that_closes_leaves_the_list(new_server: Server, member: Make) -> None:
    one, other = joined(member, new_server)
    bucket = one.item_of("k").place.bucket
    other.close()
    wait_until(lambda: not new_server.call("HEXISTS", bucket.members, other.bus.member))
    assert not other.hearing.is_live
    assert Hearing().until == 0.0
