"""The servers that a tier lies on: one, or the primaries of a cluster with their slots."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from contextlib import suppress
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowcache._core import lease_time as monotonic
from flowcache.errors import ConfigurationError

from .breaker import Breaker
from .errors import BreakerOpenError, LateError, ServerError, SlowError, UnreachableError
from .forking import renew_after_forks
from .link import Ask, LoopLink, ThreadLink
from .resp import ReplyError, pack

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .wire import Address, Dialer, Wire

    Loops = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[LoopLink]]

__all__ = ["Server", "Servers", "check_shape"]

PERIOD: Final = 1.0
"""Seconds until calls look again for servers that were not found."""


class Server:
    """A primary: its breaker, and its links for reads and, apart, for writes that are confirmed."""

    def __init__(self, dialer: Dialer, address: Address | None, breaker: Breaker, hard: float):
        self.address = address
        self.breaker = breaker
        self._dialer = dialer
        self._hard = hard
        self._dial = partial(self.dial, hard)
        self._threads = (ThreadLink(self._dial, hard), ThreadLink(self._dial, hard))
        self._loops: tuple[Loops, Loops] = (
            weakref.WeakKeyDictionary(),
            weakref.WeakKeyDictionary(),
        )

    def dial(self, patience: float | None = None) -> Wire:
        """Open a connection to it; `UnreachableError` if it is not a primary."""
        wire = self._dialer.dial(self.address, patience)
        if wire.role != "master":
            wire.close()
            raise UnreachableError(f"the server is a {wire.role}, not a primary")
        return wire

    def ask(self, ask: Ask) -> Ask:
        """Exchange an ask on this thread; raises `ServerError`."""
        breaker = self.breaker
        if not breaker.is_well and not breaker.admits():
            raise BreakerOpenError(f"the breaker is {breaker.state}")
        try:
            self._threads[ask.confirm > 0].exchange(ask)
        except ServerError:
            breaker.failed()
            raise
        if not breaker.is_well:
            breaker.succeeded()
        return ask

    async def aask(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> Ask:
        """Exchange an ask in a task of this loop; raises `ServerError`."""
        breaker = self.breaker
        if not breaker.is_well and not breaker.admits():
            raise BreakerOpenError(f"the breaker is {breaker.state}")
        link = LoopLink.of(self._loops[ask.confirm > 0], loop, self._dial, self._hard)
        try:
            await link.exchange(ask)
        except ServerError:
            breaker.failed()
            raise
        if not breaker.is_well:
            breaker.succeeded()
        return ask

    def leave(self, replid: bytes) -> None:
        """End the connections of threads to a server of a history that the fleet has left."""
        for link in self._threads:
            link.leave(replid)

    def leave_on(self, loop: asyncio.AbstractEventLoop, replid: bytes) -> None:
        """End those of a loop; to be called on it."""
        for known in self._loops:
            reference = known.get(loop)
            link = None if reference is None else reference()
            if link is not None:
                link.leave(replid)

    def close(self) -> None:
        """End the connections of threads, and of the loops that are closed or run elsewhere not."""
        for link in self._threads:
            link.close()

    def close_everywhere(self) -> None:
        """End all connections: this server has no slot any more."""
        self.close()
        for known in self._loops:
            for loop, reference in list(known.items()):
                link = reference()
                if link is not None:
                    with suppress(RuntimeError):  # The loop is closed, and the link with it.
                        loop.call_soon_threadsafe(link.close)

    def close_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the connections of a loop; to be called on it."""
        for known in self._loops:
            reference = known.pop(loop, None)
            link = None if reference is None else reference()
            if link is not None:
                link.close()

    def __repr__(self) -> str:
        return f"<Server {self.address or 'as configured'}, breaker {self.breaker.state}>"


class Share(NamedTuple):
    """The slots of a primary, and the number of its replicas as the cluster reports it."""

    first: int
    last: int
    server: Server
    replicas: int


