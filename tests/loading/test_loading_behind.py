"""Loads behind a value that is served: stale, late in its TTL, or in place of an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, TooManyLoadsError
from flowcache.loading import pool
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    assert_nothing_left,
    fail,
    loaded,
    never,
    settle,
    stale_cache,
    until,
    wait_until,
)
from harness.support import VirtualClock, new_cache


def test_a_load_without_a_thread_to_run_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_call_that_needs_the_value_joins_the_load_behind() -> None:
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


def test_a_call_that_needs_the_value_does_not_wait_for_a_thread_of_the_pool() -> None:
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


def test_a_call_that_joins_before_a_thread_takes_the_load_behind_is_not_left_waiting() -> None:
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


def test_a_hit_that_is_not_due_reads_no_other_option(ask: Callable[..., Any]) -> None:
    cache, clock = new_cache()
    cache.set("k", "v1", ttl=100)
    clock.advance(50)
    for name in ("refresh_ahead", b"refresh_ahead".decode()):  # The second is not interned.
        assert ask(cache, "k", never, **{"ttl": -1, name: 0.5, "nonsense": 1}) == "v1"
    assert ask(cache, "k", never, ttl=-1, refresh_ahead=None) == "v1"
    assert type(cache.afetch("k", never, refresh_ahead=0.5)) is type(cache.afetch("k", never))
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.pending) == (5, 0, 0)
    clock.advance(0.1)
    with pytest.raises(TypeError, match="nonsense"):
        ask(cache, "k", never, refresh_ahead=0.5, nonsense=1)
    assert cache.stats() == stats


@pytest.mark.parametrize("wrong", [0, 1, 0.0, 1.0, -0.5, float("nan"), float("inf"), True, "0.5"])
def test_a_wrong_part_is_refused_on_a_hit(ask: Callable[..., Any], wrong: Any) -> None:
    cache, _ = new_cache()
    cache.set("k", "v1", ttl=100)
    before = cache.stats()
    with pytest.raises((TypeError, ValueError), match="refresh_ahead"):
        ask(cache, "k", never, refresh_ahead=wrong)
    assert cache.stats() == before


def test_a_part_may_be_any_number(ask: Callable[..., Any]) -> None:
    class Half(float):
        pass

    cache, clock = new_cache()
    cache.set("k", "v1", ttl=100)
    clock.advance(40)
    assert ask(cache, "k", never, refresh_ahead=Half(0.5)) == "v1"
    clock.advance(20)
    assert ask(cache, "k", lambda: "v2", refresh_ahead=Half(0.5)) == "v1"
    loaded(cache, "v2")


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


def test_it_is_served_neither_without_an_error_nor_to_a_call_that_did_not_ask_for_it() -> None:
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
