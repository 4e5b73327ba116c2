"""flowcache behind aiocache's interface: `Cache(FlowCache)`, `@cached(cache=FlowCache)`, aliases.

Copy it and set the bounds of `store`. All instances share that store: aiocache makes one for each
decorated function.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from flowcache import Namespace, create_cache

store: Any = create_cache(default_ttl=None, max_entries=50_000, require_namespace=True)


class FlowCache(BaseCache):
    """The entries of the current tenant; each `namespace=` of aiocache is a namespace of its own.

    A call without a tenant raises `TenantNotSetError`.
    """

    NAME = "flowcache"

    def __init__(
        self,
        serializer: Any = None,
        timeout: float | None = None,
        key_builder: Any = None,
        **options: Any,
    ) -> None:
        # Without aiocache's time-out: no call waits, and on 3.11 each would be a task of its own.
        super().__init__(serializer=serializer or NullSerializer(), timeout=timeout, **options)
        self._key_builder = key_builder
        self._of_tenant = store.for_current_tenant()

    def _place(self, namespace: str | None = None) -> Namespace[Any]:
        name = self.namespace if namespace is None else namespace
        of_tenant: Namespace[Any] = self._of_tenant.resolve()
        return of_tenant if name is None else of_tenant.namespace(f"[{name}]")

    def _build_key(self, key: Any, namespace: str | None = None) -> Any:
        """Return the place of a key and the key. The locks of aiocache go by this pair too."""
        name = key.value if isinstance(key, Enum) else key
        if self._key_builder is not None:
            name = self._key_builder(key, namespace)
        return self._place(namespace), name

    async def _get(self, key: Any, encoding: Any = None, _conn: Any = None) -> Any:
        place, name = key
        return place.get(name)

    _gets = _get

    async def _multi_get(self, keys: Any, encoding: Any = None, _conn: Any = None) -> list[Any]:
        return [place.get(name) for place, name in keys]

    async def _set(
        self, key: Any, value: Any, ttl: Any = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        place, name = key
        if _cas_token is not None and _cas_token != place.get(name):
            return False
        place.set(name, value, ttl=ttl or None)
        return True

    async def _multi_set(self, pairs: Any, ttl: Any = None, _conn: Any = None) -> bool:
        for (place, name), value in pairs:
            place.set(name, value, ttl=ttl or None)
        return True

    async def _add(self, key: Any, value: Any, ttl: Any = None, _conn: Any = None) -> bool:
        place, name = key
        if not place.add(name, value, ttl=ttl or None):
            raise ValueError(f"Key {name} already exists, use .set to update the value")
        return True

    async def _exists(self, key: Any, _conn: Any = None) -> bool:
        place, name = key
        return name in place

    async def _increment(self, key: Any, delta: int, _conn: Any = None) -> int:
        place, name = key
        result: int = place.incr(name, delta)
        return result

    async def _expire(self, key: Any, ttl: Any, _conn: Any = None) -> bool:
        place, name = key
        found: bool = place.touch(name, ttl=ttl or None)
        return found

    async def _delete(self, key: Any, _conn: Any = None) -> int:
        place, name = key
        return int(place.delete(name))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        self._place(namespace).clear()
        return True

    async def _redlock_release(self, key: Any, value: Any) -> int:
        place, name = key
        return int(place.get(name) == value and place.delete(name))
