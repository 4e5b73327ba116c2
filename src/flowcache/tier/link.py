"""Many calls, one connection: calls that wait at the same time are sent as one batch.

A call hands in an `Ask` and gets its answers. The asks that wait when a batch is made go together.
The order is their scripts, their GETs, one HMGET pair for each different set of records, then one
TIME. So a record is read after every value of its batch, and no record that was read serves a later
batch.

Replies are counted, never matched. A batch without callers still takes its replies, so that no
reply can reach another call.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flowcache._core import lease_time as monotonic

from .errors import ServerError, SlowError, UnreachableError
from .forking import forks, renew_after_forks
from .resp import ProtocolError, Replies, ReplyError, pack
from .wire import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Wire

__all__ = ["Ask", "LoopLink", "Read", "Records", "ThreadLink"]

T = TypeVar("T")

TIME: Final = pack(b"TIME")
WAITS: Final = 500
"""Milliseconds that replicas are waited for, by second of hard patience: half of it."""
MOST_KEPT: Final = 4096
"""Bytes of records that are kept to be compared with what is read next."""
FAR_FUTURE: Final = 3650 * 86400.0
"""Seconds until the timer that keeps a loop's link alive would fire."""


class Records:
    """The fields of a unit's record and of its bucket's that a value is judged by.

    One is made for each set of tags that callers name, and shared, so that a batch asks for equal
    ones once.
    """

    __slots__ = ("__weakref__", "_known", "command", "root_fields", "tags", "unit_fields")

    def __init__(
        self,
        record: bytes,
        root: bytes,
        unit_fields: tuple[bytes, ...],
        root_fields: tuple[bytes, ...],
        tags: tuple[str, ...],
    ) -> None:
        self.tags = tags
        self.unit_fields = unit_fields
        self.root_fields = root_fields
        self.command = pack(b"HMGET", record, *unit_fields) + pack(b"HMGET", root, *root_fields)
        self._known: tuple[bytes, tuple[list[Any], list[Any]]] | None = None

    def take_from(self, replies: Replies) -> tuple[Any, Any] | None:
        """Return the two replies that come next; None until they have arrived.

        Most are the same bytes as the last time, and then they are not parsed again.
        """
        known = self._known
        if known is not None and replies.skip(known[0]):
            return known[1]
        begin = replies.at
        unit = replies.next()
        root = replies.next()
        if root is Replies.NONE:
            replies.at = begin
            return None
        if type(unit) is list and type(root) is list:
            data = replies.since(begin)
            self._known = (data, (unit, root)) if len(data) <= MOST_KEPT else None
        return unit, root


class Read:
    """One value to read, and the result: the value and the records that it is judged by."""

    __slots__ = ("command", "data", "records", "root", "unit")

    def __init__(self, command: bytes, records: Records) -> None:
        self.command = command
        self.records = records
        self.data: Any = None
        self.unit: Any = None
        self.root: Any = None


class Ask:
    """The requests of one call in one round trip.

    `calls` are packed commands with one reply each. With `confirm` replicas, the answer tells how
    many of them had all that the batch wrote. `patience` is in seconds.
    """

    __slots__ = (
        "calls",
        "confirm",
        "confirmed",
        "error",
        "future",
        "gate",
        "is_settled",
        "now",
        "patience",
        "reads",
        "replid",
        "replies",
        "sent",
    )

    def __init__(
        self,
        patience: float,
        reads: tuple[Read, ...] = (),
        calls: tuple[bytes, ...] = (),
        confirm: int = 0,
    ) -> None:
        self.patience = patience
        self.reads = reads
        self.calls = calls
        self.confirm = confirm
        self.replies: list[Any] = []
        self.confirmed = 0
        self.now = 0
        """The server's time in ms, when the records had been read."""
        self.sent = 0.0
        """This process's monotonic time before the batch was sent."""
        self.replid = b""
        self.error: ServerError | None = None
        self.is_settled = False
        self.gate: Lock | None = None
        self.future: asyncio.Future[None] | None = None

    def settle(self) -> None:
        """Let the caller go on, on its own thread or loop; a second call has no effect."""
        self.is_settled = True
        if self.gate is not None:
            self.gate.release()
        elif self.future is not None and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: ServerError) -> None:
        """End an ask that has no answers; one that has them keeps them."""
        if not self.is_settled:
            self.error = error
            self.settle()


