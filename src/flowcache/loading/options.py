"""One loading call: its options, which the core checks, and what its loader adds to them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowcache import _core
from flowcache.coroutines import plain_result, refuse_one_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

__all__ = [
    "MISSING",
    "UNSET",
    "Call",
    "Loaded",
    "Options",
    "check_loader",
    "covers",
    "unpack",
    "unpack_checked",
]

V = TypeVar("V")

UNSET: Any = _core.UNSET
"""The default of an option for which `None` has a meaning."""

MISSING: Any = _core.MISSING
"""What a loader with `pass_old=True` is called with where nothing is held."""

Options = _core.Options


@dataclass(frozen=True)  # With slots, `Loaded[int](1)` raises before 3.13.
class Loaded(Generic[V]):
    """The result of a loader with options for its value; callers receive `value`.

    `ttl` (seconds, a `timedelta`, or `None` for ever) and `stale` (seconds past it in which the
    value may be served, `True`: no end) replace those of the call, and `tags` are added to those of
    the call. With `store=False` the value is returned and not stored.
    """

    value: V
    ttl: float | timedelta | None = UNSET
    tags: str | Iterable[str] = ()
    store: bool = True
    stale: float | timedelta | bool | None = UNSET


class Call:
    """One call of `fetch` or its like: its options and its progress."""

    __slots__ = ("in_place", "joined", "on_miss", "options")

    def __init__(self, options: Options, on_miss: Callable[[], object] | None = None) -> None:
        self.options = options
        self.on_miss = on_miss
        self.joined: set[Any] | tuple[()] = ()
        """The keys whose load it has joined; for the count."""
        self.in_place: set[Any] | tuple[()] = ()
        """The keys that it loads in place of a background load that ended with its event loop."""

    def joins(self, key: Any) -> bool:
        """Note that it joins a load of the key; False if that was known."""
        if key in self.joined:
            return False
        self.joined = {*self.joined, key}
        return True

    def deadline(self) -> float | None:
        """Return when this call stops waiting, on `time.monotonic`; None: never."""
        timeout = self.options.timeout
        return None if timeout is None else time.monotonic() + timeout


def check_loader(loader: object) -> None:
    """Raise `TypeError` unless the loader can be called."""
    if not callable(loader):
        raise TypeError(f"loader: must be callable, got {type(loader).__name__}")


def unpack(produced: Any) -> tuple[Any, Any, Any, bool, Any]:
    """Return the value, TTL and tags that a loader asks for, whether to store it, and `stale`."""
    if not isinstance(produced, Loaded):
        return produced, UNSET, (), True, UNSET
    return produced.value, produced.ttl, produced.tags, produced.store, produced.stale


def unpack_checked(produced: Any) -> tuple[Any, Any, Any, bool, Any]:
    """Return the same; `TypeError` for a value that can be read once only."""
    unpacked = unpack(produced)
    refuse_one_use(unpacked[0], "loader")
    return unpacked


def covers(options: Options, error: Exception) -> bool:
    """True if an old value may stand in for a load that raised this, by `fallback_on`."""
    which = options.fallback_on
    if which is None:
        return True
    if isinstance(which, tuple):
        return isinstance(error, which)
    return bool(plain_result(which(error), "fallback_on"))
