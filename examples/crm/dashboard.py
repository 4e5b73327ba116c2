"""The dashboard: one shared cache, and a namespace of it for each tenant.

This is the file to read first. Everything else in the demo exists to show that it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from flowcache import InvalidNamespaceError, Namespace, TierUnavailableError, create_cache
from flowcache.page import ADMIN, CachePage, show

if TYPE_CHECKING:
    from flowcache.tier import ValkeyTier

MAX_LIMIT = 200


class Dashboard:
    """Serve every tenant's dashboard from one cache in front of a slow CRM.

    `contacts_ttl` and `stats_ttl` are seconds; `max_entries` bounds all tenants together.
    """

    def __init__(
        self,
        upstream_url: str,
        *,
        contacts_ttl: float,
        stats_ttl: float,
        max_entries: int,
        tier: ValkeyTier | None = None,
        workers: str | None = None,
    ) -> None:
        self.cache = create_cache(
            default_ttl=contacts_ttl,
            max_entries=max_entries,
            name="crm",
            require_namespace=True,  # an entry that belongs to no tenant is a bug: refuse it
            tier=tier,  # None: this process alone; else the fleet's Valkey server
        )
        self.stats_ttl = stats_ttl
        # The demo listens on the loopback alone. A real application asks its session who it is, and
        # returns ADMIN, a tenant, or None.
        keys: dict[str, Any] = {"reveal_keys": True, "groups": [r"contacts:\d+"]}
        self.page = CachePage(self.cache, authorize=lambda request: ADMIN, workers=workers, **keys)
        # The page of each worker adds up the figures of all that show themselves in this folder.
        self.shown = None if workers is None else show(self.cache, workers, **keys)
        # trust_env=False: no proxy that the environment names is used on the loopback.
        self.crm = httpx.AsyncClient(base_url=upstream_url, timeout=30.0, trust_env=False)

    def tenant_cache(self, tenant_id: str) -> Namespace[Any]:
        """Return the tenant's own view of the cache: it reaches no other tenant's entries."""
        return self.cache.namespace(f"tenant:{tenant_id}")

    async def contacts(self, tenant_id: str, limit: int) -> Any:
        """Return the newest contacts; concurrent requests share one call to the CRM."""
        return await self.tenant_cache(tenant_id).afetch(
            f"contacts:{limit}",
            lambda: self.ask_crm(tenant_id, f"/contacts?limit={limit}"),
            tags=("crm", "crm:contacts"),
        )

    async def stats(self, tenant_id: str) -> Any:
        """Return the key figures; past their TTL, the old ones while new ones load."""
        return await self.tenant_cache(tenant_id).afetch(
            "stats",
            lambda: self.ask_crm(tenant_id, "/stats"),
            ttl=self.stats_ttl,
            stale=True,
            tags=("crm", "crm:stats"),
        )

    async def ask_crm(self, tenant_id: str, path: str) -> Any:
        """Read from the CRM on behalf of one tenant."""
        response = await self.crm.get(path, headers={"X-Tenant-ID": tenant_id})
        response.raise_for_status()
        return response.json()

    # -- endpoints --------------------------------------------------------------------------

    async def get_dashboard(self, request: Request) -> JSONResponse:
        """`GET /api/crm/dashboard?limit=25`: contacts and stats, fetched together."""
        tenant_id, limit = self.tenant_of(request), limit_of(request)
        contacts, stats = await asyncio.gather(
            self.contacts(tenant_id, limit), self.stats(tenant_id)
        )
        return JSONResponse({"tenant": tenant_id, "contacts": contacts, "stats": stats})

    async def post_contact(self, request: Request) -> JSONResponse:
        """`POST /api/crm/contacts`: write upstream, then forget this tenant's contact lists."""
        tenant_id, name = self.tenant_of(request), await contact_name_of(request)
        response = await self.crm.post(
            "/contacts", json={"name": name}, headers={"X-Tenant-ID": tenant_id}
        )
        response.raise_for_status()
        # After the write, not before: a load that read the old list in between must not be stored.
        cache = self.tenant_cache(tenant_id)
        invalidated = await confirmed(lambda: cache.ainvalidate_tag("crm:contacts", wait="fleet"))
        return JSONResponse(response.json() | {"invalidated": invalidated}, status_code=201)

    async def delete_cache(self, request: Request) -> JSONResponse:
        """`DELETE /api/crm/cache`: forget everything about this tenant, and about no other."""
        tenant_id = self.tenant_of(request)
        cache = self.tenant_cache(tenant_id)
        return JSONResponse({"cleared": await confirmed(lambda: cache.aclear(wait="fleet"))})

    async def get_cache_stats(self, request: Request) -> JSONResponse:
        """`GET /api/admin/cache-stats/{tenant}`: the counters of one tenant's namespace."""
        tenant_id = request.path_params["tenant"]
        # Check that the namespace exists before making a view of it: reading must not create it.
        if f"tenant:{tenant_id}" not in self.cache.namespaces():
            raise HTTPException(404, f"nothing is known about the tenant {tenant_id!r}")
        return JSONResponse(self.tenant_cache(tenant_id).stats().as_dict())

    async def get_ready(self, request: Request) -> JSONResponse:
        """`GET /api/admin/ready`: whether this process hears of the others."""
        return JSONResponse({"tier": "none" if self.cache.tier is None else self.cache.tier.state})

    # -- the application --------------------------------------------------------------------

    def tenant_of(self, request: Request) -> str:
        """Return the tenant that the request names; an invalid name is answered with 400.

        A real application takes the tenant from the authenticated session, never from a header
        that the client may choose.
        """
        tenant_id = request.headers.get("X-Tenant-ID", "")
        if not tenant_id:
            raise HTTPException(400, "the X-Tenant-ID header is missing or empty")
        try:
            self.tenant_cache(tenant_id)
        except InvalidNamespaceError as error:
            raise HTTPException(400, f"X-Tenant-ID is not a valid name: {error}") from error
        return tenant_id

    def app(self) -> Starlette:
        """Return the dashboard as an ASGI application."""
        return Starlette(
            routes=[
                Route("/api/crm/dashboard", self.get_dashboard, methods=["GET"]),
                Route("/api/crm/contacts", self.post_contact, methods=["POST"]),
                Route("/api/crm/cache", self.delete_cache, methods=["DELETE"]),
                Route("/api/admin/cache-stats/{tenant}", self.get_cache_stats, methods=["GET"]),
                Route("/api/admin/ready", self.get_ready, methods=["GET"]),
                Mount("/cache", self.page),
            ],
            exception_handlers={HTTPException: error_response, httpx.HTTPError: bad_gateway},
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Hold the cache and the connections to the CRM for as long as the application runs."""
        async with self.crm, self.cache:
            yield


async def confirmed(invalidate: Callable[[], Awaitable[int]]) -> int:
    """Invalidate until the fleet has confirmed it; doing it twice does no harm."""
    for attempt in range(20):
        try:
            return await invalidate()
        except TierUnavailableError:
            await asyncio.sleep(0.1 * (attempt + 1))
    return await invalidate()


def limit_of(request: Request) -> int:
    """Return the `limit` of the request, by default 25; a bad one is answered with 400."""
    text = request.query_params.get("limit", "25")
    # isascii too: isdecimal alone accepts digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT):
        raise HTTPException(400, f"limit must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


async def contact_name_of(request: Request) -> str:
    """Return the `name` of the JSON body; a body without one is answered with 400."""
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        body = None
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise HTTPException(400, 'the body must be JSON such as {"name": "Ada Lovelace"}')
    return name


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """Name the fault of the request in JSON."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def bad_gateway(request: Request, error: Exception) -> JSONResponse:
    """Say in JSON that the CRM failed; nothing was cached."""
    return JSONResponse({"error": f"the CRM failed: {error}"}, status_code=502)
