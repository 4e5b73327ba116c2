"""Loads of threads: one for all callers, and rings of loads that wait for each other."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import traceback
from collections import Counter
from typing import Any

import pytest

from flowcache import (
    RecursiveLoadError,
    create_cache,
)
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    joined,
    loop_thread,
    never,
    until,
    wait_until,
)
from harness.support import new_cache, run_isolated


def test_a_load_for_which_there_is_no_thread_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    cache, _ = new_cache()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            cache.fetch("k", never, timeout=5)
    assert_nothing_left(cache)
    assert cache.fetch("k", lambda: "loaded", timeout=5) == "loaded"


def test_the_last_to_give_up_cancels_the_task_that_loads_on_another_loop() -> None:
    cache = create_cache()
    led: list[asyncio.Task[Any]] = []
    gates: list[AsyncGate] = []

    async def lead() -> None:
        gates.append(AsyncGate())
        led.append(asyncio.create_task(cache.afetch("k", gates[0])))
        await gates[0].begun.wait()

    async def cancel() -> None:
        led[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await led[0]

    async def main() -> None:
        last = asyncio.create_task(cache.afetch("k", never))
        await until(lambda: joined(cache) == 1)
        await asyncio.to_thread(other.call(cancel()).result)
        await asyncio.sleep(0.01)
        assert gates[0].cancelled == 0, "somebody still waits"
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        await until(lambda: gates[0].cancelled)

    with loop_thread() as other:
        other.call(lead()).result()
        asyncio.run(main())
        wait_until(lambda: cache.stats().pending == 0)
    assert_nothing_left(cache)


# One load


def test_a_thousand_threads_and_a_thousand_tasks_cause_one_load() -> None:
    cache = create_cache()
    gate = Gate()

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(cache.afetch("k", never)) for _ in range(1000)]
        await until(lambda: joined(cache) == 1999)
        gate.open.set()
        return await asyncio.gather(*tasks)

    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    old_size = threading.stack_size(256 * 1024)
    try:
        threads = [Caller(lambda: cache.fetch("k", never)) for _ in range(999)]
    finally:
        threading.stack_size(old_size)
    assert asyncio.run(main()) == ["loaded"] * 1000
    assert [thread.result() for thread in (leader, *threads)] == ["loaded"] * 1000
    stats = cache.stats()
    assert (gate.calls, stats.loads, stats.misses, stats.coalesced) == (1, 1, 2000, 1999)
    assert_nothing_left(cache)


def test_threads_released_by_a_barrier_cause_one_load() -> None:
    cache = create_cache()
    calls: Counter[int] = Counter()
    for key in range(50):
        barrier = threading.Barrier(8)

        def load(key: int = key) -> int:
            calls[key] += 1
            return key

        def ask(key: int = key, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return cache.fetch(key, load)  # type: ignore[no-any-return]

        callers = [Caller(ask) for _ in range(8)]
        assert {caller.result() for caller in callers} == {key}
    assert set(calls.values()) == {1}
    assert_nothing_left(cache)


def test_a_loader_that_raises_leaves_no_waiter_hanging_and_reaches_each() -> None:
    """cachebox #54; an exception is not stored either."""
    cache = create_cache()
    error = OSError("down")
    gate = Gate(error)
    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    callers = [Caller(lambda: cache.fetch("k", never)) for _ in range(5)]
    wait_until(lambda: joined(cache) == 5)
    gate.open.set()
    raised = []
    for caller in (leader, *callers):
        with pytest.raises(OSError, match="down") as caught:
            caller.result()
        raised.append(caught.value)
    assert raised[0] is error
    assert len(set(map(id, raised))) == 6
    assert "k" not in cache
    assert cache.fetch("k", lambda: "up") == "up"
    assert cache.stats().load_failures == 1


