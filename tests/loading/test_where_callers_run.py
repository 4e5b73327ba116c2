"""Callers that share a thread, are near the recursion limit, or are left by the interpreter."""

from __future__ import annotations

import importlib.util

import pytest

from harness.loading_support import needs_greenlets
from harness.support import run_isolated


@needs_greenlets
def test_a_greenlet_that_another_one_of_its_thread_would_have_to_let_on_loads_itself() -> None:
    """Blocking calls on an event loop's thread, as an async database driver makes them."""
    output = run_isolated(
        """
        import asyncio
        from greenlet import getcurrent, greenlet
        from flowcache import RecursiveLoadError, create_cache

        def wait(awaitable):
            return getcurrent().parent.switch(awaitable)

        async def spawn(function):
            child = greenlet(function)
            result = child.switch()
            while not child.dead:
                result = child.switch(await result)
            return result

        cache = create_cache()
        runs = []

        def load():
            runs.append(1)
            return wait(asyncio.sleep(0.01, "row"))

        def many(keys):
            return dict.fromkeys(keys, load())

        async def main():
            calls = [
                lambda: cache.fetch("a", load),
                lambda: cache.fetch("a", load, tags="t"),
                lambda: cache.refresh("a", load),
                lambda: cache.fetch_many(["a"], many)["a"],
            ]
            print(await asyncio.gather(*[spawn(call) for call in calls]), len(runs))
            first = asyncio.create_task(spawn(lambda: cache.fetch("b", load)))
            await asyncio.sleep(0)
            print(await asyncio.gather(first, cache.afetch("b", lambda: "not called")))
            first = asyncio.create_task(spawn(lambda: cache.fetch("c", load)))
            await asyncio.sleep(0)
            print(cache.fetch("c", lambda: "by the loop's own greenlet"), await first)
            def own():
                return cache.fetch("d", own)
            try:
                await spawn(own)
            except RecursiveLoadError:
                print("recursion")
            print(cache.stats().pending)

        asyncio.run(main())
        """
    )
    assert output.splitlines() == [
        "['row', 'row', 'row', 'row'] 4",
        "['row', 'row']",
        "by the loop's own greenlet row",
        "recursion",
        "0",
    ]


@needs_greenlets
@pytest.mark.parametrize("order", ["early", "late"])
def test_gevent_may_patch_after_the_import(order: str) -> None:
    """A load behind a stale value, a wait and a time-out let other greenlets run."""
    output = run_isolated(
        """
        import sys
        if sys.argv[1] == "late":
            import flowcache
        from gevent import monkey
        monkey.patch_all()
        import gevent, time
        from flowcache import LoadTimeoutError, create_cache

        def slow(value):
            time.sleep(0.05)
            return value

        cache = create_cache()
        cache.set("k", "old", ttl=0.01, stale=60)
        time.sleep(0.02)
        ticks = []
        ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.005)) for _ in range(60)])
        print(cache.fetch("k", lambda: slow("new"), ttl=60, stale=60))
        two = [gevent.spawn(cache.fetch, "l", lambda: slow("one load")) for _ in range(2)]
        print([one.get() for one in two], cache.stats().loads)
        try:
            cache.fetch("m", lambda: slow("late"), timeout=0.01)
        except LoadTimeoutError:
            print("timed out")
        ticker.join()
        print(cache.get("k"), cache.get("m"), len(ticks))
        """,
        order,
    )
    assert output.splitlines() == [
        "old",
        "['one load', 'one load'] 2",
        "timed out",
        "new late 60",
    ]


def test_a_call_near_the_recursion_limit_strands_none() -> None:
    """Wherever it ends, no load is left, and the next caller is answered."""
    output = run_isolated(
        """
        import asyncio, sys, threading, time
        from flowcache import create_cache

        def at_depth(frames, call):
            return call() if frames <= 0 else at_depth(frames - 1, call)

        def fail():
            raise ValueError

        CALLS = {
            "fetch": lambda ns: ns.fetch("k", lambda: 1),
            "timeout": lambda ns: ns.fetch("k", lambda: 1, timeout=30),
            "fails": lambda ns: ns.fetch("k", fail),
            "refresh": lambda ns: ns.refresh("k", lambda: 1),
            "many": lambda ns: ns.fetch_many(["k"], lambda keys: dict.fromkeys(keys, 1)),
            "cached": lambda ns: ns.cached(key="k")(lambda: 1)(),
            "behind": lambda ns: ns.fetch("k", lambda: 1, stale=True),
        }
        LIMIT = 300
        for name, call in CALLS.items():
            refused = 0
            for frames in range(LIMIT - 90, LIMIT):
                now = [0.0]
                ns = create_cache(clock=lambda: now[0]).namespace("acme")
                if name == "behind":
                    ns.set("k", 0, ttl=1, stale=True)
                    now[0] = 2.0
                before = sys.getrecursionlimit()
                sys.setrecursionlimit(LIMIT)
                try:
                    at_depth(frames, lambda: call(ns))
                except RecursionError:
                    refused += 1
                except ValueError:
                    pass
                finally:
                    sys.setrecursionlimit(before)
                deadline = time.monotonic() + 20
                while ns.stats().pending and time.monotonic() < deadline:
                    time.sleep(0.001)
                assert ns.stats().pending == 0, (name, frames)
                assert ns.fetch("other", lambda: 2) == 2
            assert refused > 10, name
            print(name)
        """
    )
    assert output.split() == ["fetch", "timeout", "fails", "refresh", "many", "cached", "behind"]


@pytest.mark.parametrize("how", ["foreground", "background", "batch"])
def test_the_exit_of_the_interpreter_with_a_running_load_is_quiet(how: str) -> None:
    """Nothing on stderr but asyncio's own word: `run_isolated` refuses ignored exceptions."""
    output = run_isolated(
        """
        import asyncio, sys, time, warnings
        from flowcache import create_cache

        warnings.simplefilter("ignore", ResourceWarning)  # Of the loop and its sockets.
        cache = create_cache()

        async def hang(*keys):
            await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        if sys.argv[1] == "batch":
            call = cache.afetch_many(["a", "b"], hang)
        else:
            call = cache.afetch("a", hang, stale=True)
        if sys.argv[1] == "background":
            cache.set("a", "old", ttl=0.001, stale=True)
            time.sleep(0.05)
        task = loop.create_task(call)
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.set_exception_handler(lambda loop, about: None)
        print(cache.stats().pending)
        """,
        how,
    )
    assert output.split() == ["2" if how == "batch" else "1"]


@needs_greenlets
@pytest.mark.skipif(importlib.util.find_spec("sqlalchemy") is None, reason="no SQLAlchemy here")
def test_sync_code_below_an_async_session_waits_for_one_load() -> None:
    """SQLAlchemy runs it in greenlets on the thread of the event loop."""
    output = run_isolated(
        """
        import asyncio
        from sqlalchemy.util import await_only, greenlet_spawn
        from flowcache import create_cache

        cache = create_cache()

        def query():
            return await_only(asyncio.sleep(0.05, "row"))

        async def main():
            calls = [greenlet_spawn(lambda: cache.fetch("user:1", query)) for _ in range(3)]
            print(await asyncio.gather(*calls))

        asyncio.run(main())
        """
    )
    assert output.split() == ["['row',", "'row',", "'row']"]
