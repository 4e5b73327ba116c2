"""aiohttp with a cache for each tenant.

python examples/frameworks/aiohttp_app.py 8080
curl -H "X-Tenant-ID: acme" http://127.0.0.1:8080/report
curl -H "X-Tenant-ID: acme" -X POST http://127.0.0.1:8080/changed
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from flowcache import InvalidNamespaceError, create_cache
from flowcache.tenancy import current_tenant, tenant

HEADER = "X-Tenant-ID"
CACHE: web.AppKey[Any] = web.AppKey("cache", object)
LOADS: web.AppKey[Counter[str]] = web.AppKey("loads", Counter)


@web.middleware
async def tenant_middleware(request: web.Request, handler: Any) -> web.StreamResponse:
    """Serve a request for the tenant of its header. It must be the first of `middlewares`."""
    names = request.headers.getall(HEADER, [])
    if len(names) != 1 or "," in names[0]:
        raise web.HTTPBadRequest(text=f"{HEADER}: must be given once")
    try:
        block = tenant(names[0])
    except InvalidNamespaceError as error:
        raise web.HTTPBadRequest(text=f"{HEADER}: {error}") from None
    with block:
        response: web.StreamResponse = await handler(request)
        # Sent within the block: a body that is an asynchronous generator is made only now.
        await response.prepare(request)
        await response.write_eof()
        return response


async def cache_of_application(app: web.Application) -> AsyncIterator[None]:
    """Open the cache with the application, and close it with the application."""
    with create_cache(default_ttl=300, max_entries=50_000) as cache:
        app[CACHE] = cache.for_current_tenant()
        app[LOADS] = Counter()
        yield


async def report(request: web.Request) -> web.Response:
    """Answer with a report that takes long to make: once for all waiting requests."""
    cache, loads = request.config_dict[CACHE], request.config_dict[LOADS]

    async def load() -> str:
        await asyncio.sleep(0.05)
        name = current_tenant.get()
        loads[name] += 1
        return f"report {loads[name]} of {name}"

    text = await cache.afetch("report", load, tags="reports")
    return web.json_response({"report": text, "process": os.getpid()})


async def changed(request: web.Request) -> web.Response:
    """Invalidate this tenant's reports."""
    return web.json_response({"removed": request.config_dict[CACHE].invalidate_tag("reports")})


def application() -> web.Application:
    """Return the application."""
    app = web.Application(middlewares=[tenant_middleware])
    app.cleanup_ctx.append(cache_of_application)
    app.add_routes([web.get("/report", report), web.post("/changed", changed)])
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]))
