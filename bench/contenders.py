"""flowcache and its rivals, each as the plain calls that a program would make of it.

A contender that lacks a feature is left out of its case. flowcache is always a namespace's view,
with a TTL, limits and counters on. Most rivals have neither namespaces nor counters, and some no
TTL; the plots say so beside their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cachebox
import cachetools
import moka_py
import theine
from lru import LRU

from flowcache import create_cache

TTL = 3600


Keys = Sequence[Any]
Loop = Callable[[Keys], None]


@dataclass(frozen=True)
class Contender:
    """One cache of one capacity: its features, each as a loop of plain calls over keys."""

    gets: Loop
    sets: Loop
    sets_with_ttl: Loop | None = None
    """Each entry with a TTL of its own."""
    gets_or_computes: Loop | None = None
    evicts: bool = True


def calling(function: Callable[[Any], Any]) -> Loop:
    def run(keys: Keys) -> None:
        for key in keys:
            function(key)

    return run


def storing(function: Callable[..., Any]) -> Loop:
    def run(keys: Keys) -> None:
        for key in keys:
            function(key, 1)

    return run


def storing_for(function: Callable[..., Any], third: Any) -> Loop:
    def run(keys: Keys) -> None:
        for key in keys:
            function(key, 1, third)

    return run


def storing_with_ttl(function: Callable[..., Any]) -> Loop:
    def run(keys: Keys) -> None:
        for key in keys:
            function(key, 1, ttl=60)

    return run


def loading(function: Callable[..., Any]) -> Loop:
    def loader() -> int:
        return 1

    def run(keys: Keys) -> None:
        for key in keys:
            function(key, loader)

    return run


def flowcache_view(capacity: int) -> Any:
    return create_cache(max_entries=capacity).namespace("tenant:acme", default_ttl=TTL)


def flowcache(capacity: int) -> Contender:
    view = flowcache_view(capacity)
    return Contender(
        calling(view.get), storing(view.set), storing_with_ttl(view.set), loading(view.fetch)
    )


def dictionary(capacity: int) -> Contender:
    table: dict[Any, Any] = {}
    return Contender(calling(table.get), storing(table.__setitem__), evicts=False)


def cachebox_lru(capacity: int) -> Contender:
    cache: Any = cachebox.LRUCache(capacity)
    return Contender(calling(cache.get), storing(cache.insert))


def cachebox_ttl(capacity: int) -> Contender:
    cache: Any = cachebox.TTLCache(capacity, TTL)
    return Contender(calling(cache.get), storing(cache.insert))


def cachebox_vttl(capacity: int) -> Contender:
    cache: Any = cachebox.VTTLCache(capacity)
    return Contender(
        calling(cache.get), storing_for(cache.insert, TTL), storing_for(cache.insert, 60)
    )


def cachetools_lru(capacity: int) -> Contender:
    cache: Any = cachetools.LRUCache(capacity)
    return Contender(calling(cache.get), storing(cache.__setitem__))


def cachetools_ttl(capacity: int) -> Contender:
    cache: Any = cachetools.TTLCache(capacity, TTL)
    return Contender(calling(cache.get), storing(cache.__setitem__))


def lru_dict(capacity: int) -> Contender:
    cache: Any = LRU(capacity)
    return Contender(calling(cache.get), storing(cache.__setitem__))


def theine_cache(capacity: int) -> Contender:
    cache: Any = theine.Cache(capacity)
    hour, minute = timedelta(seconds=TTL), timedelta(seconds=60)
    return Contender(
        calling(cache.get), storing_for(cache.set, hour), storing_for(cache.set, minute)
    )


def moka(capacity: int) -> Contender:
    cache: Any = moka_py.Moka(capacity, ttl=TTL, policy="lru")
    return Contender(
        calling(cache.get), storing(cache.set), storing_with_ttl(cache.set), loading(cache.get_with)
    )


CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "flowcache": flowcache,
    "dict": dictionary,
    "cachebox LRU": cachebox_lru,
    "cachebox TTL": cachebox_ttl,
    "cachebox VTTL": cachebox_vttl,
    "cachetools LRU": cachetools_lru,
    "cachetools TTL": cachetools_ttl,
    "lru-dict": lru_dict,
    "theine": theine_cache,
    "moka-py": moka,
}
