"""Loading with threads: one load for all, interrupts, rings, time-outs, a loop's own thread."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import traceback
from collections import Counter
from typing import Any

import pytest

from flowcache import (
    Cache,
    Loaded,
    LoadTimeoutError,
    Namespace,
    RecursiveLoadError,
    create_cache,
)
from flowcache.loading import deadlock
from flowcache.loading.load import Load
from flowcache.loading.run import Run
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    loop_thread,
    until,
    wait_until,
)
from harness.support import logged, new_cache, run_isolated


def never() -> Any:
    raise AssertionError("this loader is not to be called")


def joined(namespace: Namespace[Any]) -> int:
    return namespace.stats().coalesced


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


# Fences


def test_a_call_after_an_invalidation_starts_a_new_load() -> None:
    cache = create_cache()
    first, second = Gate("first"), Gate("second")
    before = Caller(lambda: cache.fetch("k", first))
    assert first.begun.wait(30)
    waiting = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: joined(cache) == 1)
    cache.delete("k")
    after = Caller(lambda: cache.fetch("k", second))
    assert second.begun.wait(30)
    late = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: joined(cache) == 2)
    first.open.set()
    assert (before.result(), waiting.result()) == ("first", "first")
    assert "k" not in cache
    second.open.set()
    assert (after.result(), late.result()) == ("second", "second")
    assert cache.peek("k") == "second"
    assert_nothing_left(cache)


def test_a_call_that_joins_after_a_late_tag_was_invalidated_loads_again() -> None:
    """Only its end tells that the load bears the tag; calls made before get its result."""
    cache = create_cache()
    gate = Gate(Loaded("old", tags=("late", "later")))
    before = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    joined_before = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: joined(cache) == 1)
    cache.invalidate_tag("other")
    between = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: joined(cache) == 2)
    cache.invalidate_tag("later")
    after = [Caller(lambda: cache.fetch("k", lambda: "new")) for _ in range(3)]
    wait_until(lambda: joined(cache) == 5)
    cache.invalidate_tag("late")
    cache.invalidate_tag("later")
    gate.open.set()
    assert [caller.result() for caller in (before, joined_before, between)] == ["old"] * 3
    assert [caller.result() for caller in after] == ["new"] * 3
    assert (cache.peek("k"), cache.stats().loads) == ("new", 2)
    assert_nothing_left(cache)


def test_a_call_that_joins_after_a_late_tag_was_lost_at_the_very_end_loads_again() -> None:
    """The loader has returned, and its value is not stored yet."""
    cache = create_cache()
    after: list[Caller] = []

    def store_if(value: object) -> bool:
        cache.invalidate_tag("late")
        after.append(Caller(lambda: cache.fetch("k", lambda: "new")))
        wait_until(lambda: joined(cache) == 1)
        return True

    old = Loaded("old", tags="late")
    assert cache.fetch("k", lambda: old, store_if=store_if) == "old"
    assert after[0].result() == "new"
    assert cache.peek("k") == "new"


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_load_that_is_not_needed_leaves_no_call_waiting_that_joined_it(
    timeout: float | None,
) -> None:
    """A value comes between look-up and registration; a call joins before it is found."""
    joining: list[Caller] = []
    armed = [True]

    class Key:
        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            if armed:
                armed.clear()
                joining.append(Caller(lambda: cache.refresh(Key(), lambda: "new")))
                wait_until(is_waited_for)
            return isinstance(other, Key)

    def is_waited_for() -> bool:
        return any(type(one) is Load and one.waiters for one in gc.get_objects())

    cache = create_cache()
    cache.subscribe(lambda event: cache.set(Key(), "old"), "miss")
    assert cache.fetch(Key(), never, timeout=timeout) == "old"
    assert joining[0].result() == "new"
    assert cache.stats().loads == 1
    assert_nothing_left(cache)


def test_a_loader_that_invalidates_its_own_late_tag_each_time_ends() -> None:
    cache = create_cache()

    def load() -> Loaded[str]:
        cache.invalidate_tag("late")
        return Loaded("value", tags="late")

    assert cache.fetch("k", load) == "value"
    callers = [Caller(lambda: cache.fetch("k", load)) for _ in range(5)]
    assert {caller.result() for caller in callers} == {"value"}
    assert "k" not in cache


def test_an_invalidation_during_a_batch_fences_its_own_keys_only() -> None:
    cache = create_cache()
    gate = Gate({"a": 1, "b": 2})
    batch = Caller(lambda: cache.fetch_many([*"ab"], lambda missing: gate()))
    assert gate.begun.wait(30)
    cache.delete("a")
    assert cache.fetch("a", lambda: "new") == "new"
    gate.open.set()
    assert batch.result() == {"a": 1, "b": 2}
    assert (cache.peek("a"), cache.peek("b")) == ("new", 2)
    assert_nothing_left(cache)


# Batches and single loads together


def test_a_batch_joins_what_others_load_after_its_own() -> None:
    cache = create_cache()
    gate, own = Gate("single"), Gate({"b": "batch"})
    asked: list[list[str]] = []
    single = Caller(lambda: cache.fetch("a", gate))
    assert gate.begun.wait(30)

    def load(missing: list[str]) -> Any:
        asked.append(missing)
        return own()

    batch = Caller(lambda: cache.fetch_many([*"ab"], load))
    assert own.begun.wait(30)
    waiting = Caller(lambda: cache.fetch("b", never))
    wait_until(lambda: joined(cache) == 2)
    own.open.set()
    assert waiting.result() == "batch"
    gate.open.set()
    assert (single.result(), batch.result()) == ("single", {"a": "single", "b": "batch"})
    assert asked == [["b"]]
    assert_nothing_left(cache)


def test_two_batches_that_overlap_load_each_key_once() -> None:
    cache = create_cache()
    first, second = Gate({"a": 1, "b": 2}), Gate({"c": 3})
    asked: list[list[str]] = []

    def loader(gate: Gate) -> Any:
        return lambda missing: (asked.append(missing), gate())[1]

    one = Caller(lambda: cache.fetch_many([*"ab"], loader(first)))
    assert first.begun.wait(30)
    two = Caller(lambda: cache.fetch_many([*"cba"], loader(second)))
    assert second.begun.wait(30)
    second.open.set()
    first.open.set()
    assert one.result() == {"a": 1, "b": 2}
    assert two.result() == {"c": 3, "b": 2, "a": 1}
    assert asked == [["a", "b"], ["c"]]


def test_waiters_of_a_key_that_a_batch_leaves_out_load_it_themselves() -> None:
    cache = create_cache()
    gate = Gate({"b": 2})
    batch = Caller(lambda: cache.fetch_many([*"ab"], lambda missing: gate()))
    assert gate.begun.wait(30)
    single = Caller(lambda: cache.fetch("a", lambda: "mine"))
    other = Caller(
        lambda: cache.fetch_many([*"ab"], lambda missing: dict.fromkeys(missing, "theirs"))
    )
    wait_until(lambda: joined(cache) == 3)
    gate.open.set()
    assert batch.result() == {"b": 2}
    assert single.result() in ("mine", "theirs")
    assert other.result() == {"a": single.result(), "b": 2}


def test_a_batch_struck_by_an_interrupt_leaves_its_keys_to_their_waiters() -> None:
    cache = create_cache()
    gate = Gate(KeyboardInterrupt())
    batch = Caller(lambda: cache.fetch_many([*"ab"], lambda missing: gate()))
    assert gate.begun.wait(30)
    singles = [Caller(lambda key=key: cache.fetch(key, lambda: f"my {key}")) for key in "ab"]  # type: ignore[misc]
    wait_until(lambda: joined(cache) == 2)
    gate.open.set()
    with pytest.raises(KeyboardInterrupt):
        batch.result()
    batch.error = None  # Its traceback holds the frames of the call.
    assert [single.result() for single in singles] == ["my a", "my b"]
    assert_nothing_left(cache)


def test_a_batch_with_a_timeout_waits_for_each_of_its_keys() -> None:
    """The first is settled some time before the last, if its listeners take long."""
    cache = create_cache()
    told, go_on = threading.Event(), threading.Event()

    def listen(event: object) -> None:
        told.set()
        assert go_on.wait(30)

    cache.subscribe(listen, "load")
    batch = Caller(
        lambda: cache.fetch_many([*"abc"], lambda missing: dict.fromkeys(missing, 1), timeout=30)
    )
    assert told.wait(30)
    go_on.set()
    assert batch.result() == {"a": 1, "b": 1, "c": 1}
    assert_nothing_left(cache)


def test_an_interrupt_between_registering_and_loading_strands_no_call() -> None:
    """A signal may strike at any instruction: here right after the load is in the table."""
    waiting: list[Caller] = []
    armed = [True]

    class Struck(Cache[Any]):
        __slots__ = ()

        def _begin(self, *given: Any) -> Any:
            running = super()._begin(*given)
            if armed:
                armed.clear()
                waiting.append(Caller(lambda: cache.fetch("k", lambda: "theirs")))
                wait_until(lambda: joined(cache) == 1)
                raise KeyboardInterrupt
            return running

    cache = Struck()
    with pytest.raises(KeyboardInterrupt):
        cache.fetch("k", never, timeout=60)
    assert waiting[0].result() == "theirs"
    assert_nothing_left(cache)


@pytest.mark.parametrize("moment", ["leave_load", "stop_waiting"])
def test_an_interrupt_after_the_loader_strands_no_call(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = create_cache()
    waiting: list[Caller] = []
    original = getattr(deadlock, moment)

    def load(missing: list[str]) -> dict[str, str]:
        waiting.append(Caller(lambda: cache.fetch("k", lambda: "theirs")))
        wait_until(lambda: joined(cache) == 1)
        raise KeyboardInterrupt

    here = threading.current_thread()

    def strike(*arguments: Any) -> Any:
        if threading.current_thread() is not here:
            return original(*arguments)  # the waiting call may return first
        monkeypatch.setattr(deadlock, moment, original)
        raise SystemExit

    monkeypatch.setattr(deadlock, moment, strike)
    with pytest.raises(SystemExit):
        cache.fetch_many(["k"], load)
    assert waiting[0].result() == "theirs"
    assert cache.stats().pending == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no such timer")
def test_interrupts_at_any_instant_strand_no_call() -> None:
    """Real ones, hundreds, wherever the leading thread happens to be; two threads join it."""
    output = run_isolated(
        """
        import random, signal, sys, threading, time
        from flowcache import create_cache
        from flowcache.loading import deadlock

        cache = create_cache(default_ttl=None)
        armed = stop = False
        progress = [0, 0]

        def strike(*_):
            global armed
            if armed:
                armed = False
                raise KeyboardInterrupt

        def join(number):
            while not stop:
                cache.fetch("k", lambda: number)
                cache.fetch_many([*"kl"], lambda missing: dict.fromkeys(missing, number))
                progress[number] += 1

        # A function: of a loop right in the try, 3.13's jump back lies outside what is caught.
        def lead():
            while armed:
                cache.delete("k")
                cache.fetch("k", lambda: "mine")
                cache.delete("l")
                cache.fetch_many([*"kl"], lambda missing: dict.fromkeys(missing, "mine"))
                cache.refresh("k", lambda: "mine")

        signal.signal(signal.SIGALRM, strike)
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=join, args=(n,), daemon=True) for n in range(2)]
        for thread in threads:
            thread.start()
        chance = random.Random(3)
        struck = 0
        while struck < 300:
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * 0.0005)
                lead()
            except KeyboardInterrupt:
                struck += 1
        before = list(progress)
        deadline = time.monotonic() + 30
        while any(now == then for now, then in zip(progress, before)):
            assert time.monotonic() < deadline, "somebody waits for ever"
            time.sleep(0.001)
        stop = True
        for thread in threads:
            thread.join()
        print(cache.stats().pending, deadlock._blocked)
        """
    )
    assert output.split() == ["0", "{}"]


# Keys that misbehave


class Raising:
    """A key that equals only itself, and raises when it is compared."""

    def __init__(self) -> None:
        self.raises = True

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        if self.raises:
            raise LookupError("not to be compared")
        return self is other


def test_a_load_of_a_key_that_cannot_be_compared_leaves_nothing_behind() -> None:
    """Two loads run whose keys meet in the table: neither may keep the other there."""
    cache = create_cache()
    first, second = Raising(), Raising()
    first.raises = second.raises = False
    gates = [Gate(), Gate()]
    one = Caller(lambda: cache.fetch(first, gates[0]))
    two = Caller(lambda: cache.fetch(second, gates[1]))
    assert gates[0].begun.wait(30)
    assert gates[1].begun.wait(30)
    first.raises = second.raises = True
    gates[1].open.set()
    assert two.result() == "loaded"
    assert cache.stats().pending == 1
    gates[0].open.set()
    with pytest.raises(LookupError):  # Stored next to the other, it has to be compared.
        one.result()
    one.error = None
    cache.clear()
    assert_nothing_left(cache)


def test_a_write_that_cannot_compare_keys_is_refused_and_leaves_the_load_alone() -> None:
    cache = create_cache()
    loading, written = Raising(), Raising()
    loading.raises = False
    gate = Gate()
    one = Caller(lambda: cache.fetch(loading, gate))
    assert gate.begun.wait(30)
    loading.raises = True
    for write in (
        lambda: cache.set(written, 1),
        lambda: cache.add(written, 1),
        lambda: cache.delete(written),
        lambda: cache.incr(written),
        lambda: cache.fetch(written, never),
    ):
        with pytest.raises(LookupError):
            write()
    assert cache.stats().pending == 1
    loading.raises = False
    gate.open.set()
    assert one.result() == "loaded"
    assert list(cache) == [loading]
    assert_nothing_left(cache)


def test_keys_of_one_hash_are_fenced_apart() -> None:
    """-1 and -2 have one hash."""
    cache = create_cache()
    gate = Gate()
    one = Caller(lambda: cache.fetch(-1, gate))
    assert gate.begun.wait(30)
    two = Caller(lambda: cache.fetch(-2, gate))
    wait_until(lambda: gate.calls == 2)
    cache.delete(-2)
    gate.open.set()
    assert (one.result(), two.result()) == ("loaded", "loaded")
    assert list(cache) == [-1]


@pytest.mark.parametrize("write", ["set", "add"])
def test_a_load_that_begins_while_a_key_is_compared_is_fenced_by_the_write(write: str) -> None:
    cache, clock = new_cache()
    gate = Gate("loaded")
    loads: list[Caller] = []

    class Key:
        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            if armed:
                armed.clear()
                loads.append(Caller(lambda: cache.refresh(Key(), gate)))
                assert gate.begun.wait(30)
            return isinstance(other, Key)

    armed: list[bool] = []
    cache.set(Key(), "old", ttl=1, stale=True)
    clock.advance(2)  # There to be compared, and not in add's way.
    armed.append(True)
    getattr(cache, write)(Key(), "written")
    gate.open.set()
    assert loads[0].result() == "loaded"
    assert cache.peek(Key()) == "written"
    assert_nothing_left(cache)


def test_collections_in_the_middle_of_loads_that_wait_for_each_other_freeze_nothing() -> None:
    """cachebox #67: a collected object fetches, at any place where the collector runs."""
    output = run_isolated(
        """
        import gc
        from flowcache import create_cache

        cache = create_cache(max_entries=50)
        made = 0

        class Garbage:
            def __init__(self):
                global made
                made += 1
                self.itself = self

            def __del__(self):
                cache.fetch(("from the collector", made % 7), lambda: made)

        def load(depth):
            Garbage()
            if depth:
                cache.fetch(("level", made, depth), lambda: load(depth - 1))
            cache.invalidate_tag("t")
            return depth

        gc.set_threshold(1)
        for turn in range(200):
            cache.fetch(("turn", turn), lambda: load(4), tags="t")
        gc.collect()
        cache._check()
        print(cache.stats().pending, made >= 1000)
        """
    )
    assert output.split() == ["0", "True"]


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


