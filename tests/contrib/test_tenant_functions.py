"""Functions with a tenant in each call, and functions carried into threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from flowcache import InvalidNamespaceError, create_cache
from flowcache.tenancy import carry, current_tenant, no_tenant, tenant
from harness.tenant_support import in_a_thread, now, rows

pytestmark = pytest.mark.usefixtures("none_before_and_after")


# Decorators


def test_a_decorated_function_has_its_tenant_in_each_call() -> None:
    @tenant("acme")
    def seen(depth: int = 0) -> list[Any]:
        """Return the current tenant."""
        return [now(), *(seen(depth - 1) if depth else ())]

    assert seen(2) == ["acme"] * 3
    assert (seen.__name__, seen.__doc__) == ("seen", "Return the current tenant.")
    with tenant("beta"):
        assert seen() == ["acme"]
        assert no_tenant()(now)() is None
        assert now() == "beta"
    assert in_a_thread(seen) == ["acme"]


def test_a_decorated_coroutine_function_has_it_wherever_it_is_awaited() -> None:
    @tenant("acme")
    async def seen() -> list[Any]:
        before = now()
        await asyncio.sleep(0)
        return [before, now()]

    @tenant("acme")
    def indirectly() -> Any:
        return seen.__wrapped__()

    async def main() -> None:
        made = [seen(), indirectly()]
        with tenant("beta"):
            assert await asyncio.gather(*made) == [["acme", "acme"]] * 2
            assert await seen() == ["acme", "acme"]
            assert now() == "beta"

    asyncio.run(main())
    assert asyncio.iscoroutinefunction(seen)


def test_methods_can_be_decorated() -> None:
    class Service:
        @tenant("acme")
        def plain(self) -> Any:
            return now()

        @tenant("acme")
        @staticmethod
        def static() -> Any:
            return now()

        @tenant("acme")
        @classmethod
        def of_class(cls) -> Any:
            assert cls is Service
            return now()

    service = Service()
    assert service.plain() == service.static() == service.of_class() == Service.static() == "acme"


def behind_a_plain_one(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return function(*args)

    return call


async def pages() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [rows, pages, partial(rows, "acme")])
def test_generators_are_refused_at_once_and_behind_a_plain_function_when_they_return(
    function: Any,
) -> None:
    for decorate in (tenant("acme"), no_tenant(), carry):
        with pytest.raises(TypeError, match=r"^function: is a.* generator function"):
            decorate(function)
        hidden: Any = decorate(behind_a_plain_one(function))
        with pytest.raises(TypeError, match=r"^function: returned a generator"):
            hidden(*(["acme"] if function is rows else []))


class Compiled(Coroutine[Any, Any, Any]):
    """A coroutine of another type than CPython's, as compiled code makes them."""

    def send(self, value: Any) -> Any:
        raise StopIteration(now())

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def __await__(self) -> Generator[Any, Any, Any]:
        yield from ()
        return now()

    def close(self) -> None:
        """There is nothing to end."""


class CompiledGenerator(Generator[Any, Any, Any]):
    def send(self, value: Any) -> Any:
        return now()

    def throw(self, *error: Any) -> Any:
        raise error[0]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (CompiledGenerator, "generator"),
        (lambda: map(now, []), "map"),
        (lambda: filter(now, []), "filter"),
    ],
    ids=["compiled", "map", "filter"],
)
def test_all_that_runs_after_the_call_is_refused(make: Callable[[], Any], kind: str) -> None:
    async def awaited() -> Any:
        return make()

    said = f"^function: returned a {kind}, whose body runs"
    for decorate in (tenant("acme"), no_tenant(), carry):
        with pytest.raises(TypeError, match=said):
            decorate(behind_a_plain_one(make))()
    for function in (awaited, behind_a_plain_one(awaited)):
        with pytest.raises(TypeError, match=said):
            asyncio.run(tenant("acme")(function)())


def test_a_coroutine_of_compiled_code_has_the_tenant_of_its_call() -> None:
    made = tenant("acme")(behind_a_plain_one(Compiled))()
    with tenant("beta"):
        assert asyncio.run(made) == "acme"
    with pytest.raises(TypeError, match=r"^function: returned a coroutine"):
        carry(behind_a_plain_one(Compiled))()


def test_a_twin_knows_its_context_behind_carry() -> None:
    with create_cache() as cache:
        mine = cache.for_current_tenant()
        with tenant("acme"):
            mine["plan"] = "gold"
            ask = carry(lambda: mine.aget("plan"))
        with tenant("beta"):
            assert asyncio.run(ask()) == "gold"


@pytest.mark.parametrize("wrong", [None, "acme", 7, int])
def test_what_is_no_function_is_not_decorated(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^function: must be a function, got"):
        tenant("acme")(wrong)


@pytest.mark.parametrize("wrong", ["", " acme", "a" * 257])
def test_a_name_is_checked_when_the_block_is_made(wrong: str) -> None:
    with pytest.raises(InvalidNamespaceError, match=r"^tenant: "):
        tenant(wrong)


# Threads


def test_carry_takes_the_context_of_its_moment_into_threads() -> None:
    other: contextvars.ContextVar[str] = contextvars.ContextVar("other", default="none")
    both = threading.Barrier(2)

    def work(value: int, *, wait: bool = False) -> tuple[Any, str, int]:
        """Work."""
        if wait:
            both.wait(60)  # two threads are in the carried function at once
        seen = now(), other.get(), value
        current_tenant.set("own")
        other.set("own")
        return seen

    def make() -> Callable[..., Any]:
        other.set("some")
        with tenant("acme"):
            return carry(work)

    carried = contextvars.copy_context().run(make)
    assert carried.__doc__ == "Work."
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.append(carried(1, wait=True))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with ThreadPoolExecutor(1) as pool, tenant("beta"):
        seen.append(pool.submit(carried, 1).result(60))
        seen.append(pool.submit(contextvars.Context().run, now).result(60))
        assert (now(), other.get()) == ("beta", "none")
    assert seen == [("acme", "some", 1)] * 3 + [None]


def test_carry_refuses_what_would_run_elsewhere() -> None:
    async def work() -> None:
        """Never runs."""

    with pytest.raises(TypeError, match=r"^function: must be callable, got NoneType"):
        carry(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^function: is a coroutine"):
        carry(work)
    with pytest.raises(TypeError, match=r"^function: returned a coroutine"):
        carry(behind_a_plain_one(work))()
