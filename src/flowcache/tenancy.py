"""Who is asking: the tenant as a context variable, and namespaces that look it up at every call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from . import _core, wrapping
from .errors import InvalidNamespaceError, TenantNotSetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["current_tenant", "tenant"]

current_tenant: ContextVar[str] = ContextVar("current_tenant")
"""The tenant for whom the running code works. ``get()`` raises ``LookupError`` where none is set.

It goes where contexts go: through ``await``, into tasks and ``asyncio.to_thread``. A plain thread
begins without one. Set it with :func:`tenant`.
"""

Path = Callable[[str], str | Iterable[str]]


def tenant(name: str) -> AbstractContextManager[str]:
    """Return a context manager that makes ``name`` the current tenant, and then what it was before.

    It may be nested. Raises ``InvalidNamespaceError`` or ``TypeError`` for what could not name a
    namespace.
    """
    return _tenant(_core.check_name(name, "tenant"))


@contextmanager
def _tenant(name: str) -> Iterator[str]:
    token = current_tenant.set(name)
    try:
        yield name
    finally:
        current_tenant.reset(token)


def default_path(tenant: str) -> str:
    """Return the name of a tenant's namespace where no other path is asked for."""
    return f"tenant:{tenant}"


class CurrentTenant:
    """The current tenant's namespace, looked up at every call.

    It takes every call of a :class:`Namespace`, and keeps nothing between two of them: a method
    that was read while one tenant was set works for the one that is set when it is called.
    """

    __slots__ = ("_above", "_path")

    def __init__(self, above: _core.Namespace[Any], path: Path | None) -> None:
        if path is not None and not callable(path):
            raise TypeError(f"path: must be callable or None, got {type(path).__name__}")
        self._above = above
        self._path = default_path if path is None else path

    def resolve(self) -> _core.Namespace[Any]:
        """Return the namespace of the tenant that is set now.

        Raises ``TenantNotSetError`` if there is none, and ``TypeError`` or
        ``InvalidNamespaceError`` for a tenant or a path that could not name one.
        """
        name = current_tenant.get(None)
        if name is None:
            raise TenantNotSetError(
                'no current tenant is set: use `with tenant("..."):` or the middleware'
            )
        # Who sets the variable by hand may set anything: an empty tenant would be a shared one.
        names: Any = self._path(_core.check_name(name, "current_tenant"))
        if isinstance(names, str):
            return self._above.namespace(names)
        if not isinstance(names, Iterable) or isinstance(names, (bytes, bytearray)):
            raise TypeError(
                f"path: must return a name or an iterable of names, returned {type(names).__name__}"
            )
        names = tuple(names)
        if not names:
            raise InvalidNamespaceError("path: must return at least one name, returned none")
        return self._above.namespace(*names)

    def wrap(self, function: Any, /, **options: Any) -> Any:
        """Return ``function`` cached in the namespace of whoever is current when it is called."""
        return wrapping.wrap(self, function, **options)

    def cached(self, **options: Any) -> Any:
        """Decorate a function so; may be used before any tenant is set, as at import."""
        return wrapping.cached(self, **options)

    def __getattr__(self, name: str) -> Any:
        """Read a property of the current tenant's namespace."""
        if name not in PROPERTIES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.resolve(), name)

    def __repr__(self) -> str:
        return f"<flowcache.Namespace of the current tenant, below {self._above!r}>"


PROPERTIES = frozenset(("path", "name", "limits"))
SPECIAL_METHODS = (
    "__getitem__",
    "__setitem__",
    "__delitem__",
    "__contains__",
    "__len__",
    "__iter__",
)


def _forwarded(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(_core.Namespace, name), assigned=("__name__", "__doc__"), updated=())
    def call(self: CurrentTenant, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.resolve(), name)(*args, **kwargs)

    return call


def _forward_all() -> None:
    public = {name for name in dir(_core.Namespace) if not name.startswith("_")}
    own = {"for_current_tenant", *PROPERTIES, *vars(CurrentTenant)}
    for name in (*sorted(public - own), *SPECIAL_METHODS):
        setattr(CurrentTenant, name, _forwarded(name))


_forward_all()
MutableMapping.register(CurrentTenant)


def for_current_tenant(above: _core.Namespace[Any], path: Path | None = None) -> CurrentTenant:
    """Return the namespace below ``above`` of whoever is current at each call."""
    return CurrentTenant(above, path)
