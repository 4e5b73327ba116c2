"""Many calls on one connection: batches, patience, and replies that reach their own call only."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from flowcache.tier.bell import Bell
from flowcache.tier.breaker import Announced, Breaker
from flowcache.tier.errors import BreakerOpenError, ServerError, SlowError, UnreachableError
from flowcache.tier.link import Ask, Batch, LoopLink, Read, Records, ThreadLink
from flowcache.tier.resp import Replies, ReplyError, pack
from flowcache.tier.wire import Dialer, Wire
from harness.fleet import Member, run
from harness.servers import STARTS_WITHIN, Server, server, wait_until

Make = Callable[..., Member]
HARD = 0.5
"""For a server that is stopped; one that runs may exceed it on a machine under load."""
PATIENT = 60.0


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that this test alone uses, and may stop."""
    with server() as running:
        yield running


@pytest.fixture
def dialled(own_server: Server) -> Iterator[tuple[Callable[[], Wire], list[Wire]]]:
    """The dialler of its connections, and all that it has opened."""
    dialer, wires = Dialer(own_server.url), []

    def dial() -> Wire:
        wires.append(dialer.dial())
        return wires[-1]

    yield dial, wires
    for wire in wires:
        wire.close()


def echo(text: str, patience: float = PATIENT) -> Ask:
    return Ask(patience, calls=(pack(b"ECHO", text.encode()),))


def answered(link: ThreadLink, text: str) -> list[Any]:
    """Ask until the link with its hard patience has an answer."""
    while True:
        with suppress(ServerError):
            return link.exchange(echo(text)).replies


async def answered_on_loop(link: LoopLink, text: str) -> list[Any]:
    """Do the same in a task."""
    while True:
        with suppress(ServerError):
            return (await link.exchange(echo(text))).replies


# Batches


def test_a_record_is_read_after_every_value_and_once() -> None:
    records = [Records(b"g%d" % n, b"r", (b"i",), (b"i",), ()) for n in range(2)]
    asks = [
        Ask(
            1.0, reads=(Read(pack(b"GET", b"a"), records[0]), Read(pack(b"GET", b"b"), records[1]))
        ),
        Ask(1.0, calls=(pack(b"ECHO", b"x"),), confirm=2),
        Ask(1.0, reads=(Read(pack(b"GET", b"c"), records[0]),)),
    ]
    batch = Batch(asks, 100)
    words = [
        line.split(b"\r\n")[2::2]
        for line in batch.payload.replace(b"\r\n*", b"\r\n\0*").split(b"\0")
    ]
    assert [word[:2] for word in words] == [
        [b"ECHO", b"x"],
        [b"GET", b"a"],
        [b"GET", b"b"],
        [b"GET", b"c"],
        [b"HMGET", b"g0"],
        [b"HMGET", b"r"],
        [b"HMGET", b"g1"],
        [b"HMGET", b"r"],
        [b"TIME"],
        [b"WAIT", b"2"],
    ]
    arrive = b"+x\r\n+A\r\n$1\r\nB\r\n_\r\n" + b"".join(b"*1\r\n$1\r\n%d\r\n" % n for n in range(4))
    arrive += b"*2\r\n$1\r\n7\r\n$4\r\n8999\r\n:2\r\n"
    replies = Replies()
    for at in range(len(arrive)):
        assert not batch.take_from(replies)
        replies.feed(arrive[at : at + 1])
    assert batch.take_from(replies)
    assert batch.owed == 0
    batch.settle(b"replid")
    first, second = asks[0].reads
    assert (first.data, first.unit, first.root) == (b"A", [b"0"], [b"1"])
    assert (second.data, second.unit, second.root) == (b"B", [b"2"], [b"3"])
    assert (asks[2].reads[0].data, asks[2].reads[0].unit) == (None, [b"0"])
    assert asks[1].replies == [b"x"]
    assert [ask.confirmed for ask in asks] == [2, 2, 2]
    assert asks[0].now == 7008


def test_records_that_have_changed_are_parsed_anew() -> None:
    records, replies = Records(b"g", b"r", (b"i",), (b"i",), ()), Replies()
    for first, second in ((1, 2), (1, 2), (1, 3), (1, 2)):
        replies.feed(b"*1\r\n:%d\r\n*1\r\n:%d\r\n:9\r\n" % (first, second))
        assert records.take_from(replies) == ([first], [second])
        assert replies.next() == 9
    replies.feed(b"-MOVED 1 a:1\r\n*1\r\n:2\r\n")
    moved, _ = records.take_from(replies) or ((), ())
    assert isinstance(moved, ReplyError)