class Batch:
    """The asks that go together, and the replies that are still owed to them."""

    __slots__ = (
        "_asks",
        "_calls",
        "_clock",
        "_distinct",
        "_first",
        "_reads",
        "_replies",
        "_wait",
        "owed",
        "payload",
        "sent",
    )

    def __init__(self, asks: list[Ask], wait: int) -> None:
        self._asks = asks
        self._reads: list[Read] = []
        self._distinct: dict[Records, int] = {}
        """The records to read, and where their replies are."""
        self._replies: list[Any] = []
        self._wait = 0
        pieces: list[bytes] = []
        gets: list[bytes] = []
        for ask in asks:
            pieces += ask.calls
            for read in ask.reads:
                self._reads.append(read)
                gets.append(read.command)
                self._distinct[read.records] = 0
            if ask.confirm > self._wait:
                self._wait = ask.confirm
        self._calls = len(pieces)
        pieces += gets
        self._first = self.owed = len(pieces)
        """The number of replies before those of the records."""
        self._clock = -1
        """Where the reply to TIME is."""
        if gets:
            for records in self._distinct:
                self._distinct[records] = self.owed
                pieces.append(records.command)
                self.owed += 2
            pieces.append(TIME)
            self._clock = self.owed
            self.owed += 1
        if self._wait:
            pieces.append(pack(b"WAIT", self._wait, wait))
            self.owed += 1
        self.payload = b"".join(pieces)
        self.sent = 0.0

    def take_from(self, replies: Replies) -> bool:
        """Take the replies that have arrived; return whether these are all."""
        got, first = self._replies, self._first
        pairs = iter(self._distinct.items())
        while self.owed:
            if len(got) >= first:
                for records, index in pairs:
                    if index >= len(got):
                        pair = records.take_from(replies)
                        if pair is None:
                            return False
                        got += pair
                        self.owed -= 2
            reply = replies.next_time() if len(got) == self._clock else replies.next()
            if reply is Replies.NONE:
                return False
            got.append(reply)
            self.owed -= 1
        return True

    def fail(self, error: ServerError) -> None:
        """End all asks that wait; the replies stay owed."""
        for ask in self._asks:
            ask.fail(error)

    def forget(self, patience: float) -> None:
        """End the asks whose patience is not longer than this."""
        for ask in self._asks:
            if ask.patience <= patience:
                ask.fail(SlowError("no answer in time"))

    @property
    def patience(self) -> float:
        """The longest patience of those that still wait."""
        longest = 0.0
        for ask in self._asks:
            if ask.patience > longest and not ask.is_settled:
                longest = ask.patience
        return longest

    def settle(self, replid: bytes) -> None:
        """Hand out the replies, which are complete."""
        replies = self._replies
        confirmed = 0
        if self._wait:
            last = replies[-1]
            confirmed = last if type(last) is int else 0
        at = self._calls
        now = 0
        if self._reads:
            clock = replies[self._clock]
            now = int(clock[0]) * 1000 + int(clock[1]) // 1000 if type(clock) is list else 0
            for read in self._reads:
                read.data = replies[at]
                at += 1
                index = self._distinct[read.records]
                read.unit, read.root = replies[index], replies[index + 1]
        at = 0
        for ask in self._asks:
            if ask.calls:
                ask.replies = replies[at : at + len(ask.calls)]
                at += len(ask.calls)
            ask.confirmed = confirmed
            ask.now = now
            ask.sent = self.sent
            ask.replid = replid
            if not ask.is_settled:
                ask.settle()


