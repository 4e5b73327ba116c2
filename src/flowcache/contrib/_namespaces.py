"""The namespace of a call: what the integrations for Django, dogpile, Flask and Litestar share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowcache import Namespace, TenantNotSetError, _core
from flowcache.tenancy import current_tenant

__all__ = ["ON_NO_TENANT", "TenantNamespaces"]

ON_NO_TENANT = ("raise", "shared")

SHARED = "shared"
"""The namespace of entries that belong to no tenant, beside the tenants' own: ``clear()`` there
reaches none of theirs."""


class TenantNamespaces:
    """Gives the namespace below ``root`` of the tenant for which a call is made.

    ``tenant``: ``None`` (every call is for the namespace ``"shared"``), ``"current"`` (the tenant
    of ``flowcache.tenancy``), or a callable without arguments that returns a tenant, or ``None``
    where there is none. ``on_no_tenant``: ``"raise"`` (``TenantNotSetError``) or ``"shared"``.
    ``below``: names of namespaces below the tenant's. ``name_of``: how messages name an option.
    """

    __slots__ = ("_below", "_name_of", "_shared_without_tenant", "_tenant_of", "fixed", "root")

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
        if tenant is not None and tenant != "current" and not callable(tenant):
            raise TypeError(
                f"{name_of('tenant')}: must be None, 'current' or a callable without arguments, "
                f"got {tenant!r}"
            )
        if on_no_tenant not in ON_NO_TENANT:
            raise ValueError(
                f"{name_of('on_no_tenant')}: must be 'raise' or 'shared', got {on_no_tenant!r}"
            )
        self.root = root
        self.fixed = root.namespace(SHARED, *below) if tenant is None else None
        """The namespace of every call, or ``None`` where it depends on the tenant."""
        self._tenant_of = tenant if callable(tenant) else tenant_of_context
        self._shared_without_tenant = on_no_tenant == "shared"
        self._below = below
        self._name_of = name_of

    def tenant(self) -> str | None:
        """Return the tenant of this call; ``None``: its entries are those of no tenant.

        Raises ``TenantNotSetError`` where one is needed, and ``TypeError`` or
        ``InvalidNamespaceError`` where the tenant could not name a namespace.
        """
        if self.fixed is not None:
            return None
        tenant = self._tenant_of()
        if tenant is not None:
            return _core.check_name(tenant, self._name_of("tenant"))
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


def tenant_of_context() -> str | None:
    """Return the current tenant of ``flowcache.tenancy``, or ``None``."""
    return current_tenant.get(None)
