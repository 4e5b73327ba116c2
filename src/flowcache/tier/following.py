"""The state of the bus: of a followed bucket, of a primary, and of primaries out of reach."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from flowcache._core import lease_time as monotonic
from flowcache.reports import report

from .bell import Bell
from .errors import UnreachableError
from .resp import Push, Replies
from .wire import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from .items import Item
    from .layout import Bucket
    from .message import Message
    from .servers import Server
    from .wire import Address, Wire

    State = Literal["wanted", "subscribing", "attaching", "attached", "live"]
    Handler = Callable[[Any], None]

__all__ = ["SOONEST", "SUSPECT", "Follower", "Following", "Holding", "Line", "Troubles"]

MOST_OWED: Final = 256
"""Acknowledgements that are kept; a call that misses an older one waits for the whole lease."""
SUSPECT: Final = b"?"
"""What `forget.lua` adds to a member's mark if no acknowledgement came for a whole lease."""
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
        "counts",
        "epoch",
        "generation",
        "last",
        "lease",
        "left",
        "line",
        "owed",
        "replid",
        "state",
    )

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.state: State = "wanted"
        self.replid = b""
        """The current history (rule 8); empty before the first."""
        self.epoch = 0
        """The epoch of the cluster node that writes it; 0 elsewhere."""
        self.left: set[bytes] = set()
        """Histories that were left; one comes back only as its node takes the slot anew."""
        self.last = b""
        """The id of the last message that was applied; empty: a gap ends with a clear."""
        self.birth = b""
        self.born_at = 0.0
        """When this process first saw the list of members that it is on, under this history."""
        self.lease = 0.0
        self.counts = False
        """The local entries are served only while its lease lives, too: some may be of it."""
        self.generation = 0
        """Grows with each gap: a heart-beat of before it extends nothing."""
        self.line: Line | None = None
        self.owed: deque[Message] = deque(maxlen=MOST_OWED)
        """What was applied and is waited for, until that may be told (rule 11)."""
        self.bell = Bell()
        """Rings when the bucket is live."""

    def is_listed(self, birth: bytes | None, mark: bytes | None) -> bool:
        """Tell if this process is on the list of members that it joined, and not suspected."""
        return birth == self.birth and mark is not None and not mark.endswith(SUSPECT)

    def take_history(self, replid: bytes, epoch: int) -> bool:
        """Go over to the history of a server that has the bucket; True if another one ends.

        `epoch` is the node's own, read after it had confirmed that it has the slot. A node that
        takes a slot raises its epoch above all before. So one with a lower epoch only has not heard
        of its loss, and a history that was left comes back with a greater one alone (rule 8).
        """
        leaves = False
        if replid != self.replid:
            if epoch < self.epoch:
                raise UnreachableError("another node of the cluster has taken the slot since")
            if replid in self.left and epoch <= self.epoch:
                raise UnreachableError("the server writes a history that the fleet has left")
            self.left.discard(replid)
            if self.replid:
                leaves = True
                self.left.add(self.replid)
                self.lease = 0.0
            self.last = self.birth = b""  # First: calls compare the list's birth on other threads.
            self.replid = replid
        self.epoch = max(self.epoch, epoch)
        return leaves


class Line:
    """The bus's connection to one primary: the commands sent on it, and the use of each answer."""

    __slots__ = (
        "_out",
        "_waiting",
        "confirmed_at",
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
        self.confirmed_at = 0.0
        """When the last confirmed heart-beat was sent; before the first, when it was dialled."""
        self.retry_at: float | None = 0.0
        """When to dial; None while that is under way or the line is open."""
        self.wait = SOONEST
        self.replid = b""
        self.replicas = 0
        """The most replicas that were seen at this history; one that is away may come back."""
        self.has_failed = False

    @property
    def address(self) -> Address | None:
        """Where the primary is; None for the server of the settings."""
        return None if self.server is None else self.server.address

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
            # The selector tells of more, but not of what TLS has read ahead. A call of the system
            # would be another turn in which a thread that computes may keep the GIL.
            if self.wire is not wire or not (len(data) == CHUNK or wire.has_read_ahead()):
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


class Troubles:
    """Why primaries are out of reach, by address. Each outage is logged once, and its end once."""

    def __init__(self) -> None:
        self._known: dict[Address | None, Exception] = {}

    def note(self, address: Address | None, trouble: Exception) -> None:
        """Note that a primary is out of reach."""
        if address not in self._known:
            report("WARNING", "the tier cannot be reached: %s", trouble, event="tier_lost")
        self._known[address] = trouble

    def end(self, address: Address | None) -> None:
        """Note that a primary has confirmed a heart-beat, or that the servers were found."""
        if self._known.pop(address, None) is not None:
            report("WARNING", "the tier is reached again", event="tier_back")

    def of(self, address: Address | None) -> Exception | None:
        """Return why a primary is out of reach; None if it is not."""
        return self._known.get(address)

    @property
    def first(self) -> Exception | None:
        """The oldest of them."""
        return next(iter(list(self._known.values())), None)
