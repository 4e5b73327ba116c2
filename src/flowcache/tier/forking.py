"""Forks: a child begins anew before any of its threads can call.

A lock may be held by a thread that the child does not have, and a connection is the parent's. So
the hook of a fork replaces both, while the child has one thread. The first call would be too late:
two threads could both begin anew there, and one of them on the connection of the other.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["forks", "renew_after_forks"]

_forks = 0


class Renewed(Protocol):
    """An object with locks or connections of its own."""

    def renew(self) -> None:
        """Begin anew in the child of a fork. No other thread runs."""
        ...


_renewed: weakref.WeakSet[Renewed] = weakref.WeakSet()


def forks() -> int:
    """Return how many forks lie between the first process and this one."""
    return _forks


def renew_after_forks(one: Renewed) -> None:
    """Call `one.renew()` in the child of each fork, for as long as it lives."""
    _renewed.add(one)


def _forked() -> None:
    global _forks  # noqa: PLW0603  a count of this process alone
    _forks += 1
    for one in list(_renewed):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
