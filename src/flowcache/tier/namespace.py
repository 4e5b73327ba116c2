"""The views of a cache that has a tier: the calls of a namespace, each with its awaitable twin.

Hits are the core's own. Every call that can reach the tier is made of the front's steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flowcache import _core
from flowcache.coroutines import at_call
from flowcache.errors import ConfigurationError

from .front import Front

__all__ = ["TieredNamespace", "tiered"]

Namespace = _core.Namespace

READS = ("get_many", "ttl")
WRITES = (
    "set",
    "add",
    "delete",
    "pop",
    "touch",
    "incr",
    "set_many",
    "delete_many",
    "setdefault",
    "clear",
    "invalidate_tag",
    "invalidate_tags",
    "invalidate_prefix",
    "expire",
    "expire_tag",
)
LOADS = ("refresh", "arefresh", "fetch_many", "afetch_many")


class TieredNamespace(Namespace[Any]):
    """One namespace of a cache whose values lie in a second tier as well.

    The calls are those of any namespace. A sync call that has to wait for the tier raises
    ``WouldBlockError`` on the thread of a running event loop; its twin is to be awaited there.
    """

    __slots__ = ()

    get = _core._tiered_get
    fetch = _core._tiered_fetch
    afetch = _core._tiered_afetch

    def __getitem__(self, key: Any) -> Any:
        value = Namespace.get(self, key, MISSING)
        if value is MISSING:
            front = _core._tier_of(self)
            if front is not None:
                value = front.get(self, key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: Any) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Store each pair of a mapping or an iterable of pairs, then each keyword."""
        pairs = dict(other.items() if isinstance(other, Namespace) else other)
        self.set_many(pairs | more)

    def invalidate_where(self, predicate: Any, /) -> int:
        """Raise `ConfigurationError`, but in a namespace that stays in the process."""
        if _core._tier_of(self) is not None:
            raise ConfigurationError(
                "invalidate_where: a predicate cannot travel to other processes; call "
                "configure(tiered=False) first, or use tags"
            )
        return Namespace.invalidate_where(self, predicate)

    @at_call
    async def aget(self, key: Any, /, default: Any = None) -> Any:
        """Await what `get` returns."""
        value = Namespace.get(self, key, MISSING)
        if value is not MISSING:
            return value
        front = _core._tier_of(self)
        return (
            default
            if front is None
            else await front.engine.arun(front.steps_get(self, key, default))
        )


MISSING = object()


def sync_call(name: str, *, writes: bool) -> Callable[..., Any]:
    """Return the call of a name, for threads."""
    plain: Any = getattr(Namespace, name)
    steps = named(name)

    @functools.wraps(plain, assigned=("__name__", "__doc__"), updated=())
    def call(self: Namespace[Any], /, *args: Any, **kwargs: Any) -> Any:
        front = _core._tier_of(self)
        if front is None:
            return plain(self, *args, **kwargs)
        carry_out = front.write if writes else front.read
        return carry_out(name, steps(front, self, *args, **kwargs))

    call.__qualname__ = f"Namespace.{name}"
    return call


def async_call(name: str, *, writes: bool) -> Callable[..., Any]:
    """Return the twin of a call, for tasks."""
    plain: Any = getattr(Namespace, name)
    steps = named(name)
    twin: Any = getattr(Namespace, f"a{name}")

    @functools.wraps(twin, assigned=("__name__", "__doc__"), updated=())
    async def call(self: Namespace[Any], /, *args: Any, **kwargs: Any) -> Any:
        front = _core._tier_of(self)
        if front is None:
            return plain(self, *args, **kwargs)
        made = steps(front, self, *args, **kwargs)
        return await (front.awrite(made) if writes else front.engine.arun(made))

    call.__qualname__ = f"Namespace.a{name}"
    return at_call(call)


def named(name: str) -> Callable[..., Any]:
    """Return the front's steps of a call; an error about its arguments names the call."""
    steps: Any = getattr(Front, f"steps_{name}")
    steps.__qualname__ = f"Namespace.{name}"
    return steps  # type: ignore[no-any-return]


def loading_call(name: str) -> Callable[..., Any]:
    """Return a call that loads."""
    plain: Any = getattr(Namespace, name)

    @functools.wraps(plain, assigned=("__name__", "__doc__"), updated=())
    def call(self: Namespace[Any], key: Any, loader: Any, /, **options: Any) -> Any:
        front = _core._tier_of(self)
        load = plain if front is None else getattr(front, name)
        return load(self, key, loader, **options)

    call.__qualname__ = f"Namespace.{name}"
    return call


def _fill_in() -> None:
    for name in (*READS, *WRITES):
        writes = name in WRITES
        setattr(TieredNamespace, name, sync_call(name, writes=writes))
        setattr(TieredNamespace, f"a{name}", async_call(name, writes=writes))
    for name in LOADS:
        setattr(TieredNamespace, name, loading_call(name))


_fill_in()
_core._take_views(TieredNamespace)


@functools.cache
def tiered(kind: Any) -> Any:
    """Return the class of caches like `kind` that have a tier."""
    if TieredNamespace in kind.__mro__:
        return kind
    body = {"__slots__": (), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (TieredNamespace, kind), body)
