"""A child of a fork uses no lock, connection or thread that its parent has left to it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.servers import STARTS_WITHIN, Server, free_port

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

PROGRAM = """
import faulthandler, os, sys, threading, warnings
from contextlib import ExitStack
from flowcache import _core, create_cache
from flowcache.errors import TierUnavailableError
from flowcache.tier import ValkeyTier

warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads, which is the point.
url, patience = sys.argv[1], float(sys.argv[2])
tier = ValkeyTier(url, soft_timeout=30, hard_timeout=60, queue_invalidations=9)
cache = create_cache(tier=tier, name="anew")
space = cache.namespace("tenant:acme")
engine = _core._tier_of(space).engine


def child(work):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(patience, exit=True)
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

"""

LOCKED = """
space.set("k", 1)
(server,) = engine.servers.all
links = [server._threads[0], server._threads[1]]
assert links[0]._wire is not None
server.breaker.is_well = False  # So that its lock is taken.
locks = [link._mutex for link in links]
locks += [server.breaker._lock, engine.servers._lock, engine.queue._lock, engine.bus._lock]
locks += [engine.bus.awaited._lock, engine.layout.place._lock, _core._tier_of(space)._counting]
held, done = threading.Event(), threading.Event()


def hold():
    with ExitStack() as all_of_them:
        for lock in locks:
            all_of_them.enter_context(lock)
        held.set()
        done.wait()


holding = threading.Thread(target=hold)
holding.start()
held.wait()


def work():
    assert all(link._wire is None for link in links)  # Before a second thread could call.
    assert cache.tier.state == "idle"
    assert space.get("k") == 1
    engine.caller.errors += 1
    other = cache.namespace("tenant:other")
    other.set("k", 2)
    assert other.delete("k")
    engine.servers.discover()
    assert cache.stats().tier_errors == 1


child(work)
done.set()
holding.join()
assert space.get("k") == 1
cache.close()
"""

QUEUED = """
from flowcache.tier import queue
queue.EVERY = 0.01
engine.servers.shares = []


def no_server():
    raise TierUnavailableError("not yet")
    yield


place = engine.layout.place(space.path)
assert engine.queue.add(place, "none", no_server)


def work():
    sent = threading.Event()

    def send():
        sent.set()
        return
        yield

    with engine.queue._lock:
        engine.queue._waiting = {"none": (place.unit, place.bucket, send)}
    assert engine.queue.blocks(place)  # As a read asks, which sends nothing itself.
    sent.wait()
    while engine.queue.blocks(place):
        pass


child(work)
"""


@pytest.mark.parametrize("program", [LOCKED, QUEUED], ids=["locked", "queued"])
def test_a_child_begins_anew(new_server: Server, program: str) -> None:
    url = new_server.url if program is LOCKED else f"valkey://127.0.0.1:{free_port()}"
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, url, str(STARTS_WITHIN)],
        capture_output=True,
        text=True,
        timeout=4 * STARTS_WITHIN,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
