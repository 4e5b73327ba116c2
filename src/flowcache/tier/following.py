"""The state of the bus: of a followed bucket, of a primary, of a message with acknowledgements."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from flowcache._core import lease_time as monotonic

from .bell import Bell
from .errors import UnreachableError
from .resp import Push, Replies
from .wire import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .items import Item
    from .layout import Bucket
    from .message import Message
    from .servers import Server
    from .wire import Wire

    State = Literal["wanted", "subscribing", "attaching", "attached", "live"]
    Handler = Callable[[Any], None]

__all__ = ["SOONEST", "Acknowledgements", "Follower", "Following", "Holding", "Line"]

SOONEST: Final = 0.05
"""Seconds until a server that could not be reached is tried again, at first."""


class Follower(Protocol):
    """The holder of values in this process; it receives the invalidations of the fleet.

    Called by the bus's thread. A void key is fenced too: a load or a read that began before must
    not store after.
    """

    def apply(self, message: Message) -> None:
        """Void what a message covers."""
        ...

    def void(self, bucket: Bucket) -> None:
        """Void all that lies in a bucket."""
        ...

    def lend(self, until: float) -> None:
        """Serve what is held until this monotonic time."""
        ...


class Acknowledgements:
    """The members that have applied a message, and a bell for when all have."""

    __slots__ = ("_expected", "_heard", "_lock", "bell")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: set[tuple[int, bytes]] = set()
        self._expected: set[tuple[int, bytes]] | None = None
        self.bell = Bell()

    def hear(self, bucket: int, member: bytes) -> None:
        """Note a member that has applied it; this may come before the list of members is known."""
        with self._lock:
            self._heard.add((bucket, member))
        self._settle()

    def expect(self, members: Iterable[tuple[int, bytes]]) -> None:
        """Say which members have to apply it, of which buckets."""
        with self._lock:
            self._expected = set(members)
        self._settle()

    @property
    def missing(self) -> set[tuple[int, bytes]]:
        """The members that have not applied it yet."""
        with self._lock:
            return (self._expected or set()) - self._heard

    def _settle(self) -> None:
        with self._lock:
            done = self._expected is not None and self._expected <= self._heard
        if done:
            self.bell.ring()


class Holding:
    """The lease of a load that runs here: renewed when it is due, until a time."""

    __slots__ = ("due", "item", "until")

    def __init__(self, item: Item, until: float, due: float) -> None:
        self.item = item
        self.until = until
        self.due = due


class Following:
    """One bucket that this process follows. Changed by the bus's thread alone."""

    __slots__ = (
        "bell",
        "birth",
        "born_at",
        "bucket",
        "generation",
        "has_lived",
        "last",
        "lease",
        "left",
        "line",
        "replid",
        "state",
    )

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.state: State = "wanted"
        self.replid = b""
        """The current history (rule 8); empty before the first."""
        self.left: set[bytes] = set()
        """Histories that were left; none of them comes back."""
        self.last = b""
        """The id of the last message that was applied; empty: a gap ends with a clear."""
        self.birth = b""
        self.born_at = 0.0
        """When this process first saw the list of members that it is on."""
        self.lease = 0.0
        self.has_lived = False
        self.generation = 0
        """Grows with each gap: a heart-beat of before it extends nothing."""
        self.line: Line | None = None
        self.bell = Bell()
        """Rings when the bucket is live."""


class Line:
    """The bus's connection to one primary: the commands sent on it, and the use of each answer."""

    __slots__ = (
        "_out",
        "_waiting",
        "following",
        "has_failed",
        "next_beat",
        "replicas",
        "replid",
        "retry_at",
        "server",
        "wait",
        "wire",
    )

    def __init__(self, server: Server | None) -> None:
        self.server = server
        """The primary; None for a line that only finds out which there are."""
        self.wire: Wire | None = None
        self.following: dict[int, Following] = {}
        self._waiting: deque[tuple[float, bytes | None, Handler]] = deque()
        self._out = b""
        self.next_beat = 0.0
        self.retry_at: float | None = 0.0
        """When to dial; None while that is under way or the line is open."""
        self.wait = SOONEST
        self.replid = b""
        self.replicas = 0
        """The most replicas that were seen at this history; one that is away may come back."""
        self.has_failed = False

    def send(self, command: bytes, handler: Handler, channel: bytes | None = None) -> None:
        """Queue a command. A subscription is answered by a push that names its channel."""
        self._waiting.append((monotonic(), channel, handler))
        self._out += command

    def waits_since(self) -> float | None:
        """Return since when the oldest command has no answer; None without one."""
        return self._waiting[0][0] if self._waiting else None

    def flush(self) -> bool:
        """Send what the socket takes; return if something is left."""
        if self._out and self.wire is not None:
            try:
                self._out = self._out[self.wire.sock.send(self._out) :]
            except BlockingIOError:
                pass
            except OSError as error:
                if type(error).__name__ not in ("SSLWantReadError", "SSLWantWriteError"):
                    raise UnreachableError(f"the connection ended: {error}") from error
        return bool(self._out)

    def read(self, on_push: Callable[[Push], None]) -> None:
        """Take what has arrived and hand it on, in its order."""
        wire = self.wire
        assert wire is not None
        while True:
            try:
                data = wire.sock.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                    return
                raise UnreachableError(f"the connection ended: {error}") from error
            if not data:
                raise UnreachableError("the server closed the connection")
            wire.replies.feed(data)
            while self.wire is wire and (reply := wire.replies.next()) is not Replies.NONE:
                self._hand_on(reply, on_push)
            if self.wire is not wire:
                return

    def _hand_on(self, reply: Any, on_push: Callable[[Push], None]) -> None:
        if isinstance(reply, Push):
            if reply[0] == b"ssubscribe" and self._waiting and self._waiting[0][1] == reply[1]:
                self._waiting.popleft()[2](reply)
            else:
                on_push(reply)
            return
        if not self._waiting:
            raise UnreachableError("the server sent what was not asked for")
        self._waiting.popleft()[2](reply)

    def close(self) -> None:
        """End the connection and forget what was asked on it."""
        wire, self.wire = self.wire, None
        self._waiting.clear()
        self._out = b""
        if wire is not None:
            wire.close()
