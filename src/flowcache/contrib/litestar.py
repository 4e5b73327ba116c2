"""flowcache as a store of Litestar.

app = Litestar(stores={"sessions": FlowStore(cache, tenant="current")})
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from litestar.stores.base import NamespacedStore

from flowcache import Namespace
from flowcache.coroutines import at_call

from ._namespaces import TenantNamespaces, ahas, aset_or_warn
from ._tiers import own_cache

if TYPE_CHECKING:
    from flowcache.tier import ValkeyTier

__all__ = ["FlowStore"]


class FlowStore(NamespacedStore):
    """Litestar's ``Store`` over the namespace of the tenant for which it is called.

    ``cache``: a cache or namespace of yours, or else one of its own with ``create_cache``'s bound
    of 10,000 entries, its ``name`` and its ``tier``: a URL or a ``ValkeyTier``. ``tenant``:
    ``None``, ``"current"`` or a callable without arguments; ``on_no_tenant``: ``"raise"`` or
    ``"shared"``. The tenant is that of the moment of each call, wherever it is awaited, so the
    registry may keep one store for all. Values are bytes, and ``expires_in=None`` is for ever. What
    reaches a tier is awaited.
    """

    def __init__(
        self,
        cache: Namespace[Any] | None = None,
        *,
        tenant: Callable[[], str | None] | str | None = None,
        on_no_tenant: str = "raise",
        name: str | None = None,
        tier: ValkeyTier | str | None = None,
    ) -> None:
        given = {"name": name, "tier": tier}
        options = {option: value for option, value in given.items() if value is not None}
        if cache is None:
            cache = own_cache("litestar", options)
        elif options:
            raise TypeError(f"cache: cannot be given together with {', '.join(options)}")
        self._open(cache, tenant, on_no_tenant, ())

    def _open(self, cache: Namespace[Any], tenant: Any, on_no_tenant: str, below: Any) -> None:
        self._made_with = cache, tenant, on_no_tenant
        self._below = below
        self._namespaces = TenantNamespaces(cache, tenant, on_no_tenant, below=below)

    def with_namespace(self, namespace: str) -> FlowStore:
        """Return the store of a namespace below this one's; it is the same one each time."""
        store = FlowStore.__new__(FlowStore)
        store._open(*self._made_with, (*self._below, f"[{namespace}]"))
        return store

    @at_call
    async def set(
        self, key: str, value: str | bytes, expires_in: int | timedelta | None = None
    ) -> None:
        """Store bytes; a ``str`` as UTF-8."""
        data = value.encode() if isinstance(value, str) else value
        await aset_or_warn(self._namespaces.current(), key, data, ttl=seconds(expires_in))

    @at_call
    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        """Return the value of a key, else ``None``; ``renew_for`` extends the expiry of a hit."""
        namespace = self._namespaces.current()
        value: bytes | None = await namespace.aget(key)
        if value is not None and renew_for and await self.expires_in(key) not in (-1, None):
            await namespace.atouch(key, ttl=seconds(renew_for))
        return value

    @at_call
    async def delete(self, key: str) -> None:
        """Delete a key, if it is there."""
        await self._namespaces.current().adelete(key)

    @at_call
    async def delete_all(self) -> None:
        """Remove the entries of this tenant in this namespace, and in those below it."""
        await self._namespaces.current().aclear()

    @at_call
    async def exists(self, key: str) -> bool:
        """Tell whether a key has a value."""
        return await ahas(self._namespaces.current(), key)

    @at_call
    async def expires_in(self, key: str) -> int | None:
        """Return the seconds that a key has left, -1 if it does not expire, ``None`` if absent."""
        try:
            left = await self._namespaces.current().attl(key)
        except KeyError:
            return None
        return -1 if left is None else int(left)


def seconds(expires_in: int | timedelta | None) -> int | timedelta | None:
    """Return Litestar's expiry as a TTL; a negative expiry has passed already."""
    if isinstance(expires_in, timedelta):
        return max(expires_in, timedelta(0))
    return None if expires_in is None else max(expires_in, 0)
