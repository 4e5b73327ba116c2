"""An awaitable twin works in the context of the moment at which it is called.

Each is made under one tenant and awaited under another. The user's code that it runs (a callable
TTL, a weigher, a listener) sees the tenant for which the call was made.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from flowcache import coroutines, create_cache
from flowcache.tenancy import current_tenant, tenant

Seen = list[str]


def sees(seen: Seen, result: Any) -> Callable[..., Any]:
    def see(*_: Any) -> Any:
        seen.append(current_tenant.get("none"))
        return result

    return see


STORES: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
    "aset": lambda ns, ttl: ns.aset("k", 1, ttl=ttl),
    "aadd": lambda ns, ttl: ns.aadd("k", 1, ttl=ttl),
    "aset_many": lambda ns, ttl: ns.aset_many({"k": 1}, ttl=ttl),
}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_a_callable_ttl_sees_the_tenant_of_the_call(make: Callable[..., Awaitable[Any]]) -> None:
    seen: Seen = []
    with create_cache() as cache:

        async def run() -> None:
            with tenant("acme"):
                awaitable = make(cache.for_current_tenant(), sees(seen, 60))
            with tenant("beta"):
                await awaitable

        asyncio.run(run())
        assert seen == ["acme"]
        assert list(cache.namespaces()) == ["tenant:acme"]


def test_a_weigher_and_listeners_see_it_as_well() -> None:
    weighs: Seen = []
    hears: Seen = []
    with create_cache(weigher=sees(weighs, 1)) as cache:
        mine = cache.for_current_tenant()
        cache.subscribe(sees(hears, None), kinds=("set", "hit", "miss"))

        async def run() -> None:
            with tenant("acme"):
                made = [
                    mine.aset("k", 1),
                    mine.aincr("n"),
                    mine.asetdefault("d", 1),
                    mine.aget("k"),
                    mine.apop("k"),
                    mine.adelete("n"),
                    mine.aclear(),
                ]
            with tenant("beta"):
                for one in made:
                    await one

        asyncio.run(run())
    assert set(weighs) == {"acme"} and len(weighs) == 3
    assert set(hears) == {"acme"}


def test_a_twin_changes_no_variable_of_its_caller() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="before")

    def ttl(_: Any) -> float:
        variable.set("in the call")
        return 60

    with create_cache() as cache:

        async def run() -> None:
            await cache.namespace("a").aset("k", 1, ttl=ttl)
            assert variable.get() == "before"

        asyncio.run(run())


def test_twins_go_wherever_coroutines_go() -> None:
    with create_cache() as cache:
        ns = cache.namespace("a")

        async def run() -> None:
            await asyncio.gather(ns.aset("a", 1), asyncio.create_task(ns.aset("b", 2)))
            task = asyncio.create_task(ns.aget("a"), name="twin")
            assert "Namespace.aget" in repr(task)
            assert await asyncio.wait_for(task, 30) == 1
            async with asyncio.TaskGroup() as group:
                one = group.create_task(ns.aget_many(["a", "b"]))
            assert one.result() == {"a": 1, "b": 2}

        asyncio.run(run())
        assert asyncio.run(ns.aget("b")) == 2


@pytest.mark.parametrize("module", ["inspect", "asyncio"])
def test_twins_are_coroutine_functions_for_each_module_that_tells(module: str) -> None:
    """flowcache is imported first: marks that need the module would be missing."""
    program = (
        "import flowcache, sys\n"
        f"import {module}\n"
        "ns = flowcache.create_cache().namespace('a')\n"
        "cached = ns.cached(abs)\n"
        "for twin in (ns.aget, type(ns).aset, ns.aclear, cached.ainvalidate):\n"
        f"    assert {module}.iscoroutinefunction(twin), twin\n"
        f"assert not {module}.iscoroutinefunction(ns.get)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_wrong_arguments_raise_at_the_call() -> None:
    with create_cache() as cache, pytest.raises(TypeError, match="aget"):
        cache.namespace("a").aget()


def test_a_twin_that_is_not_awaited_warns_by_its_name_and_does_nothing() -> None:
    with create_cache() as cache:
        ns = cache.namespace("a")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ns.aset("k", 1)
            gc.collect()
        assert [str(one.message) for one in caught] == [
            "coroutine 'Namespace.aset' was never awaited"
        ]
        awaitable = ns.aset("k", 1)
        awaitable.close()
        assert "k" not in ns


class TestCoroutinesAtTheCall:
    """`at_call`, which the twins, the cached functions and the integrations are made with."""

    def test_what_it_awaits_answers_in_its_context(self) -> None:
        seen: Seen = []

        @coroutines.at_call
        async def call(gate: asyncio.Future[str]) -> str:
            seen.append(current_tenant.get("none"))
            answer = await gate
            seen.append(current_tenant.get("none"))
            await asyncio.sleep(0)
            seen.append(current_tenant.get("none"))
            return answer

        async def run() -> None:
            gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            with tenant("acme"):
                awaitable = call(gate)
            asyncio.get_running_loop().call_soon(gate.set_result, "answer")
            with tenant("beta"):
                assert await awaitable == "answer"

        asyncio.run(run())
        assert seen == ["acme"] * 3

    def test_an_error_and_a_cancellation_reach_it(self) -> None:
        ends: list[str] = []

        @coroutines.at_call
        async def call() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append(current_tenant.get("none"))
                raise ValueError("instead") from None

        async def run() -> None:
            with tenant("acme"):
                task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(ValueError, match="instead"):
                await task

        asyncio.run(run())
        assert ends == ["acme"]

    def test_its_end_before_its_time_runs_in_its_context(self) -> None:
        ends: list[str] = []

        @coroutines.at_call
        async def call() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ends.append(current_tenant.get("none"))

        async def run() -> None:
            with tenant("acme"):
                awaitable = call()
            awaitable.send(None)
            with tenant("beta"):
                awaitable.close()

        asyncio.run(run())
        assert ends == ["acme"]

    def test_it_is_no_iterator(self) -> None:
        """A loop over a call that lacks its `await` is an error, and not an empty loop."""
        with create_cache() as cache:
            awaitable: Any = cache.namespace("a").aget_many(["k"])
            for take in (iter, list, dict, next):
                with pytest.raises(TypeError):
                    take(awaitable)
            awaitable.close()

    def test_it_can_be_referred_to_weakly(self) -> None:
        with create_cache() as cache:
            awaitable = cache.namespace("a").aget("k")
            reference = weakref.ref(awaitable)
            assert reference() is awaitable
            awaitable.close()
            del awaitable
            assert reference() is None

    def test_a_debugger_finds_its_frame_through_those_that_await_it(self) -> None:
        @coroutines.at_call
        async def call() -> None:
            await asyncio.sleep(0)

        async def outer() -> None:
            await call()

        outermost: Any = outer()
        outermost.send(None)
        assert outermost.cr_await.cr_frame.f_code.co_name == "call"
        outermost.close()

    def test_its_function_is_known_as_async(self) -> None:
        with create_cache() as cache:
            ns = cache.namespace("a")
            assert coroutines.is_async(ns.aget)
            assert coroutines.is_async(partial(ns.aget, "k"))
            with pytest.raises(TypeError, match="tags: must be a plain function"):
                ns.wrap(str, tags=partial(ns.aget, "k"))
