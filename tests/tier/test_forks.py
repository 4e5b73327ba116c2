"""A fork in the middle of use: the child has connections and a bus of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.servers import Server

PROGRAM = """
import os, sys, threading, time, warnings
from flowcache import create_cache
from flowcache.tier import ValkeyTier

warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads, which is the point.
cache = create_cache(tier=ValkeyTier(sys.argv[1], soft_timeout=30, hard_timeout=60), name="forks")
space = cache.namespace("tenant:acme")
if sys.argv[2] == "used":
    space.set("k", 1)
    assert space.get("k") == 1
    stopped = threading.Event()

    def use():
        while not stopped.is_set():
            space.set("busy", 1)
            space.get("none")

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    time.sleep(0.2)
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        assert "k" not in space  # Nothing is served before the child hears of the fleet.
        if sys.argv[2] == "used":
            assert space.get("k") == 1
        space.set(f"child:{number}", os.getpid())
        assert space.fetch(f"load:{number}", lambda: number) == number
        own = cache.namespace(f"tenant:{number}")  # The others read the parent's tenant still.
        own.set("own", 1)
        assert own.get("own") == 1
        own.clear()
        assert own.get("own") is None
        cache.close()
        os._exit(0)
    children.append(pid)
if sys.argv[2] == "used":
    stopped.set()
    for user in users:
        user.join()
codes = [os.waitpid(pid, 0)[1] for pid in children]
assert codes == [0] * 4, codes
space.set("after", 1)
assert space.get("after") == 1
cache.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("before", ["unused", "used"])
def test_a_child_works_on_its_own(new_server: Server, before: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, new_server.url, before],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
