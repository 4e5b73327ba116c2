"""Shared parts of the tests of cached functions: functions that tell how they were called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Calls(list[Any]):
    """A function that keeps the arguments of each call and returns the number of calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        self.append((args, kwargs))
        return len(self)


def counting() -> tuple[Calls, Callable[..., int]]:
    calls = Calls()

    def function(*args: Any, **kwargs: Any) -> int:
        """Count."""
        return calls(*args, **kwargs)

    return calls, function


async def call_twice(function: Callable[[int], Any]) -> tuple[int, int]:
    return await function(3), await function(3)
