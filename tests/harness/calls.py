"""Every public call of a namespace, of a cache and of a cached function, with every option.

The harnesses that make all calls draw from here: hostile programs, the matrix, failing allocations,
leaks, forks. A call is given guests, which make its arguments, and the namespace that it is made
on. A new call is one line in the group whose promise it keeps. `test_calls.py` holds that no public
name and no option is missing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from flowcache import Cache, Limits
from flowcache._core import _testing
from flowcache.tenancy import tenant


class Guests(Protocol):
    """The arguments of calls, and the code that the cache runs in them."""

    @property
    def cache(self) -> Cache[Any]: ...
    def held(self) -> Any:
        """Return a key that has an entry, where one has."""

    def new(self) -> Any:
        """Return a key that has none, where one has none."""

    def number(self) -> Any:
        """Return a key whose value is an int, where one is."""

    def value(self) -> Any: ...
    def ttl(self) -> Any: ...
    def tags(self) -> Any: ...
    def several(self, *items: Any) -> Iterable[Any]: ...
    def load(self) -> Any: ...
    async def load_async(self) -> Any: ...
    def load_many(self, keys: list[Any]) -> dict[Any, Any]: ...
    def fail(self) -> Any:
        """Load in vain: raise what `falls_back` covers."""

    def falls_back(self, error: Exception) -> bool: ...
    def lasts(self, value: Any) -> Any:
        """Return the TTL of a value."""

    def leads_to(self, tenant: str) -> Any:
        """Return the names of a tenant's namespace."""

    def around(self, path: tuple[str, ...], key: Any) -> Any:
        """Return a context manager around a load."""

    def store_if(self, value: Any) -> bool: ...
    def matches(self, key: Any, value: Any) -> bool: ...
    def listen(self, event: Any) -> None: ...
    def patience(self) -> dict[str, Any]:
        """Return the options of a call that may wait."""


Call = Callable[[Any, Any], Any]
"""Makes a call, with guests and on a namespace. What it returns is seen by the harness."""


async def awaited(what: Any) -> Any:
    return await what


