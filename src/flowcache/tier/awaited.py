"""What the calls of this process wait for until the bus hears of it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flowcache.errors import TierUnavailableError

from .bell import Bell
from .errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Acknowledgements", "Awaited", "Doubting"]

MOST_DOUBTFUL: Final = 10_000


class Acknowledgements:
    """The members that have applied a message, and a bell for when all have."""

    __slots__ = ("_expected", "_heard", "_lock", "bell")

    def __init__(self) -> None:
        self._lock = threading.RLock()
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


class Doubting:
    """Surrounds a call that changes the tier: unless it returns, its echoes are applied (rule 6).

    It may fail, be interrupted or be cancelled: in each case the tier may do it yet. A failure of
    the server is raised as `TierUnavailableError`.
    """

    __slots__ = ("_awaited", "_call", "_operations")

    def __init__(self, awaited: Awaited, call: str, *operations: bytes) -> None:
        self._awaited = awaited
        self._call = call
        self._operations = operations

    def __enter__(self) -> None:
        """Begin the call."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Doubt the operations of a call that has not returned."""
        if error is None:
            return
        for operation in self._operations:
            self._awaited.doubt(operation)
        if isinstance(error, ServerError):
            raise TierUnavailableError(
                f"{self._call}: the tier has not confirmed it: {error}; here it is done, so call "
                "again"
            ) from error


class Awaited:
    """Acknowledgements that are gathered, own messages that are to be applied, and awaited keys."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._acknowledgements: dict[bytes, Acknowledgements] = {}
        self._doubtful: dict[bytes, None] = {}
        self._bells: dict[tuple[tuple[str, ...], object], list[Bell]] = {}

    def expect(self, operation: bytes) -> Acknowledgements:
        """Gather the acknowledgements of a message that is about to be sent."""
        acknowledgements = self._acknowledgements[operation] = Acknowledgements()
        return acknowledgements

    def expect_no_more(self, operation: bytes) -> None:
        """Stop gathering them."""
        self._acknowledgements.pop(operation, None)

    def hear(self, operation: bytes, bucket: int, member: bytes) -> None:
        """Note that a member has applied a message."""
        waiting = self._acknowledgements.get(operation)
        if waiting is not None:
            waiting.hear(bucket, member)

    def doubt(self, operation: bytes) -> None:
        """Apply this process's own message: its call did not return (rule 6)."""
        self._doubtful[operation] = None
        if len(self._doubtful) > MOST_DOUBTFUL:
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._doubtful[next(iter(self._doubtful))]

    def was_doubted(self, operation: bytes) -> bool:
        """Tell if an own message is to be applied, once."""
        return self._doubtful.pop(operation, self) is None

    def listen(self, path: tuple[str, ...], key: object) -> Bell:
        """Return a bell that rings when a key's lease is given back, or its value changes."""
        bell = Bell()
        with self._lock:
            self._bells.setdefault((path, key), []).append(bell)
        return bell

    def listen_no_more(self, path: tuple[str, ...], key: object, bell: Bell) -> None:
        """Release a bell."""
        with self._lock:
            bells = self._bells.get((path, key), [])
            if bell in bells:
                bells.remove(bell)
            if not bells:
                self._bells.pop((path, key), None)

    def ring(self, path: tuple[str, ...], key: object) -> None:
        """Wake all that wait for a key."""
        with self._lock:
            bells = self._bells.pop((path, key), [])
        for bell in bells:
            bell.ring()
