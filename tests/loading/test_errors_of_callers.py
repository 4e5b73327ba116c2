"""An error of a load: each caller raises an exception of its own, and none writes to another's."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, create_cache
from flowcache.loading.copying import copy_error
from harness.loading_support import AsyncGate, Caller, Gate, loop_thread, until, wait_until

SECRET = "invoice 4711"


class Unpleasant(Exception):  # noqa: N818
    """Its constructor takes what it does not keep, and runs for the loader's own alone."""

    __slots__ = ("code",)
    made = 0

    def __init__(self, response: Any, *, code: int) -> None:
        super().__init__(f"status {code}")
        type(self).made += 1
        self.response = response
        self.code = code


def ask_and_tell(ask: Callable[[], Any]) -> Callable[[], str]:
    """A caller that handles something secret of its own meanwhile, and adds a note."""

    def call() -> str:
        try:
            try:
                raise KeyError(SECRET)
            except KeyError:
                ask()
        except Exception as error:
            error.add_note(SECRET)
            return "".join(traceback.format_exception(error))
        raise AssertionError("it did not raise")

    return call


def ask(call: Callable[[], Any]) -> Callable[[], str]:
    """A caller that only tells what it was given."""

    def tell() -> str:
        try:
            call()
        except Exception as error:
            return "".join(traceback.format_exception(error))
        raise AssertionError("it did not raise")

    return tell


def joined(cache: Cache[Any], count: int) -> Callable[[], bool]:
    return lambda: cache.stats().coalesced == count


@pytest.mark.parametrize("leader_tells", [False, True], ids=["a waiter tells", "the leader tells"])
@pytest.mark.parametrize("kind", ["fetch", "refresh", "fetch_many", "cached", "timeout"])
def test_no_caller_in_a_thread_sees_what_another_adds(kind: str, leader_tells: bool) -> None:
    cache = create_cache()
    gate = Gate(ConnectionError("upstream"))
    function = cache.cached()(gate)
    calls: dict[str, Callable[[], Any]] = {
        "fetch": lambda: cache.fetch("k", gate),
        "refresh": lambda: cache.refresh("k", gate),
        "fetch_many": lambda: cache.fetch_many(["k"], lambda keys: gate()),
        "cached": function,
        "timeout": lambda: cache.fetch("k", gate, timeout=60),
    }
    call = calls[kind]
    first = Caller(ask_and_tell(call) if leader_tells else ask(call))
    assert gate.begun.wait(30)
    second = Caller(ask(call) if leader_tells else ask_and_tell(call))
    third = Caller(ask(call))
    if kind == "refresh":
        wait_until(lambda: second.is_alive() and third.is_alive())
    else:
        wait_until(joined(cache, 2))
    gate.open.set()
    told = [first.result(), second.result(), third.result()]
    telling = 0 if leader_tells else 1
    for number, log in enumerate(told):
        assert "ConnectionError: upstream" in log
        assert "in __call__" in log, "the loader's own frames"
        assert (SECRET in log) == (number == telling)


def test_no_task_sees_what_another_adds() -> None:
    cache = create_cache()

    async def call(gate: AsyncGate, *, tells: bool) -> str:
        try:
            try:
                raise KeyError(SECRET if tells else "mine")
            except KeyError:
                await cache.afetch("k", gate)
        except ConnectionError as error:
            if tells:
                error.add_note(SECRET)
            await asyncio.sleep(0.01)
            return "".join(traceback.format_exception(error))
        raise AssertionError("it did not raise")

    async def main() -> None:
        gate = AsyncGate(ConnectionError("upstream"))
        tasks = [asyncio.create_task(call(gate, tells=number == 1)) for number in range(3)]
        await until(joined(cache, 2))
        gate.open.set()
        told = await asyncio.gather(*tasks)
        assert [SECRET in log for log in told] == [False, True, False]

    asyncio.run(main())


def test_no_loop_nor_thread_sees_what_another_adds() -> None:
    cache = create_cache()

    async def call(gate: AsyncGate) -> BaseException:
        try:
            await cache.afetch("k", gate)
        except ConnectionError as error:
            return error
        raise AssertionError("it did not raise")

    with loop_thread() as first, loop_thread() as second:
        gate = AsyncGate(ConnectionError("upstream"))
        callers = [first.call(call(gate))]
        wait_until(gate.begun.is_set)
        callers.append(second.call(call(gate)))
        callers.append(Caller(lambda: cache.fetch("k", lambda: "mine")))
        wait_until(joined(cache, 2))
        first.loop.call_soon_threadsafe(gate.open.set)
        raised = [callers[0].result(), callers[1].result()]
        with pytest.raises(ConnectionError) as caught:
            callers[2].result()
        raised.append(caught.value)
    assert len(set(map(id, raised))) == 3


