"""The context manager of `around_load=`, entered around the call of a loader."""

from __future__ import annotations

from flowcache._core import is_plain
from flowcache.coroutines import is_awaitable, plain_result

from .options import MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

__all__ = ["await_within", "produce_within"]


def produce_within(surroundings: AbstractContextManager[object], produce: Callable[[], Any]) -> Any:
    """Call a sync loader within a context manager."""
    produced: Any = MISSING
    with checked(surroundings):
        produced = produce()
    return not_suppressed(produced)


async def await_within(
    surroundings: AbstractContextManager[object], produce: Callable[[], Any]
) -> Any:
    """Call a loader, sync or async, and await it within a context manager."""
    produced: Any = MISSING
    with checked(surroundings):
        produced = produce()
        if not is_plain(produced) and is_awaitable(produced):
            produced = await produced
    return not_suppressed(produced)


def checked(made: Any) -> AbstractContextManager[object]:
    """Return what `around_load` made; `TypeError` for what is no context manager."""
    kind = type(made)
    if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
        plain_result(made, "around_load")
        raise TypeError(f"around_load: must return a context manager, returned {kind.__name__}")
    manager: AbstractContextManager[object] = made
    return manager


def not_suppressed(produced: Any) -> Any:
    """Return what was loaded: no value takes the place of an exception."""
    if produced is MISSING:
        raise RuntimeError("around_load: its context manager suppressed the loader's exception")
    return produced
