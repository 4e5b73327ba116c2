"""The tenant of tasks, of tokens, and the references that blocks keep."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache import TenantScopeWarning
from flowcache.tenancy import current_tenant, tenant
from harness.tenant_support import MENDS, now, rows, warns

pytestmark = pytest.mark.usefixtures("none_before_and_after")


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

    finalised = asyncio.Event()

    async def child() -> Any:
        await finalised.wait()
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
            finalised.set()
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
    assert {warning.filename for warning in caught} == {rows.__code__.co_filename}


def with_collections_everywhere(run: Callable[[], None], most: int) -> None:
    """Call `run` in contexts of its own, with collections after each allocation, each other, ..."""
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()  # A collection looks at no more than `run` makes.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TenantScopeWarning)
            for allocations in range(1, most):
                gc.set_threshold(allocations)
                contextvars.copy_context().run(run)
    finally:
        gc.set_threshold(*threshold)


def leave_to_the_collector(generator: Iterator[Any]) -> None:
    """Begin a generator, and leave it in a ring of references."""
    ring: list[Any] = [generator]
    ring.append(ring)
    next(generator)


def test_collections_within_the_beginning_and_the_end_of_a_block_change_nothing() -> None:
    """Before 3.12 each allocation may collect a generator, whose block ends there and then."""

    def abandon(turn: int) -> None:
        leave_to_the_collector(rows(f"lost{turn}"))

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

    with_collections_everywhere(run, 8)


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
            leave_to_the_collector(abandoned(f"t{turn}"))
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

    with_collections_everywhere(run, 12)
    assert caught or sys.version_info >= (3, 12)
