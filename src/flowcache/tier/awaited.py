"""What the calls of this process know of messages: their own, and those that they wait for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from flowcache.errors import TierUnavailableError

from .bell import Bell
from .errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Acknowledgements", "Awaited", "Sending"]

MOST_OWN: Final = 4096
"""Own messages that are known: as many as a log keeps, which is what a gap may bring again."""


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


class Sending:
    """Surrounds a call that changes the tier: unless it returns, its echoes are applied (rule 6).

    It may fail, be interrupted or be cancelled: in each case the tier may do it yet. A failure of
    the server is raised as `TierUnavailableError`.
    """

    __slots__ = ("_awaited", "_call", "_operation")

    def __init__(self, awaited: Awaited, call: str, operation: bytes) -> None:
        self._awaited = awaited
        self._call = call
        self._operation = operation

    def __enter__(self) -> None:
        """Skip the call's own messages from now on."""
        self._awaited.own(self._operation)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Apply the messages of a call that has not returned."""
        if error is None:
            return
        self._awaited.disown(self._operation)
        if isinstance(error, ServerError):
            raise TierUnavailableError(
                f"{self._call}: the tier has not confirmed it: {error}; here it is done, so call "
                "again"
            ) from error


class Awaited:
    """Acknowledgements that are gathered, own messages, and awaited keys.

    A process skips its own messages, for its calls have done here what they say. It applies one
    that it does not know as its own: because the call failed, or because many others came after it.
    To apply it is always right, and costs what has been stored here since.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._acknowledgements: dict[bytes, Acknowledgements] = {}
        self._own: OrderedDict[bytes, None] = OrderedDict()
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

    def own(self, operation: bytes) -> None:
        """Skip the echoes of a message: its call does here what it says."""
        with self._lock:
            self._own[operation] = None
            if len(self._own) > MOST_OWN:
                self._own.popitem(last=False)

    def disown(self, operation: bytes) -> None:
        """Apply the echoes of a message from now on: its call did not return (rule 6)."""
        with self._lock:
            self._own.pop(operation, None)

    def is_own(self, operation: bytes) -> bool:
        """Tell if the echoes of a message are to be skipped."""
        return operation in self._own

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
