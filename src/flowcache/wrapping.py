"""`wrap` and `cached`: a function whose results are kept in a namespace.

The key of a call is a tuple of the function's label and the arguments. No two functions have one
label: see `naming`. So no call returns another function's result.

Compiled code (`_core.Called`) answers a hit where the key is that tuple, with any other options;
every other call comes here.

Results are kept in one namespace or, by `_core.Tenants`, in each tenant's: that of the tenant that
is current at the call, or that an argument of the function names.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from . import _core
from .coroutines import (
    at_call,
    check_sync,
    is_async,
    makes_generators,
    mark_as_async,
    plain_result,
)
from .loading.options import Options
from .loading.single import aanswer, areload, reload
from .naming import (
    GAP,
    KEYWORDS,
    is_shared,
    label_of,
    label_with_tags,
    make_key,
    own_tag_of,
    unfold,
)
from .reports import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from inspect import Signature
    from typing import Concatenate, Protocol, Self

    Q = ParamSpec("Q")
    S = TypeVar("S")
    Arguments = tuple[Any, ...]
    Keywords = dict[str, Any]

__all__ = ["CacheInfo", "Cached", "cached", "wrap"]

P = ParamSpec("P")
R = TypeVar("R")


MOST_TENANTS = 10_000
"""Tenants of which a function keeps counts."""


class CacheInfo(NamedTuple):
    """The result of `cache_info()` for one function, as of `functools.lru_cache`."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


_keyed: weakref.WeakValueDictionary[Any, Cached[Any, Any]] = weakref.WeakValueDictionary()
"""The wrappers with `key=`, by namespace and key. A wrapper holds its namespace, as this does."""


def claim_key(wrapper: Cached[Any, Any], inner: Callable[..., Any]) -> None:
    """Raise `ValueError` if another function has the same `key=` in the same namespace.

    Each of the two would return the other's results. The same function may be wrapped again, with
    the same arguments if it brings some: its code, and all that it holds, is the same, or a
    reloaded module defines the name anew.
    """
    namespace, key = wrapper._namespace, wrapper._key
    if wrapper._tenants is not None:
        namespace = wrapper._tenants._above, wrapper._tenants._path
    other = _keyed.setdefault((namespace, key), wrapper)
    if other is wrapper:
        return
    known = unfold(other.__wrapped__)[0]
    name, known_name = (
        f"{getattr(one, '__module__', None)}.{getattr(one, '__qualname__', None)}"
        for one in (inner, known)
    )
    is_reloaded = name == known_name and "<" not in name
    # A module that is reloaded has new functions, and they bring what the old ones brought.
    parts = parts_of(known if is_reloaded else inner, wrapper._args, wrapper._kwargs)
    if not are_same(parts, parts_of(known, other._args, other._kwargs)):
        raise ValueError(
            f"key: {shown(key)} is already the key of {known_name} in this namespace, "
            f"so {name} would be answered with its results"
        )


def check_key(key: object) -> None:
    """Raise `TypeError` for a `key=` that can be no key."""
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"key: must be hashable or a callable, got {type(key).__name__}") from error


PLAIN = (str, bytes, int, float, complex, bool, type(None))


def parts_of(function: Callable[..., Any], args: Arguments, kwargs: Keywords) -> list[object]:
    """Return what two functions have to have in common to do the same."""
    parts: list[object] = [getattr(function, "__code__", function), *args]
    named = {**(getattr(function, "__kwdefaults__", None) or {}), **kwargs}
    parts += [part for item in sorted(named.items()) for part in item]
    parts += getattr(function, "__defaults__", None) or ()
    for cell in getattr(function, "__closure__", None) or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:
            parts.append(GAP)  # Empty as yet.
    return parts


def are_same(parts: list[object], others: list[object]) -> bool:
    """True if each part is the same object, or an equal number or text; runs no user code."""
    return len(parts) == len(others) and all(
        one is other or (type(one) is type(other) and type(one) in PLAIN and one == other)
        for one, other in zip(parts, others, strict=True)
    )


def checked_path(path: Any) -> Any:
    """Return `path`; `TypeError` for one that cannot be called for the names of a namespace."""
    if path is not None:
        if not callable(path):
            raise TypeError(f"path: must be callable or None, got {type(path).__name__}")
        if is_async(path):
            raise TypeError("path: must be a plain function, got a coroutine function")
    return path


