"""Tests for coroutine functions and awaitables, by the flags of the code; coroutines of a moment.

The functions of `inspect` are not used: a finalizer that runs at the exit of the interpreter may
call a cache when the globals of `inspect` are gone.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Coroutine
from contextvars import Context, copy_context
from functools import partial, wraps
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE
from types import FunctionType, GeneratorType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, Self, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = [
    "at_call",
    "check_sync",
    "in_this_context",
    "is_async",
    "is_awaitable",
    "makes_generators",
    "mark_as_async",
    "plain_result",
    "refuse_one_use",
]

KNOWS_MARKS = "inspect" if sys.version_info >= (3, 12) else "asyncio"
"""The module that marks other objects as coroutine functions. Where it is not imported, none is."""


def flags_of(function: Any) -> int:
    """Return the flags of a function's code, be it bound or in a `partial`; 0 for other objects."""
    while isinstance(function, (MethodType, partial)):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    return function.__code__.co_flags if isinstance(function, FunctionType) else 0


def is_async(loader: object) -> bool:
    """True for the result of `async def`, and for objects that are called as such."""
    is_marked = getattr(sys.modules.get(KNOWS_MARKS), "iscoroutinefunction", None)
    for function in (loader, getattr(type(loader), "__call__", None)):  # noqa: B004  what it is
        if flags_of(function) & CO_COROUTINE or (is_marked is not None and is_marked(function)):
            return True
    return False


def makes_generators(function: object) -> bool:
    """True for a generator function, sync or async."""
    return flags_of(function) & (CO_GENERATOR | CO_ASYNC_GENERATOR) != 0


def is_awaitable(produced: object) -> bool:
    """True for an awaitable."""
    if isinstance(produced, GeneratorType):
        return produced.gi_code.co_flags & CO_ITERABLE_COROUTINE != 0
    return isinstance(produced, Awaitable)


def check_sync(function: object, name: str) -> None:
    """Raise `TypeError` for a coroutine or generator function where a plain one is called."""
    if is_async(function):
        raise TypeError(f"{name}: must be a plain function, got a coroutine function")
    called = getattr(type(function), "__call__", None)  # noqa: B004  what it is
    if makes_generators(function) or makes_generators(called):
        raise TypeError(f"{name}: must be a plain function, got a generator function")


def plain_result(produced: Any, name: str) -> Any:
    """Return the result of a plain function; `TypeError` for an awaitable, which is closed."""
    if produced is None or not is_awaitable(produced):
        return produced
    if isinstance(produced, Coroutine):
        produced.close()  # Unclosed, it would warn that it was never awaited.
    raise TypeError(f"{name}: must not return an awaitable, returned {type(produced).__name__}")


def refuse_one_use(produced: object, name: str) -> None:
    """Raise `TypeError` for a value that can be read only once, so by no second caller."""
    kind = type(produced)
    if isinstance(produced, Coroutine):
        produced.close()
        raise TypeError(f"{name}: returned a coroutine as a value, which can be awaited only once")
    if is_iterator(produced):
        raise TypeError(
            f"{name}: returned an iterator ({kind.__name__}), which can be read only once; "
            "return a list or a tuple"
        )


def is_iterator(produced: Any) -> bool:
    """True for an object that is its own iterator, sync or async. An iterable mock is not."""
    kind = type(produced)
    try:
        return (hasattr(kind, "__next__") and iter(produced) is produced) or (
            hasattr(kind, "__anext__") and aiter(produced) is produced
        )
    except TypeError:
        return False


def mark_as_async(function: Any) -> None:
    """Let `iscoroutinefunction` tell what an object is that is called like a coroutine function."""
    if sys.version_info >= (3, 12):
        import inspect

        inspect.markcoroutinefunction(function)
    else:
        import asyncio

        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def at_call(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Decorate a coroutine function: it runs in the context of its call, wherever it is awaited.

    Under whichever tenant the result is awaited, the call works for the tenant for which it was
    made. The context is a copy: what the function sets in it, its caller does not see. The result
    is a coroutine function for `inspect` and for `asyncio`.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return in_this_context(function(*args, **kwargs))

    if sys.version_info >= (3, 12):
        mark_as_async(call)
    else:
        # `inspect` knows no marks there, only this flag, as of `types.coroutine`. It tells nothing
        # to the interpreter: an instruction in the code makes coroutines.
        code = call.__code__  # type: ignore[attr-defined]
        call.__code__ = code.replace(co_flags=code.co_flags | CO_COROUTINE)  # type: ignore[attr-defined]
    return call


def in_this_context(coroutine: Coroutine[Any, Any, R]) -> Coroutine[Any, Any, R]:
    """Return a coroutine that runs in a copy of the present context, wherever it is awaited."""
    return InContext(copy_context(), coroutine)


class Stepped:
    """The steps of a coroutine, each of which runs in one context."""

    __slots__ = ("_context", "_coroutine")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._context = context
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return self._context.run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._context.run(self._coroutine.throw, *error)

    def close(self) -> None:
        self._context.run(self._coroutine.close)

    def __getattr__(self, name: str) -> Any:
        """Read an attribute of the coroutine: its name, its frame."""
        return getattr(self._coroutine, name)


class InContext(Stepped, Coroutine):  # type: ignore[type-arg]
    """A coroutine each step of which runs in one context.

    It is no iterator, as no coroutine is: a loop over a call that lacks its `await` raises.
    """

    __slots__ = ("__weakref__",)

    def __await__(self) -> Awaited:
        return Awaited(self._context, self._coroutine)


class Awaited(Stepped):
    """The iterator that `await` takes of such a coroutine."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._context.run(self._coroutine.send, None)
