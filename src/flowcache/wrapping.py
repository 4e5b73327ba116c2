"""`wrap` and `cached`: a function whose results are kept in a namespace.

The key of a call is a tuple of the function's label and the arguments. A label is the function's qualified name; when
two different functions bear one name (closures of one factory, cells of a notebook, `singledispatch` variants), each
has a label of its own, so that no call is answered with another function's result.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import types
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    overload,
)

from .calls import Call, tags_of
from .loading import is_async

__all__ = ["CacheInfo", "Cached", "cached", "make_key", "wrap"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Mark:
    """Sets the parts of a key apart: equal to nothing but itself, and no argument of anybody's."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


KEYWORDS = Mark("keywords")
TYPES = Mark("types")


def make_key(
    label: str, args: tuple[Any, ...], kwargs: dict[str, Any], typed: bool
) -> tuple[Hashable, ...]:
    """Return the key of a call: `f(1)`, `f(x=1)` and, if `typed`, `f(True)` and `f(1.0)` have four different ones.

    The order in which keywords are given makes no difference.
    """
    if not kwargs and not typed:
        return (label, *args)
    key: tuple[Any, ...] = (label, *args)
    named = sorted(kwargs.items())
    if named:
        key += (KEYWORDS, *(part for item in named for part in item))
    if typed:
        key += (TYPES, *map(type, args), *(type(value) for _, value in named))
    return key


class CacheInfo(NamedTuple):
    """What `cache_info()` tells of one function's calls, as `functools.lru_cache` does."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


_labels: weakref.WeakKeyDictionary[Callable[..., Any], str] = weakref.WeakKeyDictionary()
_bearers: dict[str, itertools.count[int]] = {}


def label_of(function: Callable[..., Any]) -> str:
    """Return the function's label: the same for the same function, another one for every other function."""
    try:
        known = _labels.get(function)
    except TypeError:
        known = None  # It cannot be hashed or referred to weakly: each wrapper is on its own.
    if known is not None:
        return known
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    label = f"{getattr(inner, '__module__', None)}.{name}"
    nth = next(_bearers.setdefault(label, itertools.count(1)))
    if nth > 1:
        label = f"{label}#{nth}"
    try:
        _labels[function] = label
    except TypeError:
        pass
    return label


