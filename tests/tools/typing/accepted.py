"""Code that a user may write, with the types that checkers must find. Checked, never run."""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    ItemsView,
    MutableMapping,
    ValuesView,
)
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from flowcache import (
    Cache,
    Children,
    Event,
    Inspection,
    Limits,
    Loaded,
    Namespace,
    Stats,
    create_cache,
)


@dataclass
class Contact:
    name: str


class Other: ...


def load() -> Contact:
    return Contact("Ada")


def load_with_terms() -> Loaded[Contact]:
    return Loaded(Contact("Ada"), ttl=timedelta(minutes=1), tags="crm")


async def aload() -> Contact:
    return Contact("Ada")


async def aload_one(name: str) -> Contact:
    return Contact(name)


async def aload_with_terms() -> Loaded[Contact]:
    return Loaded(Contact("Ada"), store=False)


def load_many(missing: list[str]) -> dict[str, Contact]:
    return {name: Contact(name) for name in missing}


async def aload_many(missing: list[str]) -> dict[str, Contact]:
    return load_many(missing)


def making() -> None:
    anything = create_cache(default_ttl=None, max_entries=10, child_limits=Limits(share=2))
    assert_type(anything, Cache[Any])
    cache: Cache[Contact] = create_cache(default_ttl=timedelta(hours=1))
    with cache as opened:
        assert_type(opened, Cache[Contact])
    assert_type(cache.sweep(), int)
    assert_type(Cache[Contact](max_entries=5).namespace("a"), Namespace[Contact])


def places(cache: Cache[Contact]) -> None:
    assert_type(cache.namespace("tenant", "acme"), Namespace[Contact])
    cache.namespace("a", default_ttl=None, max_entries=5, max_pending=2, reserved=1, share=0.5)
    cache.namespace("a").configure(max_weight=None, child_limits=Limits(max_entries=1))
    assert_type(cache.path, tuple[str, ...])
    assert_type(cache.name, str)
    assert_type(cache.limits, Limits)
    assert_type(list(cache.namespaces()), list[str])
    assert_type(cache.for_current_tenant().get("k"), Contact | None)
    cache.for_current_tenant(lambda tenant: ("tenant", tenant))


def keyed(ns: Namespace[Contact], fallback: Other) -> None:
    assert_type(ns.get("k"), Contact | None)
    assert_type(ns.get("k", Contact("x")), Contact)
    assert_type(ns.get("k", default=fallback), Contact | Other)
    assert_type(ns.peek(("any", "hashable")), Contact | None)
    assert_type(ns.set("k", Contact("x"), ttl=3, tags=("a", "b"), stale=True), None)
    assert_type(ns.add("k", Contact("x"), ttl=None, tags="a", stale=2.5), bool)
    assert_type(ns.delete("k"), bool)
    assert_type(ns.pop("k"), Contact)
    assert_type(ns.pop("k", None), Contact | None)
    assert_type(ns.popitem(), tuple[Any, Contact])
    assert_type(ns.touch("k", ttl=timedelta(1)), bool)
    assert_type(ns.ttl("k"), float | None)
    assert_type(ns.incr("n", 2, default=1, ttl=60), int)


def many(ns: Namespace[Contact]) -> None:
    assert_type(ns.get_many(["a", "b"]), dict[str, Contact])
    ns.set_many({"a": Contact("x")}, ttl=5, tags="t")
    ns.set_many([("a", Contact("x"))])
    assert_type(ns.delete_many({"a", 1}), int)
    assert_type(ns.clear(), int)
    assert_type(ns.invalidate_tag("t"), int)
    assert_type(ns.invalidate_tags(["t"], match="all"), int)
    assert_type(ns.invalidate_prefix("a"), int)
    assert_type(ns.invalidate_where(lambda key, contact: contact.name == "x"), int)
    assert_type(ns.expire("k"), bool)
    assert_type(ns.expire_tag("t"), int)
    assert_type(ns.inspect("k"), Inspection | None)
    assert_type(ns.tags(), dict[str, int])
    assert_type(ns.children(top=3, by="hits"), Children)
    assert_type(ns.advice().at_125, float | None)
    assert_type(ns.maxsize, int | None)
    assert_type(ns.enabled, bool)
    ns.enabled = False
    ns.set("k", Contact("x"), sliding=timedelta(minutes=5), jitter=0.1)
    assert_type(ns.currsize, int)


def mapping(ns: Namespace[Contact]) -> None:
    assert_type(ns["k"], Contact)
    ns["k"] = Contact("x")
    del ns["k"]
    assert_type("k" in ns, bool)
    assert_type(len(ns), int)
    assert_type(ns.values(), ValuesView[Contact])
    assert_type(ns.items(), ItemsView[Any, Contact])
    assert_type(ns.setdefault("k", Contact("x")), Contact)
    ns.update({"a": Contact("x")}, b=Contact("y"))
    taken: MutableMapping[Any, Contact] = ns
    taken["k"] = Contact("z")