def test_an_error_that_many_raise_keeps_the_loader_s_own_traceback() -> None:
    """Each waiter raises a copy; the frames of the others must not pile up in it."""
    cache = create_cache()
    gate = Gate(OSError("down"))

    def names(loader: Any) -> list[str]:
        try:
            cache.fetch("k", loader)
        except OSError as error:
            return [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        raise AssertionError("it did not raise")

    callers = [Caller(lambda: names(gate))]
    assert gate.begun.wait(30)
    callers += [Caller(lambda: names(never)) for _ in range(20)]
    wait_until(lambda: joined(cache) == 20)
    gate.open.set()
    for caller in callers:
        assert "__call__" in caller.result()
        assert len(caller.result()) < 15


@pytest.mark.parametrize("strike", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_in_the_leading_thread_lets_a_waiter_lead(strike: type[BaseException]) -> None:
    cache = create_cache()
    gate = Gate(strike())
    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    loads = Counter[str]()

    def second() -> str:
        loads["second"] += 1
        return "second"

    callers = [Caller(lambda: cache.fetch("k", second)) for _ in range(10)]
    wait_until(lambda: joined(cache) == 10)
    gate.open.set()
    with pytest.raises(strike):
        leader.result()
    assert [caller.result() for caller in callers] == ["second"] * 10
    assert loads["second"] == 1
    stats = cache.stats()
    assert (stats.loads, stats.load_failures) == (1, 0)
    assert (stats.misses, stats.coalesced) == (11, 10)
    assert_nothing_left(cache)


def test_keyboard_interrupt_from_the_terminal_frees_leader_and_waiter() -> None:
    """The real signal, in the main thread: once as it leads, once as it waits."""
    output = run_isolated(
        """
        import os, signal, threading, time
        from flowcache import create_cache

        cache = create_cache()
        begun, go = threading.Event(), threading.Event()

        def interrupt(condition):
            def send():
                while not condition():
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=send, daemon=True).start()

        def slow():
            begun.set()
            while True:
                time.sleep(0.01)

        results = []
        waiter = threading.Thread(target=lambda: results.append(cache.fetch("k", lambda: "second")))
        begin = threading.Thread(target=lambda: (begun.wait(), waiter.start()), daemon=True)
        begin.start()
        interrupt(lambda: cache.stats().coalesced == 1)
        try:
            cache.fetch("k", slow)
        except KeyboardInterrupt:
            print("leader interrupted")
        waiter.join(30)
        print(results)

        started = threading.Event()
        loader = lambda: (started.set(), go.wait(30))
        leader = threading.Thread(target=lambda: cache.fetch("j", loader))
        leader.start()
        started.wait(30)
        interrupt(lambda: cache.stats().coalesced == 2)
        try:
            cache.fetch("j", lambda: 1)
        except KeyboardInterrupt:
            print("waiter interrupted")
        go.set()
        leader.join(30)
        print(cache.peek("j"), cache.stats().pending)
        """
    )
    assert output.split("\n")[:4] == [
        "leader interrupted",
        "['second']",
        "waiter interrupted",
        "(None, True) 0",
    ]


def test_the_loader_runs_in_the_caller_s_thread_and_context() -> None:
    cache = create_cache()
    assert cache.fetch("k", threading.get_ident) == threading.get_ident()
    other = Caller(lambda: cache.fetch("k2", threading.get_ident))
    assert other.result() == other.ident


# Rings


def test_a_ring_across_threads_raises_in_the_call_that_would_close_it() -> None:
    cache = create_cache()
    first_holds, second_holds = threading.Event(), threading.Event()

    def load_a() -> str:
        first_holds.set()
        assert second_holds.wait(30)
        return "a" + cache.fetch("b", never)

    def load_b() -> str:
        second_holds.set()
        assert first_holds.wait(30)
        wait_until(lambda: joined(cache) == 1)
        with pytest.raises(RecursiveLoadError):
            cache.fetch("a", never)
        return "b"

    one = Caller(lambda: cache.fetch("a", load_a))
    two = Caller(lambda: cache.fetch("b", load_b))
    assert (one.result(), two.result()) == ("ab", "b")
    assert_nothing_left(cache)


def test_exactly_one_call_of_a_ring_is_refused_in_any_order() -> None:
    for _ in range(200):
        cache = create_cache()
        barrier = threading.Barrier(3)
        refused = []

        def loader(
            other: str, cache: Any = cache, barrier: Any = barrier, refused: Any = refused
        ) -> Any:
            def load() -> str:
                barrier.wait(30)
                try:
                    return "+" + cache.fetch(other, never)  # type: ignore[no-any-return]
                except RecursiveLoadError:
                    refused.append(other)
                    return "."

            return load

        callers = [
            Caller(lambda cache=cache, key=key, other=other: cache.fetch(key, loader(other)))  # type: ignore[misc]
            for key, other in ("ab", "bc", "ca")
        ]
        assert sorted(caller.result() for caller in callers) == ["++.", "+.", "."]
        assert len(refused) == 1


def test_a_ring_across_a_thread_and_a_task_raises() -> None:
    cache = create_cache()
    holds = threading.Event()

    def load_a() -> str:
        holds.set()
        return "a" + cache.fetch("b", never)

    with loop_thread() as other:

        async def load_b() -> str:
            await until(holds.is_set)
            await until(lambda: joined(cache) == 1)
            with pytest.raises(RecursiveLoadError):
                await cache.afetch("a", never)
            return "b"

        two = other.call(cache.afetch("b", load_b))
        wait_until(lambda: cache.stats().pending == 1)
        assert cache.fetch("a", load_a) == "ab"
        assert two.result() == "b"


def test_a_ring_through_an_event_loop_that_a_thread_blocks_raises() -> None:
    """The loop waits for b; b asks for a, which only that loop could go on with."""
    cache = create_cache()
    b_begun, loop_blocked = threading.Event(), threading.Event()

    def load_b() -> str:
        b_begun.set()
        assert loop_blocked.wait(30)
        wait_until(lambda: joined(cache) == 1)
        with pytest.raises(RecursiveLoadError):
            cache.fetch("a", never)
        return "b"

    async def main() -> None:
        gate = AsyncGate("a")
        waiting = asyncio.create_task(cache.afetch("a", gate))
        await gate.begun.wait()
        thread = Caller(lambda: cache.fetch("b", load_b))
        await until(b_begun.is_set)
        loop_blocked.set()
        assert cache.fetch("b", never) == "b"
        gate.open.set()
        assert await waiting == "a"
        assert thread.result() == "b"

    asyncio.run(main())
    assert_nothing_left(cache)


# Waiting costs nothing


def test_waiting_polls_nothing() -> None:
    """How often a waiting thread wakes up: counted, not timed, as a busy machine moves no count."""
    cache = create_cache()
    gate = Gate()
    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    switches: list[int] = []

    def wait() -> None:
        import resource

        before = resource.getrusage(resource.RUSAGE_THREAD)
        cache.fetch("k", never)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        switches.append(after.ru_nvcsw - before.ru_nvcsw)

    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip(
            "needs the time and the switches of a thread, which this platform does not tell"
        )
    waiting = Caller(wait)
    wait_until(lambda: joined(cache) == 1)
    time.sleep(0.3)  # Long enough to show any polling; no result depends on its length.
    gate.open.set()
    waiting.result()
    leader.result()
    assert switches[0] < 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_is_not_held_up_by_loads_of_its_parent() -> None:
    output = run_isolated(
        """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from flowcache import create_cache

        cache = create_cache()
        begun, go = threading.Event(), threading.Event()
        clock_moves = cache.set("s", "old", ttl=0.001, stale=True)

        def slow():
            begun.set()
            go.wait(30)
            return "parent"

        thread = threading.Thread(target=lambda: cache.fetch("k", slow))
        thread.start()
        begun.wait(30)
        child = os.fork()
        if child == 0:
            print(cache.fetch("k", lambda: "child"), flush=True)
            import time
            time.sleep(0.01)
            cache.fetch("s", lambda: "new", stale=True, ttl=None)
            while cache.peek("s") != "new":
                time.sleep(0.001)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status)
        go.set()
        thread.join()
        print(cache.peek("k"))
        """
    )
    assert output.split() == ["child", "0", "parent"]


def test_a_signal_handler_may_fetch_what_its_thread_is_loading() -> None:
    """No lock is held while a loader runs: the handler is refused as recursion, nothing hangs."""
    cache = create_cache()
    seen: list[object] = []

    def handle(*_: object) -> None:
        try:
            cache.fetch("k", never)
        except RecursiveLoadError as error:
            seen.append(error)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert cache.fetch("k", lambda: os.kill(os.getpid(), signal.SIGUSR1)) is None
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 1
