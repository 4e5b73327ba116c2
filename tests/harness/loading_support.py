"""Shared parts of the tests of loading: loaders that wait for a signal, callers that record."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flowcache import Cache, Namespace
from flowcache.loading.load import Load
from harness.support import ADDRESS_SANITIZED, VirtualClock, new_cache

PATIENCE = 60.0
"""Seconds after which a test that waits has failed. Nothing waits so long in code that works."""

HAS_GEVENT = importlib.util.find_spec("gevent") is not None
needs_greenlets = pytest.mark.skipif(
    ADDRESS_SANITIZED or not HAS_GEVENT,
    reason="AddressSanitizer takes greenlet's copies of whole stacks for faults"
    if HAS_GEVENT
    else "gevent is not installed here",
)

Main = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Main], None]


def never() -> Any:
    """A loader that is not to be called."""
    raise AssertionError("this loader is not to be called")


async def async_never() -> Any:
    """A loader of tasks that is not to be called."""
    raise AssertionError("this loader is not to be called")


def fail() -> Any:
    """A loader that raises."""
    raise OSError("down")


def stale_cache(**settings: Any) -> tuple[Cache[Any], VirtualClock]:
    """A cache that holds "old" for "k", past its TTL and within its window of 1,000 s."""
    cache, clock = new_cache(**settings)
    cache.set("k", "old", ttl=10, stale=1000, tags="t")
    clock.advance(20)
    return cache, clock


def joined(namespace: Namespace[Any]) -> int:
    """How many calls have joined a load of others."""
    return namespace.stats().coalesced


def loaded(namespace: Namespace[Any], value: object, key: str = "k") -> None:
    """Wait until a background load has stored this value, and has ended."""
    wait_until(lambda: namespace.peek(key) == value)
    wait_until(lambda: namespace.stats().pending == 0)


async def as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def asked_of(call: str) -> Any:
    """The first argument of a loading call: one key, or a list of keys."""
    return ["k"] if call.endswith("many") else "k"


class Gate:
    """A loader for threads: it signals its start, and returns once it is released."""

    def __init__(self, value: Any = "loaded") -> None:
        self.value = value
        self.calls = 0
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.begun.set()
        assert self.open.wait(PATIENCE), "nobody opened the gate"
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class AsyncGate:
    """The same for asyncio; it also tells whether it was cancelled."""

    def __init__(self, value: Any = "loaded") -> None:
        self.value = value
        self.calls = 0
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.begun.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class Caller(threading.Thread):
    """A thread that makes one call and keeps its outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "the call never came back"
        if self.error is not None:
            raise self.error
        return self._value


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition that other threads bring about; fails if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.0005)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that other tasks or threads bring about; fails if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.0005)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def loop_factories() -> list[Any]:
    """Every kind of loop and of tasks that this Python has."""
    kinds: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if sys.version_info >= (3, 12):

        def eager() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

        kinds.append(pytest.param(eager, id="eager"))
    # Not made for Windows, nor for every build without the GIL.
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        kinds.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
    return kinds


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Caller:
        """Run a coroutine there; the result is fetched by a thread, so that this one is free."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return Caller(lambda: future.result(PATIENCE))

    def stop(self) -> None:
        """Stop the loop without closing it, also with pending tasks."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.loop.close()


async def cancel_all() -> None:
    """Cancel every other task of this loop and let them end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def loop_thread() -> Iterator[LoopThread]:
    """An event loop on a thread of its own, whose tasks are cancelled at the end."""
    thread = LoopThread()
    try:
        yield thread
    finally:
        thread.stop()
        if not thread.loop.is_closed():
            thread.loop.run_until_complete(cancel_all())
            thread.loop.close()


def assert_nothing_left(cache: Namespace[Any]) -> None:
    """No load is registered, and no reference keeps a load of this cache alive.

    The thread of a load that has answered may still be on its way out of the calls that hold it.
    """
    assert cache.stats().pending == 0
    deadline = time.monotonic() + PATIENCE
    while left := loads_left(cache):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.001)


def loads_left(cache: Namespace[Any]) -> list[str]:
    """Describe each load of this cache that is kept alive, and keep none."""
    gc.collect()
    told = []
    for load in gc.get_objects():
        if issubclass(type(load), Load):  # Not isinstance: lazy objects would be evaluated.
            # A load beside another one is not registered, and has no namespace of its own.
            namespace = load.namespace or getattr(load.run, "namespace", None)
            if namespace is None:
                continue
            path = namespace.path
            if namespace == (cache.namespace(*path) if path else cache):
                told.append(f"the load of {load.key!r}: {load.outcome}")
    return told
