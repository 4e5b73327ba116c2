"""A proxy on the way to a server, which delays, holds, loses and cuts by the kind of connection.

The kind is found in what a connection says: the bus subscribes, and a replica asks to replicate.
Faults are made in causal order, not at times: bytes that are held stay in their order until the
test lets them go, and a test can wait until bytes have come that far.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from harness.servers import wait_until

__all__ = ["Proxy"]

Kind = Literal["commands", "bus", "replication"]
Way = Literal["requests", "replies"]
KINDS: tuple[Kind, ...] = ("commands", "bus", "replication")
WAYS: tuple[Way, ...] = ("requests", "replies")
SPOKEN: tuple[tuple[bytes, Kind], ...] = (
    (b"SSUBSCRIBE", "bus"),
    (b"PSYNC", "replication"),
    (b"REPLCONF", "replication"),
)
AT_ONCE = struct.pack("ii", 1, 0)
"""The linger option that resets a connection instead of ending it in good order."""


class Half:
    """One direction of a connection: what has come, and when it may go on."""

    def __init__(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        self.way = way
        self.source = source
        self.sink = sink
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.has_ended = False
        self.total = 0


class Passage:
    """A connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.kind: Kind = "commands"
        self.halves = (Half("requests", client, server), Half("replies", server, client))
        self.spoken = b""
        self.is_stuck = False
        """Its requests are held, whatever goes on elsewhere."""
        self.is_trapped = False
        """Its replies are held, since it has asked for what the test waits for."""
        self.is_lost = False
        """Some of its bytes were lost, so that it can be of no more use."""

    def hear(self, data: bytes) -> None:
        """Find out the kind."""
        self.spoken = (self.spoken + data)[-4096:]
        for word, kind in SPOKEN:
            if word in self.spoken:
                self.kind = kind

    def close(self, *, reset: bool) -> None:
        for half in self.halves:
            if reset:
                with suppress(OSError):
                    half.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            half.source.close()