class ThreadLink:
    """One connection for all threads of a process.

    The first call leads: it sends all waiting asks and reads the replies. Replies of earlier
    batches, with callers that timed out, come first. Then it hands the lead to a call that came
    meanwhile.
    """

    __slots__ = (
        "__weakref__",
        "_dial",
        "_hard",
        "_leader",
        "_mutex",
        "_unread",
        "_waiting",
        "_wire",
    )

    def __init__(self, dial: Callable[[], Wire], hard: float) -> None:
        self._dial = dial
        self._hard = hard
        self._wire: Wire | None = None
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin without a connection, and without calls, which are those of other threads."""
        if self._wire is not None:
            self._wire.close()
        self._mutex = RLock()
        self._waiting: list[Ask] = []
        self._leader: Ask | None = None
        self._wire = None
        self._unread: deque[Batch] = deque()

    def exchange(self, ask: Ask) -> Ask:
        """Return the ask with its answers; raises `ServerError`."""
        try:
            with self._mutex:
                leads = self._leader is None
                if leads:
                    self._leader = ask  # No ask waits, or one of them would lead.
                else:
                    ask.gate = Lock()
                    ask.gate.acquire()
                    self._waiting.append(ask)
            if leads:
                self._lead([ask])
            elif self._follow(ask):
                self._lead([])
            self._end(ask)
        except BaseException:
            # An interrupt may come between any two lines, those of `_end` too.
            self._end(ask)
            raise
        if ask.error is not None:
            raise ask.error
        return ask

    def _follow(self, ask: Ask) -> bool:
        """Wait for the answers, or for the lead: True if it was handed over."""
        assert ask.gate is not None
        ask.gate.acquire(timeout=ask.patience)
        with self._mutex:
            if self._leader is ask:
                ask.gate = None  # No other call ends it from now on.
                return True
            if not ask.is_settled:
                # Only the leader opens the gate: twice is an error.
                ask.error = SlowError("no answer in time")
                ask.is_settled = True
            return False

    def _lead(self, asks: list[Ask]) -> None:
        """Exchange some asks, or those that wait by now."""
        if not asks:
            with self._mutex:
                asks, self._waiting = self._waiting, []
        batch = Batch(asks, round(self._hard * WAITS))
        try:
            self._exchange(batch)
        except ServerError as error:
            batch.fail(error)
        except BaseException:
            # An interrupt between two replies: no other call may get the rest of a reply.
            self._drop(UnreachableError("the exchange was interrupted"))
            batch.fail(UnreachableError("the exchange was interrupted"))
            raise

    def _end(self, ask: Ask) -> None:
        """Let an ask wait no more, and hand the lead over if it has it. May be repeated."""
        with self._mutex:
            if ask in self._waiting:
                self._waiting.remove(ask)
            if self._leader is ask:
                self._leader = self._waiting[0] if self._waiting else None
            heir = self._leader
            if heir is not None and heir.gate is not None:  # It has not taken the lead yet.
                with suppress(RuntimeError):  # Its gate is open, unless an interrupt came before.
                    heir.gate.release()

    def _exchange(self, batch: Batch) -> None:
        wire, unread = self._wire, self._unread
        if wire is not None and not unread and wire.is_open and not wire.is_quiet():
            wire.close()  # The server, or a machine between, ended it while it was idle.
        if wire is None or not wire.is_open:
            # `leave` and `close`, of any thread, leave batches behind: their replies do not come on
            # the new connection, and would be taken from those of other calls.
            self._drop(UnreachableError("the connection ended"))
            wire = self._wire = self._dial()
        batch.sent = monotonic()
        unread.append(batch)
        until = batch.sent + batch.patience
        try:
            wire.send(batch.payload, self._hard)
            wire.fill(until)
            while unread:
                head = unread[0]
                while not head.take_from(wire.replies):
                    wire.fill(until)
                head.settle(wire.replid)
                unread.popleft()
        except SlowError as error:
            if monotonic() - unread[0].sent >= self._hard:
                self._drop(error)
                raise UnreachableError("the server did not answer") from error
            raise
        except UnreachableError as error:
            self._drop(error)
            raise
        except ProtocolError as error:
            unreadable = UnreachableError(f"the connection ended: {error}")
            self._drop(unreadable)
            raise unreadable from error

    def _drop(self, error: ServerError) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        for batch in self._unread:
            batch.fail(error)
        self._unread.clear()

    def leave(self, replid: bytes) -> None:
        """End the connection if it is to a server of this history."""
        wire = self._wire
        if wire is not None and wire.replid == replid:
            wire.close()

    def close(self) -> None:
        """End the connection; calls that wait for it fail, and the next opens another."""
        wire = self._wire
        if wire is not None:
            wire.close()


class LoopLink:
    """One connection for all tasks of an event loop.

    Only a timer of that loop refers to it. A closed loop drops its timers, and with this one the
    link, which then closes its socket.
    """

    __slots__ = (
        "__weakref__",
        "_dial",
        "_dialling",
        "_forks",
        "_hard",
        "_is_closed",
        "_is_scheduled",
        "_loop",
        "_rest",
        "_unread",
        "_waiting",
        "_wire",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, dial: Callable[[], Wire], hard: float
    ) -> None:
        self._loop = loop
        self._dial = dial
        self._hard = hard
        self._forks = forks()
        self._is_closed = False
        self._wire: Wire | None = None
        self._dialling: asyncio.Future[ServerError | BaseException | None] | None = None
        self._waiting: list[Ask] = []
        self._is_scheduled = False
        self._unread: deque[Batch] = deque()
        self._rest = b""

    @classmethod
    def of(
        cls,
        known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[LoopLink]],
        loop: asyncio.AbstractEventLoop,
        dial: Callable[[], Wire],
        hard: float,
    ) -> LoopLink:
        """Return the link of a loop; to be called on the loop's own thread."""
        reference = known.get(loop)
        link = None if reference is None else reference()
        if link is None or link._forks != forks():
            link = cls(loop, dial, hard)
            loop.call_later(FAR_FUTURE, link.close)
            known[loop] = weakref.ref(link)
        return link

    async def exchange(self, ask: Ask) -> Ask:
        """Return the ask with its answers; raises `ServerError`."""
        self._is_closed = False
        if self._wire is None:
            await self._connect()
        future = ask.future = self._loop.create_future()
        self._waiting.append(ask)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)
        await future
        if ask.error is not None:
            raise ask.error
        return ask

    async def _connect(self) -> None:
        """Open the connection, once for all tasks; a cancelled task stops no other."""
        if self._dialling is None:
            self._dialling = self._loop.run_in_executor(None, self._try_to_dial)
        outcome = await asyncio.shield(self._dialling)
        if isinstance(outcome, BaseException):
            raise outcome

    def _try_to_dial(self) -> BaseException | None:
        """Run in a thread of the executor. The outcome is a value, for it has many readers."""
        try:
            wire = self._dial()
            wire.sock.setblocking(False)
        except Exception as error:  # noqa: BLE001  raised in the waiting calls
            self._loop.call_soon_threadsafe(self._dialled, None)
            return error
        self._loop.call_soon_threadsafe(self._dialled, wire)
        return None

    def _dialled(self, wire: Wire | None) -> None:
        self._dialling = None
        if wire is not None and self._is_closed:
            wire.close()
        elif wire is not None:
            # `close` leaves batches behind: their replies do not come on this connection.
            self._drop(UnreachableError("the connection ended"))
            self._wire = wire
            self._loop.add_reader(wire.sock, self._readable)

    def _flush(self) -> None:
        self._is_scheduled = False
        asks, self._waiting = self._waiting, []
        asks = [ask for ask in asks if ask.future is not None and not ask.future.done()]
        if not asks:
            return
        batch = Batch(asks, round(self._hard * WAITS))
        if self._wire is None:
            batch.fail(UnreachableError("the connection ended"))
            return
        batch.sent = monotonic()
        self._unread.append(batch)
        patience = min(ask.patience for ask in asks)
        self._loop.call_later(patience, self._overdue, batch, patience)
        if self._rest:
            self._rest += batch.payload
            return
        self._send(batch.payload)

    def _send(self, data: bytes) -> None:
        assert self._wire is not None
        try:
            sent = self._wire.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            if _wants_more(error):
                sent = 0
            else:
                self._drop(UnreachableError(f"the connection ended: {error}"))
                return
        had_rest = bool(self._rest)
        self._rest = data[sent:]
        if self._rest and not had_rest:
            self._loop.add_writer(self._wire.sock, self._writable)
        elif had_rest and not self._rest:
            self._loop.remove_writer(self._wire.sock)

    def _writable(self) -> None:
        self._send(self._rest)

    def _readable(self) -> None:
        wire = self._wire
        if wire is None:
            return
        try:
            data = wire.sock.recv(CHUNK)
            while True:
                if not data:
                    raise UnreachableError("the server closed the connection")
                wire.replies.feed(data)
                self._take(wire)
                if not wire.has_read_ahead():
                    return
                data = wire.sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if not _wants_more(error):
                self._drop(UnreachableError(f"the connection ended: {error}"))
        except ServerError as error:
            self._drop(error)
        except Exception as error:  # noqa: BLE001  a reply that cannot be read ends the connection
            self._drop(UnreachableError(f"the server's reply cannot be read: {error}"))

    def _take(self, wire: Wire) -> None:
        unread = self._unread
        while unread:
            head = unread[0]
            if not head.take_from(wire.replies):
                return
            unread.popleft()
            head.settle(wire.replid)
        if not wire.replies.is_empty:
            raise UnreachableError("the server sent what was not asked for")

    def _overdue(self, batch: Batch, patience: float) -> None:
        """One timer a batch: it ends calls past their patience, at last the connection."""
        if not batch.owed or batch not in self._unread:
            return
        if patience >= self._hard:
            self._drop(UnreachableError("the server did not answer"))
            return
        batch.forget(patience)
        longer = self._hard
        self._loop.call_later(longer - patience, self._overdue, batch, longer)

    def leave(self, replid: bytes) -> None:
        """End the connection if it is to a server of this history."""
        if self._wire is not None and self._wire.replid == replid:
            self._drop(UnreachableError("the fleet has left the server"))

    def _drop(self, error: ServerError) -> None:
        self._end()
        unread, self._unread = self._unread, deque()
        for batch in unread:
            batch.fail(error)

    def close(self) -> None:
        """End the connection, one that is being opened as well; the next call opens another."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        wire, self._wire = self._wire, None
        self._rest = b""
        if wire is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(wire.sock)
            self._loop.remove_writer(wire.sock)
        wire.close()

    def __del__(self) -> None:
        self.close()


def _wants_more(error: OSError) -> bool:
    """Tell if TLS only waits for the socket."""
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


def refused(reply: Any, kind: str) -> bool:
    """Tell if a reply is the server's refusal of this kind."""
    return isinstance(reply, ReplyError) and reply.kind == kind
