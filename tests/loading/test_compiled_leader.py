"""A sync load that no call joins is led by compiled code: each step of it, interfered with."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
from typing import Any

import pytest

from flowcache import CacheClosedError, Loaded, RecursiveLoadError, create_cache
from flowcache.loading.deadlock import current_load
from flowcache.loading.run import Run
from harness.loading_support import Caller, Gate, assert_nothing_left
from harness.scenes import (
    Act,
    Foreign,
    Scene,
    after_joining,
    close,
    fail,
    interrupt,
    invalidate,
    join,
)
from harness.support import run_isolated

ALONE = [interrupt, fail, invalidate, close]
ACTS = [*ALONE, join, *map(after_joining, ALONE)]
PLACES = [*(f"clock {n}" for n in range(1, 9)), "weigher", "miss", "set", "load", "loader"]


@pytest.mark.parametrize("how", ["fetch", "cached"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_each_step_is_survived(place: str, act: Act, how: str) -> None:
    scene = Scene(place, act, how)
    answer: Any = None
    try:
        answer = scene.call()
    except (Foreign, LookupError, CacheClosedError) as error:
        answer = type(error)
    assert scene.done or place in ("clock 5", "clock 6", "clock 7", "clock 8")  # Not as many.
    scene.done = True
    for caller in scene.joining:
        caller.join(30)
        assert not caller.is_alive()
        if not isinstance(caller.error, (CacheClosedError, LookupError)):
            assert caller.result() in ("mine", "theirs")
    assert current_load() is None
    scene.cache._check()
    if scene.cache._is_closed():
        return
    assert scene.cache.stats().pending == 0
    # After the act nothing is in the way: a later call is answered, and what it has is held.
    assert scene.call() in ("mine", "theirs")
    assert scene.space.peek(scene.key()) in ("mine", "theirs")
    assert answer in ("mine", "theirs", Foreign, LookupError)
    assert_nothing_left(scene.cache)


@pytest.mark.parametrize("how", ["fetch", "cached"])
@pytest.mark.parametrize("act", [invalidate, after_joining(invalidate)])
def test_what_is_invalidated_while_the_loader_runs_is_not_stored(act: Act, how: str) -> None:
    scene = Scene("loader", act, how)
    assert scene.call() == "mine"
    assert [caller.result() for caller in scene.joining] == ["mine"] * len(scene.joining)
    assert scene.space.peek(scene.key()) is None


@pytest.mark.parametrize("how", ["fetch", "cached"])
def test_an_interrupted_leader_leaves_the_load_to_one_that_waits(how: str) -> None:
    scene = Scene("loader", after_joining(interrupt), how)
    with pytest.raises(Foreign):
        scene.call()
    assert scene.joining[0].result() == "theirs"
    assert scene.space.peek(scene.key()) == "theirs"


def test_nothing_is_made_for_a_load_that_no_call_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a run was made")

    cache = create_cache()
    monkeypatch.setattr(Run, "__init__", refuse)
    assert cache.fetch("k", lambda: "value", ttl=60, tags="red") == "value"
    assert cache.cached(lambda: "value")() == "value"


@pytest.mark.parametrize("how", ["fetch", "cached"])
def test_a_recursion_goes_deep(how: str) -> None:
    cache = create_cache(max_entries=None)

    @cache.cached
    def cached(depth: int) -> int:
        return 0 if depth == 0 else 1 + cached(depth - 1)

    def fetched(depth: int) -> int:
        return cache.fetch(depth, lambda: 0 if depth == 0 else 1 + fetched(depth - 1))

    # 3.12 lets 800 calls of C be nested, whatever the limit is: each load of `cached` takes one.
    limit = sys.getrecursionlimit()
    depth, f = (limit * 3 // 5, cached) if how == "cached" else (limit // 4, fetched)
    assert Caller(lambda: f(depth)).result() == depth  # Of a stack of its own.
    cache.clear()
    with pytest.raises(RecursionError):
        Caller(lambda: f(100 * limit)).result()
    assert cache.stats().pending == 0
    assert_nothing_left(cache)


def test_the_loader_runs_in_the_caller_s_context() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    cache = create_cache()

    def load() -> str:
        before = variable.get()
        variable.set("by the loader")
        return before

    variable.set("by the caller")
    before = contextvars.copy_context()
    assert cache.fetch("k", load) == "by the caller"
    assert variable.get() == "by the loader"
    after = contextvars.copy_context()
    assert list(after) == list(before), "the load is still in the context"


def test_a_copy_of_the_context_knows_the_load_until_it_ends() -> None:
    cache = create_cache()
    copies: list[contextvars.Context] = []

    def load() -> str:
        copies.append(contextvars.copy_context())
        inner = Caller(lambda: copies[0].run(cache.fetch, "k", lambda: "never"))
        with pytest.raises(RecursiveLoadError):
            inner.result()
        return "value"

    assert cache.fetch("k", load) == "value"
    assert copies[0].run(current_load) is None
    cache.clear()
    assert copies[0].run(cache.fetch, "k", lambda: "again") == "again"


def test_rings_are_refused_across_threads() -> None:
    cache = create_cache()
    gate = Gate()
    errors: list[BaseException] = []

    def first() -> Any:
        gate()
        try:
            return cache.fetch("b", lambda: "never")
        except RecursiveLoadError as error:
            errors.append(error)
            return "a"

    def second() -> Any:
        gate.open.set()
        return cache.fetch("a", lambda: "never")

    leader = Caller(lambda: cache.fetch("a", first))
    assert gate.begun.wait(30)
    other = Caller(lambda: cache.fetch("b", second))
    results = []
    for caller in (leader, other):
        try:
            results.append(caller.result())
        except RecursiveLoadError as error:
            errors.append(error)
    assert len(errors) == 1
    assert cache.stats().pending == 0


def test_on_the_thread_of_a_loop_that_it_blocks() -> None:
    """What the loop would have to run cannot be waited for by what the loader waits for."""
    cache = create_cache()

    async def main() -> Any:
        loop = asyncio.get_running_loop()

        def load() -> Any:
            async def inner() -> Any:
                return await cache.afetch("inner", lambda: "never")

            def outer() -> Any:
                return asyncio.run_coroutine_threadsafe(inner(), loop).result(0.2)

            with pytest.raises(TimeoutError):
                Caller(outer).result()
            return "value"

        return cache.fetch("k", load)

    assert asyncio.run(main()) == "value"


@pytest.mark.parametrize("how", ["fetch", "cached"])
def test_what_a_loader_may_return(how: str) -> None:
    cache = create_cache()
    results: list[Any] = []
    cached = cache.cached(key="k")(lambda: results[-1])

    def load(returned: Any) -> Any:
        cache.clear()
        results.append(returned)
        return cached() if how == "cached" else cache.fetch("k", lambda: returned)

    for value in (None, 0, [], {}, "x", object(), Loaded, range(3), iter):
        assert load(value) is value
        assert cache["k"] is value

    class More(Loaded[str]):
        __slots__ = ()

    for kind in (Loaded, More):
        assert load(kind("value", ttl=5, tags="late")) == "value"
        assert cache.ttl("k") == pytest.approx(5, abs=1)
        assert cache.invalidate_tag("late") == 1
    assert load(Loaded("value", store=False)) == "value"
    assert "k" not in cache
    for wrong in (iter([]), (n for n in ())):
        with pytest.raises(TypeError, match="iterator"):
            load(wrong)

    async def made() -> None: ...

    with pytest.raises(TypeError, match="afetch"):
        load(made())
    assert cache.stats().pending == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_in_the_loader_or_beside_it_leaves_no_call_waiting() -> None:
    output = run_isolated(
        """
        import os, threading
        from flowcache import create_cache
        cache = create_cache()
        begun, go = threading.Event(), threading.Event()

        def load():
            begun.set()
            go.wait(30)
            return "parent"

        def forking():
            pid = os.fork()
            if not pid:
                print(cache.fetch("k", lambda: "child"), flush=True)
                return "child's own"
            os.waitpid(pid, 0)
            return "parent's own"

        thread = threading.Thread(target=cache.fetch, args=("k", load))
        thread.start()
        begun.wait(30)
        me = os.getpid()
        print(cache.fetch("own", forking), cache.peek("own"), flush=True)
        if os.getpid() != me:
            assert cache.stats().pending == 0, cache.stats()
            os._exit(0)
        go.set()
        thread.join()
        print(cache.peek("k"), cache.stats().pending)
        """
    )
    assert output.splitlines() == [
        "child",
        "child's own child's own",
        "parent's own parent's own",
        "parent 0",
    ]
