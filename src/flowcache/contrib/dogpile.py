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
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from dogpile.cache.api import NO_VALUE, CacheBackend, CachedValue
from dogpile.cache.region import CacheRegion, RegionInvalidationStrategy
from dogpile.util import NameRegistry

from flowcache import ConfigurationError, Namespace, TierUnavailableError, _core
from flowcache.reports import report, shown

from ._namespaces import TenantNamespaces, check_cache, set_many_or_warn, set_or_warn
from ._tiers import own_cache

__all__ = ["FlowCacheBackend", "TenantInvalidation"]

CACHE_ARGUMENTS = (
    "max_entries",
    "max_weight",
    "weigher",
    "child_limits",
    "sweep_interval",
    "name",
    "tier",
)


class FlowCacheBackend(CacheBackend):
    """Keeps a region's values in the namespace of the tenant for which the region is called.

    Arguments (others are ignored, as by dogpile's own backends):

    - ``cache``: a cache or namespace of yours, or else ``max_entries``, ``max_weight``,
      ``weigher``, ``child_limits``, ``sweep_interval``, ``name`` and ``tier`` for one of its own.
    - ``tier``: a URL, or a ``ValkeyTier`` whose codec takes dogpile's ``CachedValue``. Regions of
      one ``name`` share their values there. A mutex is then one of all processes.
    - ``lock_timeout``: seconds after which a mutex of all processes is free again, if its holder
      has died; 30 by default. ``lock_sleep``: seconds between two attempts to acquire it.
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
            if isinstance(given.get("tier"), str):
                given["tier"] = tier_of_values(given["tier"])
            cache = own_cache("dogpile", given)
            check_codec(cache, "tier")
        elif given:
            raise TypeError(f"cache: cannot be given together with {', '.join(given)}")
        else:
            check_cache(cache)
            check_codec(cache, "cache")
        self._is_tiered = _core._tier_of(cache) is not None
        self._lock_timeout = positive("lock_timeout", arguments.get("lock_timeout", 30.0))
        self._lock_sleep = positive("lock_sleep", arguments.get("lock_sleep", 0.1))
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
        """Return the mutex of a key and a tenant, one lock for all threads that acquire it.

        With a tier it is one for all processes.
        """
        mutex = Mutex(self._locks, key if self._fixed is not None else (self.tenant(), key))
        if not self._is_tiered:
            return mutex
        return FleetMutex(
            mutex, self._namespaces.current(), key, self._lock_timeout, self._lock_sleep
        )

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


class FleetMutex:
    """A mutex of all processes: among threads the other one, then an entry of the tier.

    It saves work and guards nothing: a holder that takes longer than ``timeout`` no longer holds
    off the others, nor does any while the tier is away. Then two processes make one value.
    """

    __slots__ = ("__weakref__", "_key", "_mutex", "_namespace", "_sleep", "_timeout", "_token")

    def __init__(
        self, mutex: Mutex, namespace: Namespace[Any], key: str, timeout: float, sleep: float
    ) -> None:
        self._mutex = mutex
        self._namespace = namespace
        self._key = ("dogpile mutex", key)  # No key of a value: those are str.
        self._timeout = timeout
        self._sleep = sleep
        self._token = ""

    def acquire(self, wait: bool = True) -> bool:
        """Acquire the mutex; return whether it was free in time."""
        if not self._mutex.acquire(wait):
            return False
        taken = False
        try:
            taken = self._take(wait)
        finally:
            if not taken:
                self._mutex.release()
        return taken

    def _take(self, wait: bool) -> bool:
        token = secrets.token_hex(16)
        while True:
            try:
                if self._namespace.add(self._key, token, ttl=self._timeout):
                    break
            except TierUnavailableError as error:
                # It may be there all the same, and is then to be released.
                self._warn("a mutex of this process alone: %s", error)
                break
            if not wait:
                return False
            time.sleep(self._sleep)
        self._token = token
        return True

    def release(self) -> None:
        """Release the mutex, from any thread. Raises ``RuntimeError`` if it is not acquired."""
        token, self._token = self._token, ""
        try:
            if token and self._namespace.get(self._key) == token:
                self._namespace.delete(self._key)
        except TierUnavailableError as error:
            self._warn("a mutex ends by its lock_timeout: %s", error)
        finally:
            self._mutex.release()

    def _warn(self, message: str, error: TierUnavailableError) -> None:
        report(
            "WARNING",
            message,
            error,
            event="mutex_not_confirmed",
            cache=self._namespace._store().name,
            path=self._namespace.path,
        )

    def locked(self) -> bool:
        """Return whether the mutex is acquired, by any process."""
        return self._mutex.locked() or self._namespace.get(self._key) is not None


def tier_of_values(url: str) -> Any:
    """Return the tier for a URL, with a codec that takes dogpile's values."""
    from flowcache.tier import MsgpackCodec, ValkeyTier

    return ValkeyTier(url, codec=MsgpackCodec(types=[CachedValue]))


def check_codec(cache: Namespace[Any], name: str) -> None:
    """Raise ``ConfigurationError`` for a tier in which no value of dogpile could lie."""
    tier = _core._tier_of(cache)
    if tier is None:
        return
    from flowcache.tier import UnencodableError

    try:
        tier.settings.codec.encode(CachedValue(None, {"ct": 0.0, "v": 1}))
    except UnencodableError as error:
        raise ConfigurationError(
            f"{name}: the codec of its tier must take dogpile.cache.api.CachedValue, as "
            f"MsgpackCodec(types=[CachedValue]) and PickleCodec do: {error}"
        ) from error


def positive(name: str, value: Any) -> float:
    """Check a duration in seconds that is more than 0."""
    seconds = _core.duration(value, name)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name}: must be more than 0 seconds, got {shown(value)}")
    return seconds


class TenantInvalidation(RegionInvalidationStrategy):
    """Lets ``region.invalidate()`` invalidate the values of the current tenant, and no other's.

    Remembers the ``max_tenants`` tenants that were invalidated last. For all other tenants, a value
    counts as invalidated if it is as old as the last forgotten invalidation. A soft invalidation
    does not undo a hard one. A value of the same moment as an invalidation counts as older. As in
    dogpile itself, other processes do not learn of an invalidation, with a tier neither.
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
