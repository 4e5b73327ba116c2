"""The current tenant: it is looked up at every call, and no tenant is no name."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import threading
import weakref
from collections.abc import MutableMapping
from typing import Any

import pytest

from flowcache import (
    InvalidNamespaceError,
    Limits,
    NamespaceRequiredError,
    TenantNotSetError,
    create_cache,
    wrapping,
)
from flowcache._core import _testing
from flowcache.tenancy import current_tenant, tenant
from harness.support import new_cache

CALLS: dict[str, Any] = {
    "get": lambda ns: ns.get("k"),
    "peek": lambda ns: ns.peek("k"),
    "set": lambda ns: ns.set("k", 1),
    "add": lambda ns: ns.add("k", 1),
    "delete": lambda ns: ns.delete("k"),
    "pop": lambda ns: ns.pop("k", None),
    "popitem": lambda ns: ns.popitem(),
    "touch": lambda ns: ns.touch("k"),
    "ttl": lambda ns: ns.ttl("k"),
    "incr": lambda ns: ns.incr("n"),
    "get_many": lambda ns: ns.get_many(["k"]),
    "set_many": lambda ns: ns.set_many({"k": 1}),
    "delete_many": lambda ns: ns.delete_many(["k"]),
    "getitem": lambda ns: ns["k"],
    "setitem": lambda ns: ns.__setitem__("k", 1),
    "delitem": lambda ns: ns.__delitem__("k"),
    "contains": lambda ns: "k" in ns,
    "len": len,
    "iter": list,
    "keys": lambda ns: list(ns.keys()),
    "values": lambda ns: list(ns.values()),
    "items": lambda ns: list(ns.items()),
    "setdefault": lambda ns: ns.setdefault("k", 1),
    "update": lambda ns: ns.update(k=1),
    "clear": lambda ns: ns.clear(),
    "invalidate_tag": lambda ns: ns.invalidate_tag("t"),
    "invalidate_tags": lambda ns: ns.invalidate_tags(["t"]),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
    "invalidate_where": lambda ns: ns.invalidate_where(lambda key, value: True),
    "expire": lambda ns: ns.expire("k"),
    "expire_tag": lambda ns: ns.expire_tag("t"),
    "inspect": lambda ns: ns.inspect("k"),
    "tags": lambda ns: ns.tags(),
    "children": lambda ns: ns.children(),
    "advice": lambda ns: ns.advice(),
    "enabled": lambda ns: ns.enabled,
    "maxsize": lambda ns: ns.maxsize,
    "currsize": lambda ns: ns.currsize,
    "stats": lambda ns: ns.stats(),
    "reset_stats": lambda ns: ns.reset_stats(),
    "fetch": lambda ns: ns.fetch("k", lambda: 1),
    "afetch": lambda ns: ns.afetch("k", lambda: 1),
    "refresh": lambda ns: ns.refresh("k", lambda: 1),
    "arefresh": lambda ns: ns.arefresh("k", lambda: 1),
    "fetch_many": lambda ns: ns.fetch_many(["k"], lambda missing: {}),
    "afetch_many": lambda ns: ns.afetch_many(["k"], lambda missing: {}),
    "subscribe": lambda ns: ns.subscribe(print),
    "namespace": lambda ns: ns.namespace("below"),
    "namespaces": lambda ns: ns.namespaces(),
    "configure": lambda ns: ns.configure(share=0.5),
    "path": lambda ns: ns.path,
    "name": lambda ns: ns.name,
    "limits": lambda ns: ns.limits,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_without_a_tenant_every_call_fails_and_nothing_is_made(call: Any) -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()

    with pytest.raises(TenantNotSetError, match="no current tenant"):
        call(mine)

    assert list(cache.namespaces()) == []
    assert cache.stats().sets == cache.stats().misses == 0


def test_it_takes_every_public_call_of_a_namespace() -> None:
    cache, _ = new_cache()
    mine, real = cache.for_current_tenant(), cache.namespace("any")
    public = {name for name in dir(type(real)) if not name.startswith("_")}

    with tenant("acme"):
        missing = {name for name in public if not hasattr(mine, name)}

    assert missing == {"for_current_tenant"}
    assert isinstance(mine, MutableMapping)


def test_a_call_is_documented_and_named_as_the_namespace_s_is() -> None:
    cache, _ = new_cache()
    mine, real = cache.for_current_tenant(), cache.namespace("any")
    for name in ("get", "set", "fetch", "afetch", "clear", "namespace", "stats", "__len__"):
        call, method = getattr(mine, name), getattr(type(real), name)
        assert call.__name__ == name
        assert call.__doc__ == method.__doc__
        assert call.__self__ is mine
        assert call.__qualname__ == f"CurrentTenant.{name}"
        assert name in repr(getattr(type(mine), name))
        assert getattr(type(mine), name).__wrapped__ is method


@pytest.mark.parametrize(
    "call",
    [
        lambda mine: mine.get(),
        lambda mine: mine.get("k", nonsense=1),
        lambda mine: mine.delete(),
        lambda mine: mine.delete("a", "b"),
        lambda mine: mine.delete(key="a"),
        lambda mine: mine.clear(1),
        lambda mine: mine.clear(all=True),
        lambda mine: mine.set("k"),
        lambda mine: mine.get([]),
        lambda mine: type(mine).get(),
        lambda mine: type(mine).get("k"),
        lambda mine: type(mine).get.__call__(None, "k"),
    ],
)
def test_a_call_with_the_wrong_arguments_is_a_type_error(call: Any) -> None:
    cache, _ = new_cache()
    with tenant("acme"), pytest.raises(TypeError):
        call(cache.for_current_tenant())
    assert cache.stats().entries == 0


def test_each_call_reaches_the_tenant_that_is_set_when_it_is_made() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()
    read, write = mine.get, mine.set  # taken while no tenant is set

    with tenant("acme"):
        write("plan", "gold")
        with tenant("beta"):
            assert read("plan") is None
            mine["plan"] = "basic"
            assert mine.path == ("tenant:beta",)
        assert read("plan") == "gold"
        assert mine.name == "tenant:acme"
    with pytest.raises(TenantNotSetError):
        read("plan")

    assert dict(cache.namespace("tenant:acme")) == {"plan": "gold"}
    assert dict(cache.namespace("tenant:beta")) == {"plan": "basic"}


def test_a_tenant_is_left_as_it_was_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), tenant("acme"), tenant("beta"):
        raise ZeroDivisionError
    assert current_tenant.get(None) is None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", InvalidNamespaceError),
        (" acme", InvalidNamespaceError),
        ("acme\u3000", InvalidNamespaceError),
        ("a" * 257, InvalidNamespaceError),
        (None, TypeError),
        (b"acme", TypeError),
        (7, TypeError),
    ],
)
def test_what_cannot_be_a_tenant_is_refused_by_name(name: Any, error: type[Exception]) -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()

    with pytest.raises(error, match=r"^tenant: "):
        tenant(name)
    assert current_tenant.get(None) is None

    token = current_tenant.set(name)  # by hand, past the check
    try:
        with pytest.raises((error, TenantNotSetError)):
            mine.get("k")
    finally:
        current_tenant.reset(token)
    assert list(cache.namespaces()) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (lambda name: name, ("acme",)),
        (lambda name: ("tenant", name, "contacts"), ("tenant", "acme", "contacts")),
        (lambda name: (part for part in ["t", name]), ("t", "acme")),
    ],
)
def test_path_says_where_a_tenant_lives(path: Any, expected: tuple[str, ...]) -> None:
    cache, _ = new_cache()
    with tenant("acme"):
        assert cache.for_current_tenant(path).path == expected
        assert cache.namespace("app").for_current_tenant(path).path == ("app", *expected)


@pytest.mark.parametrize("names", [None, 7, b"acme", (), ("",), ("a", None), " acme"])
def test_a_path_that_names_no_place_is_refused(names: Any) -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant(lambda name: names)
    with tenant("acme"), pytest.raises((TypeError, ValueError), match=r"^(path|name): "):
        mine.set("k", 1)
    assert cache.stats().entries == 0
    assert list(cache.namespaces()) == []


def test_a_path_that_is_no_callable_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"^path: must be callable or None, got str"):
        create_cache().for_current_tenant("tenant")  # type: ignore[arg-type]


def test_strict_mode_and_the_current_tenant_go_together() -> None:
    crm = create_cache(require_namespace=True)
    mine = crm.for_current_tenant()
    with pytest.raises(NamespaceRequiredError):
        crm.set("k", 1)
    with tenant("acme"):
        mine.set("k", 1)
    assert crm.namespace("tenant:acme").get("k") == 1


def test_a_function_that_is_wrapped_asks_for_the_tenant_at_each_call() -> None:
    cache, _ = new_cache()

    def who() -> str:
        return current_tenant.get()

    wrapped = cache.for_current_tenant().wrap(who)
    with pytest.raises(TenantNotSetError):
        wrapped()
    for name in ("acme", "beta"):
        with tenant(name):
            assert wrapped() == name
            assert len(cache.namespace(f"tenant:{name}")) == 1


def test_a_function_cached_at_import_asks_for_the_tenant_at_each_call() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()
    calls: list[tuple[str, str]] = []

    @mine.cached(ttl=60, tags="prices")
    def price(currency: str) -> str:
        """Tell a price."""
        calls.append((current_tenant.get(), currency))
        return f"{current_tenant.get()} in {currency}"

    with pytest.raises(TenantNotSetError):
        price("EUR")
    for name in ("acme", "beta", "acme", "beta"):
        with tenant(name):
            assert price("EUR") == f"{name} in EUR"
    assert calls == [("acme", "EUR"), ("beta", "EUR")]

    with tenant("acme"):
        assert price.invalidate("EUR")
        assert price("EUR") == "acme in EUR"
    with tenant("beta"):
        assert price("EUR") == "beta in EUR"
    assert calls[2:] == [("acme", "EUR")]
    assert price.__doc__ == "Tell a price."


def test_counts_of_a_cached_function_are_the_tenant_s_own() -> None:
    mine = new_cache(child_limits=Limits(max_entries=3))[0].for_current_tenant()

    @mine.cached(key=lambda number: ("key", number))
    def plain(number: int) -> int:
        return number

    @mine.cached()
    async def later(number: int) -> int:
        return number

    def calls(function: Any, *numbers: int) -> None:
        async def main() -> None:
            for number in numbers:
                made = function(number)
                assert (await made if function is later else made) == number

        asyncio.run(main())

    for function in (plain, later):
        with tenant("acme"):
            mine.clear()
            calls(function, 1, 2, 1, 1)
        with tenant("beta"):
            assert function.cache_info() == (0, 0, 3, 0)
            calls(function, 1)
            function.cache_clear()
            assert function.cache_info() == (0, 0, 3, 0)
        with tenant("acme"):
            assert function.cache_info() == (2, 2, 3, 2)
            calls(function, 1)
            assert function.cache_info() == (3, 2, 3, 2)
            function.cache_clear()
            assert function.cache_info() == (0, 0, 3, 0)
        with pytest.raises(TenantNotSetError):
            function.cache_info()
        with pytest.raises(TenantNotSetError):
            function.cache_clear()


def test_a_call_counts_for_the_tenant_for_whom_it_was_made() -> None:
    mine = new_cache()[0].for_current_tenant()

    @mine.cached()
    async def who() -> str:
        await asyncio.sleep(0)
        return current_tenant.get()

    async def main() -> None:
        with tenant("acme"):
            made = [who(), who()]
        with tenant("beta"):
            assert await asyncio.gather(*made) == ["acme", "acme"]
            assert who.cache_info()[:2] == (0, 0)
        with tenant("acme"):
            assert who.cache_info()[:2] == (0, 2)

    asyncio.run(main())


def test_counts_of_invented_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapping, "MOST_TENANTS", 50)
    mine = new_cache(max_idle_namespaces=5)[0].for_current_tenant()

    @mine.cached()
    def plain(number: int) -> int:
        return number

    for number in range(500):
        with tenant(f"invented-{number}"):
            assert plain(number) == number
            assert plain.cache_info()[:2] == (0, 1)
            mine.clear()
    assert len(plain._counts) <= 50


def test_tasks_gathered_for_two_tenants_never_meet() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()
    loads: list[str] = []

    @mine.cached()
    async def dashboard(page: int) -> str:
        before = current_tenant.get()
        await asyncio.sleep(0)
        assert current_tenant.get() == before
        loads.append(before)
        return f"{before}:{page}"

    async def serve(name: str, page: int) -> None:
        with tenant(name):
            await asyncio.sleep(0)
            assert await dashboard(page) == f"{name}:{page}"
            fetched = await mine.afetch(("raw", page), current_tenant.get)
            assert fetched == name

    async def main() -> None:
        await asyncio.gather(
            *(serve(f"t{n % 7}", n % 3) for n in range(210)),
        )

    asyncio.run(main())
    assert sorted(loads) == sorted(f"t{n}" for n in range(7) for _ in range(3))


def test_a_plain_thread_has_no_tenant_and_a_copied_context_has() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()
    seen: list[Any] = []

    def ask() -> None:
        try:
            seen.append(mine.get("k"))
        except TenantNotSetError as error:
            seen.append(type(error))

    def in_empty_context() -> None:
        contextvars.Context().run(ask)

    with tenant("acme"):
        mine.set("k", "v")
        copied = contextvars.copy_context()
        for target in (in_empty_context, lambda: copied.run(ask)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert asyncio.run(asyncio.to_thread(mine.get, "k")) == "v"

    assert seen == [TenantNotSetError, "v"]


def test_it_keeps_no_tenant_alive_and_no_tenant_s_namespace() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    mine = cache.for_current_tenant()
    for number in range(100):
        with tenant(f"made-up-{number}"):
            mine.get("k")
    gc.collect()
    cache.namespace("one more")
    assert _testing.namespaces_held(cache) < 10

    alive = weakref.ref(cache)
    del cache, mine
    gc.collect()
    assert alive() is None


def test_what_is_not_a_call_of_a_namespace_is_an_attribute_error() -> None:
    mine = create_cache().for_current_tenant()
    for name in ("_check", "store", "parent", "for_current_tenant"):
        with pytest.raises(AttributeError, match=name):
            getattr(mine, name)
    assert "current tenant" in repr(mine)
    assert repr(copy.copy(mine)) == repr(mine)
