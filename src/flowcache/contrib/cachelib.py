"""flowcache with the interface of cachelib, which Flask-Caching, Flask-Session and others take."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import cachelib
from cachelib.serializers import SimpleSerializer

from flowcache import Namespace

from ._namespaces import (
    TenantNamespaces,
    add_or_warn,
    check_cache,
    has,
    set_many_or_warn,
    set_or_warn,
)
from ._tiers import check_signed, own_cache, signing_tier

__all__ = ["FlowCache"]

MISSING = object()


class FlowCache(cachelib.BaseCache):
    """cachelib's ``BaseCache`` over the namespace of the tenant for which it is called.

    ``cache``: a cache or namespace of yours, or else ``options`` of ``create_cache`` for one of its
    own. ``tenant``: ``None``, ``"current"`` or a callable without arguments; ``on_no_tenant``:
    ``"raise"`` or ``"shared"``. Timeouts are cachelib's: ``None`` is ``default_timeout``, and 0 is
    for ever. ``serializer`` may be assigned; ``None``: callers share the stored objects. An ``int``
    is stored unpickled, so ``inc`` and ``dec`` are atomic across threads.

    A ``tier=`` among the options needs a ``name=`` as well. Its codec must be ``PickleCodec``:
    ``ConfigurationError``.
    """

    serializer: Any = SimpleSerializer()

    def __init__(
        self,
        default_timeout: int | dt.timedelta = 300,
        ignore_delete_many_errors: bool = True,
        *,
        cache: Namespace[Any] | None = None,
        tenant: Callable[[], str | None] | str | None = None,
        on_no_tenant: str = "raise",
        **options: Any,
    ) -> None:
        super().__init__(default_timeout, ignore_delete_many_errors)
        if cache is None:
            if options.get("tier") is not None:
                options["tier"] = signing_tier(options["tier"], "tier")
            cache = own_cache("cachelib", options)
        elif options:
            raise TypeError(f"cache: cannot be given together with {', '.join(options)}")
        else:
            check_cache(cache)
            check_signed(cache, "cache")
        self._namespaces = TenantNamespaces(cache, tenant, on_no_tenant)

    def get(self, key: str) -> Any:
        """Return the value of a key, else ``None``."""
        return self._load(self._namespaces.current().get(key, MISSING))

    def set(self, key: str, value: Any, timeout: int | dt.timedelta | None = None) -> bool:
        """Store a value; return whether its limits left room for it."""
        stored = self._dump(value)
        return set_or_warn(self._namespaces.current(), key, stored, ttl=self._ttl(timeout))

    def add(self, key: str, value: Any, timeout: int | dt.timedelta | None = None) -> bool:
        """Store a value where there is none; return whether there was none."""
        stored = self._dump(value)
        namespace = self._namespaces.current()
        ttl = self._ttl(timeout)
        if ttl == 0:
            return not has(namespace, key)
        return add_or_warn(namespace, key, stored, ttl=ttl)

    def delete(self, key: str) -> bool:
        """Delete a key; return whether it was there."""
        return self._namespaces.current().delete(key)

    def has(self, key: str) -> bool:
        """Tell whether a key has a value, ``None`` included."""
        return has(self._namespaces.current(), key)

    def clear(self) -> bool:
        """Remove the entries of this tenant, or of no tenant; return ``True``."""
        self._namespaces.current().clear()
        return True

    def get_many(self, *keys: str) -> list[Any]:
        """Return the value of each key, or ``None``."""
        found = self._namespaces.current().get_many(keys)
        return [self._load(found.get(key, MISSING)) for key in keys]

    def set_many(
        self, mapping: Mapping[str, Any], timeout: int | dt.timedelta | None = None
    ) -> list[str]:
        """Store values; return the keys of those for which there was room."""
        stored = {key: self._dump(value) for key, value in mapping.items()}
        namespace = self._namespaces.current()
        failed = set(set_many_or_warn(namespace, stored, ttl=self._ttl(timeout)))
        return [key for key in stored if key not in failed]

    def delete_many(self, *keys: str) -> list[str]:
        """Delete keys; return all of them, since absent keys count as deleted."""
        self._namespaces.current().delete_many(keys)
        return list(keys)

    def inc(self, key: str, delta: int = 1) -> int:
        """Add to an ``int``, 0 where there is none, atomically; its timeout is unchanged."""
        return self._namespaces.current().incr(key, delta, ttl=self._ttl(None))

    def dec(self, key: str, delta: int = 1) -> int:
        """Subtract from an ``int``: see :meth:`inc`."""
        return self.inc(key, -delta)

    def _ttl(self, timeout: int | dt.timedelta | None) -> int | None:
        """Return cachelib's timeout as a TTL; a negative timeout has ended already."""
        seconds: int = self._normalize_timeout(timeout)
        return None if seconds == 0 else max(seconds, 0)

    def _dump(self, value: Any) -> Any:
        serializer = self.serializer
        return value if serializer is None or type(value) is int else serializer.dumps(value)

    def _load(self, stored: Any) -> Any:
        if stored is MISSING:
            return None
        serializer = self.serializer
        return stored if serializer is None or type(stored) is int else serializer.loads(stored)
