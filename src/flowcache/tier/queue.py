"""Invalidations that the tier has not confirmed, kept until they can be sent again.

They may be repeated, and sent in any order. Until they are confirmed the values that they cover may
still lie in the tier, so that the tenants concerned are neither read from there nor stored. Other
processes serve these values meanwhile. Values are never kept here.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flowcache.errors import ConfigurationError, TierUnavailableError

from .forking import renew_after_forks

if TYPE_CHECKING:
    from .layout import Bucket, Place
    from .steps import Steps

__all__ = ["Queue"]

EVERY: Final = 0.25
"""Seconds between two attempts to send what waits."""

Unit = tuple[str, ...] | None
"""The path of a tenant; None: all tenants."""


class Queue:
    """Up to so many invalidations of one cache, each of them once."""

    def __init__(self, most: int, run: Callable[[Steps[None]], None]) -> None:
        self._most = most
        self._run = run
        self._waiting: dict[Hashable, tuple[Unit, Bucket | None, Callable[[], Steps[Any]]]] = {}
        self.blocked: frozenset[Unit] = frozenset()
        """The tenants that wait for one; None among them: all."""
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin with a lock that no thread holds. What the parent has not sent waits here too."""
        self._lock = threading.RLock()
        self._sender: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def blocks(self, place: Place) -> bool:
        """Tell if the tier may hold values of a tenant that were invalidated here."""
        blocked = self.blocked
        if blocked and self._sender is None:
            self._begin()  # After a fork, or if no thread could be started then.
        return bool(blocked) and (None in blocked or place.unit in blocked)

    def add(self, place: Place, what: Hashable, steps: Callable[[], Steps[Any]]) -> bool:
        """Keep an invalidation; False if there is no room, so that its caller has to repeat it."""
        unit, bucket = (None, None) if place.is_above else (place.unit, place.bucket)
        with self._lock:
            if what not in self._waiting and len(self._waiting) >= self._most:
                return False
            self._waiting[what] = unit, bucket, steps
            self._block()
        self._begin()
        return True

    def flush(self) -> Steps[None]:
        """Send what waits; raises `TierUnavailableError` if some of it is not confirmed.

        A primary that has failed once is asked no more, and holds up no other primary's tenants.
        """
        failed: dict[Bucket | None, TierUnavailableError] = {}
        for what, kept in list(self._waiting.items()):
            bucket, steps = kept[1:]
            if bucket in failed:
                continue
            try:
                yield from steps()
            except TierUnavailableError as error:
                failed[bucket] = error
                continue
            with self._lock:
                if self._waiting.get(what) is kept:
                    del self._waiting[what]
                    self._block()
        for first in failed.values():
            raise first

    def _block(self) -> None:
        """Block the tenants that wait, with the lock held; a call within this one may add some."""
        told: tuple[object, ...] | None = None
        while told != (waiting := tuple(self._waiting.values())):
            self.blocked = frozenset(kept[0] for kept in waiting)
            told = waiting

    def close(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._waiting.clear()
            self.blocked = frozenset()

    def _begin(self) -> None:
        """Start the thread that sends; it ends when nothing waits."""
        with self._lock:
            if self._sender is None and self._waiting:
                self._sender = threading.Thread(
                    target=send, args=(weakref.ref(self),), name="flowcache-queue", daemon=True
                )
                try:
                    self._sender.start()
                except RuntimeError:  # There are too many threads. The next call tries again.
                    self._sender = None

    def _is_empty(self) -> bool:
        """Tell if nothing waits: the thread then ends."""
        with self._lock:
            if not self._waiting:
                self._sender = None
            return not self._waiting


def send(reference: weakref.ref[Queue]) -> None:
    """Try again and again until nothing waits, or the cache is gone."""
    while True:
        time.sleep(EVERY)
        queue = reference()
        if queue is None or queue._is_empty():
            return
        with suppress(TierUnavailableError, ConfigurationError):
            queue._run(queue.flush())
        del queue