# A sync fetch on an event loop's own thread


def test_sync_fetch_on_the_loop_s_thread_loads_for_itself() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate("the task's")
        waiting = asyncio.create_task(cache.afetch("k", gate))
        await gate.begun.wait()
        assert cache.fetch("k", lambda: "mine") == "mine"
        assert cache.peek("k") == "mine"
        gate.open.set()
        assert await waiting == "the task's"
        # The value stored first stands: the task's load began before.
        assert cache.peek("k") == "mine"

    asyncio.run(main())
    assert cache.stats().loads == 2
    assert_nothing_left(cache)


def test_what_it_loaded_is_not_stored_if_the_key_was_invalidated() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate()
        waiting = asyncio.create_task(cache.afetch("k", gate, tags="t"))
        await gate.begun.wait()

        def load() -> str:
            cache.invalidate_tag("t")
            return "mine"

        assert cache.fetch("k", load) == "mine"
        assert "k" not in cache
        gate.open.set()
        await waiting
        assert "k" not in cache

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_failure_beside_a_task_s_load_leaves_that_alone() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate()
        waiting = asyncio.create_task(cache.afetch("k", gate))
        await gate.begun.wait()

        def fail() -> None:
            raise OSError("mine")

        with pytest.raises(OSError, match="mine"):
            cache.fetch("k", fail)
        assert cache.fetch("k", lambda: "aside", store_if=lambda value: False) == "aside"
        with pytest.raises(LoadTimeoutError):
            cache.fetch("k", lambda: time.sleep(0.05), timeout=0)
        with pytest.raises(OSError, match="mine"):
            cache.fetch_many(["k"], lambda missing: fail())
        assert cache.fetch_many(["k"], lambda missing: {}) == {}
        joining = asyncio.create_task(cache.afetch("k", never))
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(waiting, joining) in (["loaded"] * 2, ["loaded", None])

    asyncio.run(main())


