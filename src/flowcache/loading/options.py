"""The options of one loading call: their checks, and what they mean for a value that is held."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from flowcache import _core
from flowcache.coroutines import check_sync
from flowcache.errors import InvalidTagError
from flowcache.reports import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

__all__ = ["UNSET", "Call", "Held", "Loaded"]

V = TypeVar("V")

UNSET: Any = _core.UNSET
"""The default of an option for which `None` means something."""


@dataclass(frozen=True)  # With slots, `Loaded[int](1)` raises before 3.13.
class Loaded(Generic[V]):
    """What a loader returns to say how its value is to be kept; callers receive `value`.

    `ttl` (seconds, a `timedelta`, or `None` for ever) takes the place of the call's, `tags` are
    added to the call's, and `store=False` hands the value over without keeping it.
    """

    value: V
    ttl: float | timedelta | None = UNSET
    tags: str | Iterable[str] = ()
    store: bool = True


class Held(NamedTuple):
    """What the core holds for a key, fresh or in the window in which it may be served stale."""

    value: Any
    left: float
    """Seconds of its TTL that are left; negative past it, `inf` without one."""
    ttl: float
    grace: float
    """Seconds that it is held past its TTL."""
    stale_ok: float
    """Those of them in which it is served at once, as it was stored with `stale=`."""


class Call:
    """The options of one call of `fetch` and its like."""

    __slots__ = (
        "in_place",
        "joined",
        "on_miss",
        "refresh_ahead",
        "stale",
        "stale_if_error",
        "store_if",
        "tags",
        "timeout",
        "ttl",
        "window",
    )

    def __init__(self, name: str, loader: object, options: dict[str, Any]) -> None:
        """Check the options of a call of `name`; the error names the one that is wrong."""
        if not callable(loader):
            raise TypeError(f"loader: must be callable, got {type(loader).__name__}")
        given = options.get
        self.ttl = given("ttl", UNSET)
        self.tags: tuple[str, ...] = tags_of(given("tags", ()))
        stale = given("stale", UNSET)
        self.stale = None if stale is UNSET else stale
        self.window = None if stale is UNSET else window_of(stale)
        """Seconds past its TTL in which this call takes a stale value; None: as it was stored."""
        self.stale_if_error = seconds_or_none(given("stale_if_error"), "stale_if_error")
        self.refresh_ahead = fraction_of(given("refresh_ahead"))
        self.store_if: Callable[[Any], Any] | None = given("store_if")
        self.timeout = seconds_or_none(given("timeout"), "timeout")
        self.joined: set[Any] = set()
        """The keys whose load it has joined; for the count."""
        self.in_place: set[Any] = set()
        """The keys that it loads in place of a background load that its event loop cut off."""
        self.on_miss: Callable[[], object] | None = given("_on_miss")
        if self.ttl is not UNSET:
            _core.duration(self.ttl, "ttl", True)
        if self.store_if is not None:
            if not callable(self.store_if):
                raise TypeError(
                    f"store_if: must be callable or None, got {type(self.store_if).__name__}"
                )
            check_sync(self.store_if, "store_if")
        unknown = options.keys() - ACCEPTED
        if unknown:
            raise TypeError(
                f"{name}() got an unexpected option {shown(min(unknown))}; "
                f"accepted are {', '.join(PUBLIC)}"
            )

    def deadline(self) -> float | None:
        """Return when this call stops waiting, on `time.monotonic`; None: never."""
        return None if self.timeout is None else time.monotonic() + self.timeout

    def takes_stale(self, held: Held) -> bool:
        """True if the value, past its TTL, is to be served at once."""
        return (
            -held.left <= min(held.grace, held.stale_ok if self.window is None else self.window) > 0
        )

    def is_ahead_of(self, held: Held) -> bool:
        """True if the value is fresh and so late in its TTL that it is to be loaded anew."""
        return (
            self.refresh_ahead is not None
            and held.ttl < math.inf
            and held.ttl - held.left > self.refresh_ahead * held.ttl
        )

    def is_due(self, held: Held) -> bool:
        """True if the value answers the call and is to be loaded anew behind it."""
        return self.is_ahead_of(held) if held.left > 0 else self.takes_stale(held)

    def falls_back_on(self, held: Held, *, timed_out: bool) -> bool:
        """True if the value may stand in for a load that raised, or that takes too long."""
        if held.left > 0:
            return timed_out or self.stale_if_error is not None
        named = [seconds for seconds in (self.window, self.stale_if_error) if seconds is not None]
        if timed_out:
            return -held.left <= min(held.grace, max(named, default=held.grace))
        return self.stale_if_error is not None and -held.left <= min(
            held.grace, self.stale_if_error
        )

    def unpack(self, produced: Any) -> tuple[Any, Any, tuple[str, ...], bool]:
        """Return the value, TTL and tags that a loader asks for, and whether to store it."""
        if not isinstance(produced, Loaded):
            return produced, self.ttl, self.tags, True
        ttl = self.ttl if produced.ttl is UNSET else produced.ttl
        return produced.value, ttl, self.tags + tags_of(produced.tags), produced.store


PUBLIC = ("ttl", "tags", "stale", "stale_if_error", "refresh_ahead", "store_if", "timeout")
ACCEPTED = frozenset((*PUBLIC, "_on_miss"))


MOST_TAGS = 1024
"""Tags that an entry may bear."""


def tags_of(tags: str | Iterable[str]) -> tuple[str, ...]:
    """Return tags as a tuple; one `str` is one tag."""
    if isinstance(tags, str):
        tags = (tags,)
    try:
        checked = tuple(islice(tags, MOST_TAGS + 1))
    except TypeError:
        raise TypeError(
            f"tags: must be a str or an iterable of them, got {type(tags).__name__}"
        ) from None
    if len(checked) > MOST_TAGS:
        raise InvalidTagError(f"tags: an entry has at most {MOST_TAGS} tags, got more")
    for tag in checked:
        if not isinstance(tag, str):
            raise TypeError(f"tags: each must be a str, got {type(tag).__name__}")
        if not 1 <= len(tag) <= 256:
            raise InvalidTagError(f"tags: each must have 1 to 256 characters, got {len(tag)}")
    return checked


def window_of(stale: Any) -> float:
    if stale is None or stale is False:
        return 0.0
    return math.inf if stale is True else _core.duration(stale, "stale")


def seconds_or_none(value: Any, name: str) -> float | None:
    return None if value is None else _core.duration(value, name)


def fraction_of(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"refresh_ahead: must be a number or None, got {type(value).__name__}")
    if not 0 < value < 1:
        raise ValueError(f"refresh_ahead: must be above 0 and below 1, got {shown(value)}")
    return float(value)
