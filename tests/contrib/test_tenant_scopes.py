"""Blocks with a tenant: their ends in order, out of order, in other contexts."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import TenantNotSetError
from flowcache.tenancy import current_tenant, no_tenant, tenant
from harness.tenant_support import MENDS, in_a_thread, now, rows, warns

pytestmark = pytest.mark.usefixtures("none_before_and_after")


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
