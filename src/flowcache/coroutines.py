"""What `async def` made, and what can be awaited: told without `inspect`, which is slow to import.

Nothing here imports anything when it is called, as a finalizer may at the exit of the interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from functools import partial
from types import FunctionType, GeneratorType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["is_async", "is_awaitable", "makes_generators"]

# Flags of code objects, from the reference of the language.
CO_GENERATOR = 0x20
CO_COROUTINE = 0x80
CO_ITERABLE_COROUTINE = 0x100
CO_ASYNC_GENERATOR = 0x200

KNOWS_MARKS = "inspect" if sys.version_info >= (3, 12) else "asyncio"
"""The module that marks other objects as coroutine functions. Where it is not imported, none is."""


def flags_of(function: Any) -> int:
    """Return the flags of a function's code, be it bound or in a `partial`; 0 for other objects."""
    while isinstance(function, (MethodType, partial)):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    return function.__code__.co_flags if isinstance(function, FunctionType) else 0


def is_async(loader: object) -> bool:
    """True for what `async def` made, and for objects that are called as such."""
    is_marked = getattr(sys.modules.get(KNOWS_MARKS), "iscoroutinefunction", None)
    for function in (loader, getattr(type(loader), "__call__", None)):  # noqa: B004  what it is
        if flags_of(function) & CO_COROUTINE or (is_marked is not None and is_marked(function)):
            return True
    return False


def makes_generators(function: object) -> bool:
    """True for a generator function, sync or async."""
    return flags_of(function) & (CO_GENERATOR | CO_ASYNC_GENERATOR) != 0


def is_awaitable(produced: object) -> bool:
    """True for what `await` takes."""
    if isinstance(produced, GeneratorType):
        return produced.gi_code.co_flags & CO_ITERABLE_COROUTINE != 0
    return isinstance(produced, Awaitable)
