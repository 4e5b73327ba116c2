"""A breaker per server: after failures in a row no call goes there, then one call at a time.

Closed; open after five failures; half-open after a period; closed by an answer, or open again.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Literal

from flowcache._core import lease_time as monotonic
from flowcache.reports import report

from .forking import renew_after_forks

if TYPE_CHECKING:
    from collections.abc import Callable

    from .wire import Address

__all__ = ["Announced", "Breaker"]


class Announced:
    """Logs that a breaker has opened, and that it has closed: once each, whatever probes find."""

    def __init__(self, address: Address | None) -> None:
        self._where = "the server" if address is None else f"{address[0]}:{address[1]}"
        self._is_open = False

    def __call__(self, state: str) -> None:
        """Take a breaker's new state."""
        if state == "open" and not self._is_open:
            self._is_open = True
            message = "the tier: %s failed several times in a row, and is left alone"
            report("WARNING", message, self._where, event="breaker_opened")
        elif state == "closed" and self._is_open:
            self._is_open = False
            report("WARNING", "the tier: %s answers again", self._where, event="breaker_closed")


class Breaker:
    """Counts failures in a row. Calls `on_change(state)` at each transition, outside its lock."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_failures",
        "_lock",
        "_most",
        "_on_change",
        "_period",
        "_until",
        "is_well",
        "state",
    )

    def __init__(
        self,
        *,
        failures: int = 5,
        period: float = 1.0,
        clock: Callable[[], float] = monotonic,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._most = failures
        self._period = period
        self._clock = clock
        self._on_change = on_change
        self._failures = 0
        self._until = 0.0
        self.is_well = True
        """No call has failed since the last one that was answered."""
        self.state: Literal["closed", "open", "half-open"] = "closed"
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin with a lock that no thread holds."""
        self._lock = RLock()

    def admits(self) -> bool:
        """Tell if a call may go to the server; in a half-open breaker one may, and the next not."""
        if self.state == "closed":
            return True
        with self._lock:
            now = self._clock()
            if now < self._until:
                return False
            # The running probe has a period to come back; after it, another probe is sent.
            self._until = now + self._period
            changed = self.state != "half-open"
            self.state = "half-open"
        if changed:
            self._tell()
        return True

    def succeeded(self) -> None:
        """Note a call that was answered."""
        if self.is_well:
            return
        with self._lock:
            changed = self.state != "closed"
            self.state = "closed"
            self._failures = 0
            self.is_well = True
        if changed:
            self._tell()

    def failed(self) -> None:
        """Note a call that was not answered."""
        with self._lock:
            self.is_well = False
            self._failures += 1
            opens = self.state == "half-open" or self._failures >= self._most
            changed = opens and self.state != "open"
            if opens:
                self.state = "open"
                if changed:
                    self._until = self._clock() + self._period
        if changed:
            self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self.state)
