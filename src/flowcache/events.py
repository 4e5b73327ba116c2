"""Events: records of a cache's actions, for listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _core
from .coroutines import check_sync, plain_result
from .reports import report, shown

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Event", "Listener"]


@dataclass(frozen=True, slots=True)
class Event:
    """An action of a cache. Fields that do not apply to its kind are ``None`` (``seconds``: 0)."""

    kind: str
    """hit, miss, stale_hit, set, remove, load, load_error, refresh or sweep."""
    path: tuple[str, ...]
    """The namespace's path."""
    key: Hashable
    cause: str | None
    """Why an entry was removed: deleted, replaced, expired, evicted, over_limit, tag, prefix,
    cleared."""
    value: Any
    """The value stored, served or removed; for a sweep, the number of expired entries."""
    error: BaseException | None
    """The exception that a loader raised."""
    seconds: float
    """The duration of a load."""
    cache: str
    """The cache's ``name``."""


Listener = Callable[[Event], object]


def dispatch(
    listeners: list[Listener],
    kind: str,
    path: tuple[str, ...],
    key: Hashable,
    cause: str | None,
    value: Any,
    error: BaseException | None,
    seconds: float,
    cache: str,
) -> None:
    """Call each listener; log an exception and go on with the next.

    An entry may be removed by a call of another tenant: one that needs its room, or one that tells
    what a thread beside it removed. So listeners hear of removals without a tenant.
    """
    event = Event(kind, path, key, cause, value, error, seconds, cache)
    if kind == "remove":
        with _core.TenantBlock():
            tell(listeners, event)
    else:
        tell(listeners, event)


def tell(listeners: list[Listener], event: Event) -> None:
    for listener in listeners:
        try:
            plain_result(listener(event), "listener")
        except Exception as raised:  # noqa: BLE001  it is a listener's, and reported
            report(
                "ERROR",
                "a listener for %r raised",
                event.kind,
                event="listener_failed",
                error=raised,
                cache=event.cache,
                path=event.path,
            )


def subscribe(
    namespace: _core.Namespace[Any], listener: Listener, kinds: str | Iterable[str] | None
) -> Callable[[], None]:
    """Register a listener; return the function that ends it."""
    if not callable(listener):
        raise TypeError(f"listener: must be callable, got {type(listener).__name__}")
    check_sync(listener, "listener")
    if kinds is not None and not isinstance(kinds, Iterable):
        raise TypeError(f"kinds: must be a str or an iterable of str, got {type(kinds).__name__}")
    wanted = _core.KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in wanted if kind not in _core.KINDS]
    if unknown:
        raise ValueError(f"kinds: {shown(unknown[0])} is none of {', '.join(_core.KINDS)}")
    mask = sum({1 << _core.KINDS.index(kind) for kind in wanted})
    token = namespace._listen(listener, mask)

    def unsubscribe() -> None:
        namespace._unlisten(token)

    return unsubscribe