class Cached(Generic[P, R]):
    """A function whose results are kept in a namespace, or in the current tenant's.

    Called like the function. In a class it binds as a function does.
    """

    __wrapped__: Callable[P, R]

    def __init__(
        self,
        namespace: Any,
        function: Callable[P, R],
        *,
        key: Any = None,
        typed: bool = False,
        tags: str | Iterable[str] | Callable[P, str | Iterable[str]] = (),
        **options: Any,
    ) -> None:
        """Check the options; `TypeError` or `ValueError` names the one that is wrong."""
        if not isinstance(typed, bool):
            raise TypeError(f"typed: must be a bool, got {type(typed).__name__}")
        Call("wrap", function, {"tags": () if callable(tags) else tags, **options})
        functools.update_wrapper(self, function)
        self._resolve: Callable[[], Any] | None = getattr(namespace, "resolve", None)
        self._namespace = namespace
        self._label = label_of(function)
        self._key = key
        self._typed = typed
        self._own_tag = f"flowcache.function:{hash(self._label):x}:{self._label[-200:]}"
        self._tags = tags if callable(tags) else None
        self._options = options
        if self._tags is None:
            options["tags"] = (*tags_of(tags), self._own_tag)  # type: ignore[arg-type]
        options["_on_miss"] = self._count_miss
        self._calls = 0
        self._misses = 0
        self._is_async = is_async(function)
        if self._is_async:
            mark_as_async(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result that is held for these arguments; call the function if there is none."""
        namespace = self._namespace if self._resolve is None else self._resolve()
        key = self._key_of(args, kwargs)
        self._calls += 1
        call = namespace.afetch if self._is_async else namespace.fetch
        result: R = call(key, self._loader(args, kwargs), **self._options_of(args, kwargs))
        return result

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> Bound[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """Bind to an instance, as a function in a class does."""
        return self if instance is None else Bound(self, instance)

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """Return the key under which the result of this call is held."""
        self._check_arguments(args, kwargs)
        return self._key_of(args, kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the result of this call, and let none that is being loaded be stored; False if none was held."""
        self._check_arguments(args, kwargs)
        removed: bool = self._place().delete(self._key_of(args, kwargs))
        return removed

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function though its result be fresh, and store and return what it gives."""
        self._check_arguments(args, kwargs)
        place = self._place()
        call = place.arefresh if self._is_async else place.refresh
        result: R = call(
            self._key_of(args, kwargs), self._loader(args, kwargs), **self._options_of(args, kwargs)
        )
        return result

    def cache_info(self) -> CacheInfo:
        """Return the hits and misses of this function's calls, the namespace's bound, and how many results it holds."""
        place = self._place()
        misses = self._misses
        return CacheInfo(
            max(0, self._calls - misses), misses, place._max_entries, place._tagged(self._own_tag)
        )

    def cache_clear(self) -> None:
        """Remove this function's results, and no other entry, and set its counts to zero."""
        self._place().invalidate_tag(self._own_tag)
        self._calls = self._misses = 0

    def __reduce__(self) -> str:
        """Pickle by name, as a function is."""
        return self.__qualname__  # type: ignore[no-any-return, attr-defined]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<cached {self.__wrapped__!r}>"

    def _place(self) -> Any:
        return self._namespace if self._resolve is None else self._resolve()

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        if self._key is None:
            return make_key(self._label, args, kwargs, self._typed)
        key: Hashable = self._key(*args, **kwargs) if callable(self._key) else self._key
        return key

    def _loader(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        # Made for each call, so that nothing that is kept refers to the arguments.
        return functools.partial(self.__wrapped__, *args, **kwargs)

    def _options_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._tags is None:
            return self._options
        return {**self._options, "tags": (*tags_of(self._tags(*args, **kwargs)), self._own_tag)}

    def _count_miss(self) -> None:
        self._misses += 1

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `TypeError` for arguments that the function cannot be called with: they have no key."""
        try:
            signature = inspect.signature(self.__wrapped__)
        except ValueError:
            return  # A builtin that does not tell.
        signature.bind(*args, **kwargs)


class Bound(Generic[P, R]):
    """A cached function bound to an instance or a class."""

    __slots__ = ("__func__", "__self__")

    def __init__(self, function: Cached[Any, R], instance: object) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method: the result that is held, or a new one."""
        return self.__func__(self.__self__, *args, **kwargs)

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """Return the key under which the result of this call is held."""
        return self.__func__.cache_key(self.__self__, *args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the result of this call; False if none was held."""
        return self.__func__.invalidate(self.__self__, *args, **kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method though its result be fresh, and store and return what it gives."""
        return self.__func__.refresh(self.__self__, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[P, R]:
        return types.MethodType(self.__func__.__wrapped__, self.__self__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Bound)
            and self.__func__ is other.__func__
            and self.__self__ is other.__self__
        )

    def __hash__(self) -> int:
        return hash((id(self.__func__), id(self.__self__)))

    def __repr__(self) -> str:
        return f"<cached {self.__wrapped__!r}>"


class CachedClassMethod(Generic[P, R]):
    """What `cached` above `@classmethod` makes: it binds to the class on every Python."""

    def __init__(self, function: Cached[Any, R]) -> None:
        self.__doc__ = function.__doc__
        self._function = function

    def __get__(self, instance: object, owner: type | None = None, /) -> Bound[P, R]:
        return Bound(self._function, type(instance) if owner is None else owner)


class Decorator(Protocol):
    """What `cached(...)` returns."""

    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...


def wrap(namespace: Any, function: Callable[P, R], /, **options: Any) -> Cached[P, R]:
    """Return `function` with its results kept in `namespace`; sync or async by what it is."""
    made: Any = function
    if isinstance(made, classmethod):
        made = CachedClassMethod(Cached(namespace, made.__func__, **options))
    elif isinstance(made, staticmethod):
        made = staticmethod(Cached(namespace, made.__func__, **options))
    else:
        made = Cached(namespace, function, **options)
    result: Cached[P, R] = made
    return result


def cached(namespace: Any, /, **options: Any) -> Decorator:
    """Return a decorator that keeps a function's results in `namespace`."""

    def decorate(function: Callable[P, R], /) -> Cached[P, R]:
        return wrap(namespace, function, **options)

    return decorate


def mark_as_async(function: Any) -> None:
    """Let `iscoroutinefunction` tell the truth of an object that is called like a coroutine function."""
    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
