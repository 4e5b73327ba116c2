"""Members of a fleet as the tests of the tier need them: an engine, and the calls of its bus."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flowcache import create_cache
from flowcache._core import lease_time as monotonic
from flowcache.cache import Cache
from flowcache.errors import TierUnavailableError
from flowcache.tier import ValkeyTier
from flowcache.tier.answers import Stored
from flowcache.tier.codec import MsgpackCodec
from flowcache.tier.engine import Engine
from flowcache.tier.envelope import Envelope
from flowcache.tier.layout import Bucket, Layout
from flowcache.tier.message import Message
from flowcache.tier.wire import Dialer
from harness.servers import STARTS_WITHIN, wait_until

__all__ = [
    "LONG",
    "PATIENT",
    "Gated",
    "Gives",
    "Hearing",
    "Make",
    "Member",
    "Process",
    "add_arguments_of_workers",
    "confirmed",
    "confirmed_on_loop",
    "gone",
    "know_the_fleet",
    "run",
    "settable",
]

PATIENT = {"soft_timeout": 30.0, "hard_timeout": 60.0}
"""A machine under load is not a server that is down."""
LONG = 60.0
"""A lease that no stall of the machine outlasts, for all that is not about the end of a lease."""

Make = Callable[..., Cache[Any]]
"""Makes a cache of a fleet."""


class Hearing:
    """A follower that records its calls."""

    def __init__(self) -> None:
        self.heard: list[Message | Bucket] = []
        self.until = 0.0

    def apply(self, message: Message) -> None:
        self.heard.append(message)

    def void(self, bucket: Bucket) -> None:
        self.heard.append(bucket)

    def lend(self, until: float) -> None:
        self.until = until

    @property
    def messages(self) -> list[Message]:
        """The recorded calls, without buckets that were voided whole."""
        return [one for one in self.heard if isinstance(one, Message)]

    @property
    def is_live(self) -> bool:
        return monotonic() < self.until


class Member(Engine):
    """One process's tier, as far as a test needs it: an engine, and the calls of its bus."""

    def __init__(self, target: Any, **settings: Any) -> None:
        self.hearing = settings.pop("follower", None) or Hearing()
        layout = Layout(
            settings.pop("name", "tests"),
            buckets=settings.pop("buckets", 1),
            tenant_depth=settings.pop("tenant_depth", 1),
        )
        envelope = settings.pop("envelope", None) or Envelope(MsgpackCodec())
        settings = {"soft": 30.0, "hard": 60.0, "lease": LONG} | settings
        super().__init__(layout, envelope, Dialer(target), self.hearing, **settings)

    def item_of(self, key: Any, *path: str) -> Any:
        """Return the item of a key, by default of one tenant."""
        item = self.items.item(path or ("tenant:acme",), key)
        assert item is not None
        return item

    def sealed(self, item: Any, value: Any, tags: tuple[str, ...] = ()) -> bytes:
        """Return the bytes of a value."""
        return self.items.envelope.seal(item.place, item.name, item.encoded, value, tags)

    def put(
        self, item: Any, value: Any, *tags: str, ttl: float | None = 60, window: float = 0
    ) -> Stored:
        """Store a value."""
        return self.run(self.set(item, self.sealed(item, value, tags), ttl, window))

    def value_of(self, item: Any, *tags: str) -> Any:
        """Return the fresh value, or None."""
        bucket = item.place.bucket
        while True:
            self.join(item)
            found = self.run(self.read(item, tags))
            # On a machine under load the lease may have run out, and then nothing is told.
            if found is not None or self.bus.is_live(bucket):
                break
        return found.value if found is not None and found.is_fresh(monotonic()) else None

    def join(self, item: Any) -> Member:
        """Wait until this member receives invalidations."""
        self.bus.follow(item.place.bucket)
        wait_until(lambda: self.bus.is_live(item.place.bucket))
        return self


def settable(one: Member, item: Any) -> bool:
    """Store a value if the tier takes it; return whether it did."""
    with suppress(TierUnavailableError):
        one.put(item, "w")
        return True
    return False


