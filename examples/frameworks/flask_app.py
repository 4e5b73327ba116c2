"""Flask and Flask-Caching with a cache for each tenant.

gunicorn --chdir examples/frameworks -k gthread --threads 8 flask_app:app
curl -H "X-Tenant-ID: acme" http://127.0.0.1:8000/report
curl -H "X-Tenant-ID: acme" -X POST http://127.0.0.1:8000/changed
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

from flask import Flask
from flask_caching import Cache

from flowcache.contrib.wsgi import TenantMiddleware
from flowcache.tenancy import current_tenant

app = Flask(__name__)
app.config["CACHE_TYPE"] = "flowcache.contrib.flask_caching.FlowCache"
app.config["CACHE_OPTIONS"] = {
    "tenant": "current",
    "max_entries": 50_000,
    "name": "crm",
    # CRM_TIER=valkey://127.0.0.1:6379/0 makes it one cache for `gunicorn --workers 2`.
    "tier": os.environ.get("CRM_TIER"),
}
app.config["SECRET_KEY"] = os.environ.get("CRM_SECRET_KEY", "of the example, for no other use")
app.config["CACHE_DEFAULT_TIMEOUT"] = 300
cache: Any = Cache(app)
lock = threading.Lock()
loads: Counter[str] = Counter()


def load() -> str:
    """Make a report; the lock is the example's, for its counter."""
    name = current_tenant.get()
    with lock:
        loads[name] += 1
        return f"report {loads[name]} of {name} by {os.getpid()}"


@cache.memoize()
def summary(year: int) -> str:
    """Return a summary, made once for each tenant and year."""
    return f"{load()}, {year}"


@app.get("/report")
def report() -> dict[str, Any]:
    """Answer with a report; a caller that finds one gets a copy of it."""
    return {"report": summary(2026), "process": os.getpid()}


@app.post("/changed")
def changed() -> dict[str, Any]:
    """Forget this tenant's summaries."""
    cache.delete_memoized(summary)
    return {"process": os.getpid()}


app.wsgi_app = TenantMiddleware(app.wsgi_app, header="X-Tenant-ID")  # type: ignore[method-assign]
