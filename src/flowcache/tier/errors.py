"""Failures between this process and a server, before a caller's policy is applied.

None of these reaches a user: a read takes them for a miss, and a write raises
`TierUnavailableError` from them.
"""

from __future__ import annotations

__all__ = ["BreakerOpenError", "LateError", "ServerError", "SlowError", "UnreachableError"]


class ServerError(Exception):
    """A server did not do what it was asked, or did not confirm it."""


class UnreachableError(ServerError):
    """No connection, or one that ended: whether the server has acted is not known."""


class LateError(UnreachableError):
    """No answer in time while a connection was opened or is idle. The server may still answer."""


class SlowError(ServerError):
    """No answer within the caller's patience; the answer is still counted when it comes."""


class BreakerOpenError(ServerError):
    """The server failed several times in a row and is left alone for a while."""
