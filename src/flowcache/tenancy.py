"""The current tenant, and namespaces that look it up at every call.

A context variable holds the current tenant, as a chain of scopes (see `scopes` in the core). These
rules follow from that, for code that is suspended, collected, cancelled or copied:

- A task, a thread of `asyncio.to_thread` or a copied context has the tenant of its creation. It
  keeps that tenant when the block that set it ends.
- The end of a block removes that block's own scope, and no other. An end out of order, or in
  another context than the block began in, changes no running block's tenant and warns with
  `TenantScopeWarning`.
- Where the right tenant is uncertain, none is current, and calls that need one raise.
"""

from __future__ import annotations

import functools
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    MutableMapping,
)
from contextvars import copy_context

from . import _core, twins, wrapping
from .coroutines import InContext, is_async, makes_generators, plain_result
from .errors import InvalidNamespaceError, TenantScopeWarning
from .reports import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, ParamSpec, Protocol, Self, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
    P = ParamSpec("P")
    R = TypeVar("R")
    T_co = TypeVar("T_co", covariant=True)

    class Scope(Protocol[T_co]):
        """The result of `tenant` and `no_tenant`: for one `with`, or to decorate a function."""

        def __enter__(self) -> T_co: ...
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
            /,
        ) -> None: ...
        def __call__(self, function: F, /) -> F: ...


__all__ = ["TenantScopeWarning", "carry", "current_tenant", "no_tenant", "tenant"]

current_tenant = _core.current_tenant
"""The tenant that the running code works for: a context variable with `get`, `set` and `reset`.

`get()` returns the tenant of the innermost open scope. Without one it raises `TenantNotSetError`, a
`LookupError`. It goes where contexts go: through `await`, into tasks and `asyncio.to_thread`. A
plain thread begins without one: see :func:`carry`.
"""

Path = Callable[[str], str | Iterable[str]]


def tenant(name: str) -> Scope[str]:
    """Make ``name`` the current tenant in a ``with`` block, or in each call of a function.

    Blocks may be nested. Raises ``InvalidNamespaceError`` or ``TypeError`` for a name that no
    namespace can have. A ``yield`` within the block hands the tenant to the code that runs next:
    make the calls first, and yield after the block. Generator functions cannot be decorated.
    """
    return Block(_core.check_name(name, "tenant"))


def no_tenant() -> Scope[None]:
    """Make no tenant current in a ``with`` block, or in each call of a function.

    Calls that need a tenant raise there, also if a tenant is current outside.
    """
    return Block()


def carry(function: Callable[P, R], /) -> Callable[P, R]:
    """Return ``function`` with the context of this moment, the tenant included, for any thread.

    ``Thread(target=carry(work))``, ``pool.submit(carry(work), 1)``. Each call runs in a copy of
    that context, so that several threads may call it at once. Raises ``TypeError`` for coroutine
    and generator functions, whose bodies run elsewhere.
    """
    if not callable(function):
        raise TypeError(f"function: must be callable, got {type(function).__name__}")
    if is_async(function) or makes_generators(function):
        raise TypeError(
            "function: is a coroutine or generator function, whose body runs when the call has "
            "returned; carry the function that runs it"
        )
    context = copy_context()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        made = context.copy().run(function, *args, **kwargs)
        if type(made) is InContext:
            return made
        if isinstance(made, Coroutine):
            made.close()
            raise TypeError("function: returned a coroutine, which runs where it is awaited")
        refuse_generator(made)
        return made

    return call


