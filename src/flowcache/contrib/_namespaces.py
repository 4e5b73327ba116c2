"""The namespace of a call, as the integrations for Django, dogpile, Flask and Litestar find it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from flowcache import EntryTooHeavyError, Namespace, TenantNotSetError, _core
from flowcache._core import Tenants
from flowcache.coroutines import check_sync, plain_result
from flowcache.reports import report, shown
from flowcache.tenancy import current_tenant

__all__ = [
    "ON_NO_TENANT",
    "TenantNamespaces",
    "aadd_or_warn",
    "add_or_warn",
    "ahas",
    "aset_many_or_warn",
    "aset_or_warn",
    "check_cache",
    "has",
    "set_many_or_warn",
    "set_or_warn",
]

ON_NO_TENANT = ("raise", "shared")

SHARED = "shared"
"""The namespace of entries that belong to no tenant, beside the tenants' own: ``clear()`` there
reaches none of theirs."""


class TenantNamespaces:
    """Gives the namespace below ``root`` of the tenant for which a call is made.

    ``tenant``: ``None`` (every call is for the namespace ``"shared"``), ``"current"`` (the tenant
    of ``flowcache.tenancy``), or a callable. It takes no arguments and returns a tenant or
    ``None``. ``on_no_tenant``: ``"raise"`` (``TenantNotSetError``) or ``"shared"``. ``below``:
    names of namespaces below the tenant's. ``name_of``: the name of an option in messages.
    """

    __slots__ = (
        "_below",
        "_label",
        "_name_of",
        "_shared_without_tenant",
        "_tenant_of",
        "fixed",
        "root",
    )

    def __init__(
        self,
        root: Namespace[Any],
        tenant: Callable[[], str | None] | str | None = None,
        on_no_tenant: str = "raise",
        *,
        below: tuple[str, ...] = (),
        name_of: Callable[[str], str] = str,
    ) -> None:
        """Check the options. Raises ``TypeError`` or ``ValueError`` that names the wrong one."""
        check_cache(root)
        if tenant is not None and tenant != "current" and not callable(tenant):
            raise TypeError(
                f"{name_of('tenant')}: must be None, 'current' or a callable without arguments, "
                f"got {shown(tenant)}"
            )
        if callable(tenant):
            check_sync(tenant, name_of("tenant"))
        if on_no_tenant not in ON_NO_TENANT:
            raise ValueError(
                f"{name_of('on_no_tenant')}: must be 'raise' or 'shared', got {shown(on_no_tenant)}"
            )
        self.root = root
        self.fixed = root.namespace(SHARED, *below) if tenant is None else None
        """The namespace of every call, or ``None`` where it depends on the tenant."""
        self._tenant_of = tenant if callable(tenant) else tenant_of_context
        self._shared_without_tenant = on_no_tenant == "shared"
        self._below = below
        self._name_of = name_of
        self._label = name_of("tenant")

    def tenant(self) -> str | None:
        """Return the tenant of this call; ``None``: the call has no tenant.

        Raises ``TenantNotSetError`` where a tenant is needed, and ``TypeError`` or
        ``InvalidNamespaceError`` where the tenant cannot name a namespace.
        """
        if self.fixed is not None:
            return None
        tenant = plain_result(self._tenant_of(), self._label)
        if tenant is not None:
            return _core.check_name(tenant, self._label)
        if self._shared_without_tenant:
            return None
        raise TenantNotSetError(
            f"no tenant is set, and {self._name_of('on_no_tenant')} is 'raise': use "
            "`with tenant(\"...\"):` or a middleware, or say 'shared'"
        )

    def current(self) -> Namespace[Any]:
        """Return the namespace of this call. Raises what :meth:`tenant` raises."""
        if self.fixed is not None:
            return self.fixed
        tenant = self.tenant()
        name = SHARED if tenant is None else f"tenant:{tenant}"
        return self.root.namespace(name, *self._below)


def check_cache(cache: object) -> None:
    """Raise ``TypeError`` for an argument ``cache`` that is no cache, and no namespace of one."""
    if isinstance(cache, Tenants):
        raise TypeError(
            "cache: must be a cache or a namespace, got that of the current tenant; give the "
            "namespace above the tenants'"
        )
    if not isinstance(cache, Namespace):
        raise TypeError(f"cache: must be a cache or a namespace, got {type(cache).__name__}")


def tenant_of_context() -> str | None:
    """Return the current tenant of ``flowcache.tenancy``, or ``None``."""
    return current_tenant.get(None)


def warn_not_stored(namespace: Namespace[Any], error: EntryTooHeavyError) -> None:
    """Log that a value is too heavy for its namespace."""
    report(
        "WARNING",
        "not stored: %s",
        error,
        event="not_stored",
        cache=namespace._store().name,
        path=namespace.path,
    )


def set_or_warn(
    namespace: Namespace[Any],
    key: Hashable,
    value: Any,
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> bool:
    """Store a value; return whether its limits left room for it.

    Without room, the value that it was to replace is removed as well, and a warning is logged. No
    error is raised: a framework returns the response it has made, stored or not.
    """
    try:
        namespace.set(key, value, ttl=ttl, tags=tags)
    except EntryTooHeavyError as error:
        namespace.delete(key)
        warn_not_stored(namespace, error)
        return False
    return True


def add_or_warn(
    namespace: Namespace[Any],
    key: Hashable,
    value: Any,
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> bool:
    """Store a value where there is none; return whether it was stored."""
    try:
        return namespace.add(key, value, ttl=ttl, tags=tags)
    except EntryTooHeavyError as error:
        warn_not_stored(namespace, error)
        return False


def set_many_or_warn(
    namespace: Namespace[Any],
    values: Mapping[Any, Any],
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> list[Any]:
    """Store values; return the keys of those for which there was no room."""
    try:
        namespace.set_many(values, ttl=ttl, tags=tags)
    except EntryTooHeavyError:
        return [
            key
            for key, value in values.items()
            if not set_or_warn(namespace, key, value, ttl=ttl, tags=tags)
        ]
    return []


def has(namespace: Namespace[Any], key: Hashable) -> bool:
    """Tell whether a key has a fresh value, here or in the tier."""
    try:
        namespace.ttl(key)
    except KeyError:
        return False
    return True


# The same for tasks: what reaches the tier is awaited.


async def aset_or_warn(
    namespace: Namespace[Any],
    key: Hashable,
    value: Any,
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> bool:
    """See :func:`set_or_warn`."""
    try:
        await namespace.aset(key, value, ttl=ttl, tags=tags)
    except EntryTooHeavyError as error:
        await namespace.adelete(key)
        warn_not_stored(namespace, error)
        return False
    return True


async def aadd_or_warn(
    namespace: Namespace[Any],
    key: Hashable,
    value: Any,
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> bool:
    """See :func:`add_or_warn`."""
    try:
        return await namespace.aadd(key, value, ttl=ttl, tags=tags)
    except EntryTooHeavyError as error:
        warn_not_stored(namespace, error)
        return False


async def aset_many_or_warn(
    namespace: Namespace[Any],
    values: Mapping[Any, Any],
    *,
    ttl: float | timedelta | None,
    tags: str | Iterable[str] = (),
) -> list[Any]:
    """See :func:`set_many_or_warn`."""
    try:
        await namespace.aset_many(values, ttl=ttl, tags=tags)
    except EntryTooHeavyError:
        return [
            key
            for key, value in values.items()
            if not await aset_or_warn(namespace, key, value, ttl=ttl, tags=tags)
        ]
    return []


async def ahas(namespace: Namespace[Any], key: Hashable) -> bool:
    """See :func:`has`."""
    try:
        await namespace.attl(key)
    except KeyError:
        return False
    return True
