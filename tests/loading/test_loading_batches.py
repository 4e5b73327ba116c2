"""Loads of threads that are fenced or interrupted, batches, and keys that misbehave."""

from __future__ import annotations

import gc
import signal
import threading
from typing import Any

import pytest

from flowcache import (
    Cache,
    Loaded,
    create_cache,
)
from flowcache.loading import deadlock
from flowcache.loading.load import Load
from harness.loading_support import (
    Caller,
    Gate,
    assert_nothing_left,
    joined,
    never,
    wait_until,
)
from harness.support import new_cache, run_isolated

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
