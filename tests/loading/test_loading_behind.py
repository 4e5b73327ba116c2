"""Stale values and their background loads: the value of each call, and the effect of a failure."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import pytest

from flowcache import Cache, Event, Namespace, TooManyLoadsError, create_cache
from flowcache.loading import backoff, pool
from flowcache.loading.load import Load
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    settle,
    until,
    wait_until,
)
from harness.support import VirtualClock, logged, new_cache, run_isolated


def never() -> Any:
    raise AssertionError("this loader is not to be called")


def fail() -> Any:
    raise OSError("down")


def stale_cache(**settings: Any) -> tuple[Cache[Any], VirtualClock]:
    """A cache that holds "old" for "k", past its TTL and within its window of 1,000 s."""
    cache, clock = new_cache(**settings)
    cache.set("k", "old", ttl=10, stale=1000, tags="t")
    clock.advance(20)
    return cache, clock


def test_a_load_that_nobody_can_run_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: Any) -> None:
        raise RuntimeError("can't start new thread")

    cache, _ = stale_cache()
    monkeypatch.setattr(pool, "submit", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        cache.fetch("k", never, stale=True)
    assert_nothing_left(cache)
    monkeypatch.undo()
    assert cache.fetch("k", lambda: "new", stale=True) == "old"
    wait_until(lambda: cache.peek("k") == "new")


@pytest.fixture(params=["thread", "task"])
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """One call, by `fetch` or by `afetch`, on a loop that lives as long as the test."""
    if request.param == "thread":
        yield lambda namespace, *args, **options: namespace.fetch(*args, **options)
        return
    with asyncio.Runner() as runner:

        async def call(namespace: Namespace[Any], *args: Any, **options: Any) -> Any:
            return await namespace.afetch(*args, **options)

        def ask(*args: Any, **options: Any) -> Any:
            result = runner.run(call(*args, **options))
            runner.run(settle())  # Background loads go on.
            return result

        yield ask


def loaded(namespace: Namespace[Any], value: object, key: str = "k") -> None:
    wait_until(lambda: namespace.peek(key) == value)
    wait_until(lambda: namespace.stats().pending == 0)


# Stale while revalidate


def test_a_stale_value_is_served_at_once_and_one_load_runs_behind_it(
    ask: Callable[..., Any],
) -> None:
    cache, _ = stale_cache()
    kinds: list[str] = []
    cache.subscribe(lambda event: kinds.append(event.kind))
    assert ask(cache, "k", lambda: "new", ttl=10, stale=1000) == "old"
    loaded(cache, "new")
    assert ask(cache, "k", never, ttl=10, stale=1000) == "new"
    assert kinds == ["stale_hit", "remove", "set", "load", "refresh", "hit"]
    stats = cache.stats()
    assert (stats.hits, stats.stale_hits, stats.misses, stats.loads) == (1, 1, 0, 1)
    assert cache.ttl("k") == 10
    assert_nothing_left(cache)


def test_beyond_its_window_a_value_is_loaded_in_the_foreground(ask: Callable[..., Any]) -> None:
    cache, clock = stale_cache()
    clock.advance(1000)
    assert ask(cache, "k", lambda: "new", stale=1000) == "new"
    assert cache.stats().stale_hits == 0


def test_the_call_s_window_may_be_shorter_than_the_entry_s_and_not_longer(
    ask: Callable[..., Any],
) -> None:
    cache, clock = stale_cache()
    assert ask(cache, "k", lambda: "new", stale=5) == "new"
    cache.set("k", "old", ttl=10, stale=5)
    clock.advance(20)
    assert ask(cache, "k", lambda: "new", stale=True) == "new"
    cache.set("k", "old", ttl=10)
    clock.advance(20)
    assert ask(cache, "k", lambda: "new", stale=True) == "new"


def test_without_a_window_of_its_own_a_call_goes_by_the_entry_s(ask: Callable[..., Any]) -> None:
    cache, _ = stale_cache()
    assert ask(cache, "k", lambda: "new") == "old"
    loaded(cache, "new")


def test_get_never_returns_a_stale_value() -> None:
    cache, _ = stale_cache()
    assert cache.get("k") is None
    assert "k" not in cache


def test_a_hundred_threads_and_tasks_that_are_served_stale_cause_one_load() -> None:
    cache, _ = stale_cache()
    gate = Gate("new")
    threads = [Caller(lambda: cache.fetch("k", gate)) for _ in range(50)]

    async def main() -> None:
        assert await asyncio.gather(*[cache.afetch("k", gate) for _ in range(50)]) == ["old"] * 50

    assert cache.fetch("k", gate) == "old"
    asyncio.run(main())
    assert [thread.result() for thread in threads] == ["old"] * 50
    assert gate.begun.wait(30)
    gate.open.set()
    loaded(cache, "new")
    assert gate.calls == 1
    assert cache.stats().loads == 1


def test_a_background_load_is_not_cancelled_with_the_caller_that_began_it() -> None:
    cache, _ = stale_cache()
    gate = AsyncGate("new")

    async def main() -> None:
        async def serve() -> None:
            assert await cache.afetch("k", gate) == "old"
            await asyncio.Event().wait()

        caller = asyncio.create_task(serve())
        await gate.begun.wait()
        caller.cancel()
        joining = asyncio.ensure_future(cache.arefresh("k", never))
        await settle()
        joining.cancel()  # Nor with a call that joined it.
        await settle()
        gate.open.set()
        await until(lambda: cache.peek("k") == "new")

    asyncio.run(main())
    assert gate.cancelled == 0
    assert_nothing_left(cache)


def test_a_background_load_that_its_loop_s_end_cancels_is_tried_again() -> None:
    cache, _ = stale_cache()

    async def main() -> None:
        assert await cache.afetch("k", asyncio.Event().wait) == "old"
        await settle()
        assert cache.stats().pending == 1

    asyncio.run(main())
    assert cache.stats().pending == 0
    assert cache.fetch("k", lambda: "new") == "old"
    loaded(cache, "new")


def test_a_background_load_of_a_loop_that_stands_does_not_keep_the_key_stale() -> None:
    cache, _ = stale_cache()
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        assert await cache.afetch("k", asyncio.Event().wait) == "old"
        await settle()

    loop.run_until_complete(begin())
    assert cache.stats().pending == 1
    assert cache.fetch("k", lambda: "new") == "old"
    loaded(cache, "new")
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(settle())
    loop.close()
    assert_nothing_left(cache)


def test_who_needs_the_value_joins_the_load_behind() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=5)
    clock.advance(12)
    gate = Gate("new")
    assert cache.fetch("k", gate) == "old"
    assert gate.begun.wait(30)
    clock.advance(5)
    waiting = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert waiting.result() == "new"
    assert cache.stats().loads == 1


def test_who_needs_the_value_does_not_wait_for_a_thread_of_the_pool() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=5)
    gates = [Gate() for _ in range(pool.PER_TENANT)]
    for n in range(pool.PER_TENANT):
        cache.set(n, "old", ttl=1, stale=5000)
    clock.advance(12)
    for n, gate in enumerate(gates):
        assert cache.fetch(n, gate) == "old"
        assert gate.begun.wait(30)
    assert cache.fetch("k", never) == "old"  # Queued behind those.
    assert cache.stats().pending == pool.PER_TENANT + 1
    clock.advance(5)
    assert cache.fetch("k", lambda: "mine") == "mine"
    for gate in gates:
        gate.open.set()
    wait_until(lambda: cache.stats().pending == 0)
    assert cache.peek("k") == "mine"
    assert_nothing_left(cache)


def test_who_joins_a_load_behind_before_it_is_given_to_a_thread_is_not_left_waiting() -> None:
    """The load is in the table, and its job does not know of it yet."""
    clock = VirtualClock()
    joining: list[Caller] = []

    class Paused(Cache[Any]):
        __slots__ = ()

        def _begin(self, *given: Any) -> Any:
            running = super()._begin(*given)
            if given[4]:  # Behind a call.
                joining.append(Caller(lambda: cache.fetch("k", lambda: "mine", stale=False)))
                wait_until(lambda: cache.stats().coalesced == 1)
            return running

    cache = Paused(clock=clock)
    cache.set("k", "old", ttl=10, stale=1000)
    clock.advance(20)
    assert cache.fetch("k", lambda: "new") == "old"
    assert joining[0].result() == "new"
    assert_nothing_left(cache)


def test_many_keys_that_are_stale_are_loaded_behind_by_one_call() -> None:
    cache, clock = stale_cache()
    cache.set("fresh", 1)
    asked: list[list[str]] = []

    def load(missing: list[str]) -> dict[str, str]:
        asked.append(sorted(missing))
        return dict.fromkeys(missing, "new")

    cache.set("l", "old", ttl=0.5, stale=1000)
    clock.advance(1)
    assert cache.fetch_many(["k", "fresh", "l"], load) == {"k": "old", "fresh": 1, "l": "old"}
    loaded(cache, "new")
    loaded(cache, "new", "l")
    assert asked == [["k", "l"]]

    async def main() -> None:
        clock.advance(10)
        cache.set("k", "old", ttl=1, stale=100)
        clock.advance(10)
        assert await cache.afetch_many(["k"], load) == {"k": "old"}
        await until(lambda: cache.peek("k") == "new")

    asyncio.run(main())
    assert_nothing_left(cache)


def test_too_many_loads_leave_the_stale_value_and_its_reader_alone() -> None:
    cache, clock = new_cache()
    room = cache.namespace("room", max_pending=1)
    room.set("k", "old", ttl=1, stale=100)
    clock.advance(2)
    gate = Gate()
    other = Caller(lambda: room.fetch("other", gate))
    assert gate.begun.wait(30)
    assert room.fetch("k", never) == "old"
    with pytest.raises(TooManyLoadsError):
        room.fetch("third", never)
    gate.open.set()
    other.result()
    assert room.fetch("k", lambda: "new") == "old"
    loaded(room, "new")


# Invalidation


@pytest.mark.parametrize("how", ["delete", "clear", "tag", "prefix", "set"])
def test_an_invalidated_value_is_never_served_stale_nor_replaced_by_what_was_loading(
    how: str,
) -> None:
    cache, _ = stale_cache()
    gate = Gate("loaded before")
    assert cache.fetch("k", gate, tags="t") == "old"
    assert gate.begun.wait(30)
    {
        "delete": lambda: cache.delete("k"),
        "clear": cache.clear,
        "tag": lambda: cache.invalidate_tag("t"),
        "prefix": lambda: cache.invalidate_prefix("k"),
        "set": lambda: cache.set("k", "set", ttl=None),
    }[how]()
    expected = "set" if how == "set" else "after"
    assert cache.fetch("k", lambda: "after", ttl=None) == expected
    gate.open.set()
    wait_until(lambda: cache.stats().pending == 0)
    assert cache.fetch("k", never) == expected
    assert_nothing_left(cache)


# Failures behind


def test_a_failed_load_behind_is_counted_told_and_logged(
    ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = stale_cache()
    told: list[Event] = []
    cache.subscribe(told.append, "load_error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(cache, "k", fail) == "old"
        wait_until(lambda: logged(caplog))
        gc.collect()
    assert [(event.key, str(event.error)) for event in told] == [("k", "down")]
    assert cache.stats().load_failures == 1
    assert len(logged(caplog)) == 1
    assert "in namespace () failed" in caplog.text
    assert "OSError: down" in caplog.text
    assert cache.fetch("k", never) == "old"
    assert_nothing_left(cache)


def test_after_a_failure_the_key_rests_for_1_s_doubling_to_30(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=True)
    clock.advance(20)
    calls = Counter[str]()

    def load() -> str:
        calls["k"] += 1
        raise OSError

    for number, rest in enumerate([1, 2, 4, 8, 16, 30, 30, 30], 1):
        assert ask(cache, "k", load) == "old"
        wait_until(lambda n=number: cache.stats().load_failures == n)  # type: ignore[misc]
        wait_until(lambda: cache.stats().pending == 0)
        clock.advance(rest - 0.01)
        assert ask(cache, "k", never) == "old"
        assert calls["k"] == number
        clock.advance(0.02)
    assert ask(cache, "k", lambda: "new", ttl=10, stale=True) == "old"
    loaded(cache, "new")
    clock.advance(20)
    assert ask(cache, "k", load) == "new"  # A success ends the row of failures.
    wait_until(lambda: cache.stats().load_failures == 9)
    clock.advance(1.01)
    assert ask(cache, "k", lambda: "newer") == "new"
    loaded(cache, "newer")


def test_one_key_s_failure_gives_no_other_key_a_rest() -> None:
    cache, clock = stale_cache()
    cache.namespace("x").set("k", "old", ttl=1, stale=100)
    clock.advance(2)
    assert cache.fetch("k", fail) == "old"
    wait_until(lambda: cache.stats().load_failures == 1)
    assert cache.namespace("x").fetch("k", lambda: "new") == "old"
    loaded(cache.namespace("x"), "new")


def test_a_rest_ends_with_the_value_that_could_not_be_replaced() -> None:
    cache, clock = stale_cache()
    assert cache.fetch("k", fail) == "old"
    wait_until(lambda: cache.stats().load_failures == 1)
    cache.set("k", "other", ttl=0.5, stale=100)
    clock.advance(0.6)
    assert cache.fetch("k", lambda: "new") == "other"
    loaded(cache, "new")


def test_a_load_behind_that_fails_after_the_cache_was_closed_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, _ = stale_cache()
    gate = Gate(OSError("down"))
    assert cache.fetch("k", gate) == "old"
    assert gate.begun.wait(30)
    cache.close()
    gate.open.set()
    wait_until(lambda: logged(caplog))
    assert "OSError: down" in caplog.text


def test_what_strikes_a_thread_of_the_pool_is_logged_and_the_pool_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, clock = stale_cache()

    def leave() -> None:
        raise SystemExit("enough")

    for n in range(2 * pool.PER_TENANT):
        # The key backs off, perhaps from a moment after the clock was advanced.
        while len(logged(caplog)) <= n:
            assert cache.fetch("k", leave) == "old"
            wait_until(lambda: cache.stats().pending == 0)
            clock.advance(31)
    assert "SystemExit('enough')" in caplog.text
    assert cache.fetch("k", lambda: "new") == "old"
    loaded(cache, "new")


def test_an_awaitable_from_a_sync_loader_behind_is_a_failure_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, _ = stale_cache()

    async def load() -> str:
        return "new"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.fetch("k", lambda: load()) == "old"  # noqa: PLW0108  hides that it is async
        wait_until(lambda: logged(caplog))
        gc.collect()
    assert "use afetch" in caplog.text


# Refresh ahead


def test_a_hit_late_in_its_ttl_starts_one_load_ahead(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    options = {"ttl": 100, "refresh_ahead": 0.8}
    assert ask(cache, "k", lambda: "v1", **options) == "v1"
    clock.advance(80)
    assert ask(cache, "k", never, **options) == "v1"
    clock.advance(0.1)
    assert ask(cache, "k", lambda: "v2", **options) == "v1"
    loaded(cache, "v2")
    assert cache.ttl("k") == 100
    assert ask(cache, "k", never, **options) == "v2"
    stats = cache.stats()
    assert (stats.hits, stats.stale_hits, stats.misses, stats.loads) == (3, 0, 1, 2)


def test_a_failed_load_ahead_keeps_the_value_and_rests(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    cache.set("k", "v1", ttl=100)
    clock.advance(90)
    assert ask(cache, "k", fail, refresh_ahead=0.8) == "v1"
    wait_until(lambda: cache.stats().load_failures == 1)
    wait_until(lambda: cache.stats().pending == 0)
    assert ask(cache, "k", never, refresh_ahead=0.8) == "v1"
    clock.advance(1.01)
    assert ask(cache, "k", lambda: "v2", refresh_ahead=0.8) == "v1"
    loaded(cache, "v2")


def test_what_never_expires_is_never_loaded_ahead(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    cache.set("k", "v1", ttl=None)
    clock.advance(1e9)
    assert ask(cache, "k", never, refresh_ahead=0.1) == "v1"


# Stale if error


def test_the_old_value_stands_in_for_a_load_that_raises(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    assert ask(cache, "k", lambda: "old", ttl=10, stale_if_error=100) == "old"
    clock.advance(50)
    assert ask(cache, "k", fail, stale_if_error=100) == "old"
    assert ask(cache, "k", fail, stale_if_error=40) == "old"
    with pytest.raises(OSError, match="down"):
        ask(cache, "k", fail, stale_if_error=39)
    with pytest.raises(OSError, match="down"):
        ask(cache, "k", fail)
    clock.advance(60.1)
    with pytest.raises(OSError, match="down"):
        ask(cache, "k", fail, stale_if_error=1000)
    assert_nothing_left(cache)


def test_it_is_not_served_without_an_error_nor_for_one_who_asked_for_none() -> None:
    """Two wait for one load that fails; each is answered by its own options."""
    cache, clock = new_cache()
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(50)
    assert cache.fetch("k", lambda: "new", ttl=10, stale_if_error=100) == "new"
    clock.advance(50)
    gate = Gate(OSError("down"))
    content = Caller(lambda: cache.fetch("k", gate, stale_if_error=100))
    assert gate.begun.wait(30)
    strict = Caller(lambda: cache.fetch("k", never))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert content.result() == "new"
    with pytest.raises(OSError, match="down"):
        strict.result()


def test_an_interrupt_is_no_error_that_an_old_value_stands_in_for() -> None:
    cache, clock = new_cache()
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(50)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch("k", interrupt, stale_if_error=100)


def test_an_invalidated_value_stands_in_for_nothing() -> None:
    cache, clock = new_cache()
    cache.fetch("k", lambda: "old", ttl=10, stale_if_error=100)
    clock.advance(50)

    def load() -> None:
        cache.delete("k")
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        cache.fetch("k", load, stale_if_error=100)


# The pool


def test_the_pool_is_made_on_first_use_of_named_daemon_threads() -> None:
    output = run_isolated(
        """
        import threading
        from flowcache import create_cache

        cache = create_cache()
        cache.fetch("k", lambda: 1)
        print(threading.active_count())
        cache.set("k", "old", ttl=0.001, stale=True)
        while cache.get("k"):
            pass
        seen = []
        done = threading.Event()

        def load():
            seen.append(threading.current_thread())
            done.set()

        cache.fetch("k", load)
        assert done.wait(30)
        print(seen[0].name, seen[0].daemon)
        """
    )
    assert output.split("\n")[:2] == ["1", "flowcache-refresh-1 True"]


def test_a_load_behind_sees_its_caller_s_context() -> None:
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    cache, _ = stale_cache()
    who.set("me")
    assert cache.fetch("k", who.get) == "old"
    loaded(cache, "me")


def test_a_load_that_cannot_be_given_to_a_thread_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter is on its way out, or the system has no thread to spare."""
    cache, _ = stale_cache()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert cache.fetch("k", never) == "old"
        assert cache.stats().pending == 0
    assert cache.fetch("k", lambda: "new") == "old"
    loaded(cache, "new")


