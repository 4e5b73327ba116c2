"""flowcache as Django's cache: a store per ``LOCATION``, a namespace per tenant.

CACHES = {
    "default": {
        "BACKEND": "flowcache.contrib.django.FlowCache",
        "OPTIONS": {"MAX_ENTRIES": 50_000, "TENANT": "current"},
    },
}
INSTALLED_APPS = [..., "flowcache.contrib.django"]        # its system checks
MIDDLEWARE = ["flowcache.contrib.django.TenantMiddleware", ...]
FLOWCACHE_TENANT = {"header": "X-Tenant-ID"}              # where a request names its tenant
"""

from .backend import FlowCache
from .locks import Lock, LockError
from .middleware import TenantMiddleware
from .stores import root
from .tenants import schema_name

__all__ = ["FlowCache", "Lock", "LockError", "TenantMiddleware", "root", "schema_name"]