def fetching(ns: Namespace[Contact]) -> None:
    assert_type(ns.fetch("k", load), Contact)
    assert_type(ns.fetch("k", load_with_terms), Contact)
    assert_type(ns.fetch("k", lambda: Contact("x"), ttl=1, timeout=timedelta(1)), Contact)
    assert_type(ns.refresh("k", load, store_if=lambda contact: contact.name), Contact)
    assert_type(ns.fetch_many(["a"], load_many), dict[str, Contact])
    everything = create_cache()
    everything.fetch("k", load).anything_at_all()
    ns.fetch(
        "k",
        load,
        ttl=None,
        tags=["a"],
        stale=60,
        stale_if_error=timedelta(1),
        refresh_ahead=0.8,
        store_if=lambda contact: contact.name != "",
        timeout=2,
    )


async def awaiting(ns: Namespace[Contact]) -> None:
    assert_type(await ns.afetch("k", aload), Contact)
    assert_type(await ns.afetch("k", aload_with_terms), Contact)
    assert_type(await ns.afetch("k", lambda: aload_one("Ada"), stale=True), Contact)
    assert_type(await ns.afetch("k", load), Contact)
    assert_type(await ns.fetch("k", aload), Contact)
    assert_type(await ns.refresh("k", aload), Contact)
    assert_type(await ns.arefresh("k", aload, tags="t"), Contact)
    assert_type(await ns.afetch_many(["a"], aload_many), dict[str, Contact])
    assert_type(await ns.afetch_many(["a"], load_many), dict[str, Contact])
    assert_type(await ns.fetch_many(["a"], aload_many), dict[str, Contact])
    assert_type(await asyncio.create_task(ns.afetch("k", aload)), Contact)
    first, second = await asyncio.gather(ns.afetch("a", aload), ns.afetch("b", aload))
    assert_type(first, Contact)
    assert_type(second, Contact)
    later: Awaitable[Contact] = ns.afetch("k", aload)
    await later


ns: Namespace[Any] = create_cache().namespace("functions")


@ns.cached(ttl=60, tags=lambda tenant, limit=10: ("crm", tenant))
def contacts(tenant: str, limit: int = 10) -> list[Contact]:
    return [Contact(tenant)] * limit


@ns.cached(key=lambda tenant: tenant, typed=True, stale=True, refresh_ahead=0.5)
async def acontacts(tenant: str) -> list[Contact]:
    return [Contact(tenant)]


@ns.cached(tenant="tenant", path=lambda name: ("tenant", name))
def invoices(tenant: str, limit: int = 10) -> list[Contact]:
    return [Contact(tenant)] * limit


invoices.cache_info(tenant="acme").hits.bit_length()
invoices.cache_clear(tenant="acme")
invoices.cache_clear()


class Client:
    @ns.cached(key=lambda self, name: name)
    def find(self, name: str) -> Contact:
        return Contact(name)

    @ns.cached()
    async def afind(self, name: str) -> Contact:
        return Contact(name)


class Tools:
    @staticmethod
    @ns.cached()
    def count(name: str) -> int:
        return len(name)

    @ns.cached()
    @staticmethod
    def total(name: str, limit: int = 3) -> int:
        return len(name) + limit


def named(cls: type, name: str) -> Contact:
    return Contact(name)


class Made:
    by_options = ns.cached(ttl=60)(classmethod(named))
    by_function = ns.cached(classmethod(named))
    static = ns.cached(ttl=60)(staticmethod(load_many))


def takes(function: Callable[[str, int], list[Contact]]) -> None:
    function("acme", 3)


def takes_async(function: Callable[[str], Coroutine[Any, Any, list[Contact]]]) -> None: ...


async def wrapped(client: Client) -> None:
    assert_type(contacts("acme", limit=3), list[Contact])
    assert_type(contacts.refresh("acme"), list[Contact])
    assert_type(contacts.invalidate("acme", 3), bool)
    hash(contacts.cache_key("acme"))
    assert_type(contacts.cache_info().hits, int)
    assert_type(contacts.cache_clear(), None)
    assert_type(contacts.__wrapped__("acme"), list[Contact])
    takes(contacts)
    takes_async(acontacts)
    assert_type(await acontacts("acme"), list[Contact])
    assert_type(await acontacts.refresh("acme"), list[Contact])
    assert_type(client.find("Ada"), Contact)
    assert_type(client.find.invalidate("Ada"), bool)
    assert_type(Client.find(client, "Ada"), Contact)
    assert_type(await client.afind(name="Ada"), Contact)
    assert_type(Tools.count("x"), int)
    assert_type(Tools.total(name="x"), int)
    assert_type(Tools.total.invalidate("x", limit=4), bool)
    assert_type(Made.by_options("Ada"), Contact)
    assert_type(Made().by_function("Ada"), Contact)
    assert_type(Made.by_options.invalidate("Ada"), bool)
    assert_type(Made.static(["Ada"]), dict[str, Contact])
    assert_type(ns.wrap(load)(), Contact)
    assert_type(ns.wrap(client.find.__wrapped__)("Ada"), Contact)
    assert_type(await ns.wrap(aload, ttl=3)(), Contact)


def telling(ns: Namespace[Contact]) -> None:
    def listen(event: Event) -> None: ...

    assert_type(ns.stats(), Stats)
    assert_type(ns.reset_stats(), None)
    assert_type(ns.subscribe(listen, kinds=("hit", "miss")), Callable[[], None])
    assert_type(ns.subscribe(listen), Callable[[], None])
