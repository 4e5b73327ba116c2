"""Blocks of `tenant()`: each end removes its own block only, at any place."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import itertools
import pickle
import sys
import sysconfig
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache import InvalidNamespaceError, TenantNotSetError, TenantScopeWarning
from flowcache.tenancy import carry, current_tenant, no_tenant, tenant

MENDS = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether the end of a block changes a context of another thread."""

warns = partial(pytest.warns, TenantScopeWarning)


def now() -> Any:
    return current_tenant.get(None)


def rows(name: str) -> Iterator[str]:
    """A generator with a `yield` within its block, a case that flowcache cannot correct."""
    with tenant(name):
        yield current_tenant.get()
        yield current_tenant.get()


def in_a_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(60)


@pytest.fixture(autouse=True)
def none_before_and_after() -> Iterator[None]:
    gc.collect()
    assert now() is None
    yield
    assert now() is None


# Ends in order


def test_blocks_nest_and_end_with_an_exception() -> None:
    with tenant("acme") as name, tenant("beta"):
        assert (name, now()) == ("acme", "beta")
    with tenant("acme"):
        with pytest.raises(ZeroDivisionError), tenant("beta"):
            raise ZeroDivisionError
        assert now() == "acme"


def test_a_block_begins_once_and_ends_once() -> None:
    block = tenant("acme")
    with pytest.raises(RuntimeError, match="not open"):
        block.__exit__(None, None, None)
    with block, pytest.raises(RuntimeError, match="begins once"):
        block.__enter__()
    for call in (block.__enter__, lambda: block.__exit__(None, None, None)):
        with pytest.raises(RuntimeError):
            call()


def test_no_tenant_is_none_though_the_block_around_has_one() -> None:
    with tenant("acme"), no_tenant() as nothing:
        assert nothing is None
        assert current_tenant.get("default") == "default"
        with pytest.raises(TenantNotSetError):
            current_tenant.get()
        with tenant("beta"):
            assert now() == "beta"
        assert now() is None


# Ends out of order


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_innermost_block_that_is_open_is_current_in_whatever_order_they_end(
    order: tuple[int, ...],
) -> None:
    blocks = [tenant(f"t{number}") for number in range(3)] + [no_tenant()]
    tenants = ["t0", "t1", "t2", None]
    for block in blocks:
        block.__enter__()
    still_open = list(range(4))
    for number in order:
        is_innermost = still_open[-1] == number
        with contextlib.nullcontext() if is_innermost else warns(match="before one that began"):
            blocks[number].__exit__(None, None, None)
        still_open.remove(number)
        assert now() == (tenants[still_open[-1]] if still_open else None)


def test_an_exit_stack_that_outlives_the_block_leaves_it_in_order() -> None:
    with contextlib.ExitStack() as stack:
        with warns(), tenant("acme"):
            stack.enter_context(tenant("beta"))
        assert now() == "beta"
        with tenant("gamma"):
            pass
        assert now() == "beta"


def test_generators_that_end_in_the_order_in_which_they_began() -> None:
    one, two = rows("acme"), rows("beta")
    assert (next(one), next(two)) == ("acme", "beta")
    with warns():
        one.close()
    assert now() == "beta"
    two.close()


def test_a_generator_that_is_collected_leaves_the_running_block_alone() -> None:
    class Request:
        rows: Any
        me: Any

    def abandon() -> None:
        request = Request()
        request.me = request
        request.rows = rows("acme")
        next(request.rows)

    with warns(), tenant("gamma"):  # ends before the generator, which began in it
        abandon()
    with tenant("beta"):
        with warns():
            gc.collect()
        assert now() == "beta"


def test_a_copy_made_before_an_end_out_of_order_keeps_the_tenant() -> None:
    one, two = tenant("acme"), tenant("beta")
    one.__enter__()
    from_one = contextvars.copy_context()
    two.__enter__()
    from_two = contextvars.copy_context()
    with warns():
        one.__exit__(None, None, None)
    two.__exit__(None, None, None)
    assert (from_one.run(now), from_two.run(now)) == ("acme", "beta")


# Ends in another context


def run_beside(end: Callable[[], None]) -> None:
    contextvars.copy_context().run(end)


def run_in_empty(end: Callable[[], None]) -> None:
    contextvars.Context().run(end)


