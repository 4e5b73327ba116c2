"""The fault bench: servers of a test's own, a proxy for each link, and the processes of a fleet.

Nothing here is timed. A test holds bytes, stops processes and goes on when the other side has got
so far; whatever a slow machine delays, the order of the steps is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flowcache import _core
from flowcache.errors import TierUnavailableError
from harness.fleet import Make, gone
from harness.proxy import Proxy
from harness.servers import Server, wait_until

__all__ = ["Bench", "Calling", "Marker", "Upstream", "bus_of", "is_in", "tier_of", "tried"]

ACME = "tenant:acme"
LONG = 60.0
"""A lease that no pause of a slow machine ends: for tests in which a read has to be answered."""
SHORT = 2.0
NOT_THE_TIER_S = ("name", "connects", "default_ttl", "max_pending_age")


class Upstream:
    """The source that loaders read: one number, which only grows."""

    def __init__(self) -> None:
        self.version = 0
        self.loads = 0

    def change(self) -> int:
        """Make a new version. What invalidates the old one comes after this."""
        self.version += 1
        return self.version

    def load(self) -> int:
        self.loads += 1
        return self.version


class Calling:
    """A call on a thread of its own; leaving the block waits for its end."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._told: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._told = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Wait for the end, and return what the call returned or raise what it raised."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call waits for ever"
        if self._error is not None:
            raise self._error
        return self._told

    def begin(self) -> Calling:
        """Start the call; its end may be after the fault's."""
        self._thread.start()
        return self

    def __enter__(self) -> Calling:
        return self.begin()

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call waits for ever"


class Bench:
    """One server, a replica of it where that is asked for, and caches that reach it by proxies."""

    def __init__(
        self, make: Make, links: list[Proxy], primary: Server, replica: Server | None = None
    ) -> None:
        self._make = make
        self.links = links
        self.primary = primary
        self.replica = replica

    def link(self) -> Proxy:
        """Return a new way to the server."""
        self.links.append(Proxy(self.primary.port))
        return self.links[-1]

    def cache(self, link: Proxy | None = None, **settings: Any) -> Any:
        """Return one process's cache, on a link of its own unless one is given."""
        own = {name: settings.pop(name) for name in list(settings) if name not in NOT_THE_TIER_S}
        return self._make(link or self.link(), tier={"lease": LONG} | own, **settings)

    def space(self, link: Proxy | None = None, **settings: Any) -> Any:
        """Return one tenant's namespace in a process of its own."""
        return self.cache(link, **settings).namespace(ACME)

    def promote(self) -> None:
        """Have the replica take over; new connections go there, and open ones stay as they are."""
        assert self.replica is not None
        self.replica.call("REPLICAOF", "NO", "ONE")
        for link in self.links:
            link.target = self.replica.port


@contextmanager
def replicated(program: Any, folder: Path, *options: str) -> Iterator[tuple[Server, Server, Proxy]]:
    """Run a primary, its replica, and the link between the two."""
    with ExitStack() as stack:
        primary = Server(program, folder / "primary", *options)
        stack.callback(primary.kill)
        primary.start()
        link = Proxy(primary.port)
        stack.callback(link.close)
        replica = Server(
            program, folder / "replica", "--replicaof", "127.0.0.1", str(link.port), *options
        )
        stack.callback(replica.kill)
        replica.start()
        wait_until(lambda: replica.call("INFO", "replication")["master_link_status"] == "up")
        yield primary, replica, link


class Marker:
    """Tells when a process has applied all that others did before: messages keep their order."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer
        reader.set("marker", 1)

    def wait(self) -> None:
        self._writer.delete("marker")
        gone(self._reader, "marker")


def tier_of(space: Any) -> Any:
    """Return the tier of a namespace's cache."""
    return _core._tier_of(space)


def bus_of(space: Any) -> Any:
    """Return the bus of a namespace's cache."""
    return tier_of(space).engine.bus


def is_in(space: Any, state: str) -> bool:
    """Tell if the tier of a namespace's cache is in this state."""
    return bool(tier_of(space).state == state)


def tried(call: Callable[[], Any]) -> bool:
    """Make a call, which the tier may not confirm; tell if it did."""
    try:
        call()
    except TierUnavailableError:
        return False
    return True