def test_failures_are_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES", 5)
    cache, clock = new_cache()
    for n in range(20):
        cache.set(n, "old", ttl=1, stale=100)
    clock.advance(2)
    for n in range(20):
        assert cache.fetch(n, fail) == "old"
    wait_until(lambda: cache.stats().load_failures == 20)
    wait_until(lambda: cache.stats().pending == 0)
    assert 1 <= len(backoff._failures[cache._store()]) <= 5


def failing_for(cache: Cache[Any], clock: VirtualClock, tenants: dict[str, int]) -> None:
    """Let so many keys of each tenant fail, by turns, and back off."""
    keys = sorted(
        ((n, name) for name, count in tenants.items() for n in range(count)), key=itemgetter(0)
    )
    for n, name in keys:
        own = cache.namespace(name, "below")
        own.set(n, "old", ttl=1, stale=10_000)
    clock.advance(2)
    for n, name in keys:
        backoff.note_failure(cache.namespace(name, "below"), n)


def backing_off(cache: Cache[Any], name: str, count: int) -> list[int]:
    own = cache.namespace(name, "below")
    return [n for n in range(count) if backoff.is_backing_off(own, n)]


def test_the_failures_of_one_tenant_push_out_none_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES", 50)
    cache, clock = new_cache()
    failing_for(cache, clock, {"beta": 10, "gamma": 1})
    failing_for(cache, clock, {"acme": 500})
    assert len(backoff._failures[cache._store()]) <= 50
    clock.now -= 2  # As it was when beta's failed.
    assert backing_off(cache, "beta", 10) == list(range(10))
    assert backing_off(cache, "gamma", 1) == [0]
    assert backing_off(cache, "acme", 500)[-1] == 499