def place_of_argument(function: Callable[..., Any], name: Any) -> tuple[int, bool, Any]:
    """Return how a call gives the argument `name`.

    That is its position (-1: none), if it can be given by keyword, and its default (`UNSET`: none).
    For a function that passes all arguments on, as decorators make them, only the keyword counts.
    Such a function may pass on other positions than it receives.
    """
    if not isinstance(name, str):
        raise TypeError(f"tenant: must be the name of a parameter, got {type(name).__name__}")
    from inspect import Parameter, signature

    try:
        own = signature(function, follow_wrapped=False).parameters
        wrapped = signature(function).parameters
    except ValueError:
        raise TypeError(f"tenant: the parameters of {shown(function)} are not known") from None
    named = own.get(name)
    kinds = [parameter.kind for parameter in own.values()]
    if named is None and Parameter.VAR_KEYWORD in kinds and name in wrapped:
        return -1, True, _core.UNSET
    if named is None or named.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        accepted = ", ".join(
            other
            for other in own
            if own[other].kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        )
        raise ValueError(
            f"tenant: must name a parameter of {label_of(unfold(function)[0])}, got {shown(name)}; "
            f"it has {accepted or 'none'}"
        )
    by_position = named.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    default = _core.UNSET if named.default is Parameter.empty else named.default
    position = list(own).index(name) if by_position else -1
    return position, named.kind is not Parameter.POSITIONAL_ONLY, default


OWN_NAMES = (
    "cache_key",
    "invalidate",
    "ainvalidate",
    "refresh",
    "cache_contains",
    "cache_info",
    "cache_parameters",
    "cache_clear",
    "acache_clear",
)
"""What a wrapper bears itself."""


def signature_to_bind(function: Callable[..., Any]) -> Signature:
    """Return the signature by which `bind=True` brings arguments into one form.

    That of the function itself: one that passes all on to another may pass on other defaults.
    """
    from inspect import signature

    try:
        return signature(function, follow_wrapped=False)
    except ValueError:
        raise TypeError(f"bind: the parameters of {shown(function)} are not known") from None


cached_functions: weakref.WeakValueDictionary[int, Cached[..., Any]] = weakref.WeakValueDictionary()
"""All cached functions there are, by `id`: for a look at their counts."""