def test_loading_for_itself_recursion_is_found() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate()
        waiting = asyncio.create_task(cache.afetch("k", gate))
        await gate.begun.wait()

        def load() -> Any:
            return cache.fetch("j", lambda: cache.fetch("k", load))

        with pytest.raises(RecursiveLoadError):
            cache.fetch("k", load)
        gate.open.set()
        await waiting

    asyncio.run(main())
    assert_nothing_left(cache)


def test_it_also_loads_for_itself_what_waits_for_a_task_of_the_loop() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate("a")
        waiting = asyncio.create_task(cache.afetch("a", gate))
        await gate.begun.wait()
        thread = Caller(lambda: cache.fetch("b", lambda: "b" + cache.fetch("a", never)))
        await until(lambda: joined(cache) == 1)
        assert cache.fetch("b", lambda: "mine") == "mine"
        gate.open.set()
        assert await waiting == "a"
        await until(lambda: not thread.is_alive())
        assert thread.result() == "ba"

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_loop_that_does_not_run_is_not_waited_for() -> None:
    """Its thread is this one: nothing would ever make it run again."""
    cache = create_cache()
    loop = asyncio.new_event_loop()
    gate = AsyncGate()

    async def begin() -> None:
        waiting.append(asyncio.create_task(cache.afetch("k", gate)))
        await gate.begun.wait()

    waiting: list[asyncio.Task[Any]] = []
    loop.run_until_complete(begin())
    assert cache.fetch("k", lambda: "mine") == "mine"
    gate.open.set()
    assert loop.run_until_complete(waiting[0]) == "mine"
    loop.close()
    assert_nothing_left(cache)


