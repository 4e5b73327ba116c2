"""What the scripts of a tier answer to, and how long values last, as the scripts say it."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from .items import Found

__all__ = ["Added", "Grant", "Stored", "milliseconds", "stored_of"]

FOREVER: Final = 3650 * 86400.0
"""Seconds that stand for a stale window without an end."""


class Grant(NamedTuple):
    """The right to load a key and store it: its holder, and the records at the grant (rule 5)."""

    token: bytes
    terms: bytes
    """Incarnations and numbers of both records when the load began; empty if that is not known."""


class Stored(NamedTuple):
    """A value that the tier has taken, or that it has no room for in this second."""

    until: float | None
    """The monotonic time until which it is fresh, from before it was sent; None: always."""
    is_there: bool = True
    """False: the tenant has stored too much, so that the value stays in the process."""


class Added(NamedTuple):
    """The answer to an `add`: whether it stored, else what is held."""

    is_stored: bool
    held: Found | None
    until: float | None


def milliseconds(seconds: float | None) -> int:
    """Return a duration as scripts take it; 0 stands for one without an end."""
    if seconds is None:
        return 0
    return max(1, ceil(min(seconds, FOREVER) * 1000 - 0.5))


def stored_of(reply: list[Any], sent: float) -> Stored:
    """Return the answer of a script that stored a value, and was sent at this monotonic time."""
    if reply[0] == b"bounded":
        return Stored(None, is_there=False)
    deadline, now = float(reply[2]), int(reply[3])
    return Stored(None if not deadline else sent + (deadline - now) / 1000)
