"""Failures of background loads: the rest of a key, and the threads of the pool."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from operator import itemgetter
from typing import Any

import pytest

from flowcache import Cache, Event, Namespace, create_cache
from flowcache.loading import backoff, pool
from flowcache.loading.load import Load
from harness.loading_support import (
    Gate,
    assert_nothing_left,
    fail,
    loaded,
    never,
    settle,
    stale_cache,
    wait_until,
)
from harness.support import VirtualClock, logged, new_cache, run_isolated

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
        elif event == "c_call" and isinstance(of, Context) and frame.f_code.co_name == "afetch":
            told.append("_look_up")  # In the context of the call, whose `run` makes that call.

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