def confirmed(call: Callable[[], Any]) -> Any:
    """Make a call until the tier confirms it, and return its answer.

    For a cache with short time-outs, which a server that is up exceeds on a machine under load.
    """
    answers: list[Any] = []

    def is_confirmed() -> bool:
        with suppress(TierUnavailableError):
            answers.append(call())
        return bool(answers)

    wait_until(is_confirmed)
    return answers[0]


async def confirmed_on_loop(call: Callable[[], Any]) -> Any:
    """Make an awaitable call until the tier confirms it, and return its answer."""
    while True:
        with suppress(TierUnavailableError):
            return await call()


def know_the_fleet(cache: Cache[Any]) -> None:
    """Have a cache follow all buckets, and know its fleet at once.

    Else it trusts a list of members only after a whole lease. The list of a test is complete: its
    caches join one after the other, and none leaves it.
    """
    assert cache.tier is not None
    bus, buckets = cache.tier.engine.bus, cache.tier.layout.all
    for bucket in buckets:
        bus.follow(bucket)
    wait_until(lambda: all(bus.is_live(bucket) for bucket in buckets))
    for following in bus._following.values():
        following.born_at -= 2 * LONG


def gone(namespace: Any, key: Any) -> None:
    """Wait until the process of a namespace holds no key."""
    wait_until(lambda: key not in namespace)


def add_arguments_of_workers(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add what a program passes to its own workers: a number, and texts under these names."""
    for name in names:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--buckets", type=int, default=1, help=argparse.SUPPRESS)


def run(awaitable: Any) -> Any:
    """Return the result of an awaitable, in a loop of its own."""

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


class Process:
    """Another process of a fleet, which makes calls on its namespaces when it is asked to.

    It can be stopped, as one that swaps or is suspended, and killed.
    """

    def __init__(self, url: str, name: str, **settings: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, url, name, settings))
        self._process.start()
        theirs.close()

    def call(self, path: tuple[str, ...], name: str, *arguments: Any, **options: Any) -> Any:
        """Return what a call of a namespace returns there, or raise what it raises."""
        self.begin(path, name, *arguments, **options)
        return self.result()

    def begin(self, path: tuple[str, ...], name: str, *arguments: Any, **options: Any) -> None:
        """Ask for a call; its end is not waited for."""
        self._ours.send((path, name, arguments, options))

    def result(self) -> Any:
        """Wait for the end of the call that was begun."""
        returned, value = self._ours.recv()
        if returned:
            return value
        raise value

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep the process stopped for as long as the block lasts."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process without a word, and wait for that."""
        self._process.kill()
        self._process.join(30)
        self._ours.close()

    def close(self) -> None:
        """End the process, and wait for it."""
        if self._ours.closed:
            return
        self._ours.send(None)
        self._process.join(STARTS_WITHIN)
        assert self._process.exitcode == 0
        self._ours.close()


class Gated:
    """A loader in any process that waits between its beginning and its end for a test."""

    def __init__(self, folder: Path, value: Any) -> None:
        self._begun, self._open = folder / "begun", folder / "open"
        self._value = value

    def __call__(self) -> Any:
        self._begun.touch()
        wait_until(self._open.exists, 60)
        return self._value

    def wait(self) -> None:
        """Wait until it has begun."""
        wait_until(self._begun.exists)

    def open(self) -> None:
        """Let it end."""
        self._open.touch()


class Gives:
    """A loader in any process."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


def serve(pipe: Any, url: str, name: str, settings: dict[str, Any]) -> None:
    """Make calls until there are no more."""
    holds = settings.pop("holds", None)
    if holds is not None:  # Seconds for which a load holds up the fleet.
        from flowcache.tier import engine

        engine.LEASE = holds  # type: ignore[misc]
    tier = ValkeyTier(url, **PATIENT | settings)
    with create_cache(tier=tier, name=name) as cache:
        while (asked := pipe.recv()) is not None:
            path, call, arguments, options = asked
            space = cache.namespace(*path) if path else cache
            try:
                told = True, getattr(space, call)(*arguments, **options)
            except Exception as error:
                told = False, error
            pipe.send(told)