def finish(ready: Any) -> Any:
    """Await it in an event loop, but within one: a loop runs no other."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return asyncio.run(awaited(ready))
        finally:
            ready.close()  # An error may come before it is begun.
    ready.close()
    return None


def drive(ready: Any) -> Any:
    """Await a hit, without an event loop."""
    try:
        ready.send(None)
    except StopIteration as stop:
        return stop.value
    return ready.close()


def twice(cached: Any, *arguments: Any, **keywords: Any) -> Any:
    """Make a call of a cached function that loads, and one that finds, and ask for all it tells."""
    made = cached(*arguments, **keywords), cached(*arguments, **keywords)
    told = cached.cache_info(), cached.cache_parameters(), cached.cache_key(*arguments, **keywords)
    return made, told, cached.cache_contains(*arguments, **keywords)


def with_cached(g: Guests, ns: Any, **options: Any) -> Any:
    function = ns.cached(**options, **g.patience())(lambda key: g.load())
    made = twice(function, g.held())
    again = function.refresh(g.held()), drive(function.ainvalidate(g.held()))
    return made, again, function.invalidate(g.held()), clear_cached(function)


def clear_cached(function: Any) -> Any:
    return function.cache_clear(), drive(function.acache_clear())


def with_async_cached(g: Guests, ns: Any) -> Any:
    @ns.cached(ttl=5, **g.patience())
    async def function(key: Any) -> Any:
        return await g.load_async()

    return finish(function(g.new()))


def with_keywords(g: Guests, ns: Any, **options: Any) -> Any:
    function = ns.cached(**options, **g.patience())(lambda key, *, also=1: g.load())
    return twice(function, g.held(), also=g.new())


def by_tenant(g: Guests, ns: Any) -> Any:
    options = {"tenant": "who", "path": g.leads_to}
    function = g.cache.cached(**options, **g.patience())(lambda key, who: g.load())
    return twice(function, g.held(), "tenant")


def for_tenant(g: Guests, ns: Any) -> Any:
    mine = g.cache.for_current_tenant(g.leads_to)
    function = mine.cached(**g.patience())(lambda key: g.load())
    with tenant("tenant"):
        mine.set(g.new(), g.value(), tags=g.tags())
        loaded = mine.fetch(g.held(), g.load, **g.patience())
        return mine.get(g.new()), loaded, function(g.held()), function.cache_info()


def past_its_ttl(g: Guests, ns: Any) -> Any:
    """Return a key whose entry is past its TTL, and held for a while."""
    ns.set(g.held(), g.value(), ttl=5, stale=60)
    ns.expire(g.held())
    return g.held()


def with_fallback(g: Guests, ns: Any) -> Any:
    covered = {"stale_if_error": 60, "fallback_on": g.falls_back}
    return ns.fetch(past_its_ttl(g, ns), g.fail, stale=False, **covered, **g.patience())


def around_load(g: Guests, ns: Any) -> Any:
    g.cache.around_load = g.around
    return g.cache.around_load, ns.fetch(g.new(), g.load, **g.patience())


def with_listener(g: Guests, ns: Any) -> Any:
    unsubscribe = ns.subscribe(g.listen, ("set", "remove"))
    ns.set(g.held(), g.value())
    ns.clear()
    unsubscribe()


def switch(g: Guests, ns: Any) -> Any:
    ns.enabled = False
    ns.set(g.held(), g.value())
    ns.enabled = True
    return ns.get(g.held())


WHOLE: dict[str, Call] = {
    "get": lambda g, ns: ns.get(g.held()),
    "get, missing": lambda g, ns: ns.get(g.new()),
    "peek": lambda g, ns: ns.peek(g.held()),
    "set": lambda g, ns: ns.set(g.held(), g.value(), ttl=g.ttl(), tags=g.tags()),
    "set, plain": lambda g, ns: ns.set(g.held(), g.value()),
    "set, new": lambda g, ns: ns.set(g.new(), g.value(), ttl=g.ttl(), tags=g.tags(), stale=9),
    "set, sliding": lambda g, ns: ns.set(g.held(), g.value(), sliding=5, jitter=0.5),
    "set, sliding, new": lambda g, ns: ns.set(g.new(), g.value(), sliding=5, tags=g.tags()),
    "set, ttl of the value": lambda g, ns: ns.set(g.new(), g.value(), ttl=g.lasts),
    "add": lambda g, ns: ns.add(g.new(), g.value(), tags=g.tags()),
    "delete": lambda g, ns: ns.delete(g.held()),
    "pop": lambda g, ns: ns.pop(g.held(), None),
    "popitem": lambda g, ns: ns.popitem(),
    "touch": lambda g, ns: ns.touch(g.held(), g.ttl()),
    "ttl": lambda g, ns: ns.ttl(g.held()),
    "incr": lambda g, ns: ns.incr(g.number(), 5_000),
    "incr, new": lambda g, ns: ns.incr(g.new(), delta=5_000, default=1, ttl=g.ttl()),
    "setdefault": lambda g, ns: ns.setdefault(g.new(), g.value()),
    "ns[key]": lambda g, ns: ns[g.held()],
    "ns[key] = value": lambda g, ns: ns.__setitem__(g.held(), g.value()),
    "del ns[key]": lambda g, ns: ns.__delitem__(g.held()),
    "key in ns": lambda g, ns: g.held() in ns,
    "len": lambda g, ns: len(ns),
    "views": lambda g, ns: (ns.keys(), ns.values(), ns.items()),
    "clear": lambda g, ns: ns.clear(wait="fleet"),
    "clear, root": lambda g, ns: g.cache.clear(),
    "invalidate_tag": lambda g, ns: ns.invalidate_tag("red"),
    "invalidate_tags": lambda g, ns: ns.invalidate_tags(g.tags()),
    "invalidate_tags, all": lambda g, ns: g.cache.invalidate_tags(("red", "blue"), match="all"),
    "invalidate_prefix": lambda g, ns: ns.invalidate_prefix("key:"),
    "invalidate_where": lambda g, ns: ns.invalidate_where(g.matches),
    "expire": lambda g, ns: ns.expire(g.held()),
    "expire_tag": lambda g, ns: ns.expire_tag("red"),
    "inspect": lambda g, ns: ns.inspect(g.held()),
    "inspect, missing": lambda g, ns: ns.inspect(g.new()),
    "tags": lambda g, ns: ns.tags(),
    "advice": lambda g, ns: ns.advice() if ns.limits.eviction == "lru" else None,
    "children": lambda g, ns: g.cache.children(top=1, by="hits"),
    "names": lambda g, ns: (ns.path, ns.name, repr(ns), hash(ns), ns == g.cache),
    "stats": lambda g, ns: (ns.stats(), ns.limits, ns.maxsize, ns.currsize, sys.getsizeof(ns)),
    "reset_stats": lambda g, ns: ns.reset_stats(),
    "namespace": lambda g, ns: ns.namespace("below"),
    "namespace, new": lambda g, ns: ns.namespace("fresh", "below", max_entries=4, share=2),
    "namespace, reserving": lambda g, ns: g.cache.namespace("fresh", reserved=1, guaranteed=1),
    "namespaces": lambda g, ns: ns.namespaces(),
    "configure": lambda g, ns: ns.configure(
        default_ttl=9,
        max_entries=9,
        max_pending=9,
        share=0.5,
        tiered=True,
        child_limits=Limits(max_entries=5, share=0.5),
    ),
    "configure, switching": lambda g, ns: (
        g.cache.configure(eviction="tinylfu") if _testing.ledger(g.cache) is None else None
    ),
    "configure, weight": lambda g, ns: ns.configure(max_weight=50),
    "configure, evicting": lambda g, ns: g.cache.configure(max_entries=2),
    "enabled": lambda g, ns: setattr(ns, "enabled", False),
    "sweep": lambda g, ns: g.cache.sweep(),
    "close": lambda g, ns: g.cache.close(),
    "fetch, held": lambda g, ns: ns.fetch(g.held(), g.load, **g.patience()),
}
"""Calls that do all of their work or nothing; those of the compiled core alone."""

SEVERAL: dict[str, Call] = {
    "afetch, held": lambda g, ns: drive(ns.afetch(g.held(), g.load)),
    "get_many": lambda g, ns: ns.get_many(g.several(g.held(), g.new())),
    "get_many, more": lambda g, ns: ns.get_many(g.several(g.held(), *range(100), g.new())),
    "fetch_many, held": lambda g, ns: ns.fetch_many(
        g.several(g.held()), g.load_many, **g.patience()
    ),
    "afetch_many, held": lambda g, ns: drive(ns.afetch_many(g.several(g.held()), g.load_many)),
    "set_many, more": lambda g, ns: ns.set_many(
        g.several(*(("key:more", g.value()), *((n, n) for n in range(100))))
    ),
    "set_many": lambda g, ns: ns.set_many(
        {g.held(): g.value(), g.new(): g.value()}, tags=g.tags(), ttl=g.ttl()
    ),
    "enabled, again": switch,
    "delete_many": lambda g, ns: ns.delete_many(g.several(g.held(), g.new())),
    "update": lambda g, ns: ns.update(g.several((g.held(), g.value())), more=1),
}
"""Calls of several steps, each of which is whole."""

TWINS: dict[str, Call] = {
    "aget": lambda g, ns: drive(ns.aget(g.held())),
    "aset": lambda g, ns: drive(ns.aset(g.held(), g.value(), ttl=g.ttl(), tags=g.tags(), stale=9)),
    "aadd": lambda g, ns: drive(ns.aadd(g.new(), g.value(), tags=g.tags())),
    "adelete": lambda g, ns: drive(ns.adelete(g.held(), wait="fleet")),
    "apop": lambda g, ns: drive(ns.apop(g.held(), None)),
    "atouch": lambda g, ns: drive(ns.atouch(g.held(), g.ttl())),
    "attl": lambda g, ns: drive(ns.attl(g.held())),
    "aincr": lambda g, ns: drive(ns.aincr(g.number(), 5_000, default=1, ttl=g.ttl())),
    "asetdefault": lambda g, ns: drive(ns.asetdefault(g.new(), g.value())),
    "aget_many": lambda g, ns: drive(ns.aget_many(g.several(g.held(), g.new()))),
    "aset_many": lambda g, ns: drive(ns.aset_many({g.held(): g.value(), g.new(): g.value()})),
    "adelete_many": lambda g, ns: drive(ns.adelete_many(g.several(g.held(), g.new()))),
    "aclear": lambda g, ns: drive(ns.aclear()),
    "ainvalidate_tag": lambda g, ns: drive(ns.ainvalidate_tag("red")),
    "ainvalidate_tags": lambda g, ns: drive(ns.ainvalidate_tags(g.tags())),
    "ainvalidate_prefix": lambda g, ns: drive(ns.ainvalidate_prefix("key:")),
    "aexpire": lambda g, ns: drive(ns.aexpire(g.held())),
    "aexpire_tag": lambda g, ns: drive(ns.aexpire_tag("red")),
    "connect": lambda g, ns: (g.cache.tier, g.cache.connect(), drive(g.cache.aconnect())),
    "aclose": lambda g, ns: drive(g.cache.aclose()),
}
"""The awaitable twins of calls, which do not suspend without a tier."""

FACE: dict[str, Call] = {
    "iteration": lambda g, ns: ([*ns], [*ns.keys()], [*ns.values()], [*ns.items()]),
    "subscribe": with_listener,
    "fetch": lambda g, ns: ns.fetch(
        g.new(), g.load, tags=g.tags(), store_if=g.store_if, **g.patience()
    ),
    "fetch, timeout": lambda g, ns: ns.fetch(g.new(), g.load, **{"timeout": 60} | g.patience()),
    "fetch, ahead": lambda g, ns: ns.fetch(
        g.held(), g.load, refresh_ahead=0.9, stale=True, **g.patience()
    ),
    "fetch, knobs": lambda g, ns: ns.fetch(
        g.new(), g.load, ttl=g.lasts, sliding=5, jitter=0.5, **g.patience()
    ),
    "fetch, falls back": with_fallback,
    "fetch, old value": lambda g, ns: ns.fetch(
        past_its_ttl(g, ns), lambda old: g.load(), stale=False, pass_old=True, **g.patience()
    ),
    "refresh": lambda g, ns: ns.refresh(g.held(), g.load, **g.patience()),
    "refresh, old value": lambda g, ns: ns.refresh(
        g.held(), lambda old: g.load(), pass_old=True, **g.patience()
    ),
    "around_load": around_load,
    "fetch_many": lambda g, ns: ns.fetch_many(
        g.several(g.held(), g.new()), g.load_many, tags=g.tags(), **g.patience()
    ),
    "cached": lambda g, ns: with_cached(g, ns, tags=g.tags()),
    "cached, tags by arguments": lambda g, ns: with_cached(g, ns, tags=lambda key: g.tags()),
    "cached, key": lambda g, ns: with_cached(g, ns, key=lambda key: key, ttl=g.lasts),
    "cached, with keywords": lambda g, ns: with_keywords(g, ns, typed=True),
    "cached, bound": lambda g, ns: with_keywords(g, ns, bind=True, tags=g.tags()),
    "cached, by tenant": by_tenant,
    "wrap": lambda g, ns: ns.wrap(g.load, ttl=5, **g.patience())(),
    "for_current_tenant": for_tenant,
}
"""Calls that Python code takes part in."""

TASKS: dict[str, Call] = {
    "afetch": lambda g, ns: finish(ns.afetch(g.new(), g.load_async, **g.patience())),
    "afetch, plain": lambda g, ns: finish(ns.afetch(g.new(), g.load, **g.patience())),
    "afetch_many": lambda g, ns: finish(
        ns.afetch_many(g.several(g.held(), g.new()), g.load_many, **g.patience())
    ),
    "afetch, old value": lambda g, ns: finish(
        ns.afetch(past_its_ttl(g, ns), lambda old: g.load_async(), pass_old=True, **g.patience())
    ),
    "arefresh": lambda g, ns: finish(ns.arefresh(g.held(), g.load_async, **g.patience())),
    "cached, async": with_async_cached,
}
"""Calls that tasks of an event loop run."""

CALLS: dict[str, Call] = WHOLE | SEVERAL | TWINS | FACE | TASKS