def test_the_exceptions_that_an_error_is_linked_to_are_not_shared_either() -> None:
    cache = create_cache()
    begun = Gate()

    def load() -> None:
        try:
            try:
                raise LookupError("first")
            except LookupError:
                raise OSError("second")  # noqa: B904  linked by its context
        except OSError as error:
            begun()
            raise ConnectionError("upstream") from error

    def call() -> BaseException:
        try:
            cache.fetch("k", load)
        except ConnectionError as error:
            return error
        raise AssertionError("it did not raise")

    callers = [Caller(call)]
    assert begun.begun.wait(30)
    callers += [Caller(call) for _ in range(2)]
    wait_until(joined(cache, 2))
    begun.open.set()
    raised = [caller.result() for caller in callers]
    causes = [error.__cause__ for error in raised]
    contexts = [cause.__context__ for cause in causes if cause is not None]
    assert [repr(cause) for cause in causes] == ["OSError('second')"] * 3
    assert [repr(context) for context in contexts] == ["LookupError('first')"] * 3
    assert len(set(map(id, [*raised, *causes, *contexts]))) == 9


def raised(error: BaseException) -> BaseException:
    """Raise it while another exception is handled, as a loader does."""
    try:
        try:
            raise LookupError("handled")
        except LookupError:
            raise error  # noqa: B904
    except type(error) as caught:
        return caught


ERRORS = [
    ValueError("a", 1),
    KeyError("key"),
    OSError(2, "none", "file"),
    OSError(2, "none", "from", None, "to"),
    FileNotFoundError(2, "none"),
    UnicodeDecodeError("utf-8", b"abc", 1, 2, "wrong"),
    ImportError("none", name="module", path="path"),
    AttributeError("none", name="attribute", obj=3),
    SyntaxError("wrong", ("file", 1, 2, "text")),
    StopIteration(4),
    Unpleasant("response", code=404),
    ExceptionGroup("group", [ValueError(1), ExceptionGroup("inner", [KeyError(2)])]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_tells_the_same(error: BaseException) -> None:
    error = raised(error)
    error.add_note("a note")
    made = Unpleasant.made
    copied = copy_error(error)
    assert Unpleasant.made == made
    assert type(copied) is type(error)
    assert copied is not error
    assert (repr(copied), str(copied), copied.args) == (repr(error), str(error), error.args)
    assert traceback.format_exception(copied) == traceback.format_exception(error)
    for name in ("errno", "filename", "filename2", "start", "name", "obj", "code", "response"):
        assert getattr(copied, name, None) == getattr(error, name, None)
    copied.add_note("its own")
    assert error.__notes__ == ["a note"]
    assert copied.__context__ is not error.__context__


def test_members_of_a_group_are_copied() -> None:
    inner = ValueError("inner")
    group = ExceptionGroup("group", [inner])
    inner.__context__ = group  # As when a member is raised while the group is handled.
    copied = copy_error(group)
    assert isinstance(copied, ExceptionGroup)
    assert copied.exceptions[0] is not inner
    assert copied.exceptions[0].__context__ is copied


def test_a_long_chain_is_copied_without_recursion() -> None:
    error: BaseException = ValueError(0)
    for number in range(5_000):
        after = ValueError(number)
        after.__context__ = error
        error = after
    assert copy_error(error).__context__ is not error.__context__


def test_an_error_that_is_made_by_a_function_alone_is_copied_as_copy_does() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic cannot be installed here")
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python("none")
    copied = copy_error(caught.value)
    assert copied is not caught.value
    assert str(copied) == str(caught.value)


class NotCopied(Exception):  # noqa: N818
    """Refuses to be copied: the state that a copy would be given."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("it is one of a kind")


def test_an_error_that_cannot_be_copied_is_raised_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowcache.loading.copying.new_like", functools.partial(lambda *_: 1 / 0), raising=True
    )
    error = NotCopied("upstream")
    assert copy_error(error) is error
