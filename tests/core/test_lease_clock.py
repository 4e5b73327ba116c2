"""The clock of leases: read at each look-up, or once in so many ticks of a processor's counter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flowcache import _core, create_cache
from flowcache.cache import Cache
from harness import support

if not _core._lease_ticks(0):
    pytest.skip("the core knows no counter of this processor and system", allow_module_level=True)

TICKS = 1 << 20
FOR_EVER = 1 << 62
LONG_AGO = 100.0


@pytest.fixture
def cache() -> Iterator[Cache[Any]]:
    """A cache with a tier, whose lease is over."""
    made = create_cache(default_ttl=60)
    _core._open_tier(made, object(), 2.0)
    made.set("k", "v")
    lend(made, 0)
    yield made
    _core._lease_ticks(0)


def lend(cache: Cache[Any], seconds: float) -> None:
    _core._lend(cache._store(), _core.lease_time() + seconds, 0)


def read_long_ago(ticks: int) -> float:
    """Let the last reading be an old one, which so many ticks have followed."""
    reading = _core.lease_time() - LONG_AGO
    _core._testing.lease_reading(reading, ticks)
    return reading


def reads_anew(cache: Cache[Any]) -> bool:
    """Tell if the cache's time is one between two that are read here."""
    before = _core.lease_time()
    now: float = cache._now()
    return before <= now <= _core.lease_time()


def test_a_reading_stands_for_its_ticks(cache: Cache[Any]) -> None:
    _core._lease_ticks(FOR_EVER)
    reading = read_long_ago(0)
    assert cache._now() == reading
    assert cache.peek("k") == "v"  # As it was before the lease's end.
    _core._lease_ticks(0)
    assert reads_anew(cache)
    assert cache.peek("k") is None


@pytest.mark.parametrize("ticks", [TICKS, 1 << 40, FOR_EVER, -(1 << 40), -FOR_EVER, -1 << 63])
def test_a_counter_that_went_on_or_was_set_back_ends_a_lease(cache: Cache[Any], ticks: int) -> None:
    _core._lease_ticks(TICKS)
    read_long_ago(ticks)
    assert cache.peek("k") is None
    read_long_ago(ticks)
    assert reads_anew(cache)


def test_a_reading_is_followed_by_others(cache: Cache[Any]) -> None:
    _core._lease_ticks(TICKS)
    end = _core.lease_time() + 0.05
    last = earlier = cache._now()
    while last < end:
        earlier, last = last, cache._now()
        assert earlier <= last <= _core.lease_time()


def test_a_lease_is_compared_with_a_later_reading_than_its_own(cache: Cache[Any]) -> None:
    _core._lease_ticks(FOR_EVER)
    read_long_ago(0)
    assert cache.peek("k") == "v"
    lend(cache, 0)
    assert cache.peek("k") is None
    before = _core.lease_time()
    lend(cache, 60)
    assert before <= cache._now() <= _core.lease_time()
    assert cache.peek("k") == "v"


def test_an_entry_ends_by_the_same_clock(cache: Cache[Any]) -> None:
    _core._lease_ticks(FOR_EVER)
    lend(cache, 1e9)
    cache.set("k", "v", ttl=60)
    stored = cache._now()
    for later, value in ((0, "v"), (59, "v"), (61, None)):
        _core._testing.lease_reading(stored + later, 0)
        assert cache.peek("k") == value


PROGRAM = """
import sys
from flowcache import _core, create_cache

EARLY = 0.010
cache = create_cache(default_ttl=60)
_core._open_tier(cache, object(), 2.0)
_core._lease_ticks(int(sys.argv[1]))
cache.set("k", "v")
until = last = 0.0
served = 0
while True:
    began = _core.lease_time()
    if cache.peek("k") == "v":
        served += 1
        if served == 1:
            print("served", flush=True)
        assert began < until + EARLY, began - until
    if served and began - last > 1:
        sys.exit(0)
    last = began
    if began > until - 0.4:
        until = began + 0.5
        _core._lend(cache._store(), until, 0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped")
@pytest.mark.parametrize("ticks", [0, TICKS])
def test_a_process_that_was_stopped_sees_its_lease_over(ticks: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ticks)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": support.SOURCE_FOLDER},
    ) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == b"served\n"
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(60) == 0
