"""flowcache: one in-process cache that many tenants share without ever reaching each other.

from flowcache import create_cache

crm = create_cache(default_ttl=300, max_entries=50_000)
acme = crm.namespace("tenant:acme")
acme.set("plan", "gold", tags="billing")
acme.get("plan")
"""

from __future__ import annotations

from . import _core, face, tenancy
from .cache import Cache, Namespace, create_cache
from .errors import (
    CacheClosedError,
    ConfigurationError,
    EntryTooHeavyError,
    FlowcacheError,
    InvalidNamespaceError,
    InvalidTagError,
    LoadTimeoutError,
    NamespaceRequiredError,
    RecursiveLoadError,
    TenantNotSetError,
    TenantScopeWarning,
    TierUnavailableError,
    TooManyLoadsError,
    WeigherError,
    WouldBlockError,
)
from .events import Event
from .inspection import Advice, Child, Children, Inspection
from .limits import Limits
from .loading import MISSING, Loaded
from .stats import Stats

__all__ = [
    "MISSING",
    "Advice",
    "Cache",
    "CacheClosedError",
    "Child",
    "Children",
    "ConfigurationError",
    "EntryTooHeavyError",
    "Event",
    "FlowcacheError",
    "Inspection",
    "InvalidNamespaceError",
    "InvalidTagError",
    "Limits",
    "LoadTimeoutError",
    "Loaded",
    "Namespace",
    "NamespaceRequiredError",
    "RecursiveLoadError",
    "Stats",
    "TenantNotSetError",
    "TenantScopeWarning",
    "TierUnavailableError",
    "TooManyLoadsError",
    "WeigherError",
    "WouldBlockError",
    "create_cache",
    "tenancy",
]
__version__ = "0.1.0"

_core._connect(face)