class Block(_core.TenantBlock):
    """The result of `tenant` and `no_tenant`."""

    __slots__ = ("_tenant",)

    def __init__(self, *tenant: str) -> None:
        super().__init__(*tenant)
        self._tenant = tenant

    def __call__(self, function: Any, /) -> Any:
        """Decorate a function, sync or async: each of its calls is a block of its own."""
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self(function.__func__))
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"function: must be a function, got {shown(function)}")
        if makes_generators(function):
            raise TypeError(
                "function: is a generator function, whose body runs when the call has returned"
            )
        call = self._calls(function) if not is_async(function) else self._awaits(function)
        return functools.update_wrapper(call, function)

    def _awaits(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with Block(*self._tenant):
                made = await function(*args, **kwargs)
            refuse_generator(made)
            return made

        return call

    def _calls(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def finish(made: Any) -> Any:
            with Block(*self._tenant):
                result = await made
            refuse_generator(result)
            return result

        def call(*args: Any, **kwargs: Any) -> Any:
            with Block(*self._tenant):
                made = function(*args, **kwargs)
            # A coroutine has not begun: it runs where it is awaited, in any context.
            if isinstance(made, Coroutine):
                return finish(made)
            refuse_generator(made)
            return made

        return call


def refuse_generator(made: object) -> None:
    """Raise `TypeError` if a function returned a generator, whose body has not run yet.

    A `map` or a `filter` is one in other words. Compiled code has generators of its own types.
    """
    if isinstance(made, (Generator, AsyncGenerator, map, filter)):
        kind = "generator" if not isinstance(made, (map, filter)) else type(made).__name__
        raise TypeError(f"function: returned a {kind}, whose body runs when the call has returned")


def default_path(tenant: str) -> str:
    """Return the name of a tenant's namespace where no other path is asked for."""
    return f"tenant:{tenant}"


def checked_path(path: Path | None) -> Path:
    """Return the path to use; `TypeError` for one that cannot be called for names."""
    if path is None:
        return default_path
    wrapping.checked_path(path)
    return path


def names_of(path: Path, tenant: str) -> tuple[str, ...]:
    """Return the names that a path gives to a tenant; they are not checked yet."""
    return names_in(path(tenant))


def names_in(made: object) -> tuple[str, ...]:
    """Return the names in what a path returned; they are not checked yet."""
    names: Any = plain_result(made, "path")
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable) or isinstance(names, (bytes, bytearray)):
        raise TypeError(
            f"path: must return a name or an iterable of names, returned {type(names).__name__}"
        )
    given = tuple(names)
    if not given:
        raise InvalidNamespaceError("path: must return at least one name, returned none")
    return given


class CurrentTenant(_core.Tenants):
    """The current tenant's namespace, looked up at every call.

    It takes every call of a :class:`Namespace`, and keeps no state between two calls. A method
    works for the tenant that is current when it is called, not when it was read.
    """

    __slots__ = ()

    def resolve(self) -> _core.Namespace[Any]:
        """Return the namespace of the tenant that is set now.

        Raises ``TenantNotSetError`` if there is none, and ``TypeError`` or
        ``InvalidNamespaceError`` for a tenant or a path that cannot name a namespace.
        """
        return self._current()

    def wrap(self, function: Any, /, **options: Any) -> Any:
        """Return ``function`` cached in the namespace of the tenant current at each call."""
        return wrapping.wrap(self, function, **options)

    def cached(self, function: Any = None, /, **options: Any) -> Any:
        """Decorate a function so; may be used before any tenant is set, as at import."""
        return wrapping.cached(self, function, **options)

    @property
    def enabled(self) -> bool:
        """Whether entries of the current tenant are stored; it may be assigned."""
        return self.resolve().enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.resolve().enabled = enabled

    def __getattr__(self, name: str) -> Any:
        """Read a property of the current tenant's namespace."""
        if name not in PROPERTIES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.resolve(), name)

    def __copy__(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<flowcache.Namespace of the current tenant, below {self._above!r}>"


PROPERTIES = frozenset(("path", "name", "limits", "maxsize", "currsize"))
SPECIAL_METHODS = (
    "__getitem__",
    "__setitem__",
    "__delitem__",
    "__contains__",
    "__len__",
    "__iter__",
)


def _add_calls() -> None:
    """Give `CurrentTenant` each call of a namespace, compiled: see `tenants` in the core."""
    assert twins.TWINS  # They are methods of a namespace by now.
    public = {name for name in dir(_core.Namespace) if not name.startswith("_")}
    own = {"for_current_tenant", *PROPERTIES, *vars(CurrentTenant)}
    for name in (*sorted(public - own), *SPECIAL_METHODS):
        setattr(CurrentTenant, name, _core.TenantCall(getattr(_core.Namespace, name)))


_add_calls()
MutableMapping.register(CurrentTenant)


def for_current_tenant(above: _core.Namespace[Any], path: Path | None = None) -> CurrentTenant:
    """Return the namespace, below ``above``, of the tenant that is current at each call."""
    return CurrentTenant(above, wrapping.checked_path(path))
