"""A call's namespace, tenant and context are those of the moment at which it is made.

Each test makes an awaitable under one tenant and awaits it where another one is current, or none.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import pytest

from flowcache import Namespace, TenantNotSetError, create_cache
from flowcache.tenancy import current_tenant, tenant
from harness.loading_support import AsyncGate, settle, until
from harness.support import new_cache

TENANTS = ("acme", "beta")
Make = Callable[[Any], Awaitable[Any]]


async def whose() -> str:
    await asyncio.sleep(0)
    return current_tenant.get("none")


def whose_at_once() -> str:
    return current_tenant.get("none")


async def whose_many(keys: list[Any]) -> dict[Any, str]:
    return dict.fromkeys(keys, current_tenant.get("none"))


def whose_many_at_once(keys: list[Any]) -> dict[Any, str]:
    return dict.fromkeys(keys, current_tenant.get("none"))


class CalledLater:
    async def __call__(self) -> str:
        return await whose()

    async def method(self) -> str:
        return await whose()


CALLS: dict[str, Make] = {
    "afetch": lambda ns: ns.afetch("k", whose),
    "afetch of a plain callable": lambda ns: ns.afetch("k", whose_at_once),
    "afetch of a lambda": lambda ns: ns.afetch("k", lambda *_: whose()),
    "afetch of a partial": lambda ns: ns.afetch("k", functools.partial(whose)),
    "afetch of an object": lambda ns: ns.afetch("k", CalledLater()),
    "afetch of a method": lambda ns: ns.afetch("k", CalledLater().method),
    "afetch with options": lambda ns: ns.afetch("k", whose, ttl=5, refresh_ahead=0.5, timeout=20),
    "fetch": lambda ns: ns.fetch("k", whose),
    "fetch with refresh_ahead": lambda ns: ns.fetch("k", whose, refresh_ahead=0.5),
    "arefresh": lambda ns: ns.arefresh("k", whose),
    "arefresh of a plain callable": lambda ns: ns.arefresh("k", whose_at_once),
    "refresh": lambda ns: ns.refresh("k", whose),
    "afetch_many": lambda ns: ns.afetch_many(["k"], whose_many),
    "afetch_many of a plain callable": lambda ns: ns.afetch_many(["k"], whose_many_at_once),
    "fetch_many": lambda ns: ns.fetch_many(["k"], whose_many),
}


def value_of(answer: Any) -> Any:
    return next(iter(answer.values())) if isinstance(answer, dict) else answer


def namespaces(kind: str) -> Callable[[str], Any]:
    """Namespaces by tenant: one object that serves the current one, or one of each."""
    cache = create_cache(require_namespace=True)
    mine = cache.for_current_tenant()
    return (lambda name: mine) if kind == "current" else cache.namespace


@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["current", "fixed"])
@pytest.mark.parametrize("around", ["another tenant", "none"])
def test_an_awaitable_loads_as_the_tenant_that_made_the_call(
    make: Make, kind: str, around: str
) -> None:
    of = namespaces(kind)

    async def fan_out() -> list[Any]:
        calls = []
        for name in TENANTS:
            with tenant(name):
                calls.append(make(of(name)))
        return await asyncio.gather(*calls)

    with tenant("admin") if around == "another tenant" else nullcontext():
        got = asyncio.run(fan_out())
    assert [value_of(one) for one in got] == list(TENANTS)
    for name in TENANTS:
        with tenant(name):
            assert dict(of(name).items()) == {"k": name}


@pytest.mark.parametrize("make", CALLS.values(), ids=CALLS)
def test_one_runner_may_serve_all_tenants(make: Make) -> None:
    """The runner's tasks run in the context in which the runner was made."""
    mine = create_cache().for_current_tenant()

    async def run(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        for name in TENANTS:
            with tenant(name):
                assert value_of(runner.run(run(make(mine)))) == name


def test_a_hit_has_the_value_of_the_call_wherever_it_is_awaited() -> None:
    mine = create_cache().for_current_tenant()

    async def main() -> None:
        for name in TENANTS:
            with tenant(name):
                mine.set("k", name)
        calls = []
        for name in TENANTS:
            with tenant(name):
                calls.append(mine.afetch("k", whose))
        with tenant("admin"):
            assert [await call for call in calls] == list(TENANTS)

    asyncio.run(main())


def test_a_call_without_a_tenant_is_refused_when_it_is_made() -> None:
    mine = create_cache().for_current_tenant()
    with pytest.raises(TenantNotSetError):
        mine.afetch("k", whose)


@pytest.mark.parametrize("how", ["stale", "refresh_ahead"])
@pytest.mark.parametrize("loader", [whose, whose_at_once], ids=["async", "plain"])
def test_a_load_in_the_background_is_that_of_the_call(how: str, loader: Any) -> None:
    cache, clock = new_cache()
    mine = cache.for_current_tenant()
    options: dict[str, Any] = {"stale": True} if how == "stale" else {"refresh_ahead": 0.5}

    async def main() -> None:
        for name in TENANTS:
            with tenant(name):
                mine.set("k", "old", ttl=10, stale=True)
        clock.advance(11 if how == "stale" else 9)
        calls = []
        for name in TENANTS:
            with tenant(name):
                calls.append(mine.afetch("k", loader, ttl=10, **options))
        with tenant("admin"):
            assert [await call for call in calls] == ["old", "old"]
            await until(lambda: cache.stats().loads == 2)
        for name in TENANTS:
            with tenant(name):
                assert mine.get("k") == name

    asyncio.run(main())


@pytest.mark.parametrize("loader", [whose_many, whose_many_at_once], ids=["async", "plain"])
def test_a_batch_in_the_background_is_that_of_the_call(loader: Any) -> None:
    cache, clock = new_cache()
    mine = cache.for_current_tenant()

    async def main() -> None:
        with tenant("acme"):
            mine.set("k", "old", ttl=10, stale=True)
            clock.advance(11)
            call = mine.afetch_many(["k", "l"], loader, stale=True)
        with tenant("beta"):
            assert await call == {"k": "old", "l": "acme"}
            await until(lambda: cache.stats().pending == 0)
        with tenant("acme"):
            assert mine.get_many(["k", "l"]) == {"k": "acme", "l": "acme"}

    asyncio.run(main())


def test_a_waiter_that_leads_next_loads_in_its_own_context() -> None:
    """The leader is cancelled: the one that waited loads as the tenant of its own call."""
    shared = create_cache().namespace("shared")

    async def main() -> None:
        gate = AsyncGate()
        with tenant("acme"):
            leading = shared.afetch("k", gate)
        with tenant("beta"):
            joining = shared.afetch("k", whose)
        leader = asyncio.ensure_future(leading)
        await gate.begun.wait()
        task = next(task for task in asyncio.all_tasks() if "_execute_in_task" in repr(task))
        waiter = asyncio.ensure_future(joining)
        await settle()
        leader.cancel()
        await settle()
        task.cancel()
        with tenant("admin"):
            assert await waiter == "beta"

    asyncio.run(main())


def test_listeners_and_store_if_run_in_the_context_of_the_call() -> None:
    cache = create_cache()
    mine = cache.for_current_tenant()
    heard: list[tuple[str, str]] = []
    cache.subscribe(lambda event: heard.append((event.kind, whose_at_once())))

    def store_if(value: str) -> bool:
        heard.append(("store_if", whose_at_once()))
        return True

    async def main() -> None:
        with tenant("acme"):
            calls = [
                mine.afetch("k", whose, store_if=store_if),
                mine.afetch_many(["l"], whose_many, store_if=store_if),
            ]
        with tenant("beta"):
            for call in calls:
                await call

    asyncio.run(main())
    assert {kind for kind, _ in heard} == {"miss", "store_if", "set", "load"}
    assert {name for _, name in heard} == {"acme"}


def test_the_loader_of_a_task_has_a_context_of_its_own() -> None:
    """It sees the context of the call; no caller sees the variables that it sets."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    cache = create_cache()

    async def load() -> str:
        seen = variable.get()
        variable.set("by the loader")
        return seen

    async def main() -> None:
        variable.set("at the call")
        first, second = cache.afetch("k", load), cache.arefresh("l", load)
        variable.set("at the await")
        assert await first == await second == "at the call"
        assert variable.get() == "at the await"

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 has no eager tasks")
def test_an_eager_task_loads_in_the_context_of_the_call() -> None:
    mine = create_cache().for_current_tenant()

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        calls = []
        for name in TENANTS:
            with tenant(name):
                calls.append(mine.afetch("k", whose_at_once))
        with tenant("admin"):
            assert await asyncio.gather(*calls) == list(TENANTS)

    asyncio.run(main())


def test_a_task_factory_need_not_know_of_contexts() -> None:
    mine = create_cache().for_current_tenant()

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=loop)

    async def main() -> None:
        with tenant("acme"):
            call = mine.afetch("k", whose)
        asyncio.get_running_loop().set_task_factory(factory)  # type: ignore[arg-type]
        assert await call == "acme"

    asyncio.run(main())


# Nothing keeps the context of a call for longer than the call takes.


class Request:
    """An object that a request keeps in its context."""


request: contextvars.ContextVar[Request] = contextvars.ContextVar("request")


def in_a_request(call: Callable[[], Any]) -> tuple[weakref.ref[Request], Any]:
    """Make a call in a context of its own that holds an object."""

    def handle() -> tuple[weakref.ref[Request], Any]:
        held = Request()
        request.set(held)
        return weakref.ref(held), call()

    return contextvars.Context().run(handle)


async def load() -> str:
    await asyncio.sleep(0)
    return "loaded"


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda ns: ns.afetch("k", load), id="afetch"),
        pytest.param(lambda ns: ns.arefresh("k", load), id="arefresh"),
        pytest.param(lambda ns: ns.afetch("k", load, timeout=3600), id="timeout"),
        pytest.param(lambda ns: ns.afetch_many(["k"], whose_many), id="afetch_many"),
        pytest.param(lambda ns: ns.cached()(load)(), id="cached"),
    ],
)
def test_a_loop_keeps_no_context_of_a_call(call: Callable[[Namespace[Any]], Any]) -> None:
    cache = create_cache()

    async def handle() -> weakref.ref[Request]:
        held = Request()
        request.set(held)
        await call(cache.namespace("tenant"))
        return weakref.ref(held)

    async def main() -> None:
        first = await asyncio.create_task(handle())
        await settle()
        gc.collect()
        assert first() is None

    asyncio.run(main())


def test_a_waiter_s_timer_keeps_no_context() -> None:
    """A loop holds a timer until its time has come, also when it was cancelled."""
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate()
        leader = asyncio.create_task(cache.afetch("k", gate))  # type: ignore[arg-type]
        await gate.begun.wait()

        async def handle() -> weakref.ref[Request]:
            held = Request()
            request.set(held)
            await cache.afetch("k", load, timeout=3600)
            return weakref.ref(held)

        waiter = asyncio.create_task(handle())
        await settle()
        gate.open.set()
        watched = await waiter
        await leader
        del waiter
        await settle()
        gc.collect()
        assert watched() is None

    asyncio.run(main())


def test_the_threads_of_the_background_keep_no_context() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=True)
    clock.advance(11)
    done = threading.Event()

    def load() -> str:
        done.set()
        return "new"

    watched, got = in_a_request(lambda: cache.fetch("k", load, stale=True))
    assert got == "old"
    assert done.wait(30)
    deadline = threading.Event()
    for _ in range(3000):
        gc.collect()
        if watched() is None:
            break
        deadline.wait(0.01)
    assert watched() is None


def test_the_sweeper_keeps_no_context() -> None:
    watched, cache = in_a_request(lambda: create_cache(sweep_interval=3600))
    gc.collect()
    assert watched() is None
    cache.close()