class Cached(_core.Called, Generic[P, R]):
    """A function whose results are kept in a namespace, or in each tenant's.

    Called like the function. In a class it binds as a function does.
    """

    def __init__(
        self,
        namespace: Any,
        function: Callable[P, R],
        *,
        key: Any = None,
        typed: bool = False,
        bind: bool = False,
        tags: str | Iterable[str] | Callable[P, str | Iterable[str]] = (),
        tenant: str | None = None,
        path: Callable[[str], str | Iterable[str]] | None = None,
        **options: Any,
    ) -> None:
        """Check the options; `TypeError` or `ValueError` names the one that is wrong."""
        if not callable(function):
            raise TypeError(f"function: must be callable, got {type(function).__name__}")
        if makes_generators(function):
            raise TypeError("function: what a generator function returns can be used only once")
        if not isinstance(typed, bool):
            raise TypeError(f"typed: must be a bool, got {type(typed).__name__}")
        if not isinstance(bind, bool):
            raise TypeError(f"bind: must be a bool, got {type(bind).__name__}")
        for name, given in (("typed", typed), ("bind", bind)):
            if given and key is not None:
                raise TypeError(f"{name}: has no meaning with key=, which makes the key itself")
        for name, made in (("key", key), ("tags", tags)):
            if callable(made):
                check_sync(made, name)
        check_key(key)
        self._options = Options("wrap", {"tags": () if callable(tags) else tags, **options})
        own_tags = self._options.tags
        # Declared here: a class with annotations of its own would show them as each function's.
        self.__wrapped__: Callable[P, R]
        self.__qualname__: str
        functools.update_wrapper(self, function)
        for name in OWN_NAMES:
            self.__dict__.pop(name, None)  # The function's own attributes must not hide it.
        inner, self._args, self._kwargs = unfold(function)
        self._signature = signature_to_bind(inner) if bind else None
        self._bare = label_of(inner)
        self._label = label_with_tags(self._bare, tags if callable(tags) else own_tags)
        self._given = options
        self._key = key
        self._typed = typed
        self._own_tag = own_tag_of(self._label)
        self._tags = tags if callable(tags) else None
        if self._tags is None:
            self._options = self._options.with_tags(own_tags, self._own_tag)
        self._is_async = is_async(function)
        if self._is_async:
            mark_as_async(self)
        self._tenants: _core.Tenants | None
        self._tenants = namespace if isinstance(namespace, _core.Tenants) else None
        self._by_argument = False
        self._namespace = namespace
        self._counts: dict[tuple[str, ...], _core.Counts] = {}
        """By the path of a tenant, where the function works for several."""
        if tenant is not None:
            self._name_tenant(tenant, path)
        elif path is not None:
            raise TypeError("path: has a meaning only with tenant=, whose namespaces it names")
        elif self._tenants is not None:
            self._keep_by_tenant(self._tenants)
        if key is not None:
            claim_key(self, inner)
        if options.get("sliding") is not None and self._goes_through(self._above()):
            from .tier.front import refuse_sliding

            refuse_sliding(options["sliding"])
        self._set_up(self._is_async, self._options)
        if key is None and not typed and not self._args and not self._kwargs:
            self._take_short_cut(namespace if self._tenants is None else None, self._label)
            # Of the keys that it looks for, a bound one is the same where all is given by position.
            if self._tags is None and not bind and _core._tier_of(self._above()) is None:
                self._call_directly(function, self._options)
        cached_functions[id(self)] = self

    def _name_tenant(self, name: str, path: Any) -> None:
        """Keep the result of each call in the namespace of the tenant in the argument `name`."""
        if self._tenants is not None:
            raise TypeError(
                "tenant: this namespace is the current tenant's, so that no argument names it; "
                "use cached() of the namespace above"
            )
        place = place_of_argument(self.__wrapped__, name)
        self._tenants = _core.Tenants(self._namespace, checked_path(path))
        self._by_argument = True
        self._keep_by_tenant(self._tenants, name, *place)

    if TYPE_CHECKING:  # The compiled call would not pass on to a subclass that had one.

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the result that is held for these arguments, or call the function."""

    else:

        def __getattr__(self, name: str) -> Any:
            # From 3.14 on a wrapper receives the function that makes the annotations.
            if name == "__annotations__":
                return self.__wrapped__.__annotations__
            lacks = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(lacks, name=name, obj=self)

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
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
        """Remove the result of this call; False if none was held.

        A result that is being loaded is not stored. Give the arguments as the call does, by
        position or by keyword, unless ``bind=True`` makes them the same.
        """
        self._check_arguments(args, kwargs)
        place, key = self._place(args, kwargs), self._key_of(args, kwargs)
        return place.delete(key) if self._travels() else _core.Namespace.delete(place, key)

    @at_call
    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Await what ``invalidate`` returns."""
        self._check_arguments(args, kwargs)
        place, key = self._place(args, kwargs), self._key_of(args, kwargs)
        if self._travels():
            return await place.adelete(key)
        return _core.Namespace.delete(place, key)

    def cache_contains(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell whether a fresh result of this call is held. Does not count."""
        self._check_arguments(args, kwargs)
        return self._key_of(args, kwargs) in self._place(args, kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function though its result be fresh, and store and return what it gives."""
        self._check_arguments(args, kwargs)
        place, options = self._place(args, kwargs), self._options_of(args, kwargs)
        key, loader = self._key_of(args, kwargs), self._loader(args, kwargs)
        result: R
        if self._goes_through(place):
            again: Callable[..., Any] = place.arefresh if self._is_async else place.refresh
            result = again(key, loader, **{**self._given, "tags": options.tags})
            return result
        load: Callable[..., Any] = areload if self._is_async else reload
        result = load(place, key, loader, options)
        return result

    def cache_info(self, *, tenant: str | None = None) -> CacheInfo:
        """Return the hits and misses of this function's calls, with two figures of the namespace.

        ``maxsize``: its bound on entries; ``currsize``: the number of its results of this function.
        For a function of the current tenant all four are that tenant's own. If the tenant is an
        argument, they are for all tenants, or for ``tenant`` alone. Counts are kept of the last
        10,000 tenants that began to call it.
        """
        place = self._counted_place(tenant)
        if self._tenants is None:
            calls, misses = self._calls, self._misses
        else:
            counted = self._counts_at(place)
            calls = sum(counts.calls for counts in counted)
            misses = sum(counts.misses for counts in counted)
        held = place._tagged(self._own_tag)
        return CacheInfo(max(0, calls - misses), misses, place.limits.max_entries, held)

    def _counted_within(self, store: object, path: tuple[str, ...]) -> tuple[int, int] | None:
        """Return the calls and misses within a place of a cache; None: it keeps nothing there."""
        above = self._namespace if self._tenants is None else self._tenants._above
        if above._store() is not store:
            return None
        if self._tenants is None:
            return (self._calls, self._misses) if above.path[: len(path)] == path else None
        counted = [
            counts for place, counts in list(self._counts.items()) if place[: len(path)] == path
        ]
        if not counted and above.path[: len(path)] != path:
            return None
        return sum(one.calls for one in counted), sum(one.misses for one in counted)

    def cache_parameters(self, *, tenant: str | None = None) -> dict[str, Any]:
        """Return ``maxsize`` and ``typed`` by name, as ``functools.lru_cache`` does.

        ``maxsize`` and ``tenant`` as for :meth:`cache_info`.
        """
        place = self._counted_place(tenant)
        return {"maxsize": place.limits.max_entries, "typed": self._typed}

    def cache_clear(self, *, tenant: str | None = None) -> None:
        """Remove this function's results, and no other entry, and set its counts to zero.

        For a function of the current tenant: that tenant's results and counts. If the tenant is an
        argument: those of all tenants, or of ``tenant`` alone.
        """
        place = self._counted_place(tenant)
        place.invalidate_tag(self._own_tag)
        self._clear_counts(place)

    @at_call
    async def acache_clear(self, *, tenant: str | None = None) -> None:
        """Await the end of ``cache_clear``."""
        place = self._counted_place(tenant)
        await place.ainvalidate_tag(self._own_tag)
        self._clear_counts(place)

    def _clear_counts(self, place: _core.Namespace[Any]) -> None:
        if self._tenants is None:
            self._calls = self._misses = 0
        for counts in self._counts_at(place):
            counts.reset()

    def __reduce__(self) -> str:
        """Pickle by name, as a function is."""
        return self.__qualname__

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<cached {self.__wrapped__!r}>"

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a call that the short cut did not."""
        place = self._place(args, kwargs)
        counts = None if self._tenants is None else self._counts_of(place)
        return self._call_at(place, counts, args, kwargs)

    def _call_at(
        self,
        place: _core.Namespace[Any],
        counts: _core.Counts | None,
        args: Arguments,
        kwargs: Keywords,
    ) -> Any:
        """Answer a call whose namespace is known."""
        return self._answer(place, self._key_of(args, kwargs), args, kwargs, counts)

    def _load(
        self, place: _core.Namespace[Any], key: Hashable, args: Arguments, kwargs: Keywords
    ) -> Any:
        """Answer a call whose key is not held, or not fresh, or perhaps due."""
        options, loader = self._options_of(args, kwargs), self._loader(args, kwargs)
        on_miss = self._count_miss if self._tenants is None else self._counts_of(place).miss
        if self._goes_through(place):
            if place._held(key) is None:
                on_miss()
            fetch: Callable[..., Any] = place.afetch if self._is_async else place.fetch
            return fetch(key, loader, **{**self._given, "tags": options.tags})
        if self._is_async:
            return aanswer(place, key, loader, options, on_miss)
        return place._fetch(key, loader, options, on_miss)

    def _above(self) -> _core.Namespace[Any]:
        """Return the namespace of the results, or the one above those of the tenants."""
        above: _core.Namespace[Any]
        above = self._namespace if self._tenants is None else self._tenants._above
        return above

    def _goes_through(self, place: _core.Namespace[Any]) -> bool:
        """Tell if the results lie in a second tier as well."""
        return _core._tier_of(place) is not None and self._travels()

    def _travels(self) -> bool:
        """Tell if a key means the same in other processes.

        A closure's label, and that of one of several functions of one name, is given in the order
        of creation: it would hand one process another closure's result.
        """
        return self._key is not None or not is_shared(self._bare, self._label)

    def _counts_of(self, place: _core.Namespace[Any]) -> _core.Counts:
        """Return the counts of a tenant. Clients invent tenants: the oldest of too many go."""
        path = place.path
        counts = self._counts.get(path)
        if counts is None:
            counts = self._counts.setdefault(path, _core.Counts())
            if len(self._counts) > MOST_TENANTS:
                for oldest in list(self._counts)[: MOST_TENANTS // 10]:
                    dropped = self._counts.pop(oldest, None)
                    if dropped is not None:
                        dropped.drop()
        return counts

    def _counts_at(self, place: _core.Namespace[Any]) -> list[_core.Counts]:
        """Return the counts of a tenant, or of all tenants at the namespace above theirs."""
        if self._by_argument and place is self._namespace:
            return list(self._counts.values())
        counts = self._counts.get(place.path)
        return [] if counts is None else [counts]

    def _counted_place(self, tenant: str | None) -> _core.Namespace[Any]:
        """Return the namespace that `cache_info` and `cache_clear` are about."""
        if tenant is None:
            return self._namespace if self._by_argument else self._place((), {})
        if self._tenants is None or not self._by_argument:
            raise TypeError("tenant: only of a function that was cached with tenant=")
        return self._tenants._namespace_of(tenant, "tenant")

    def _place(self, args: Arguments, kwargs: Keywords) -> _core.Namespace[Any]:
        """Return the namespace of a call's result."""
        place: _core.Namespace[Any] = self._namespace
        return place if self._tenants is None else self._tenant_place(args, kwargs)

    def _key_of(self, args: Arguments, kwargs: Keywords) -> Hashable:
        if self._key is None:
            every = {**self._kwargs, **kwargs} if self._kwargs else kwargs
            args = (*self._args, *args)
            if self._signature is not None:
                bound = self._signature.bind(*args, **every)
                bound.apply_defaults()
                args, every = bound.args, bound.kwargs
            return make_key(self._label, args, every, self._typed)
        key: Hashable = self._key
        if callable(self._key):
            key = plain_result(self._key(*args, **kwargs), "key")
        return key

    def _loader(self, args: Arguments, kwargs: Keywords) -> Callable[[], Any]:
        # Made for each call, so that no kept object refers to the arguments.
        return functools.partial(self.__wrapped__, *args, **kwargs)

    def _options_of(self, args: Arguments, kwargs: Keywords) -> Options:
        if self._tags is None:
            return self._options
        tags: Any = plain_result(self._tags(*args, **kwargs), "tags")
        return self._options.with_tags(tags, self._own_tag)

    def _check_arguments(self, args: Arguments, kwargs: Keywords) -> None:
        """Raise `TypeError` where the function cannot be called so: such a call has no key."""
        try:
            from inspect import signature

            told = signature(self.__wrapped__)
        except (ImportError, ValueError):
            return  # The interpreter is exiting, or a builtin has no signature.
        told.bind(*args, **kwargs)


_core._enable_vectorcall(Cached, KEYWORDS)


class Bound(Generic[P, R]):
    # A cached function bound to an instance or a class. The docstring is the function's.
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

    def cache_contains(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell whether a fresh result of this call is held. Does not count."""
        return self.__func__.cache_contains(self.__self__, *args, **kwargs)

    @at_call
    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Await what ``invalidate`` returns."""
        return await self.__func__.ainvalidate(self.__self__, *args, **kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method though its result be fresh, and store and return what it gives."""
        return self.__func__.refresh(self.__self__, *args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__func__.__doc__

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a method: by name, of what it is bound to."""
        return getattr, (self.__self__, self.__name__)

    def __repr__(self) -> str:
        return f"<cached {self.__wrapped__!r}>"


class CachedClassMethod(Generic[P, R]):
    """The result of `cached` above `@classmethod`: it binds to the class on every Python."""

    def __init__(self, function: Cached[Any, R]) -> None:
        self.__doc__ = function.__doc__
        self._function = function

    def __get__(self, instance: object, owner: type | None = None, /) -> Bound[P, R]:
        return Bound(self._function, type(instance) if owner is None else owner)


if TYPE_CHECKING:

    class Decorator(Protocol):
        """The decorator that `cached(...)` returns."""

        @overload
        def __call__(self, function: classmethod[S, P, R], /) -> CachedClassMethod[P, R]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, function: staticmethod[P, R], /
        ) -> staticmethod[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...


def wrap(namespace: Any, function: Callable[P, R], /, **options: Any) -> Cached[P, R]:
    """Return `function` with its results kept in `namespace`; sync or async as it is itself."""
    made: Any = function
    if isinstance(made, classmethod):
        made = CachedClassMethod(Cached(namespace, made.__func__, **options))
    elif isinstance(made, staticmethod):
        made = staticmethod(Cached(namespace, made.__func__, **options))
    else:
        made = Cached(namespace, function, **options)
    result: Cached[P, R] = made
    return result


def cached(namespace: Any, function: Any = None, /, **options: Any) -> Any:
    """Return a decorator that keeps a function's results in `namespace`, or decorate `function`."""
    if function is not None:
        if options or not (callable(function) or isinstance(function, (classmethod, staticmethod))):
            raise TypeError("cached: takes options by name, or one function: @ns.cached")
        return wrap(namespace, function)

    def decorate(function: Callable[P, R], /) -> Cached[P, R]:
        return wrap(namespace, function, **options)

    return decorate
