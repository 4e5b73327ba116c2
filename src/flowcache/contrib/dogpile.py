"""flowcache as a backend of dogpile.cache, with a namespace per tenant.

region = make_region()
region.configure(
"flowcache",
expiration_time=300,
arguments={"max_entries": 50_000, "tenant": "current"},
region_invalidator=TenantInvalidation(region),
)
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheBackend
from dogpile.cache.region import CacheRegion, RegionInvalidationStrategy
from dogpile.util import NameRegistry

from flowcache import create_cache

from ._namespaces import TenantNamespaces, set_many_or_warn, set_or_warn

__all__ = ["FlowCacheBackend", "TenantInvalidation"]

CACHE_ARGUMENTS = ("max_entries", "max_weight", "weigher", "child_limits", "sweep_interval")


class FlowCacheBackend(CacheBackend):
    """Keeps a region's values in the namespace of the tenant for which the region is called.

    Arguments (others are ignored, as by dogpile's own backends):

    - ``cache``: a cache or namespace of yours, or else ``max_entries``, ``max_weight``,
      ``weigher``, ``child_limits`` and ``sweep_interval`` for one of its own.
    - ``ttl``: seconds after which a value is dropped, independent of the region's
      ``expiration_time``. ``None``: never, so that an expired value can be served while one thread
      makes the next.
    - ``tenant``: ``None``, ``"current"`` or a callable without arguments.
    - ``on_no_tenant``: ``"raise"`` or ``"shared"``.

    The tenant is part of the mangled key too, unless the region has a ``key_mangler`` of its own.
    Entries of two tenants are separate in either case.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        given = {name: arguments[name] for name in CACHE_ARGUMENTS if name in arguments}
        cache = arguments.get("cache")
        if cache is None:
            cache = create_cache(default_ttl=None, name="dogpile", **given)
        elif given:
            raise TypeError(f"cache: cannot be given together with {', '.join(given)}")
        self._namespaces = TenantNamespaces(
            cache, arguments.get("tenant"), arguments.get("on_no_tenant", "raise")
        )
        self._fixed = self._namespaces.fixed
        self._ttl = arguments.get("ttl")
        self._locks = NameRegistry(lambda _: threading.Lock())

    @property
    def key_mangler(self) -> Callable[[str], str] | None:
        """The mangler of a region without its own: it puts the tenant into the key."""
        return None if self._fixed is not None else self._mangle

    def _mangle(self, key: str) -> str:
        tenant = self.tenant()
        return f"shared:{key}" if tenant is None else f"tenant:{len(tenant)}:{tenant}:{key}"

    def tenant(self) -> str | None:
        """Return the tenant of this call, ``None`` where it has none."""
        return self._namespaces.tenant()

    def get_mutex(self, key: str) -> Any:
        """Return the mutex of a key and a tenant, one lock for all threads that acquire it."""
        return Mutex(self._locks, key if self._fixed is not None else (self.tenant(), key))

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``NO_VALUE``."""
        namespace = self._fixed
        if namespace is None:
            namespace = self._namespaces.current()
        return namespace.get(key, NO_VALUE)

    def get_multi(self, keys: Iterable[str]) -> list[Any]:
        """Return the value of each key, or ``NO_VALUE``."""
        keys = list(keys)
        found = self._namespaces.current().get_many(keys)
        return [found.get(key, NO_VALUE) for key in keys]

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        set_or_warn(self._namespaces.current(), key, value, ttl=self._ttl)

    def set_multi(self, mapping: Mapping[str, Any]) -> None:
        """Store values."""
        set_many_or_warn(self._namespaces.current(), mapping, ttl=self._ttl)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._namespaces.current().delete(key)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Delete keys."""
        self._namespaces.current().delete_many(keys)


class Mutex:
    """A lock of a name, looked for only when it is acquired.

    A region asks for a mutex with each ``get_or_create``, and acquires it only to make a value.
    """

    __slots__ = ("__weakref__", "_held", "_locks", "_name")

    def __init__(self, locks: NameRegistry, name: Hashable) -> None:
        self._locks = locks
        self._name = name
        self._held: Any = None

    def acquire(self, wait: bool = True) -> bool:
        """Acquire the lock; return whether it was free in time."""
        # The registry refers to its locks weakly: this reference and `_held` keep it meanwhile.
        lock = self._locks.get(self._name)
        if not lock.acquire(wait):
            return False
        self._held = lock
        return True

    def release(self) -> None:
        """Release the lock, from any thread. Raises ``RuntimeError`` if it is not acquired."""
        lock, self._held = self._held, None
        if lock is None:
            raise RuntimeError("a mutex that is not acquired cannot be released")
        lock.release()

    def locked(self) -> bool:
        """Return whether the lock is acquired, here or through another mutex of its name."""
        is_locked: bool = self._locks.get(self._name).locked()
        return is_locked


class TenantInvalidation(RegionInvalidationStrategy):
    """Lets ``region.invalidate()`` invalidate the values of the current tenant, and no other's.

    Remembers the ``max_tenants`` tenants that were invalidated last. For all other tenants, a value
    counts as invalidated if it is as old as the last forgotten invalidation. A soft invalidation
    does not undo a hard one. A value of the same moment as an invalidation counts as older.
    """

    def __init__(self, region: CacheRegion, *, max_tenants: int = 10_000) -> None:
        """``region`` must have this package's backend, and ``max_tenants`` be at least 1."""
        if isinstance(max_tenants, bool) or not isinstance(max_tenants, int):
            raise TypeError(f"max_tenants: must be an int, got {type(max_tenants).__name__}")
        if max_tenants < 1:
            raise ValueError(f"max_tenants: must be at least 1, got {max_tenants}")
        self._region = region
        self._max_tenants = max_tenants
        self._lock = threading.Lock()
        self._times: OrderedDict[str | None, tuple[float, float]] = OrderedDict()
        """The times of each tenant's last invalidations, hard and soft; the latest last."""
        self._forgotten = (-math.inf, -math.inf)

    def invalidate(self, hard: bool = True) -> None:
        """Invalidate the values of the current tenant."""
        tenant = self._tenant()
        now = time.time()
        with self._lock:
            of_hard, of_soft = self._times.pop(tenant, self._forgotten)
            self._times[tenant] = (max(now, of_hard), of_soft) if hard else (of_hard, now)
            if len(self._times) > self._max_tenants:
                _, dropped = self._times.popitem(last=False)
                self._forgotten = (
                    max(self._forgotten[0], dropped[0]),
                    max(self._forgotten[1], dropped[1]),
                )

    def is_invalidated(self, timestamp: float) -> bool:
        """Tell whether a value of that time was invalidated, hard or soft."""
        return timestamp <= max(self._invalidated())

    def is_hard_invalidated(self, timestamp: float) -> bool:
        """Tell whether a value of that time may no longer be served."""
        return timestamp <= self._invalidated()[0]

    def is_soft_invalidated(self, timestamp: float) -> bool:
        """Tell whether a value of that time is served only until the next one is made."""
        of_hard, of_soft = self._invalidated()
        return of_hard < timestamp <= of_soft

    def was_hard_invalidated(self) -> bool:
        """Tell whether the current tenant was ever invalidated hard."""
        return self._invalidated()[0] > -math.inf

    def was_soft_invalidated(self) -> bool:
        """Tell whether the current tenant was ever invalidated softly."""
        return self._invalidated()[1] > -math.inf

    def _tenant(self) -> str | None:
        backend = self._region.actual_backend
        if not isinstance(backend, FlowCacheBackend):
            raise TypeError(
                f"region: its backend must be flowcache's, got {type(backend).__name__}"
            )
        return backend.tenant()

    def _invalidated(self) -> tuple[float, float]:
        tenant = self._tenant()
        with self._lock:
            return self._times.get(tenant, self._forgotten)
