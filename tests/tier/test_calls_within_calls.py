"""A finalizer or a signal handler uses the same cache in the middle of a call, at any instruction.

The locks let it in on the same thread, so it meets what is half done.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from flowcache.tier import layout as layout_module
from flowcache.tier import queue as queue_module
from flowcache.tier.layout import Bounded, Layout
from harness.fleet import Make
from harness.servers import Server

pytestmark = pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer is at work")


@contextmanager
def entered_at(number: int, module: Any, call: Callable[[], object]) -> Iterator[list[str]]:
    """Call before the instruction of that number in a module; yield the functions that ran."""
    seen: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen.append(frame.f_code.co_name)
            if len(seen) == number:
                sys.settrace(None)
                call()
                sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(None)


def test_what_is_forgotten_twice_is_no_error() -> None:
    number, entered = 0, True
    while entered or number < 2:  # CPython 3.12 traces no instruction of a first run.
        number += 1
        held: Bounded[str, str] = Bounded(str.upper, 2)
        assert [held("a"), held("b")] == ["A", "B"]
        with entered_at(number, layout_module, lambda held=held: held("c")) as seen:  # type: ignore[misc]
            assert held("d") == "D"
        entered = len(seen) >= number
        assert 0 < len(held) <= 2, (number, seen[-1])
    assert number > 20


def test_an_invalidation_within_another_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module.Queue, "_begin", lambda _: None)
    layout = Layout("nested", buckets=1, tenant_depth=1)
    outer, inner = (layout.place((name,)) for name in ("outer", "inner"))
    number, entered = 0, True
    while entered or number < 2:  # CPython 3.12 traces no instruction of a first run.
        number += 1
        queue = queue_module.Queue(9, lambda _: None)
        for name in ("first", "second"):
            queue.add(layout.place((name,)), name, lambda: iter(()))  # type: ignore[arg-type,return-value]

        def add(queue: queue_module.Queue = queue) -> None:
            queue.add(inner, "inner", lambda: iter(()))  # type: ignore[arg-type,return-value]

        with entered_at(number, queue_module, add) as seen:
            assert queue.add(outer, "outer", lambda: iter(()))  # type: ignore[arg-type,return-value]
        entered = len(seen) >= number
        assert queue.blocks(outer)
        assert queue.blocks(inner) == entered, (number, seen[-1])
    assert number > 20


def test_a_call_within_the_first_one_starts_no_second_thread(
    new_server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = make(new_server, connects=False).namespace("tenant:acme")
    before = set(threading.enumerate())
    pair, entered = socket.socketpair, list[Any]()

    def socketpair() -> Any:
        if not entered:
            entered.append("k")
            entered.append(namespace.get("k"))
        return pair()

    monkeypatch.setattr(socket, "socketpair", socketpair)
    assert namespace.get("k") is None
    started = [one.name for one in set(threading.enumerate()) - before]
    assert started == ["flowcache-bus"]
    namespace.set("k", "v")
    assert namespace.get("k") == "v"
