"""An exception between any two lines of a thread's call leaves the lead to the next call."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from flowcache.tier import link as link_module
from flowcache.tier.breaker import Breaker
from flowcache.tier.errors import ServerError
from flowcache.tier.link import Ask, ThreadLink
from flowcache.tier.resp import pack
from flowcache.tier.wire import Dialer, Wire
from harness.fleet import PATIENT
from harness.servers import Server, wait_until

HARD = PATIENT["hard_timeout"]
STEPS = {"exchange", "_follow", "_lead", "_end", "_exchange", "_drop"}
LOCKS = {
    number
    for number, line in enumerate(Path(link_module.__file__).read_text("utf-8").splitlines(), 1)
    if line.strip() == "with self._mutex:"
}
"""Lines at which a tracer can raise with the lock held, and where no signal is handled."""

pytestmark = pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer is at work")


class Struck(BaseException):
    """Nothing in the tier knows it, as it knows no signal handler's exception."""


def strike() -> None:
    sys.settrace(None)
    raise Struck


class Line(NamedTuple):
    number: int
    seen: list[int]
    """The lines that the call has come to."""


def each_line() -> Iterator[Line]:
    """Yield the first line of a call, the second and so on, until one call ends before its own."""
    for number in itertools.count(1):
        line = Line(number, [])
        yield line
        if len(line.seen) < number:
            assert number > 20
            return


@contextmanager
def struck_at(
    line: Line, passed: Callable[[str], object], strike: Callable[[], object] = strike
) -> Iterator[None]:
    """Strike before that line of a call, and tell of each line before it."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename != link_module.__file__ or code.co_name not in STEPS:
            return None
        if event == "line" and frame.f_lineno not in LOCKS:
            line.seen.append(frame.f_lineno)
            passed(code.co_name)
            if len(line.seen) == line.number:
                strike()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def echo(text: str, patience: float = HARD) -> Ask:
    return Ask(patience, calls=(pack(b"ECHO", text.encode()),))


def is_well(link: ThreadLink) -> bool:
    """Ask twice; the first may find that a connection was given up."""
    assert link._leader is None
    with suppress(ServerError):
        link.exchange(echo("first"))
    return link.exchange(echo("second")).replies == [b"second"]


def test_a_leader_that_is_struck_hands_the_lead_over(new_server: Server) -> None:
    dialer = Dialer(new_server.url)
    for line in each_line():
        link = ThreadLink(dialer.dial, HARD)
        link.exchange(echo("open"))
        with suppress(Struck), struck_at(line, lambda _: None):
            link.exchange(echo("struck"))
        assert is_well(link), line
        link.close()


def test_a_follower_that_is_struck_hands_the_lead_over(new_server: Server) -> None:
    dialer = Dialer(new_server.url)
    for line in each_line():
        dials, waits = threading.Event(), threading.Event()

        def dial(dials: threading.Event = dials, waits: threading.Event = waits) -> Wire:
            dials.set()
            waits.wait()
            return dialer.dial()

        link = ThreadLink(dial, HARD)
        leader = threading.Thread(target=link.exchange, args=(echo("leads"),))
        leader.start()
        dials.wait()
        # The leader goes on as the other call is about to wait for it.
        follows = {"_follow": waits.set}
        try:
            with (
                suppress(Struck),
                struck_at(line, lambda name, follows=follows: follows.get(name, int)()),  # type: ignore[misc]
            ):
                link.exchange(echo("struck"))
        finally:
            waits.set()
            leader.join()
        assert is_well(link), line
        link.close()


def test_a_leader_that_is_struck_wakes_the_next(new_server: Server) -> None:
    """The one that waits has a patience that the test has not."""
    dialer = Dialer(new_server.url)
    links: list[ThreadLink] = []
    for line in each_line():
        followers: list[threading.Thread] = []
        answers: list[Any] = []

        def follow(link: ThreadLink, answers: list[Any] = answers) -> None:
            answers.append(link.exchange(echo("follows", 600.0)).replies)

        def dial(
            follow: Callable[[ThreadLink], None] = follow,
            followers: list[threading.Thread] = followers,
        ) -> Wire:
            if not followers:
                (link,) = links
                followers.append(threading.Thread(target=follow, args=(link,), daemon=True))
                followers[0].start()
                wait_until(lambda: link._waiting)
            return dialer.dial()

        link = ThreadLink(dial, HARD)
        links[:] = [link]
        with suppress(Struck), struck_at(line, lambda _: None):
            link.exchange(echo("struck"))
        for follower in followers:
            follower.join(30)
        assert answers == [[b"follows"]] * len(followers), line
        assert is_well(link), line
        link.close()


def test_a_call_within_a_call_ends(new_server: Server) -> None:
    """A signal's handler, or a finalizer that the collector runs, may use the same cache."""
    dialer = Dialer(new_server.url)
    for line in each_line():
        link = ThreadLink(dialer.dial, HARD)
        link.exchange(echo("open"))
        answers: list[Any] = []

        def call(link: ThreadLink = link, answers: list[Any] = answers) -> None:
            # Its lead is the outer call's, so that it may have to lose patience.
            with suppress(ServerError):
                answers.append(link.exchange(echo("inner", 0.01)).replies)

        with struck_at(line, lambda _: None, call):
            assert link.exchange(echo("outer")).replies == [b"outer"]
        assert answers in ([], [[b"inner"]])
        assert is_well(link), line
        link.close()


@pytest.mark.parametrize("name", ["admits", "failed", "succeeded"])
def test_a_call_within_a_breaker_s_ends(name: str) -> None:
    times = iter(range(1000))

    def clock() -> float:  # It runs with the lock held, as a finalizer may.
        if (now := next(times)) % 2:
            getattr(breaker, name)()
        return float(now)

    breaker = Breaker(failures=1, period=1.0, clock=clock)
    for _ in range(4):
        breaker.failed()
        breaker.admits()
    breaker.succeeded()
    assert breaker.is_well
