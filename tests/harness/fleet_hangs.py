"""Loads of a fleet that hang: their leases end, and others load the key and keep it (promise 3)."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from flowcache.errors import TierUnavailableError
from flowcache.tier import bus, engine
from harness.board import Board

__all__ = ["MAY_HANG", "Hangs", "shorten_leases"]

HANGS, MAY_HANG, LEASE = 6.0, 1.5, 1.0
"""Seconds of a load that hangs, of its lease's renewals (`max_pending_age`), and of a lease."""
SLACK = 0.1


def shorten_leases() -> None:
    """Give the leases of loads, in this process, so short a time that many of them end."""
    engine.LEASE = bus.LEASE = LEASE  # type: ignore[misc]
    bus.RENEWED = LEASE / 3  # type: ignore[misc]


class Hangs:
    """In one process a load hangs, of one key after another; the others pass it by.

    `cache` is one of its own, with `max_pending_age=MAY_HANG`. From `first` on, the board has the
    time at which each load began, in ns, by its number.
    """

    def __init__(self, cache: Any, board: Board, first: int) -> None:
        self.cache = cache
        self.board = board
        self.first = first
        self.errors: list[str] = []
        """What no fleet that keeps its promises would have shown."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, *, leads: bool) -> None:
        """Begin, as the process whose loads hang or as another."""
        target = self._hang if leads else self._pass_by
        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the load that hangs."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.cache.close()

    def _hang(self) -> None:
        number = 0

        def never() -> int:
            self.board.put(self.first + number, time.monotonic_ns())
            self._ended.wait(HANGS)
            return number

        while not self._ended.is_set():
            number += 1
            with suppress(TierUnavailableError):
                self.cache.fetch(number, never)

    def _pass_by(self) -> None:
        """Load each key once the lease of the load that hangs must be over."""
        caller = self.cache.tier.engine.caller
        number = 1
        while not self._ended.wait(0.1):
            began = self.board.get(self.first + number) / 1e9
            if not began or time.monotonic() < began + MAY_HANG + LEASE + SLACK:
                continue
            begin, errors = time.monotonic(), caller.errors
            if begin < began + HANGS - MAY_HANG:
                with suppress(TierUnavailableError):
                    self.cache.fetch(number, lambda: -1)
                waited = time.monotonic() - begin
                # One that waits in vain loads, at last, on its own, and keeps nothing.
                in_vain = waited > 0.9 * MAY_HANG and number not in self.cache
                if in_vain and errors == caller.errors:
                    self.errors.append(
                        f"a load that had hung for {begin - began:.1f} s held up another for "
                        f"{waited:.1f} s"
                    )
            number += 1
