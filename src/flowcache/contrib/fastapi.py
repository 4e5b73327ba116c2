"""flowcache in FastAPI: a dependency that gives the cache of the request's tenant.

Cache = Annotated[Namespace, Depends(tenant_cache(crm))]

@app.get("/contacts")
async def contacts(cache: Cache): ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from flowcache import Namespace, TenantNotSetError
from flowcache.tenancy import current_tenant

from ._namespaces import check_cache

__all__ = ["tenant_cache"]


def tenant_cache(
    cache: Namespace[Any], path: Callable[[str], str | Iterable[str]] | None = None
) -> Callable[[], Awaitable[Namespace[Any]]]:
    """Return a dependency that gives the namespace, below ``cache``, of the request's tenant.

    ``flowcache.contrib.asgi.TenantMiddleware`` sets the tenant; it must be the outermost
    middleware. ``path(tenant)`` gives the name or names of the namespace, ``tenant:{tenant}`` by
    default. The namespace stays this tenant's, in background tasks as well. It is a coroutine
    function: FastAPI runs a plain one in another thread. Raises ``TenantNotSetError`` for a request
    without a tenant, and ``TypeError`` for a ``cache`` that is none, or a ``path`` that is not
    callable.
    """
    check_cache(cache)
    of_tenant: Any = cache.for_current_tenant(path)

    async def current_cache() -> Namespace[Any]:
        if current_tenant.get(None) is None:
            raise TenantNotSetError(
                "no current tenant is set: put flowcache.contrib.asgi.TenantMiddleware outermost"
            )
        namespace: Namespace[Any] = of_tenant.resolve()
        return namespace

    return current_cache