# Time-outs


def test_timeout_bounds_the_wait_and_not_the_load() -> None:
    cache = create_cache()
    gate = Gate()
    with pytest.raises(LoadTimeoutError, match="'k'") as caught:
        cache.fetch("k", gate, timeout=0.001)
    assert isinstance(caught.value, TimeoutError)
    assert gate.calls == 1
    waiting = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: joined(cache) == 1)
    with pytest.raises(LoadTimeoutError):
        cache.fetch("k", never, timeout=0)
    gate.open.set()
    assert waiting.result() == "loaded"
    assert cache.fetch("k", never) == "loaded"
    assert_nothing_left(cache)


def test_a_call_that_timed_out_may_be_repeated_before_the_load_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread leads no longer, so that waiting for the load is no recursion."""
    cache = create_cache()
    go_on = threading.Event()
    execute_apart = Run.execute_apart

    def run_late(job: Run) -> None:
        assert go_on.wait(30)
        execute_apart(job)

    monkeypatch.setattr(Run, "execute_apart", run_late)
    for _ in range(2):
        with pytest.raises(LoadTimeoutError):
            cache.fetch("k", lambda: 1, timeout=0)
    go_on.set()
    assert cache.fetch("k", never) == 1
    assert_nothing_left(cache)


def test_timeout_of_a_waiter_leaves_the_leader_alone() -> None:
    cache = create_cache()
    gate = Gate()
    leader = Caller(lambda: cache.fetch("k", gate))
    assert gate.begun.wait(30)
    with pytest.raises(LoadTimeoutError):
        cache.fetch("k", never, timeout=0.001)
    gate.open.set()
    assert leader.result() == "loaded"


def test_timeout_serves_the_old_value_within_its_window() -> None:
    cache, clock = new_cache()
    gate = Gate("new")
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(50)
    assert cache.fetch("k", gate, ttl=10, timeout=0.001) == "old"
    assert cache.fetch("k", never, timeout=0.001, stale_if_error=50) == "old"
    with pytest.raises(LoadTimeoutError):
        cache.fetch("k", never, timeout=0.001, stale_if_error=30)
    assert cache.fetch_many(["k"], never, timeout=0.001) == {"k": "old"}
    gate.open.set()
    wait_until(lambda: cache.peek("k") == "new")
    clock.advance(1000)
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(111)
    slow = Gate()
    with pytest.raises(LoadTimeoutError):
        cache.fetch("k", slow, timeout=0.001)
    slow.open.set()
    wait_until(lambda: cache.stats().pending == 0)


def test_an_invalidated_value_is_not_served_on_a_timeout_nor_stored() -> None:
    cache, clock = new_cache()
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(50)
    gate = Gate()
    timed = Caller(lambda: cache.fetch("k", gate, timeout=0.2))
    assert gate.begun.wait(30)
    cache.delete("k")
    with pytest.raises(LoadTimeoutError):
        timed.result()
    gate.open.set()
    wait_until(lambda: cache.stats().loads == 2)
    assert "k" not in cache
    assert_nothing_left(cache)


def test_a_load_in_time_is_returned_and_its_error_too() -> None:
    cache = create_cache()
    assert cache.fetch("k", lambda: 1, timeout=30) == 1
    assert cache.refresh("k", lambda: 2, timeout=30) == 2
    assert cache.fetch_many([*"kj"], lambda missing: dict.fromkeys(missing, 3), timeout=30) == {
        "k": 2,
        "j": 3,
    }

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        cache.fetch("l", fail, timeout=30)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        cache.fetch("l", leave, timeout=30)

    async def load() -> int:
        return 1

    with pytest.raises(TypeError, match="afetch"):
        cache.fetch("l", lambda: load(), timeout=30)  # noqa: PLW0108  a lambda hides that it is async
    with pytest.raises(RecursiveLoadError):
        cache.fetch("l", lambda: cache.fetch("l", never), timeout=30)
    assert_nothing_left(cache)


def test_a_late_failure_after_a_timeout_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cache = create_cache()
    gate = Gate(OSError("too late"))
    with pytest.raises(LoadTimeoutError):
        cache.fetch("k", gate, timeout=0.001)
    gate.open.set()
    wait_until(lambda: logged(caplog))
    assert "in namespace () failed" in caplog.text
    assert "too late" in caplog.text


def test_a_timed_load_sees_the_caller_s_context() -> None:
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who")
    who.set("me")
    assert create_cache().fetch("k", who.get, timeout=30) == "me"


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
