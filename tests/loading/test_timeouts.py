"""Time-outs of threads, and a sync fetch on an event loop's own thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest

from flowcache import (
    LoadTimeoutError,
    RecursiveLoadError,
    create_cache,
)
from flowcache.loading.run import Run
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    joined,
    never,
    until,
    wait_until,
)
from harness.support import logged, new_cache

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
        slow = Gate()
        with pytest.raises(LoadTimeoutError):
            cache.fetch("k", slow, timeout=0)
        slow.open.set()
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
    assert gate.begun.wait(30)
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

    def is_invalidated_in_time(key: str) -> bool:
        """Let a call run out of time; tell if its key was invalidated before."""
        cache.fetch(key, lambda: "old", ttl=10, stale_if_error=100)
        clock.advance(50)
        gate = Gate()
        began = time.monotonic()
        timed = Caller(lambda: cache.fetch(key, gate, timeout=0.2))
        assert gate.begun.wait(30)
        cache.delete(key)
        in_time = time.monotonic() < began + 0.2
        if in_time:
            with pytest.raises(LoadTimeoutError):
                timed.result()
        gate.open.set()
        wait_until(lambda: cache.stats().pending == 0)
        assert key not in cache
        return in_time

    keys = (f"k{number}" for number in itertools.count())
    wait_until(lambda: is_invalidated_in_time(next(keys)))
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