class Proxy:
    """A proxy before one server. Clients connect to `url`; a test makes the faults."""

    def __init__(self, port: int) -> None:
        self.target = port
        """The port that new connections go to; another one is a fail-over by address."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._passages: list[Passage] = []
        self._ending: list[tuple[list[Passage], threading.Event]] = []
        self._held: dict[tuple[Kind, Way], int] = {}
        self._dropped: dict[tuple[Kind, Way], int] = {}
        self._delays: dict[tuple[Kind, Way], float] = {}
        self._traps: tuple[bytes, ...] = ()
        self._refuses = 0
        self._is_closed = False
        self._ours, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL of the server by way of this proxy."""
        return f"valkey://127.0.0.1:{self.port}/0"

    # Faults

    @contextmanager
    def held(self, *kinds: Kind, way: Way | None = None) -> Iterator[None]:
        """Hold bytes back; they go on, in their order, when the block ends."""
        with self._noted(self._held, kinds, way):
            yield

    @contextmanager
    def lost(self, *kinds: Kind, way: Way | None = None) -> Iterator[None]:
        """Lose bytes, on connections that stay open; those that lost some are cut at the end."""
        with self._noted(self._dropped, kinds, way):
            yield
        with self._lock:
            lost = [one for one in self._passages if one.is_lost]
        self._end(lost)

    @contextmanager
    def delayed(self, seconds: float, *kinds: Kind, way: Way | None = None) -> Iterator[None]:
        """Have all bytes take so much longer."""
        places = self._places(kinds, way)
        with self._lock:
            self._delays.update(dict.fromkeys(places, seconds))
        try:
            yield
        finally:
            with self._lock:
                for place in places:
                    self._delays.pop(place, None)
            self._tell()

    @contextmanager
    def stuck(self, *kinds: Kind) -> Iterator[None]:
        """Hold the requests of the connections that are open now; those opened later are free."""
        with self._lock:
            stuck = [one for one in self._passages if one.kind in (kinds or KINDS)]
            for one in stuck:
                one.is_stuck = True
        try:
            yield
        finally:
            with self._lock:
                for one in stuck:
                    one.is_stuck = False
            self._tell()

    @contextmanager
    def trapped(self, *words: bytes) -> Iterator[None]:
        """Hold the replies of each connection that has said one of these words."""
        with self._lock:
            self._traps = words
        try:
            yield
        finally:
            with self._lock:
                self._traps = ()
                for one in self._passages:
                    one.is_trapped = False
            self._tell()

    def wait_trapped(self) -> None:
        """Wait until a connection has said one of the words, and the server has answered it."""

        def is_answered() -> bool:
            with self._lock:
                return any(one.is_trapped and one.halves[1].waiting for one in self._passages)

        wait_until(is_answered)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Cut all connections, and accept none until the block ends."""
        with self._lock:
            self._refuses += 1
        self.cut()
        try:
            yield
        finally:
            with self._lock:
                self._refuses -= 1

    def cut(self, *kinds: Kind) -> int:
        """Reset the connections of these kinds, or all; return how many there were."""
        with self._lock:
            cut = [one for one in self._passages if one.kind in (kinds or KINDS)]
        self._end(cut)
        return len(cut)

    def orphan(self) -> None:
        """End the client's side of the stuck connections; their requests still reach the server."""
        with self._lock:
            orphans = [one for one in self._passages if one.is_stuck]
        for one in orphans:
            with suppress(OSError):
                one.halves[0].source.shutdown(socket.SHUT_RDWR)

    # What a test waits for

    def held_bytes(self, *kinds: Kind, way: Way | None = None) -> int:
        """Return how many bytes are held back now."""
        wanted = self._places(kinds, way)
        with self._lock:
            return sum(
                len(data)
                for passage in self._passages
                for half in passage.halves
                if (passage.kind, half.way) in wanted
                for _, data in half.waiting
            )

    def wait_held(self, *kinds: Kind, way: Way | None = None, least: int = 1) -> None:
        """Wait until so many bytes have come and are held: they were sent, and did not arrive."""
        wait_until(lambda: self.held_bytes(*kinds, way=way) >= least)

    def count(self, *kinds: Kind) -> int:
        """Return how many connections of these kinds are open."""
        with self._lock:
            return sum(one.kind in (kinds or KINDS) for one in self._passages)

    def passed(self, way: Way, *kinds: Kind) -> int:
        """Return how many bytes have come on the connections that are open."""
        with self._lock:
            return sum(
                half.total
                for passage in self._passages
                if passage.kind in (kinds or KINDS)
                for half in passage.halves
                if half.way == way
            )

    def close(self) -> None:
        """End all connections and the thread."""
        self._is_closed = True
        self._tell()
        self._thread.join(10)

    # The thread's own

    def _places(self, kinds: tuple[Kind, ...], way: Way | None) -> set[tuple[Kind, Way]]:
        return {(kind, one) for kind in kinds or KINDS for one in ((way,) if way else WAYS)}

    @contextmanager
    def _noted(
        self, counts: dict[tuple[Kind, Way], int], kinds: tuple[Kind, ...], way: Way | None
    ) -> Iterator[None]:
        places = self._places(kinds, way)
        with self._lock:
            for place in places:
                counts[place] = counts.get(place, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for place in places:
                    counts[place] -= 1
            self._tell()

    def _end(self, passages: list[Passage]) -> None:
        done = threading.Event()
        with self._lock:
            self._ending.append((passages, done))
        self._tell()
        assert done.wait(30)

    def _tell(self) -> None:
        with suppress(OSError):
            self._wake.send(b"\0")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener, self._ours, self._wake:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._ours, selectors.EVENT_READ)
            wait: float | None = None
            while not self._is_closed:
                for key, _ in selector.select(wait):
                    if key.fileobj is self._ours:
                        self._ours.recv(4096)
                    elif key.fileobj is self._listener:
                        self._accept(selector)
                    else:
                        passage, half = key.data
                        self._take(selector, passage, half)
                self._end_passages(selector)
                wait = self._pass_on(selector)
            for passage in self._passages:
                passage.close(reset=True)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            if self._refuses:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                client.close()
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                return
            passage = Passage(client, server)
            for half in passage.halves:
                half.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                half.source.setblocking(False)
                selector.register(half.source, selectors.EVENT_READ, (passage, half))
            with self._lock:
                self._passages.append(passage)

    def _take(self, selector: selectors.BaseSelector, passage: Passage, half: Half) -> None:
        try:
            data = half.source.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        with self._lock:
            if not data:
                half.has_ended = True
                selector.unregister(half.source)
                return
            if half.way == "requests":
                passage.hear(data)
                if any(word in passage.spoken for word in self._traps):
                    passage.is_trapped = True
            place = (passage.kind, half.way)
            half.total += len(data)
            if self._dropped.get(place):
                passage.is_lost = True
                return
            due = time.monotonic() + self._delays.get(place, 0.0)
            half.waiting.append((due, data))

    def _end_passages(self, selector: selectors.BaseSelector) -> None:
        with self._lock:
            ending, self._ending = self._ending, []
        for passages, done in ending:
            for passage in passages:
                self._close(selector, passage, reset=True)
            done.set()

    def _close(self, selector: selectors.BaseSelector, passage: Passage, *, reset: bool) -> None:
        # Only this thread closes. A connection counts until its client has been told of its end.
        if passage not in self._passages:
            return
        for half in passage.halves:
            with suppress(KeyError, ValueError):
                selector.unregister(half.source)
        passage.close(reset=reset)
        with self._lock:
            self._passages.remove(passage)

    def _pass_on(self, selector: selectors.BaseSelector) -> float | None:
        """Pass on what is due; return the seconds until more is."""
        now, soonest = time.monotonic(), None
        with self._lock:
            passages = list(self._passages)
        for passage in passages:
            for half in passage.halves:
                with self._lock:
                    is_held = self._held.get((passage.kind, half.way), 0) > 0
                    is_held |= passage.is_stuck if half.way == "requests" else passage.is_trapped
                while half.waiting and not is_held:
                    due, data = half.waiting[0]
                    if due > now:
                        soonest = due if soonest is None else min(soonest, due)
                        break
                    try:
                        sent = half.sink.send(data)
                    except BlockingIOError:
                        soonest = now + 0.005
                        break
                    except OSError:
                        self._close(selector, passage, reset=True)
                        break
                    with self._lock:
                        half.waiting.popleft()
                        if sent < len(data):
                            half.waiting.appendleft((due, data[sent:]))
                if half.has_ended and not half.waiting and not is_held:
                    self._close(selector, passage, reset=False)
                    break
        return None if soonest is None else max(0.0, soonest - time.monotonic())
