"""The bus: one thread that receives invalidations of others, and the lease of the local entries.

It keeps one connection to each primary that has buckets which this process follows. Messages and
the replies to heart-beats arrive there in one order. So the reply to a heart-beat proves that all
messages published before it have been applied. Local entries may be served until the time at which
the last answered heart-beat was *sent*, plus the lease (rule 9).

The states of one bucket:

    wanted -> subscribing -> attaching -> attached -> live
      ^                                                |
      '------------------- a gap ----------------------'

A gap is a connection that ended, a slot that moved, a server with another history, or a list of
members without this one. After it the log is replayed from the last message, or all local entries
of the bucket are void (rule 10). Rules are numbered as in the package's docstring.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import weakref
from base64 import urlsafe_b64encode
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from flowcache._core import lease_time as monotonic

from .awaited import Awaited
from .bell import Bell
from .dialling import begin_to_dial
from .errors import LateError, ServerError, UnreachableError
from .following import SOONEST, Following, Holding, Line, Troubles
from .forking import renew_after_forks
from .message import Kind, Message
from .resp import Push, ReplyError, pack
from .script import script
from .wire import epoch_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .following import Follower
    from .items import Item
    from .layout import Bucket, Layout
    from .servers import Servers
    from .wire import Wire

__all__ = ["LATE", "LEASE", "Bus", "new_token"]

logger = logging.getLogger("flowcache")

BEAT: Final = 0.5
"""Seconds between heart-beats."""
EARLY: Final = 0.010
"""Seconds by which a lease ends before its time: the clock that a hit reads is a coarse one."""
FINDER: Final = id(None)
"""The key of the line to no server in particular."""
LATE: Final = 0.025
"""Seconds that a wait for a whole lease takes longer than the lease."""
LATEST: Final = 1.0
"""Seconds until a server that could not be reached is tried again, at last."""
LEASE: Final = 10.0
"""Seconds for which a load may hold up the fleet without a renewal."""
RENEWED: Final = LEASE / 3
"""Seconds between two renewals."""


def new_token() -> bytes:
    """Return sixteen characters that are unique to this process and this call."""
    return urlsafe_b64encode(os.urandom(12))


class Bus:
    """Follows buckets for one cache. The thread starts with the first bucket that is wanted."""

    def __init__(
        self,
        layout: Layout,
        servers: Servers,
        follower: Follower,
        *,
        lease: float = 2.0,
        replicas: int | None = None,
        shape: bytes = b"",
    ) -> None:
        self._layout = layout
        self._servers = servers
        self._follower = follower
        self._lease = lease
        self._replicas = replicas
        self._shape = shape
        self._closed = False
        self._start()
        renew_after_forks(self)

    def _start(self) -> None:
        """Begin as a new member of the fleet: at first, and in the child of a fork."""
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None
        self._following: dict[int, Following] = {}
        self._lines: dict[int, Line] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._troubles = Troubles()
        self.awaited = Awaited()
        self._held: dict[bytes, Holding] = {}
        self._stopped = Bell()
        self.member = new_token()
        self.messages = 0

    def renew(self) -> None:
        """Begin as a new member in the child of a fork; until it hears, nothing is served."""
        for line in self._lines.values():
            line.close()
        if self._wake is not None:
            self._wake.close()
        held = [one.bucket for one in self._following.values()]
        self._start()
        for bucket in held:  # The parent's entries of it, which are void once it is live.
            following = self._following[bucket.number] = Following(bucket)
            following.counts = True
        self._follower.lend(0.0)

    # For callers, on any thread

    def follow(self, bucket: Bucket) -> Bell:
        """Follow a bucket from now on; the bell rings when it is live."""
        following = self._following.get(bucket.number)
        if following is None or self._thread is None:
            with self._lock:
                following = self._following.setdefault(bucket.number, Following(bucket))
                self._begin()
            self._tell(lambda: None)
        return following.bell

    def count_in(self, bucket: Bucket) -> None:
        """Have a bucket count for the lease though it is not live: what is held of it may be old.

        One that is live counts anyway. Until one is, a new bucket ends no other's lease.
        """
        with self._lock:
            following = self._following.get(bucket.number)
            if following is not None and not following.counts:
                following.counts = True
                self._lend()

    def is_live(self, bucket: Bucket, replid: bytes | None = None) -> bool:
        """Tell if the lease lives, under this history (rule 8)."""
        following = self._following.get(bucket.number)
        return (
            following is not None
            and (replid is None or replid == following.replid)
            and monotonic() < following.lease
        )

    @property
    def state(self) -> Literal["idle", "live", "apart", "closed"]:
        """Whether this process hears of all buckets that it follows."""
        if self._closed:
            return "closed"
        if self._thread is None and self.trouble is None:
            return "idle"
        now, followed = monotonic(), list(self._following.values())
        return "live" if all(now < one.lease for one in followed) else "apart"

    @property
    def trouble(self) -> Exception | None:
        """Why a primary is out of reach; None if all are reached."""
        return self._troubles.first

    def trouble_of(self, bucket: Bucket) -> Exception | None:
        """Return why a bucket cannot become live now, as far as that is known."""
        following = self._following.get(bucket.number)
        line = None if following is None else following.line
        return self._troubles.of(None if line is None else line.address)

    def replicas_of(self, bucket: Bucket) -> int:
        """Return the number of replicas that must confirm a write (rule 7)."""
        if self._replicas is not None:
            return self._replicas
        following = self._following.get(bucket.number)
        known = 0
        if following is not None and following.line is not None:
            known = following.line.replicas
        if self._servers.is_known:
            known = max(known, self._servers.share_of(bucket.slot).replicas)
        return known

    def has_left(self, bucket: Bucket, replid: bytes) -> bool:
        """Tell if a history is one that this process has left."""
        following = self._following.get(bucket.number)
        return following is not None and replid in following.left

    def note(self, bucket: Bucket, replid: bytes) -> None:
        """Take the history of a confirmed write; another one ends the lease (rule 8)."""
        following = self._following.get(bucket.number)
        if following is None or not following.replid or following.replid == replid:
            return
        following.lease = 0.0
        self._lend()
        self._tell(lambda: self._renamed(following, replid))

    def knows_members(self, bucket: Bucket, birth: bytes, replid: bytes) -> bool:
        """Tell if a list of members is complete: born long ago, under this history (rule 11)."""
        following = self._following.get(bucket.number)
        return (  # In this order: the bus's thread writes them in the opposite one.
            following is not None
            and bool(birth)
            and following.replid == replid
            and following.birth == birth
            and monotonic() >= following.born_at + self._lease + LATE
        )

    def hold(self, item: Item, token: bytes, until: float) -> None:
        """Renew a lease from the bus's thread while its load runs, but not beyond a time."""
        self._held[token] = Holding(item, until, monotonic() + RENEWED)

    def hold_no_more(self, token: bytes) -> None:
        """Renew a lease no longer."""
        self._held.pop(token, None)

    def close(self, patience: float = 1.0) -> None:
        """Leave the fleet and end the thread; local entries are not served any more."""
        self._closed = True
        if self._thread is None:
            return
        self._tell(lambda: None)
        if threading.current_thread() is not self._thread:
            self._stopped.wait(patience)

    def _begin(self) -> None:
        if self._thread is not None or self._closed:
            return
        ours, wake = socket.socketpair()
        ours.setblocking(False)
        wake.setblocking(False)
        args = weakref.ref(self), ours, wake, self._lines
        thread = threading.Thread(target=_run, args=args, name="flowcache-bus", daemon=True)
        if self._wake is not None:  # A finalizer or a signal handler has begun it meanwhile.
            ours.close()
            wake.close()
            return
        self._wake, self._thread = wake, thread
        try:
            thread.start()
        except RuntimeError as error:  # There are too many, or the interpreter is at its end.
            ours.close()
            wake.close()
            self._thread = self._wake = None
            self._troubles.note(None, UnreachableError(str(error)))

    def _tell(self, what: Callable[[], None]) -> None:
        self._inbox.append(what)
        wake = self._wake
        if wake is not None:
            with suppress(OSError):  # A full pipe wakes it too, and a closed one has no reader.
                wake.send(b"\0")

    # The thread's own

    def _turn(self, selector: selectors.BaseSelector, ours: socket.socket) -> float:
        """Do the due work; return the seconds until more is due."""
        while self._inbox:
            self._inbox.popleft()()
        self._place_buckets()
        now = monotonic()
        soonest = now + BEAT
        for line in list(self._lines.values()):
            if not line.following:
                self._retire(line, selector)
                continue
            if line.wire is None:
                if line.retry_at is not None:
                    if line.retry_at <= now:
                        self._dial(line)
                    else:
                        soonest = min(soonest, line.retry_at)
                continue
            try:
                self._advance(line, now)
                events = selectors.EVENT_READ
                if line.flush():
                    events |= selectors.EVENT_WRITE
                key = selector.get_map().get(line.wire.sock)
                if key is None:
                    selector.register(line.wire.sock, events, line)
                elif key.events != events:
                    selector.modify(line.wire.sock, events, line)
            except ServerError as error:
                self._lose(line, selector, error)
            soonest = min(soonest, line.next_beat)
        self._renew(now)
        return max(soonest - monotonic(), 0.0)

    def _heard(self, line: Line, selector: selectors.BaseSelector) -> None:
        try:
            line.read(lambda push: self._pushed(line, push))
        except ServerError as error:
            self._lose(line, selector, error)
        except Exception as error:
            # A message that is none, or a follower that raises: its entries cannot be trusted. The
            # gap ends with a clear, for a replay could come upon that very message again.
            logger.exception("the bus could not apply what it heard; it begins again")
            for following in line.following.values():
                following.last = b""
            self._lose(line, selector, error)

    def _place_buckets(self) -> None:
        """Put each bucket on the line of the primary that has it."""
        missing: dict[int, Following] = {}
        trouble: UnreachableError | None = None
        for number, following in list(self._following.items()):
            try:
                server = self._servers.share_of(following.bucket.slot).server
            except UnreachableError as error:
                missing[number], trouble = following, error
                continue
            line = following.line
            if line is not None and line.server is server:
                continue
            if line is not None:
                line.following.pop(number, None)
                self._gap(following)
            line = self._lines.get(id(server))
            if line is None:
                line = self._lines[id(server)] = Line(server)
            following.line = line
            line.following[number] = following
        if trouble is not None:
            # It dials any server to find all of them, until none is missing.
            finder = self._lines.setdefault(FINDER, Line(None))
            finder.following = missing
            if self._servers.is_known:
                self._give_up_waiting(finder, trouble)
        elif self._lines.pop(FINDER, None) is not None and self._servers.is_cluster:
            self._troubles.end(None)  # A single server is at the address of the settings.

    def _dial(self, line: Line) -> None:
        """Open the connection in a thread of its own: the other primaries' beats go on."""
        line.retry_at = None
        try:
            taker = weakref.WeakMethod(self._taken)
            begin_to_dial(line, self._servers, self._layout.shape, self._shape, taker)
        except RuntimeError as error:  # There are too many, or the interpreter is at its end.
            self._put_off(line, UnreachableError(str(error)))

    def _taken(self, line: Line, wire: Wire | None, trouble: Exception | None) -> bool:
        """Take an opened connection, or why there is none; False if it has to be closed."""
        if not self._closed:
            self._tell(lambda: self._dialled(line, wire, trouble))
        return not self._closed and not self._stopped.has_rung

    def _dialled(self, line: Line, wire: Wire | None, trouble: Exception | None) -> None:
        if self._lines.get(id(line.server)) is not line:
            if wire is not None:
                wire.close()  # No bucket is there any more.
            return
        if trouble is not None:
            self._put_off(line, trouble)
            return
        line.has_failed = False
        if wire is None:
            line.retry_at = monotonic() + LATEST  # If some slot is still without a server.
            return
        line.wire = wire
        for following in line.following.values():
            following.state = "wanted"
        known = line.replicas if line.replid == wire.replid else 0
        line.replid, line.replicas = wire.replid, max(known, wire.replicas)
        line.next_beat, line.confirmed_at = 0.0, monotonic()

    def _put_off(self, line: Line, trouble: Exception) -> None:
        line.has_failed = True
        line.retry_at = monotonic() + line.wait
        line.wait = min(line.wait * 2, LATEST)
        self._give_up_waiting(line, trouble)

    def _give_up_waiting(self, line: Line, trouble: Exception) -> None:
        """Wake calls that wait for a primary's buckets: these do not become live soon."""
        self._troubles.note(line.address, trouble)
        for following in list(line.following.values()):
            bell, following.bell = following.bell, Bell()
            bell.ring()

    def _lose(self, line: Line, selector: selectors.BaseSelector, trouble: Exception) -> None:
        """End a connection: a gap in all its buckets. Their leases run on to their ends."""
        self._end(line, selector)
        for following in line.following.values():
            self._gap(following)
        self._put_off(line, trouble)

    def _retire(self, line: Line, selector: selectors.BaseSelector) -> None:
        """Let go of a primary that has no bucket any more."""
        self._end(line, selector)
        self._troubles.end(line.address)
        del self._lines[id(line.server)]

    def _end(self, line: Line, selector: selectors.BaseSelector) -> None:
        if line.wire is not None:
            with suppress(KeyError, ValueError):
                selector.unregister(line.wire.sock)
        line.close()

    def _gap(self, following: Following) -> None:
        following.generation += 1
        following.owed.clear()
        following.state = "wanted"
        if following.bell.has_rung:
            following.bell = Bell()

    def _renamed(self, following: Following, replid: bytes) -> None:
        """A confirmed write has named another history than the bus's."""
        line = following.line
        if following.replid == replid or line is None or line.wire is None:
            return
        line.wire.close()  # The selector finds it closed, or the next beat does.
        following.last = b""

    def _advance(self, line: Line, now: float) -> None:
        """Send the next commands that the buckets of a line need."""
        wire = line.wire
        assert wire is not None
        if not wire.is_open:
            raise UnreachableError("the connection was given up")
        since = line.waits_since()
        if since is not None and now > since + self._lease / 2:
            raise LateError("the server does not answer")
        for following in list(line.following.values()):
            if following.state == "wanted":
                self._subscribe(line, following)
        if now >= line.next_beat and any(
            following.state in ("attached", "live") for following in line.following.values()
        ):
            line.next_beat = now + BEAT
            self._beat(line)

    def _subscribe(self, line: Line, following: Following) -> None:
        wire, bucket, generation = line.wire, following.bucket, following.generation
        assert wire is not None

        def confirmed(reply: Any) -> None:
            if following.generation != generation:
                return
            if isinstance(reply, ReplyError):
                line.has_failed = True
                raise UnreachableError(str(reply))
            if wire.mode == "cluster":
                # It has the slot, and may have taken it since it was dialled.
                line.send(pack(b"CLUSTER", b"INFO"), told)
            else:
                attach(0)

        def told(reply: Any) -> None:
            if following.generation == generation:
                attach(epoch_in(reply))

        def attach(epoch: int) -> None:
            if following.take_history(wire.replid, epoch):
                self._lend()
            following.state = "attaching"
            birth = new_token()
            keys = (bucket.members, bucket.log)
            line.send(
                script("attach").call_in_full(keys, self.member, birth, following.last), attached
            )

        def attached(reply: Any) -> None:
            if following.generation == generation:
                self._attached(line, following, reply)

        following.state = "subscribing"
        inbox = bucket.inbox(self.member)
        line.send(pack(b"SSUBSCRIBE", inbox), _refuse_errors, inbox)
        line.send(pack(b"SSUBSCRIBE", bucket.bus), confirmed, bucket.bus)

    def _attached(self, line: Line, following: Following, reply: Any) -> None:
        """Replay missed messages, or void local entries; then heart-beats begin (rule 10)."""
        _refuse_errors(reply)
        word, replid, role, birth, last = reply[:5]
        if role != b"master" or replid != following.replid:
            raise UnreachableError("the server is another than when the connection was opened")
        if word == b"replay":
            for entry, fields in reply[5]:
                self._apply(following, fields[1])
                last = entry
        else:
            self._follower.void(following.bucket)
        following.last = last
        if following.birth != birth:
            following.born_at = monotonic()
            following.birth = birth
        following.state = "attached"
        line.next_beat, line.wait = 0.0, SOONEST

    def _beat(self, line: Line) -> None:
        """Send a heart-beat: it asks for each bucket's members, the role and the replicas."""
        sent = monotonic()
        beating = [
            (following, following.generation)
            for following in line.following.values()
            if following.state in ("attached", "live")
        ]
        told: list[Any] = []

        def answered(reply: Any) -> None:
            told.append(reply)
            if len(told) == len(beating) + (2 if wait else 1):
                self._beaten(line, sent, beating, told, wait)

        for following, _ in beating:
            bucket = following.bucket
            line.send(pack(b"HMGET", bucket.members, b"birth", self.member), answered)
        some = beating[0][0].bucket
        wait = max(self.replicas_of(following.bucket) for following, _ in beating)
        line.send(script("beat").call_in_full((some.prefix + b":b",)), answered)
        if wait:
            line.send(pack(b"WAIT", wait, round(BEAT * 500)), answered)

    def _beaten(
        self,
        line: Line,
        sent: float,
        beating: list[tuple[Following, int]],
        told: list[Any],
        wait: int,
    ) -> None:
        """Take a heart-beat's answer: extend the leases, or find a gap (rules 7, 9, 11)."""
        beat = told[len(beating)]
        _refuse_errors(beat)
        replid, role, replicas = beat
        if role != b"master":
            raise UnreachableError(f"the server is a {role.decode()} now")
        if any(replid != following.replid for following, _ in beating):
            for following, _ in beating:
                following.lease = 0.0
                following.last = b""
            self._lend()
            raise UnreachableError("the server writes another history now")
        line.replicas = max(line.replicas, replicas)
        confirmed = told[-1] if wait else 0
        if not isinstance(confirmed, int) or confirmed < wait:
            # It may be a primary no more. The leases run out, unless a later beat is confirmed.
            if monotonic() > line.confirmed_at + self._lease:
                few = confirmed if isinstance(confirmed, int) else 0
                trouble = UnreachableError(f"{few} of {wait} replicas confirmed a heart-beat")
                self._give_up_waiting(line, trouble)
            return
        line.confirmed_at = sent
        extended = set()
        for (following, generation), member in zip(beating, told, strict=False):
            if following.generation != generation:
                continue
            if isinstance(member, ReplyError):
                line.has_failed = True
                raise UnreachableError(str(member))
            if not following.is_listed(*member):
                self._gap(following)
                continue
            extended.add(following)
        self._troubles.end(line.address)
        until = sent + self._lease - EARLY
        self._lend(extended, until)  # First, so that a bucket that is live is served.
        for following in extended:
            following.lease, following.counts, following.state = until, True, "live"
            following.bell.ring()
            self._acknowledge(line, following)

    def _lend(self, extended: Collection[Following] = (), until: float = 0.0) -> None:
        """Tell the follower how long it may serve: as long as the lease of each of its buckets."""
        with self._lock:
            followed = list(self._following.values())
            leases = [one.lease for one in followed if one.counts and one not in extended]
            self._follower.lend(min([*leases, *[until] * bool(extended)], default=0.0))

    def _renew(self, now: float) -> None:
        """Renew the leases of loads that run long; one whose server is away runs out."""
        for token, holding in list(self._held.items()):
            if now > holding.until:
                self._held.pop(token, None)
                continue
            place = holding.item.place
            following = self._following.get(place.bucket.number)
            line = None if following is None else following.line
            if now < holding.due or line is None or line.wire is None:
                continue
            holding.due = now + RENEWED
            keys = (holding.item.lease, place.record)
            renewal = script("renew").call_in_full(keys, token, round(LEASE * 1000))
            # One that was unlinked meanwhile is no longer this process's: its store is refused.
            line.send(renewal, lambda _: None)

    # Messages

    def _pushed(self, line: Line, push: Push) -> None:
        if push[0] == b"smessage":
            channel, data = push[1], push[2]
            for following in line.following.values():
                bucket = following.bucket
                if channel == bucket.bus:
                    self._message(line, following, data)
                    return
                if channel == bucket.inbox(self.member):
                    operation, _, member = data.partition(b" ")
                    self.awaited.hear(operation, bucket.number, member)
                    return
        elif push[0] == b"sunsubscribe":
            # The slot has moved. Ours are never unsubscribed from while the line is open.
            line.has_failed = True
            raise UnreachableError("a slot has moved")

    def _message(self, line: Line, following: Following, data: bytes) -> None:
        entry, _, body = data.partition(b" ")
        self._apply(following, body)
        if entry != b"-" and following.state in ("attached", "live"):
            following.last = entry
        if following.owed and self.is_live(following.bucket):
            self._acknowledge(line, following)

    def _acknowledge(self, line: Line, following: Following) -> None:
        """Tell the callers that wait for it of what was applied: while the bucket is live."""
        while following.owed:
            message = following.owed.popleft()
            inbox = following.bucket.inbox(message.member)
            told = message.operation + b" " + self.member
            line.send(pack(b"SPUBLISH", inbox, told), _refuse_errors)

    def _apply(self, following: Following, body: bytes) -> None:
        if not body:
            return  # The first entry of a log, which only gives it an id.
        message = Message.decode(body)
        self.messages += 1
        if message.kind is not Kind.RELEASED and not self.awaited.is_own(message.operation):
            self._follower.apply(message)
        if message.kind in (Kind.DROP, Kind.EXPIRE, Kind.RELEASED):
            self.awaited.ring(message.path, message.data)
        if message.is_awaited and message.member != self.member:
            following.owed.append(message)

    def _leave(self) -> None:
        """Serve nothing more, and strike this process from the lists as far as they are reached."""
        for following in self._following.values():
            following.lease = 0.0
        self._lend()
        for line in self._lines.values():
            if line.wire is None:
                continue
            with suppress(ServerError):
                for following in line.following.values():
                    line.send(pack(b"HDEL", following.bucket.members, self.member), lambda _: None)
                line.flush()
            line.close()


def _refuse_errors(reply: Any) -> None:
    if isinstance(reply, ReplyError):
        raise UnreachableError(str(reply))


def _run(
    reference: weakref.ref[Bus], ours: socket.socket, wake: socket.socket, lines: dict[int, Line]
) -> None:
    """The thread's work. Between its turns nothing of it keeps the bus alive."""
    with selectors.DefaultSelector() as selector, ours, wake:
        selector.register(ours, selectors.EVENT_READ)
        seconds = 0.0
        while True:
            ready = selector.select(min(seconds, BEAT))
            bus = reference()
            if bus is None or bus._closed:
                break
            for key, events in ready:
                if key.fileobj is ours:
                    with suppress(OSError):
                        ours.recv(4096)
                elif events & selectors.EVENT_READ and key.data.wire is not None:
                    bus._heard(key.data, selector)
            seconds = bus._turn(selector, ours)
            del bus
    if bus is not None:
        bus._leave()
        bus._stopped.ring()
        while bus._inbox:  # A connection that was opened just now.
            bus._inbox.popleft()()
    for line in lines.values():
        line.close()