@pytest.mark.parametrize("elsewhere", [run_beside, run_in_empty, in_a_thread])
@pytest.mark.parametrize("is_entered", [False, True])
def test_an_end_in_another_context_ends_the_block_in_its_own(
    elsewhere: Callable[[Callable[[], None]], None], is_entered: bool
) -> None:
    def begin_and_end() -> None:
        with tenant("beta"):
            suspended = rows("acme")
            next(suspended)
            inherited = contextvars.copy_context()
            with warns(match="another context"):
                elsewhere(suspended.close)
            later = contextvars.copy_context()
            if MENDS and not is_entered:
                assert (inherited.run(now), later.run(now)) == ("acme", "beta")
            else:
                # The one was made within the block, the other after it. Nothing tells them apart.
                assert (inherited.run(now), later.run(now)) == (None, None)
            assert now() == "beta"
            assert contextvars.copy_context().run(now) == "beta"

    if is_entered:
        contextvars.copy_context().run(begin_and_end)
    else:
        begin_and_end()


def test_a_tenant_set_by_hand_in_a_copy_outlives_a_block_that_is_lost() -> None:
    def begin_and_end() -> None:
        suspended = rows("acme")
        next(suspended)
        inherited, other = contextvars.copy_context(), contextvars.copy_context()
        token = inherited.run(current_tenant.set, "own")
        with warns():
            contextvars.Context().run(suspended.close)
        assert (inherited.run(now), other.run(now), now()) == ("own", None, None)
        inherited.run(current_tenant.reset, token)
        assert inherited.run(now) is None

    contextvars.copy_context().run(begin_and_end)


def test_a_block_of_a_context_that_is_gone_ends_and_its_copies_go_on() -> None:
    context = contextvars.Context()
    suspended = rows("acme")
    context.run(next, suspended)
    inherited = context.run(contextvars.copy_context)
    del context
    with tenant("beta"):
        with warns(match="another context"):
            suspended.close()
        assert (now(), inherited.run(now)) == ("beta", "acme")


def test_ends_in_another_context_while_blocks_are_open_within() -> None:
    context = contextvars.Context()
    suspended, inner = rows("acme"), rows("beta")
    assert (context.run(next, suspended), context.run(next, inner)) == ("acme", "beta")
    with warns():
        suspended.close()
    assert context.run(now) == "beta"
    context.run(inner.close)
    assert context.run(now) is None


def carried_back(function: Callable[[], Any]) -> Any:
    """Call a function in a copied context, and copy its changes back, as asgiref does."""
    context = contextvars.copy_context()
    made = context.run(function)
    for variable, value in context.items():
        if variable.get() != value:
            variable.set(value)
    return made


def test_blocks_in_a_context_whose_changes_are_carried_back_change_nothing() -> None:
    def use() -> str:
        with tenant("inner"), no_tenant(), tenant("innermost"):
            carried_back(tenant("more")(now))
            return current_tenant.get()

    with tenant("outermost"):
        with tenant("outer"):
            with tenant("own"):
                assert carried_back(use) == "innermost"
                assert now() == "own"
                assert carried_back(lambda: carried_back(use)) == "innermost"
            assert now() == "outer"
            token = current_tenant.set("set")
            assert carried_back(use) == "innermost"
            assert now() == "set"
            current_tenant.reset(token)
            assert now() == "outer"
            carried_back(lambda: current_tenant.set("set there"))
            assert now() == "set there"
            assert carried_back(use) == "innermost"
        assert now() == "outermost"


def test_a_block_left_out_of_order_does_not_come_back_with_the_end_of_one_within() -> None:
    def run() -> None:
        one, two = tenant("one"), tenant("two")
        one.__enter__()
        two.__enter__()
        with tenant("within"), warns():
            one.__exit__(None, None, None)
        two.__exit__(None, None, None)
        assert now() == around

    for around in (None, "around"):
        if around is None:
            contextvars.Context().run(run)
        else:
            with tenant(around):
                run()
                contextvars.copy_context().run(run)


# Tasks


def test_a_task_keeps_the_tenant_of_the_block_that_made_it() -> None:
    async def late(gate: asyncio.Event) -> Any:
        await gate.wait()
        with tenant("own"):
            await asyncio.sleep(0)
        return now()

    async def main() -> None:
        gate = asyncio.Event()
        tasks = []
        with tenant("acme"):
            tasks.append(asyncio.create_task(late(gate)))
            with tenant("beta"):
                tasks.append(asyncio.create_task(late(gate)))
            tasks.append(asyncio.create_task(late(gate)))
        gate.set()
        with tenant("gamma"):
            assert await asyncio.gather(*tasks) == ["acme", "beta", "acme"]
            assert now() == "gamma"

    asyncio.run(main())


