"""What a process holds of the tier, as its bus sees it."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flowcache import _core
from flowcache.errors import CacheClosedError

from .counter import counter_ticks
from .message import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from .layout import Bucket, Layout
    from .message import Message

__all__ = ["Held"]

Namespace = _core.Namespace


class Held:
    """The follower of a cache's bus: applies to the process's own half what the fleet has done.

    It holds the cache weakly. Fills are fenced first, for what begins after that reads what the
    tier has now; then what is held goes, and running loads are fenced with it.
    """

    def __init__(self, store: _core.Store, layout: Layout, stale_for: float) -> None:
        self._store = weakref.ref(store)
        self._layout = layout
        self._stale_for = stale_for

    @property
    def stale_served(self) -> int:
        """How many look-ups were answered after the lease."""
        store = self._store()
        return 0 if store is None else _core._lapsed_hits(store)

    def apply(self, message: Message) -> None:
        """Void what a message covers."""
        store = self._store()
        namespace = None if store is None else _core._below(store, message.path)
        if namespace is None or _core._tier_of(namespace) is None:
            return  # Nothing of it has been here, or what is here stays here.
        with suppress(CacheClosedError):
            APPLIED[message.kind](namespace, message.data)

    def void(self, bucket: Bucket) -> None:
        """Void all that lies in a bucket."""
        store = self._store()
        if store is None:
            return
        with suppress(CacheClosedError):
            root = _core._root_of(store)
            if self._layout.buckets == 1:
                _core._void(root)
            else:
                self._void_units(root, bucket)

    def _void_units(self, namespace: Namespace[Any], bucket: Bucket) -> None:
        path = namespace.path
        is_unit = len(path) == self._layout.tenant_depth
        if self._layout.bucket_of(path) is bucket:
            _core._void(namespace, is_unit)
        if not is_unit:
            for name in list(namespace.namespaces()):
                self._void_units(namespace.namespace(name), bucket)

    def lend(self, until: float) -> None:
        """Serve what is held until this time."""
        _core._lease_ticks(counter_ticks())  # It reads a file, and keeps no cache alive meanwhile.
        store = self._store()
        if store is not None:
            _core._lend(store, until, until + self._stale_for if until else 0.0)


def drop(namespace: Namespace[Any], key: Any) -> None:
    """Remove a key here."""
    _core._fence_key(namespace, key)
    Namespace.delete(namespace, key)


def clear(namespace: Namespace[Any], _: Any = None) -> int:
    """Remove all of a namespace and of those below it, here."""
    _core._fence_below(namespace)
    return Namespace.clear(namespace)


def drop_tags(namespace: Namespace[Any], tags: Any, match: Any = "any") -> int:
    """Remove what bears the tags, here."""
    _core._fence_tags(namespace, tags, match == "all")
    return Namespace.invalidate_tags(namespace, tags, match=match)


def drop_prefix(namespace: Namespace[Any], prefix: Any) -> int:
    """Remove the keys of a namespace that begin so, here."""
    _core._fence_prefix(namespace, prefix)
    return Namespace.invalidate_prefix(namespace, prefix)


def expire(namespace: Namespace[Any], key: Any) -> bool:
    """End the freshness of a key, here."""
    _core._fence_key(namespace, key)
    return Namespace.expire(namespace, key)


def expire_tags(namespace: Namespace[Any], tags: Any) -> int:
    """End the freshness of what bears one of the tags, here."""
    _core._fence_tags(namespace, tags)
    return sum(Namespace.expire_tag(namespace, tag) for tag in tags)


APPLIED: dict[Kind, Callable[[Namespace[Any], Any], object]] = {
    Kind.DROP: drop,
    Kind.EXPIRE: expire,
    Kind.CLEAR: clear,
    Kind.TAGS_ANY: drop_tags,
    Kind.TAGS_ALL: lambda namespace, tags: drop_tags(namespace, tags, "all"),
    Kind.PREFIX: drop_prefix,
    Kind.EXPIRE_TAGS: expire_tags,
}
