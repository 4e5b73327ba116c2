"""The result of afetch on a hit: it has its value already, and can be awaited in every way."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import subprocess
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

import pytest

from flowcache import Namespace, _core, create_cache


async def never() -> Any:
    raise AssertionError("this loader is not to be called")


@pytest.fixture
def ns() -> Iterator[Namespace[Any]]:
    cache = create_cache()
    ns = cache.namespace("a")
    ns.set("k", "value")
    yield ns
    cache._check()


class Value:
    """Something that can be referred to weakly."""


VALUES: list[Any] = [
    None,
    (),
    (1, 2),
    ("only",),
    [],
    0,
    False,
    ValueError("an exception as a value"),
    ValueError,
    StopIteration("inner"),
    StopIteration,
    StopAsyncIteration(),
    GeneratorExit(),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    BaseException(),
    object(),
    _core.UNSET,
]


async def in_a_task(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(awaitable)


async def gathered(awaitable: Coroutine[Any, Any, Any]) -> Any:
    first, second = await asyncio.gather(asyncio.sleep(0, "other"), awaitable)
    assert first == "other"
    return second


async def waited_for(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(awaitable, 60)


async def waited_for_without_end(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(awaitable, None)


async def shielded(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.shield(awaitable)


async def under_a_timeout(awaitable: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(60):
        return await awaitable


async def under_a_timeout_that_has_come(awaitable: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(60) as timeout:
        timeout.reschedule(asyncio.get_running_loop().time() - 1)
        return await awaitable  # it does not suspend, so that nothing can interrupt it


async def in_a_group(awaitable: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(awaitable)
    return task.result()


async def as_completed(awaitable: Coroutine[Any, Any, Any]) -> Any:
    for finished in asyncio.as_completed([awaitable]):
        return await finished
    raise AssertionError("there was one")


async def waited(awaitable: Coroutine[Any, Any, Any]) -> Any:
    done, pending = await asyncio.wait([asyncio.ensure_future(awaitable)])
    assert not pending
    return done.pop().result()


async def directly(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await awaitable


async def through_an_old_coroutine(awaitable: Coroutine[Any, Any, Any]) -> Any:
    @types.coroutine
    def old() -> Any:
        result = yield from awaitable  # type: ignore[misc]
        return result

    return await old()


async def through_dunder_await(awaitable: Coroutine[Any, Any, Any]) -> Any:
    class Delegates:
        def __await__(self) -> Any:
            return awaitable.__await__()

    return await Delegates()


WAYS: list[Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]] = [
    directly,
    in_a_task,
    gathered,
    waited_for,
    waited_for_without_end,
    shielded,
    under_a_timeout,
    under_a_timeout_that_has_come,
    in_a_group,
    as_completed,
    waited,
    through_an_old_coroutine,
    through_dunder_await,
]


def uvloop_runner() -> asyncio.Runner:
    uvloop = pytest.importorskip("uvloop", reason="uvloop cannot be installed here")
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def eager_runner() -> asyncio.Runner:
    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        return loop

    return asyncio.Runner(loop_factory=eager_loop)


def debug_runner() -> asyncio.Runner:
    return asyncio.Runner(debug=True)


@contextlib.contextmanager
def pure_runner() -> Iterator[asyncio.Runner]:
    """Tasks as asyncio writes them in Python, which ask a coroutine by other calls."""
    tasks: Any = asyncio.tasks
    python_task = tasks._PyTask

    def loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(lambda loop, coro, **options: python_task(coro, loop=loop, **options))
        return loop

    with contextlib.ExitStack() as stack:
        if sys.version_info >= (3, 14):
            # The C module keeps a current task of its own, so the Python one is asked here.
            ask = tasks._py_current_task
            stack.enter_context(mock.patch.object(tasks, "current_task", ask))
        yield stack.enter_context(asyncio.Runner(loop_factory=loop))


RUNNERS = [asyncio.Runner, debug_runner, pure_runner, uvloop_runner]
if sys.version_info >= (3, 12):
    RUNNERS.append(eager_runner)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("way", WAYS)
def test_a_hit_can_be_awaited_in_any_way(
    ns: Namespace[Any],
    way: Any,
    runner: Callable[[], contextlib.AbstractContextManager[asyncio.Runner]],
) -> None:
    async def main() -> None:
        for number, value in enumerate(VALUES):
            ns.set("k", value)
            assert await way(ns.afetch("k", never)) is value, number
        assert ns.stats().hits == len(VALUES)

    with runner() as running:
        running.run(main())


@pytest.mark.parametrize("traced", [False, True])
def test_a_hit_does_not_suspend_and_has_no_frame(ns: Namespace[Any], traced: bool) -> None:
    events: list[str] = []

    def tell(frame: Any, event: str, _: Any) -> Any:
        events.append(f"{event} {frame.f_code.co_name}")
        return tell

    async def caller() -> Any:
        return await ns.afetch("k", never)

    coroutine, value = caller(), None
    watching = sys.gettrace()  # keeps the tracer of coverage
    sys.settrace(tell if traced else None)
    try:
        coroutine.send(None)
    except StopIteration as finished:
        value = finished.value
    finally:
        sys.settrace(watching)
    assert value == "value"
    begun = {event for event in events if event.startswith("call ")}
    assert begun == ({"call caller"} if traced else set())


def test_other_tasks_do_not_run_meanwhile(ns: Namespace[Any]) -> None:
    async def main() -> None:
        ran: list[str] = []

        async def other() -> None:
            ran.append("other")

        task = asyncio.create_task(other())
        for _ in range(100):
            await ns.afetch("k", never)
        assert ran == []
        await task

    asyncio.run(main())


def test_its_value_may_be_let_go_as_soon_as_it_is_handed_over(ns: Namespace[Any]) -> None:
    value = Value()
    gone = weakref.ref(value)
    ns.set("k", value)
    del value
    awaitable = ns.afetch("k", never)
    ns.delete("k")
    assert gone() is not None
    with pytest.raises(StopIteration) as finished:
        awaitable.send(None)
    del finished
    assert gone() is None
    del awaitable


@pytest.mark.parametrize("runner", RUNNERS)
def test_it_can_be_dropped_in_silence(
    ns: Namespace[Any], runner: Callable[[], asyncio.Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        for _ in range(1_000):
            ns.afetch("k", never)
        task = asyncio.create_task(ns.afetch("k", never))
        del task
        await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as caught, runner() as running:
        warnings.simplefilter("always")
        running.run(main())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert capsys.readouterr() == ("", "")


def test_nothing_is_kept_of_what_was_dropped(ns: Namespace[Any]) -> None:
    value = Value()
    gone = weakref.ref(value)
    ns.set("k", value)
    dropped = [ns.afetch("k", never) for _ in range(1_000)]
    del dropped, value
    ns.clear()
    assert gone() is None


def test_a_cycle_through_it_is_collected() -> None:
    cache = create_cache()
    value: Any = Value()
    cache.set("k", value)
    value.back = cache.afetch("k", never)
    gone = weakref.ref(value)
    del value, cache
    gc.collect()
    assert gone() is None


# The behaviour of a coroutine


def spend_by_await(awaitable: Any) -> None:
    async def caller() -> Any:
        return await awaitable

    with pytest.raises(StopIteration):
        caller().send(None)


def spend_by_send(awaitable: Any) -> None:
    with pytest.raises(StopIteration):
        awaitable.send(None)


def spend_by_next(awaitable: Any) -> None:
    with pytest.raises(StopIteration):
        next(awaitable.__await__())


def spend_by_close(awaitable: Any) -> None:
    awaitable.close()


def spend_by_throw(awaitable: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        awaitable.throw(ZeroDivisionError())


SPENDING = [spend_by_await, spend_by_send, spend_by_next, spend_by_close, spend_by_throw]


async def a_coroutine() -> str:
    return "value"


@pytest.mark.parametrize("again", SPENDING)
@pytest.mark.parametrize("first", SPENDING)
def test_a_second_use_is_refused_as_a_coroutine_refuses_it(
    ns: Namespace[Any], first: Callable[[Any], None], again: Callable[[Any], None]
) -> None:
    for made in (ns.afetch("k", never), a_coroutine()):
        with contextlib.suppress(AttributeError):  # a coroutine has no __next__ of its own
            first(made)
        if again is spend_by_close:
            made.close()
            made.close()
        else:
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                again(made)


def test_a_second_await_is_refused_in_a_task_and_in_gather(ns: Namespace[Any]) -> None:
    async def main() -> None:
        awaitable = ns.afetch("k", never)
        assert await awaitable == "value"
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await awaitable
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await asyncio.create_task(awaitable)
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await asyncio.gather(awaitable)
        once = ns.afetch("k", never)
        assert await asyncio.gather(once, once) == ["value", "value"]  # gather takes it as one

    asyncio.run(main())


def thrown(made: Any, *arguments: Any) -> tuple[type[BaseException], str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the form with three arguments
        try:
            made.throw(*arguments)
        except BaseException as error:
            return type(error), str(error)
        finally:
            made.close()
    raise AssertionError("nothing was raised")


def test_throw_does_as_a_coroutine_that_has_not_begun(ns: Namespace[Any]) -> None:
    try:
        raise LookupError("outer")
    except LookupError as error:
        traceback = error.__traceback__
    cases: list[tuple[Any, ...]] = [
        (ValueError("instance"),),
        (ValueError,),
        (ValueError, "text"),
        (ValueError, ("two", "parts")),
        (ValueError, ValueError("inner")),
        (ValueError, ValueError("inner"), traceback),
        (ValueError, None, traceback),
        (ValueError("instance"), None, traceback),
        (KeyboardInterrupt,),
        (asyncio.CancelledError("why"),),
        (GeneratorExit,),
        (StopIteration("inside"),),
    ]
    for case in cases:
        kind, text = thrown(ns.afetch("k", never), *case)
        expected, expected_text = thrown(a_coroutine(), *case)
        if expected is RuntimeError:  # as a coroutine turns StopIteration into RuntimeError
            expected, expected_text = StopIteration, "inside"
        assert (kind, text) == (expected, expected_text), case
    refused: list[tuple[Any, ...]] = [
        (3,),
        (int,),
        ("text",),
        (ValueError("a"), "b"),
        (ValueError, None, "no traceback"),
    ]
    for wrong in refused:
        assert thrown(ns.afetch("k", never), *wrong)[0] is thrown(a_coroutine(), *wrong)[0], wrong


def test_an_error_that_is_thrown_in_has_the_traceback_it_is_given(ns: Namespace[Any]) -> None:
    def raises() -> None:
        raise LookupError("with a history")

    try:
        raises()
    except LookupError as error:
        given = error
    with pytest.raises(LookupError) as caught:
        ns.afetch("k", never).throw(given)
    names = [entry.name for entry in caught.traceback]
    assert "raises" in names


def test_send_takes_nothing_but_none(ns: Namespace[Any]) -> None:
    for made in (ns.afetch("k", never), a_coroutine()):
        with pytest.raises(TypeError, match="just-started"):
            made.send("something")
        with pytest.raises(StopIteration) as finished:
            made.send(None)
        assert finished.value.value == "value"


def test_a_task_that_is_cancelled_before_it_begins_is_cancelled(ns: Namespace[Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(ns.afetch("k", never))
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


def test_it_is_what_is_asked_for(ns: Namespace[Any]) -> None:
    made = ns.afetch("k", never)
    assert isinstance(made, collections.abc.Coroutine)
    assert isinstance(made, Awaitable)
    assert inspect.isawaitable(made)
    assert asyncio.iscoroutine(made)
    assert not isinstance(made, types.CoroutineType)
    assert "afetch" in repr(made)
    with pytest.raises(TypeError):
        type(made)()


def test_its_task_can_be_shown(ns: Namespace[Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(ns.afetch("k", never))
        assert "afetch" in repr(task)
        assert task.get_stack() == []
        await task

    asyncio.run(main(), debug=True)


def test_it_may_be_awaited_by_another_thread_and_loop(ns: Namespace[Any]) -> None:
    made, results = ns.afetch("k", never), []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(directly(made))))
    thread.start()
    thread.join()
    assert results == ["value"]


def test_fetch_with_an_async_loader_returns_the_same(ns: Namespace[Any]) -> None:
    assert type(ns.fetch("k", never)) is type(ns.afetch("k", never)) is _core.Ready
    assert asyncio.run(directly(ns.fetch("k", never))) == "value"


def test_a_hit_looks_at_no_option_but_the_loader_must_be_one(ns: Namespace[Any]) -> None:
    for options in ({"ttl": "wrong"}, {"tags": 3, "timeout": None}, {"no such": 1}):
        assert asyncio.run(directly(ns.afetch("k", never, **options))) == "value"
    for arguments in ((), ("k",), ("k", None), ("k", 3), ("k", never, 3)):
        with pytest.raises(TypeError):
            ns.afetch(*arguments)
    with pytest.raises(TypeError, match="unhashable"):
        ns.afetch([], never)
    assert gc.collect() is not None


def test_the_interpreter_may_end_with_one_undone() -> None:
    program = """
import asyncio
from flowcache import create_cache
cache = create_cache()
cache.set("k", "value")
async def never(): pass
kept = cache.afetch("k", never)
async def main():
    global task
    task = asyncio.create_task(cache.afetch("k", never))
asyncio.run(main())
"""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