@pytest.mark.parametrize("tenants", [{"a": 60, "b": 60, "c": 3}, {f"t{n}": 1 for n in range(200)}])
def test_what_is_remembered_of_failures_is_shared_out(
    tenants: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES", 50)
    cache, clock = new_cache()
    failing_for(cache, clock, tenants)
    kept = {name: len(backing_off(cache, name, count)) for name, count in tenants.items()}
    assert 45 <= sum(kept.values()) <= 50
    if "c" in tenants:
        assert kept["c"] == 3
        assert abs(kept["a"] - kept["b"]) <= 1
    else:
        assert kept["t199"] == 1  # The earliest go.
        assert kept["t0"] == 0


@pytest.mark.parametrize(
    ("counts", "room", "level"),
    [
        ([1, 9], 10, 9),
        ([10, 3, 1], 12, 8),
        ([5, 5], 9, 4),
        ([1] * 20, 10, 0),
        ([4, 4, 4], 12, 4),
        ([], 3, 0),
    ],
)
def test_a_fair_level(counts: list[int], room: int, level: int) -> None:
    assert backoff.fair_level(list(counts), room) == level
    assert sum(min(count, level) for count in counts) <= room


def test_a_dropped_cache_is_not_kept_alive_by_what_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL", "flowcache")  # A captured record would keep its traceback.

    def use() -> weakref.ref[Any]:
        cache, _ = stale_cache()
        assert cache.fetch("k", fail) == "old"
        wait_until(lambda: cache.stats().load_failures == 1)
        wait_until(lambda: cache.stats().pending == 0)
        return weakref.ref(cache._store())

    store = use()
    wait_until(lambda: gc.collect() is not None and store() is None)


def test_a_new_cache_knows_nothing_of_an_old_one_s_failures() -> None:
    """Nor if it lies where the old one lay, and its clock tells the same."""
    for _ in range(20):
        cache, _ = stale_cache()
        assert cache.fetch("k", fail) == "old"
        wait_until(lambda cache=cache: cache.stats().load_failures == 1)  # type: ignore[misc]
        wait_until(lambda cache=cache: cache.stats().pending == 0)  # type: ignore[misc]
        del cache


def test_by_the_real_clock() -> None:
    """A value past its TTL is served while the next one is loaded."""
    cache = create_cache()
    cache.set("k", "old", ttl=0.02, stale=60)
    wait_until(lambda: cache.get("k") is None)
    assert cache.fetch("k", lambda: "new", ttl=60) == "old"
    loaded(cache, "new")


def test_a_stale_answer_with_its_load_makes_six_calls_into_the_core() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=10, stale=True)
    clock.advance(11)
    told: list[str] = []

    def profile(frame: Any, event: str, called: Any) -> None:
        of = getattr(called, "__self__", None)
        in_core = getattr(called, "__module__", None) == "flowcache._core" or isinstance(
            of, (Namespace, Load)
        )
        if event == "c_call" and in_core:
            told.append(called.__name__)

    async def load() -> str:
        return "new"

    async def main() -> None:
        sys.setprofile(profile)
        try:
            assert await cache.afetch("k", load, stale=True) == "old"
            await settle()
        finally:
            sys.setprofile(None)

    asyncio.run(main())
    assert cache.peek("k") == "new"
    assert told == ["afetch", "_look_up", "_begin", "enter_load", "_finish", "leave_load"]