# Threads


def test_threads_share_one_connection(dialled: Any) -> None:
    dial, wires = dialled
    link = ThreadLink(dial, PATIENT)
    with ThreadPoolExecutor(16) as pool:
        texts = [f"{number}" for number in range(2000)]
        got = list(pool.map(lambda text: link.exchange(echo(text)).replies, texts))
    assert got == [[text.encode()] for text in texts]
    assert len(wires) == 1


def test_threads_that_time_out_get_no_reply_of_another_call(
    own_server: Server, dialled: Any
) -> None:
    dial, wires = dialled
    link = ThreadLink(dial, PATIENT)
    link.exchange(echo("open"))
    stop, wrong, late = threading.Event(), [], []

    def ask(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            text = f"{number}:{count}"
            try:
                if link.exchange(echo(text, 0.01)).replies != [text.encode()]:
                    wrong.append(text)
            except SlowError:
                late.append(text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        with own_server.stopped():
            count = len(late)
            wait_until(lambda count=count: len(late) > count + 5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(wires) == 1  # The connection was kept: its replies are counted.
    assert link.exchange(echo("end")).replies == [b"end"]


def test_soft_patience_ends_the_wait_and_hard_patience_the_connection(
    own_server: Server, dialled: Any
) -> None:
    dial, wires = dialled
    patient, hasty = ThreadLink(dial, PATIENT), ThreadLink(dial, HARD)
    patient.exchange(echo("open"))
    answered(hasty, "open")
    kept, lost = wires[0], wires[-1]
    with own_server.stopped():
        began = monotonic()
        with pytest.raises(SlowError):
            patient.exchange(echo("a", 0.05))
        assert monotonic() - began >= 0.05
        assert kept.is_open
        began = monotonic()
        with pytest.raises(UnreachableError):
            until_unreachable(hasty)
        assert monotonic() - began >= HARD
        assert not lost.is_open
    opened = len(wires)
    assert patient.exchange(echo("b")).replies == [b"b"]
    assert len(wires) == opened
    assert answered(hasty, "c") == [b"c"]
    assert len(wires) > opened


def until_unreachable(link: ThreadLink) -> None:
    while True:
        with suppress(SlowError):
            link.exchange(echo("again", 0.05))


def test_a_new_connection_owes_no_reply_of_the_one_before(own_server: Server, dialled: Any) -> None:
    """A call lost patience, and then the fleet left the server: its reply never comes."""
    dial, wires = dialled
    link = ThreadLink(dial, PATIENT)
    assert link.exchange(echo("first")).replies == [b"first"]
    with own_server.stopped(), pytest.raises(SlowError):
        link.exchange(echo("late", patience=0.05))
    link.leave(wires[-1].replid)
    assert link.exchange(echo("own", patience=5.0)).replies == [b"own"]
    assert len(wires) == 2
    link.close()


def test_a_link_of_a_loop_that_is_opened_again_owes_no_reply(
    own_server: Server, dialled: Any
) -> None:
    dial, wires = dialled

    async def use() -> None:
        link = LoopLink(asyncio.get_running_loop(), dial, PATIENT)
        assert (await link.exchange(echo("first"))).replies == [b"first"]
        with own_server.stopped():
            with pytest.raises(SlowError):
                await link.exchange(echo("late", patience=0.05))
            link.close()
        assert (await link.exchange(echo("own", patience=5.0))).replies == [b"own"]
        link.close()

    run(use())
    assert len(wires) == 2


def test_an_interrupt_leaves_no_reply_behind(own_server: Server, dialled: Any) -> None:
    dial, wires = dialled
    link = ThreadLink(dial, PATIENT)
    link.exchange(echo("open"))
    fill = wires[0].fill

    class Struck:
        def __init__(self) -> None:
            self.is_open = True

        def __getattr__(self, name: str) -> Any:
            return getattr(wires[0], name)

        def fill(self, until: float) -> None:
            fill(until)
            raise KeyboardInterrupt

    link._wire = Struck()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        link.exchange(echo("struck"))
    assert link.exchange(echo("next")).replies == [b"next"]
    assert len(wires) == 2


def test_a_killed_connection_is_opened_again(own_server: Server, dialled: Any) -> None:
    dial, wires = dialled
    link = ThreadLink(dial, PATIENT)
    link.exchange(echo("open"))
    own_server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    # It was idle: no call has to find out that it ended.
    assert link.exchange(echo("found")).replies == [b"found"]
    assert len(wires) == 2
    # It ends while an answer is owed: whether the server has acted is not known.
    with pytest.raises(UnreachableError):
        link.exchange(Ask(10.0, calls=(pack(b"QUIT"), pack(b"ECHO", b"lost"))))
    assert link.exchange(echo("again")).replies == [b"again"]
    assert len(wires) == 3


# Loops


def test_tasks_share_one_connection(dialled: Any) -> None:
    dial, wires = dialled

    async def main() -> None:
        link = LoopLink(asyncio.get_running_loop(), dial, PATIENT)
        texts = [f"{number}" for number in range(500)]
        asks = await asyncio.gather(*(link.exchange(echo(text)) for text in texts))
        assert [ask.replies for ask in asks] == [[text.encode()] for text in texts]
        link.close()

    asyncio.run(main())
    assert len(wires) == 1


def test_cancelled_tasks_leave_their_replies_counted(dialled: Any) -> None:
    """redis-py #2665: a cancelled call hands its reply to the next one."""
    dial, wires = dialled
    drawn = random.Random(1)

    async def main() -> int:
        link = LoopLink(asyncio.get_running_loop(), dial, PATIENT)
        await link.exchange(echo("open"))
        served = 0
        for round_ in range(300):
            texts = [f"{round_}:{number}" for number in range(16)]
            tasks = [asyncio.ensure_future(link.exchange(echo(text))) for text in texts]
            for _ in range(drawn.randrange(4)):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            for text, ask in zip(
                texts, await asyncio.gather(*tasks, return_exceptions=True), strict=True
            ):
                if isinstance(ask, Ask):
                    served += 1
                    assert ask.replies == [text.encode()]
        link.close()
        return served

    assert asyncio.run(main()) >= 2400
    assert len(wires) == 1


def test_tasks_lose_patience_and_at_last_the_connection(own_server: Server, dialled: Any) -> None:
    dial, wires = dialled

    async def main() -> None:
        loop = asyncio.get_running_loop()
        patient, hasty = LoopLink(loop, dial, PATIENT), LoopLink(loop, dial, HARD)
        await patient.exchange(echo("open"))
        await answered_on_loop(hasty, "open")
        kept, lost = wires[0], wires[-1]
        with own_server.stopped():
            with pytest.raises(SlowError):
                await patient.exchange(echo("a", 0.05))
            assert kept.is_open
            with pytest.raises(UnreachableError):
                await hasty.exchange(echo("b", HARD))
            assert not lost.is_open
        opened = len(wires)
        assert (await patient.exchange(echo("b"))).replies == [b"b"]
        assert len(wires) == opened
        assert await answered_on_loop(hasty, "c") == [b"c"]
        assert len(wires) > opened
        patient.close()
        hasty.close()

    asyncio.run(main())


def test_a_large_value_waits_for_the_socket(new_server: Server, member: Make) -> None:
    one = member(new_server)
    item = one.item_of("k")
    one.items.envelope.limit = 1 << 26
    one.items.envelope.pack_from = None
    value = random.Random(1).randbytes(8 << 20)
    sealed = one.sealed(item, value)

    async def main() -> None:
        await asyncio.gather(*(one.arun(one.set(item, sealed, 60, 0)) for _ in "ab"))
        found = None
        while found is None:
            one.join(item)
            found = await one.arun(one.read(item))
        assert found.value == value
        await one.aclose()

    asyncio.run(main())


def test_a_loop_that_is_closed_closes_its_connections(new_server: Server, member: Make) -> None:
    one = member(new_server)
    item = one.item_of("k")
    one.join(item)
    one.put(item, "v")

    async def main() -> None:
        await one.arun(one.read(item))

    (target,) = one.servers.all
    for _ in range(5):
        asyncio.run(main())  # Each with a loop of its own, and nothing that ends it in order.
        gc.collect()
        assert not len(target._loops[0])


def test_loops_of_several_threads_each_have_their_own(new_server: Server, member: Make) -> None:
    one = member(new_server)
    items = [one.item_of(number) for number in range(32)]
    one.join(items[0])

    async def main(number: int) -> None:
        for item in items:
            value = f"{number}:{item.key}"
            own = one.item_of(value)
            await one.arun(one.set(own, one.sealed(own, value), 60, 0))
            found = await one.arun(one.read(own))
            assert found is None or found.value == value

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: asyncio.run(main(number)), range(4)))


def test_a_send_does_not_wait_for_as_long_as_a_call_before_it() -> None:
    class Connection:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def disconnect(self) -> None:
            self._sock.close()

    ours, theirs = socket.socketpair()  # The other end takes nothing.
    with theirs:
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        ours.settimeout(10 * STARTS_WITHIN)
        wire = Wire(Connection(ours), None)
        raised: list[BaseException] = []

        def send() -> None:
            try:
                wire.send(b"PING", 0.01)
            except UnreachableError as error:
                raised.append(error)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        wait_until(lambda: not sending.is_alive())
    assert len(raised) == 1
    assert not wire.is_open


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this platform has no Unix sockets")
def test_a_unix_socket(member: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    with server(None, "--unixsocket", str(path)):
        one = member(f"unix://{path}")
        item = one.item_of("k")
        one.join(item).put(item, "v")
        assert one.value_of(item) == "v"
        one.close()


def test_a_client_of_the_user_s_own(new_server: Server, member: Make) -> None:
    import valkey

    with valkey.Valkey(port=new_server.port, db=3, decode_responses=True) as client:
        one = member(client)
        item = one.item_of("k")
        one.join(item).put(item, "v")
        assert one.value_of(item) == "v"
        assert client.dbsize() > 1


def test_nothing_is_opened_at_construction(new_server: Server, member: Make) -> None:
    threads = set(threading.enumerate())
    # All that ever were: a client that has just ended may be counted among those that are.
    clients = new_server.call("INFO", "stats")["total_connections_received"]
    one = member(new_server)
    assert not one.servers.is_known
    assert set(threading.enumerate()) <= threads
    assert new_server.call("INFO", "stats")["total_connections_received"] == clients + 1


# The breaker


def test_the_breaker_opens_closes_and_lets_one_probe_through() -> None:
    now, changes = [0.0], []
    breaker = Breaker(failures=3, period=1.0, clock=lambda: now[0], on_change=changes.append)
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    assert not breaker.admits()
    now[0] = 1.0
    assert breaker.admits()
    assert not breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    now[0] = 1.9
    assert not breaker.admits()
    now[0] = 2.0
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.admits()
    assert breaker.admits()
    assert changes == ["open", "half-open", "open", "half-open", "closed"]


def test_a_probe_that_never_comes_back_is_followed_by_another() -> None:
    now = [0.0]
    breaker = Breaker(failures=1, period=1.0, clock=lambda: now[0])
    breaker.failed()
    for second in (1.0, 2.0, 3.0):
        now[0] = second
        assert breaker.admits()
        assert not breaker.admits()


def test_a_breaker_is_logged_once_as_it_opens_and_once_as_it_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    breaker: Any = Breaker(
        failures=2, period=1.0, clock=lambda: now[0], on_change=Announced(("db", 6379))
    )
    caplog.set_level(logging.INFO, "flowcache")
    for second in range(1, 8):
        now[0] = float(second)
        if breaker.admits():
            breaker.failed()
    for _ in range(3):
        now[0] += 2.0
        breaker.admits()
        breaker.succeeded()
    events = [record.flowcache_event for record in caplog.records]
    assert events == ["breaker_opened", "breaker_closed"]
    assert "db:6379" in caplog.text


def test_a_server_that_is_gone_costs_nothing_while_the_breaker_is_open(
    own_server: Server, member: Make
) -> None:
    one = member(own_server, period=600.0)
    item = one.item_of("k")
    one.join(item).put(item, "v")
    own_server.kill()
    (target,) = one.servers.all
    for _ in range(10):
        assert one.run(one.read(item)) is None
    assert target.breaker.state == "open"
    with pytest.raises(BreakerOpenError):
        target.ask(echo("a"))
    with pytest.raises(ServerError):
        one.run(one.lead(item, b"t" * 16))


# Bells


def test_a_bell_that_has_rung_keeps_no_task() -> None:
    """A bucket's bell stays rung for as long as its connection lives, and is waited for again when
    the lease has run out."""
    bell = Bell()
    bell.ring()
    assert all(run(bell.awaited(60)) for _ in range(3))
    assert not bell._tasks
    silent = Bell()
    assert not run(silent.awaited(0.01))
    assert not silent._tasks
