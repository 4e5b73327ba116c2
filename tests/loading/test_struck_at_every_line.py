"""An exception between any two lines of the start of a run strands no load: the next call leads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

from flowcache import Cache
from flowcache.loading import run
from harness.loading_support import Caller, wait_until
from harness.support import new_cache

STARTS = {"execute_in_thread", "start_task", "offer", "begin", "_register"}


class Struck(BaseException):
    """Nothing in the cache knows it, as it knows no signal handler's exception."""


@contextmanager
def struck_at(line: int) -> Iterator[list[int]]:
    """Raise before the line of that number among those that begin a run; yield the lines seen."""
    seen: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename != run.__file__ or code.co_name not in STARTS:
            return None
        if event == "line":
            seen.append(frame.f_lineno)
            if len(seen) == line:
                sys.settrace(None)
                raise Struck
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


async def awaited(awaitable: Any) -> Any:
    return await awaitable


CALLS: dict[str, Callable[[Cache[Any]], Any]] = {
    "timeout": lambda cache: cache.fetch("k", lambda: "value", timeout=60),
    "fetch_many": lambda cache: cache.fetch_many(
        ["k"], lambda keys: dict.fromkeys(keys, "value"), timeout=60
    ),
    "afetch": lambda cache: asyncio.run(awaited(cache.afetch("k", lambda: "value"))),
    "behind": lambda cache: cache.fetch("stale", lambda: "value", stale=True),
    "abehind": lambda cache: asyncio.run(
        awaited(cache.afetch("stale", lambda: "value", stale=True))
    ),
}


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer is at work")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_load_that_is_struck_at_its_start_is_no_load(call: Callable[[Cache[Any]], Any]) -> None:
    line, struck = 0, True
    while struck:
        line += 1
        cache, clock = new_cache()
        cache.set("stale", "old", ttl=1, stale=True)
        clock.advance(2)
        with suppress(Struck), struck_at(line) as seen:
            call(cache)
        struck = len(seen) >= line
        wait_until(lambda cache=cache: cache.stats().pending == 0)  # type: ignore[misc]
        for key in ("k", "stale"):
            later = Caller(lambda key=key, cache=cache: cache.refresh(key, lambda: "later"))  # type: ignore[misc]
            assert later.result() == "later", (line, seen)
        cache._check()
    assert line > 5
