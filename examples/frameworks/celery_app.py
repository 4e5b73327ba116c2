"""Celery with a cache for each tenant: a task runs for the tenant that published it.

export CELERY_BROKER_URL=redis://127.0.0.1:6379/0
celery --workdir examples/frameworks -A celery_app worker --pool prefork --concurrency 2
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from celery import Celery

from flowcache import create_cache
from flowcache.contrib.celery import install
from flowcache.tenancy import current_tenant

broker = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
app = Celery("celery_app", broker=broker, backend=broker)
app.conf.broker_connection_retry_on_startup = True
install(app)

# CRM_TIER=valkey://127.0.0.1:6379/1 makes it one cache for all processes, of the web too.
cache: Any = create_cache(
    default_ttl=300, max_entries=50_000, name="crm", tier=os.environ.get("CRM_TIER")
)
mine = cache.for_current_tenant()
loads: Counter[str] = Counter()


@app.task
def report(year: int) -> dict[str, Any]:
    """Return a report, made once for each tenant in each process of the worker."""

    def load() -> str:
        name = current_tenant.get()
        loads[name] += 1
        return f"report {loads[name]} of {name}, {year}, by {os.getpid()}"

    text = mine.fetch(("report", year), load, tags="reports")
    return {"report": text, "process": os.getpid()}


@app.task
def changed() -> dict[str, Any]:
    """Invalidate the tenant's reports, in every process if there is a tier."""
    return {"removed": mine.invalidate_tag("reports", wait="fleet"), "process": os.getpid()}