def test_an_async_generator_that_the_loop_finalises_leaves_the_task_its_tenant() -> None:
    children = []

    async def pages(name: str) -> AsyncIterator[str]:
        with tenant(name):
            children.append(asyncio.create_task(child()))
            yield current_tenant.get()
            yield current_tenant.get()

    async def child() -> Any:
        await asyncio.sleep(0.02)
        return now()

    async def main() -> None:
        with tenant("beta"):
            async for page in pages("acme"):
                assert page == "acme"
                break
            with warns(match="another context"):
                while now() != "beta":
                    gc.collect()
                    await asyncio.sleep(0)
            assert await asyncio.create_task(child()) == "beta"
        assert await children[0] == ("acme" if MENDS else None)

    asyncio.run(main())


def test_cancelled_tasks_end_their_blocks() -> None:
    async def wait(seen: list[Any]) -> None:
        try:
            with tenant("acme"):
                await asyncio.Event().wait()
        finally:
            seen.append(now())

    async def main() -> None:
        seen: list[Any] = []
        with tenant("beta"):
            tasks = [asyncio.create_task(wait(seen)) for _ in range(3)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert seen == ["beta"] * 3

    asyncio.run(main())


def test_a_task_that_its_loop_left_behind_is_collected_without_a_trace() -> None:
    async def stuck() -> None:
        with tenant("acme"):
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
    task = loop.create_task(stuck())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    with tenant("beta"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del task
            gc.collect()
        assert [warning.category for warning in caught] == [TenantScopeWarning]
        assert now() == "beta"


# set and reset


def test_a_set_lasts_until_the_block_ends_or_its_token_is_reset() -> None:
    with tenant("acme"):
        token = current_tenant.set("beta")
        assert (now(), token.old_value, token.var) == ("beta", "acme", current_tenant)
        with tenant("gamma"):
            current_tenant.set("delta")
            assert now() == "delta"
        assert now() == "beta"
        current_tenant.reset(token)
        assert now() == "acme"
        late = current_tenant.set("beta")
    assert now() is None
    with warns(match="reset"):
        current_tenant.reset(late)


def test_a_reset_beneath_an_open_block_leaves_that_alone() -> None:
    token = current_tenant.set("acme")
    with tenant("beta"):
        with warns(match="reset"):
            current_tenant.reset(token)
        assert now() == "beta"
    assert now() is None


def test_wrong_tokens_are_refused() -> None:
    token = current_tenant.set("acme")
    assert token.old_value is contextvars.Token.MISSING
    with pytest.raises(ValueError, match="different context"):
        contextvars.copy_context().run(current_tenant.reset, token)
    with pytest.raises(TypeError, match=r"^token: must be a TenantToken, got Token"):
        current_tenant.reset(contextvars.ContextVar("other").set(1))  # type: ignore[arg-type]
    current_tenant.reset(token)
    with pytest.raises(RuntimeError, match="already been used"):
        current_tenant.reset(token)
    assert "used" in repr(token)


@given(st.lists(st.tuples(st.sampled_from(["set", "get", "reset", "copy"]), st.integers(0, 5))))
def test_without_blocks_it_is_a_context_variable(steps: list[tuple[str, int]]) -> None:
    real: contextvars.ContextVar[str] = contextvars.ContextVar("real")
    contexts = [contextvars.Context()]
    tokens: list[tuple[Any, Any]] = []

    def outcome(context: contextvars.Context, call: Callable[..., Any], *given: Any) -> Any:
        try:
            made = context.run(call, *given)
        except (LookupError, RuntimeError, ValueError) as error:
            return LookupError if isinstance(error, LookupError) else type(error)
        return made

    for step, number in steps:
        context = contexts[number % len(contexts)]
        if step == "copy":
            contexts.append(context.copy())
        elif step == "set":
            pair = tuple(context.run(one.set, f"t{number}") for one in (current_tenant, real))
            assert pair[0].old_value == pair[1].old_value
            tokens.append(pair)
        elif step == "reset" and tokens:
            ours, theirs = tokens[number % len(tokens)]
            assert outcome(context, current_tenant.reset, ours) == outcome(
                context, real.reset, theirs
            )
        for one in contexts:
            assert outcome(one, current_tenant.get) == outcome(one, real.get)
            assert one.run(current_tenant.get, 0) == one.run(real.get, 0)


def test_the_variable_and_its_parts_are_what_they_are() -> None:
    assert current_tenant.name == "current_tenant"
    assert "current_tenant" in repr(current_tenant)
    for again in (copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
        assert again(current_tenant) is current_tenant
    for made in (type(current_tenant), type(contextvars.Context().run(current_tenant.set, "x"))):
        with pytest.raises(TypeError):
            made()


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


# References that remain


def scopes_alive() -> int:
    gc.collect()
    return sum(type(one).__name__ in ("Scope", "TenantToken", "Block") for one in gc.get_objects())


def test_a_chain_of_tasks_each_begun_in_the_block_of_the_one_before_keeps_one_scope() -> None:
    counts = []

    async def main() -> None:
        done = asyncio.get_running_loop().create_future()

        def tick(left: int) -> None:
            if left % 100 == 0:
                counts.append(scopes_alive())
            with tenant(f"t{left % 7}"):
                if left:
                    asyncio.get_running_loop().call_soon(tick, left - 1)
                else:
                    done.set_result(None)

        tick(500)
        await done

    asyncio.run(main())
    assert max(counts) <= min(counts[1:]) + 2


def test_a_tenant_set_again_and_again_leaves_nothing() -> None:
    def run() -> None:
        before = scopes_alive()
        with tenant("acme"):
            for number in range(1_000):
                current_tenant.set(f"t{number}")
        for number in range(1_000):
            current_tenant.set(f"t{number}")
        assert scopes_alive() <= before + 2

    contextvars.copy_context().run(run)


def test_what_a_warning_says_does_not_grow_with_the_tenants() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(20):
            one, two = rows(f"t{number}"), rows(f"u{number}")
            assert [next(one), next(two)] == [f"t{number}", f"u{number}"]
            one.close()
            two.close()
            three = rows(f"t{number}")
            contextvars.copy_context().run(next, three)
            three.close()
    assert len(caught) == 40
    assert len({str(warning.message) for warning in caught}) == 2
    assert {warning.filename for warning in caught} == {__file__}


def test_collections_within_the_beginning_and_the_end_of_a_block_change_nothing() -> None:
    """Before 3.12 each allocation may collect a generator, whose block ends there and then."""

    def abandon(depth: int) -> None:
        loop: list[Any] = [rows(f"lost{depth}")]
        loop.append(loop)
        next(loop[0])

    def run() -> None:
        for turn in range(300):
            abandon(turn)
            with tenant("acme"):
                assert now() == "acme"
                abandon(turn)
                with tenant("beta"):
                    assert now() == "beta"
                token = current_tenant.set("gamma")
                assert now() == "gamma"
                if turn % 2:
                    abandon(turn)
                    current_tenant.reset(token)
            gc.collect()
            assert now() is None

    before = gc.get_threshold()
    gc.freeze()  # so that a collection looks at no more than this test
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TenantScopeWarning)
            for threshold in range(1, 8):
                gc.set_threshold(threshold)
                contextvars.copy_context().run(run)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_a_block_that_a_collection_ends_within_the_change_of_another_variable_stays_ended() -> None:
    """Before 3.12 CPython forgets there what a finalizer changed, and reads what it dropped."""
    variables = [contextvars.ContextVar[int](f"other{number}") for number in range(40)]
    ended: list[str] = []
    caught = 0

    def abandoned(name: str) -> Iterator[None]:
        try:
            with tenant(name):
                yield
        finally:
            ended.append(name)

    def run() -> None:
        nonlocal caught
        for turn in range(200):
            loop: list[Any] = [abandoned(f"t{turn}")]
            loop.append(loop)
            next(loop[0])
            del loop
            for variable in variables:
                before = len(ended)
                variable.set(turn)
                caught += len(ended) > before
                if f"t{turn}" in ended[-1:]:
                    assert now() is None
                    assert contextvars.copy_context().run(now) is None
                    break
            gc.collect()
            assert now() is None

    before = gc.get_threshold()
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TenantScopeWarning)
            for threshold in range(1, 12):
                gc.set_threshold(threshold)
                contextvars.copy_context().run(run)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    assert caught or sys.version_info >= (3, 12)
