"""Locks by key among the threads of this process, with the calls of django-redis."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Hashable
from types import SimpleNamespace, TracebackType
from typing import Any

from flowcache import FlowcacheError
from flowcache.reports import shown

__all__ = ["HeldLocks", "Lock", "LockError"]


class LockError(FlowcacheError, RuntimeError):
    """A lock could not be acquired in time, or was released by code that does not hold it."""


class HeldLocks:
    """The held locks of one store. No lock is an entry, so none is ever evicted."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.holders: dict[Hashable, tuple[object, float]] = {}
        """The token of each lock's holder, and its end on the monotonic clock."""
        self._prune_at = 64

    def holder_locked(self, name: Hashable) -> object | None:
        """Return the token of the lock's holder; ``None`` if it is free, or its time is over."""
        token, ends = self.holders.get(name, (None, 0.0))
        return token if ends > time.monotonic() else None

    def prune_locked(self) -> None:
        """Drop the locks past their end, once they may be half of all."""
        if len(self.holders) < self._prune_at:
            return
        now = time.monotonic()
        for name in [name for name, (_, ends) in self.holders.items() if ends <= now]:
            del self.holders[name]
        self._prune_at = max(64, 2 * len(self.holders))


class Lock:
    """A lock that ``FlowCache.lock`` returns; a context manager. It is not re-entrant.

    ``timeout``: seconds after which the lock ends by itself; ``None``: never. ``blocking`` and
    ``blocking_timeout``: whether, and for how many seconds at most, ``acquire`` waits.
    ``thread_local``: only the thread that acquired the lock holds it. All are checked when the lock
    is made: ``TypeError`` or ``ValueError`` names the argument.
    """

    def __init__(
        self,
        held: HeldLocks,
        name: Hashable,
        *,
        timeout: float | None = None,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> None:
        self.timeout = None if timeout is None else seconds("timeout", timeout, least=0.001)
        self.blocking = blocking
        self.blocking_timeout = (
            None if blocking_timeout is None else seconds("blocking_timeout", blocking_timeout)
        )
        self._held = held
        self._name = name
        self._mine: Any = threading.local() if thread_local else SimpleNamespace()

    def acquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Take the lock; return whether that succeeded. Wakes when it becomes free."""
        if blocking_timeout is None:
            blocking_timeout = self.blocking_timeout
        else:
            blocking_timeout = seconds("blocking_timeout", blocking_timeout)
        if blocking is None:
            blocking = self.blocking
        limit = math.inf
        if not blocking:
            limit = 0.0
        elif blocking_timeout is not None:
            limit = time.monotonic() + blocking_timeout
        token = object()
        held = self._held
        with held.changed:
            while held.holder_locked(self._name) is not None:
                now = time.monotonic()
                if now >= limit:
                    return False
                _, ends = held.holders[self._name]
                wait = min(ends, limit) - now
                held.changed.wait(min(wait, threading.TIMEOUT_MAX) if wait < math.inf else None)
            held.prune_locked()
            held.holders[self._name] = token, self._end()
        self._mine.token = token
        return True

    def release(self) -> None:
        """Release the lock. Raises ``LockError`` if this code does not, or no longer, hold it."""
        with self._held.changed:
            self._check_owned_locked()
            del self._held.holders[self._name]
            self._held.changed.notify_all()
        self._mine.token = None

    def locked(self) -> bool:
        """Tell whether the lock is held, by this code or other code."""
        with self._held.changed:
            return self._held.holder_locked(self._name) is not None

    def owned(self) -> bool:
        """Tell whether this code holds the lock."""
        with self._held.changed:
            return self._is_owned_locked()

    def extend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """Move the end of a held lock later by seconds, or (``replace_ttl``) to seconds from now.

        Raises ``LockError`` if this code does not hold it, or it has no ``timeout``.
        """
        more = seconds("additional_time", additional_time)
        with self._held.changed:
            self._check_owned_locked()
            token, ends = self._held.holders[self._name]
            if ends == math.inf:
                raise LockError("a lock without a timeout cannot be extended")
            ends = (time.monotonic() if replace_ttl else ends) + more
            self._held.holders[self._name] = token, ends
        return True

    def reacquire(self) -> bool:
        """Let a held lock end ``timeout`` seconds from now. Raises what :meth:`extend` raises."""
        if self.timeout is None:
            raise LockError("a lock without a timeout cannot be reacquired")
        return self.extend(self.timeout, replace_ttl=True)

    def __enter__(self) -> Lock:
        """Acquire the lock, or raise ``LockError``."""
        if self.acquire():
            return self
        raise LockError(f"the lock was not to be had within blocking_timeout: {shown(self._name)}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.release()

    def _end(self) -> float:
        return math.inf if self.timeout is None else time.monotonic() + self.timeout

    def _is_owned_locked(self) -> bool:
        token = getattr(self._mine, "token", None)
        return token is not None and self._held.holder_locked(self._name) is token

    def _check_owned_locked(self) -> None:
        if getattr(self._mine, "token", None) is None:
            raise LockError("a lock that is not acquired cannot be released, or extended")
        if not self._is_owned_locked():
            raise LockError("the lock is no longer held from here: its timeout is over")


def seconds(name: str, value: Any, *, least: float = 0.0) -> float:
    """Check a duration that is given in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: must be seconds as an int or a float, got {type(value).__name__}")
    if not value >= least:
        raise ValueError(f"{name}: must be at least {least:g}, got {shown(value)}")
    return float(value)