class Servers:
    """The server of each slot. No server is asked before the first call that needs it."""

    def __init__(
        self, dialer: Dialer, make_breaker: Callable[[Address | None], Breaker], hard: float
    ) -> None:
        self._dialer = dialer
        self._make_breaker = make_breaker
        self._hard = hard
        self._known: dict[Address | None, Server] = {}
        self.shares: list[Share] = []
        """The servers by their slots; empty before they were found."""
        self._not_before = 0.0
        self.is_cluster = False
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin with a lock that no thread holds."""
        self._lock = RLock()

    @property
    def is_known(self) -> bool:
        """True once the servers were found."""
        return bool(self.shares)

    @property
    def all(self) -> list[Server]:
        """The primaries, each once."""
        return list({id(share.server): share.server for share in self.shares}.values())

    def find(self) -> None:
        """Find the servers for a call, unless they are known. Blocks, for bounded time a period.

        Raises as `discover` does.
        """
        if self.shares:
            return
        if monotonic() < self._not_before:
            raise UnreachableError("the servers were not found just now")
        try:
            self.discover(self._hard)
        except UnreachableError:
            self._not_before = monotonic() + PERIOD
            raise

    def discover(self, patience: float | None = None) -> None:
        """Find the servers, or find them anew. Blocks.

        Raises `UnreachableError`, or `ConfigurationError` for a server that can never do. Servers
        that stay keep their connections, and those without a slot lose them.
        """
        if not self._lock.acquire(timeout=-1 if patience is None else patience):
            raise UnreachableError("the servers are being looked for")
        try:
            wire = self._dial_any(patience)
            try:
                if wire.mode != "cluster":
                    self.is_cluster = False
                    self.shares = [Share(0, 16383, self._server(None), 0)]
                    return
                (slots,) = wire.ask(pack(b"CLUSTER", b"SLOTS"), patience=1.0)
                if isinstance(slots, ReplyError):
                    raise UnreachableError(str(slots))
                host = wire.sock.getpeername()[0]
                shares = sorted(self._share(row, host) for row in slots)
                if not shares:
                    forgotten = self._known.pop(wire.address, None)
                    if forgotten is not None:  # So that another node is asked the next time.
                        forgotten.close_everywhere()
                    raise UnreachableError("the node knows of no slot of the cluster")
                self.shares, self.is_cluster = shares, True
                current = {share.server.address for share in self.shares}
                for address in [one for one in self._known if one not in current]:
                    self._known.pop(address).close_everywhere()
            finally:
                wire.close()
        finally:
            self._lock.release()

    def _dial_any(self, patience: float | None) -> Wire:
        """Open a connection to any node, the known ones first: the seed may be gone by now."""
        for address in [address for address in self._known if address is not None]:
            try:
                return self._dialer.dial(address, patience)
            except ServerError:
                continue
        return self._dialer.dial(None, patience)

    def _share(self, row: list[Any], host: str) -> Share:
        first, last, primary, *replicas = row
        # An empty host stands for the one that was asked.
        name = primary[0].decode() if primary[0] else host
        return Share(first, last, self._server((name, primary[1])), len(replicas))

    def _server(self, address: Address | None) -> Server:
        known = self._known.get(address)
        if known is None:
            breaker = self._make_breaker(address)
            known = self._known[address] = Server(self._dialer, address, breaker, self._hard)
        return known

    def share_of(self, slot: int) -> Share:
        """Return the share that a slot lies in; `UnreachableError` if no server has it."""
        shares = self.shares
        if len(shares) == 1:
            at = 0  # A single server has all slots; a node that is alone has those it took.
        else:
            at = bisect_right(shares, slot, key=lambda share: share.first) - 1
        if at < 0 or not shares[at].first <= slot <= shares[at].last:
            raise UnreachableError(f"no server has slot {slot}")
        return shares[at]

    def close(self) -> None:
        """End the connections of threads."""
        for server in self._known.values():
            server.close()

    def close_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the connections of a loop; to be called on it."""
        for server in self._known.values():
            server.close_loop(loop)


def check_shape(wire: Wire, name: bytes, shape: bytes) -> None:
    """Compare the settings that all processes of a fleet must share; the first one writes them."""
    try:
        (held,) = wire.ask(pack(b"GET", name), patience=1.0)
        if held is None:  # Written only then: a server that is full refuses that.
            (held,) = wire.ask(pack(b"SET", name, shape, b"NX", b"GET"), patience=1.0)
    except SlowError as error:
        raise LateError(str(error)) from error
    if isinstance(held, ReplyError):
        if held.kind == "MOVED":
            return  # Another primary of the cluster has it, and is asked as well.
        raise UnreachableError(str(held))
    if held is not None and held != shape:
        raise ConfigurationError(
            f"tier: other processes share this cache with other settings: {held.decode()}; "
            f"here: {shape.decode()}"
        )
