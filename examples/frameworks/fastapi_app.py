"""FastAPI with a cache for each tenant.

uvicorn --app-dir examples/frameworks fastapi_app:app
curl -H "X-Tenant-ID: acme" http://127.0.0.1:8000/report
curl -H "X-Tenant-ID: acme" -X POST http://127.0.0.1:8000/changed
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from flowcache import Namespace, create_cache
from flowcache.contrib.asgi import TenantMiddleware
from flowcache.contrib.fastapi import tenant_cache
from flowcache.tenancy import current_tenant

# CRM_TIER=valkey://127.0.0.1:6379/0 makes it one cache for `uvicorn --workers 2`.
crm: Any = create_cache(
    default_ttl=300, max_entries=50_000, name="crm", tier=os.environ.get("CRM_TIER")
)
TenantCache = Annotated[Namespace[Any], Depends(tenant_cache(crm))]
loads: Counter[str] = Counter()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the cache with the root application: one that is mounted has no lifespan."""
    async with crm:
        yield


api = FastAPI(lifespan=lifespan)


@api.get("/report")
async def report(cache: TenantCache) -> dict[str, Any]:
    """Answer with a report that takes long to make: once for all waiting requests."""

    async def load() -> str:
        await asyncio.sleep(0.05)
        name = current_tenant.get()
        loads[name] += 1
        return f"report {loads[name]} of {name} by {os.getpid()}"

    text = await cache.afetch("report", load, tags="reports")
    return {"report": text, "process": os.getpid()}


@api.post("/changed")
def changed(cache: TenantCache) -> dict[str, int]:
    """Invalidate this tenant's reports, in every process: this runs in a thread, and may wait."""
    return {"removed": cache.invalidate_tag("reports", wait="fleet"), "process": os.getpid()}


app = TenantMiddleware(api, header="X-Tenant-ID", exempt=["/docs", "/openapi.json"])
"""The application that the server runs: this middleware is the outermost."""
