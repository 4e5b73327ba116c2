"""A `BaseException` that is no `Exception` ends the leading call alone; a waiter leads next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, create_cache
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    needs_greenlets,
    settle,
    until,
    wait_until,
)
from harness.support import logged, new_cache, run_isolated


class Foreign(BaseException):
    """Such as a framework makes to end what runs, and not for a handler of errors."""


INTERRUPTS = [Foreign, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
IN_A_TASK = [Foreign, GeneratorExit, asyncio.CancelledError]
"""The other two end the loop, as they do in any task."""

Ask = Callable[[Cache[Any], Callable[[], Any]], Any]
CALLS: dict[str, Ask] = {
    "fetch": lambda cache, load: cache.fetch("k", load),
    "fetch with a time-out": lambda cache, load: cache.fetch("k", load, timeout=60),
    "fetch_many": lambda cache, load: cache.fetch_many(["k"], lambda _: {"k": load()})["k"],
    "cached": lambda cache, load: cache.cached(key="k")(load)(),
}
ASYNC_CALLS: dict[str, Ask] = {
    "afetch": lambda cache, load: cache.afetch("k", load),
    "fetch": lambda cache, load: cache.fetch("k", load),
    "afetch with a time-out": lambda cache, load: cache.afetch("k", load, timeout=60),
    "cached": lambda cache, load: cache.cached(key="k")(load)(),
}


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_a_thread_that_waits_leads_next(ask: Ask, interrupt: type[BaseException]) -> None:
    cache = create_cache()
    gate = Gate(interrupt())
    second = Gate("second")
    second.open.set()
    leader = Caller(lambda: ask(cache, gate))
    assert gate.begun.wait(30)
    waiters = [Caller(lambda: ask(cache, second)) for _ in range(5)]
    wait_until(lambda: cache.stats().coalesced == 5)
    gate.open.set()
    with pytest.raises(interrupt):
        leader.result()
    assert [waiter.result() for waiter in waiters] == ["second"] * 5
    assert (gate.calls, second.calls) == (1, 1)
    assert (cache.stats().loads, cache.stats().load_failures) == (1, 0)
    assert_nothing_left(cache)


def test_so_does_a_call_that_refreshes() -> None:
    cache = create_cache()
    cache.set("k", "old")
    gate = Gate(Foreign())
    leader = Caller(lambda: cache.refresh("k", gate))
    assert gate.begun.wait(30)
    waiter = Caller(lambda: cache.refresh("k", lambda: "second"))
    gate.open.set()
    with pytest.raises(Foreign):
        leader.result()
    assert waiter.result() == cache.get("k") == "second"


@pytest.mark.parametrize("ask", ASYNC_CALLS.values(), ids=ASYNC_CALLS)
@pytest.mark.parametrize("interrupt", IN_A_TASK)
def test_a_task_that_waits_leads_next(ask: Ask, interrupt: type[BaseException]) -> None:
    cache = create_cache()

    async def main() -> None:
        gate, second = AsyncGate(interrupt()), AsyncGate("second")
        second.open.set()
        leader = asyncio.ensure_future(call(ask(cache, gate)))
        await gate.begun.wait()
        waiters = [asyncio.ensure_future(call(ask(cache, second))) for _ in range(5)]
        await until(lambda: cache.stats().coalesced == 5)
        gate.open.set()
        assert await asyncio.gather(*waiters) == ["second"] * 5
        assert type(await leader) is interrupt
        assert (gate.calls, second.calls) == (1, 1)
        assert (cache.stats().loads, cache.stats().load_failures) == (1, 0)

    async def call(awaitable: Any) -> Any:
        try:
            return await awaitable
        except BaseException as error:
            return error

    asyncio.run(main())
    assert_nothing_left(cache)


def test_an_interrupt_in_a_part_of_a_batch_is_the_leader_s_alone() -> None:
    """The loader's mapping runs code of its own, for each key."""
    cache = create_cache()

    class Strange(dict[str, str]):
        def __getitem__(self, key: str) -> str:
            if key == "b":
                raise Foreign
            return super().__getitem__(key)

    gate = Gate(Strange(a="A", b="B"))
    leader = Caller(lambda: cache.fetch_many(["a", "b"], lambda keys: gate()))
    assert gate.begun.wait(30)
    waiters = [Caller(lambda: cache.fetch("a", lambda: "own")) for _ in range(2)]
    waiters += [Caller(lambda: cache.fetch("b", lambda: "own")) for _ in range(2)]
    wait_until(lambda: cache.stats().coalesced == 4)
    gate.open.set()
    with pytest.raises(Foreign):
        leader.result()
    assert [waiter.result() for waiter in waiters] == ["A", "A", "own", "own"]
    assert cache.stats().pending == 0


def test_store_if_may_interrupt_as_well() -> None:
    cache = create_cache()
    gate = Gate("value")

    def store_if(value: str) -> bool:
        raise Foreign

    leader = Caller(lambda: cache.fetch("k", gate, store_if=store_if))
    assert gate.begun.wait(30)
    waiter = Caller(lambda: cache.fetch("k", lambda: "second"))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    with pytest.raises(Foreign):
        leader.result()
    assert waiter.result() == "second"


@pytest.mark.parametrize("where", ["thread", "task"])
def test_in_the_background_it_is_logged_and_the_key_backs_off(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=True)
    clock.advance(11)
    runs: list[int] = []

    def load() -> None:
        runs.append(1)
        raise Foreign

    async def main() -> None:
        assert await cache.afetch("k", load, stale=True) == "old"
        await settle()

    with caplog.at_level(logging.WARNING, "flowcache"):
        for count in (1, 2):
            if where == "thread":
                assert cache.fetch("k", load, stale=True) == "old"
                wait_until(lambda: cache.stats().pending == 0)
                assert cache.fetch("k", load, stale=True) == "old"
            else:
                asyncio.run(main())
                asyncio.run(main())
            wait_until(lambda: cache.stats().pending == 0)
            assert len(runs) == count
            clock.advance(1.5)
    assert ["interrupted by Foreign()" in one.getMessage() for one in logged(caplog)] == [True] * 2


@needs_greenlets
def test_what_ends_one_greenlet_ends_no_other() -> None:
    """Killed, and ended by its own time-out, where it leads and where it waits."""
    output = run_isolated(
        """
        from gevent import monkey
        monkey.patch_all()
        import gevent
        from flowcache import create_cache

        def ask(cache, *more):
            runs = []
            def load():
                runs.append(1)
                gevent.sleep(0.05)
                return "value"
            try:
                return cache.fetch("k", load, *more)
            except BaseException as error:
                return repr(error)

        def in_time(cache):
            with gevent.Timeout(0.02, False):
                return cache.fetch("k", lambda: gevent.sleep(1))
            return "timed out"

        for victim in ("leader", "waiter"):
            for end in (gevent.Greenlet.kill, None):
                cache = create_cache()
                first = gevent.spawn(in_time if victim == "leader" and not end else ask, cache)
                gevent.sleep(0.01)
                others = [gevent.spawn(ask, cache) for _ in range(2)]
                last = gevent.spawn(in_time if victim == "waiter" and not end else ask, cache)
                gevent.sleep(0)
                if end is not None:
                    end(first if victim == "leader" else last)
                gevent.joinall([first, last, *others], timeout=10)
                print(victim, [one.value for one in others], cache.stats().pending)
        """
    )
    assert (
        output.splitlines()
        == ["leader ['value', 'value'] 0"] * 2 + ["waiter ['value', 'value'] 0"] * 2
    )
