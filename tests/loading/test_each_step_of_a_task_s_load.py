"""A load that a task begins: each step of it, interfered with."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import CacheClosedError
from flowcache.loading.deadlock import current_load
from harness.loading_support import assert_nothing_left, loop_factories, until
from harness.scenes import (
    Act,
    Foreign,
    TaskScene,
    after_joining,
    ask_in_place,
    cancel_caller,
    cancel_running,
    close,
    fail,
    interrupt,
    invalidate,
    join,
    join_in_a_task,
    stop_loop,
)
from harness.support import run_isolated

NewLoop = Callable[[], asyncio.AbstractEventLoop]

ALONE = [interrupt, fail, close, invalidate, cancel_caller, cancel_running]
ACTS = [*ALONE, join, join_in_a_task, ask_in_place, *map(after_joining, ALONE)]
PLACES = [*(f"clock {n}" for n in range(1, 9)), "weigher", "miss", "set", "load", "loader"]
PLACES += ["resumed"]
WAYS = [
    pytest.param("plain", asyncio.new_event_loop, id="plain"),
    pytest.param("cached", asyncio.new_event_loop, id="cached"),
    *(pytest.param("afetch", *kind.values, id=f"afetch-{kind.id}") for kind in loop_factories()),
]
ERRORS = (Foreign, LookupError, CacheClosedError, asyncio.CancelledError)


async def play(scene: TaskScene) -> Any:
    """Make the call; return its answer, and let all that it has begun end."""

    async def ask() -> Any:
        scene.asking = asyncio.current_task()  # Here: an eager task runs before it is returned.
        return await scene.ask()

    asking = asyncio.get_running_loop().create_task(ask())
    (answer,) = await asyncio.gather(asking, return_exceptions=True)
    await asyncio.gather(*scene.tasks, return_exceptions=True)
    await until(lambda: not any(caller.is_alive() for caller in scene.joining))
    if not scene.cache._is_closed():
        await until(lambda: scene.cache.stats().pending == 0)
    return answer


def assert_served(answer: Any) -> None:
    if isinstance(answer, BaseException):
        assert isinstance(answer, ERRORS), repr(answer)
    else:
        assert answer in ("mine", "theirs")


def assert_others_served(scene: TaskScene) -> None:
    for task in scene.tasks:
        if task.done() and not task.cancelled():
            assert_served(task.exception() or task.result())
    for caller in scene.joining:
        assert_served(caller.error or caller.result())


@pytest.mark.parametrize(("how", "new_loop"), WAYS)
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_each_step_is_survived(
    act: Act, how: str, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps the records, and the traceback of a listener's error holds the load.
    caplog.set_level("CRITICAL", logger="flowcache")
    for place in PLACES:
        scene = TaskScene(place, act, how)
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, about: complaints.append(about))  # noqa: B023
            answer = runner.run(play(scene))
            assert scene.done or place.startswith("clock") or how == "plain", place
            scene.done = True
            assert_served(answer)
            assert_others_served(scene)
            assert current_load() is None
            scene.cache._check()
            if scene.cache._is_closed():
                continue
            # After the act nothing is in the way: a later call is answered, and its value is held.
            assert runner.run(scene.ask()) in ("mine", "theirs")
            assert scene.space.peek(scene.key()) in ("mine", "theirs")
            assert scene.cache.stats().pending == 0
        assert complaints == []
        del answer
        scene.forget()
        assert_nothing_left(scene.cache)


def play_until_it_stops(scene: TaskScene, new_loop: NewLoop) -> None:
    """Play on a loop that ends with the call, or before; then close it."""
    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
    playing = loop.create_task(play(scene))
    playing.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    loop.close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(("how", "new_loop"), WAYS)
@pytest.mark.parametrize("act", [stop_loop, after_joining(stop_loop)], ids=["alone", "joined"])
def test_a_loop_that_ends_at_a_step_strands_no_call(act: Act, how: str, new_loop: NewLoop) -> None:
    for place in PLACES:
        scene = TaskScene(place, act, how)
        play_until_it_stops(scene, new_loop)
        assert scene.done or place.startswith("clock") or how == "plain", place
        scene.done = True
        for caller in scene.joining:
            caller.join(30)
            assert not caller.is_alive()
        assert_others_served(scene)
        scene.forget()
        gc.collect()
        assert scene.cache.stats().pending == 0
        scene.cache._check()
        assert asyncio.run(scene.ask()) in ("mine", "theirs")
        assert scene.space.peek(scene.key()) in ("mine", "theirs")
        assert_nothing_left(scene.cache)


@pytest.mark.parametrize("how", ["afetch", "plain", "cached"])
@pytest.mark.parametrize("place", ["loader", "resumed"])
@pytest.mark.parametrize("act", [invalidate, after_joining(invalidate)], ids=["alone", "joined"])
def test_what_is_invalidated_while_the_loader_runs_is_not_stored(
    act: Act, place: str, how: str
) -> None:
    if how == "plain" and place == "resumed":
        place = "loader"
    scene = TaskScene(place, act, how)
    assert asyncio.run(play(scene)) == "mine"
    assert [caller.result() for caller in scene.joining] == ["mine"] * len(scene.joining)
    assert scene.space.peek(scene.key()) is None


@pytest.mark.parametrize("how", ["afetch", "cached"])
@pytest.mark.parametrize("place", ["loader", "resumed"])
def test_a_caller_s_cancellation_is_not_that_of_a_thread_that_joined(place: str, how: str) -> None:
    scene = TaskScene(place, after_joining(cancel_caller), how)
    assert isinstance(asyncio.run(play(scene)), asyncio.CancelledError)
    assert scene.joining[0].result() == scene.space.peek(scene.key()) == "mine"


@pytest.mark.parametrize("how", ["afetch", "cached"])
@pytest.mark.parametrize("place", ["loader", "resumed"])
def test_a_cancelled_load_is_led_by_another_call(place: str, how: str) -> None:
    scene = TaskScene(place, after_joining(cancel_running), how)
    answers = {asyncio.run(play(scene)), scene.joining[0].result()}
    assert len(answers) == 1, "two loads of one key"
    assert answers == {scene.space.peek(scene.key())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("how", ["fetch", "sync cached", "afetch", "plain", "cached"])
def test_a_fork_at_each_step_leaves_no_call_waiting_on_either_side(how: str) -> None:
    run_isolated(
        """
        import asyncio, os, sys, traceback, warnings
        from harness.loading_support import Caller
        from harness.scenes import Scene, TaskScene

        PLACES = [*(f"clock {n}" for n in range(1, 7)), "weigher", "miss", "set", "load", "loader"]
        PLACES += ["resumed"]
        kind, how = (Scene if sys.argv[1] == "fetch" else TaskScene), sys.argv[1]
        if how == "sync cached":
            kind, how = Scene, "cached"
        warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside other threads.

        def fork(scene):
            key = scene.key()
            child = os.fork()
            if not child:
                try:
                    # In a context of its own: it is no part of the load.
                    answer = Caller(lambda: scene.space.fetch(key, lambda: "theirs")).result()
                    assert answer in ("mine", "theirs"), answer
                    assert scene.space.peek(key) == answer
                    scene.cache._check()
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            scene.children.append(child)

        for place in PLACES:
            scene = kind(place, fork, how)
            scene.children = []
            call = scene.call if kind is Scene else lambda: asyncio.run(scene.ask())
            assert call() == "mine"
            assert scene.done or place.startswith("clock") or place == "resumed", place
            for child in scene.children:
                assert os.waitpid(child, 0)[1] == 0, place
            assert scene.space.peek(scene.key()) == "mine"
            assert scene.cache.stats().pending == 0
            scene.cache._check()
        """,
        how,
    )
