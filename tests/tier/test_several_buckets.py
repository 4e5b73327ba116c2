"""Several buckets in one process: what is held of one is served only while each is heard of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from harness.fleet import LONG, Make
from harness.servers import Server, wait_until

BUCKETS = 8
LEASE = 2 * LONG
"""Not `LONG`, with which a cache of a test follows all buckets at once."""


def two_tenants(cache: Any) -> tuple[Any, Any]:
    """Return two tenants' namespaces: the first in the bucket that `connect` follows."""
    layout = cache.tier.layout
    names = {layout.place((f"t{number}",)).bucket.number: f"t{number}" for number in range(99)}
    return cache.namespace(names[0]), cache.namespace(names[1])


def test_a_bucket_that_never_was_live(new_server: Server, make: Make) -> None:
    hasty = {"buckets": BUCKETS, "lease": LEASE, "soft_timeout": 0.5, "hard_timeout": 1.0}
    cache = make(new_server, tier=hasty)
    heard, unheard = two_tenants(cache)
    bus, bucket = cache.tier.engine.bus, cache.tier.layout.place(unheard.path).bucket
    subscribe = bus._subscribe
    bus._subscribe = lambda line, one: None if one.bucket is bucket else subscribe(line, one)

    def holds() -> bool:
        heard.set("k", "v")
        return "k" in heard

    wait_until(holds)
    assert unheard.fetch("k", lambda: "old") == "old"
    assert "k" not in unheard
    assert "k" not in heard  # For the lease is one for all: what is held may be of either.
    assert unheard.fetch("k", lambda: "new") in ("new", "old")  # From the tier, which has it.
    bus._subscribe = subscribe
    bus._tell(lambda: None)
    wait_until(lambda: "k" in heard)
    assert unheard.peek("k") is None


def test_keys_that_stay_here_hear_of_the_fleet(new_server: Server, make: Make) -> None:
    one, other = (make(new_server, tier={"buckets": BUCKETS, "lease": LEASE}) for _ in range(2))
    heard, unheard = two_tenants(one)
    heard.set("k", "v")
    key = frozenset((1, 2))
    there = other.namespace(*unheard.path)

    def holds() -> bool:
        return unheard.fetch(key, lambda: "old", tags="t") == "old" and key in unheard

    for invalidate in (there.clear, lambda: there.invalidate_tag("t")):
        wait_until(holds)
        invalidate()
        wait_until(lambda: unheard.peek(key) is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_child_hears_of_each_bucket_that_its_parent_held(new_server: Server) -> None:
    program = """
import os, sys, time, warnings
from flowcache import create_cache
from flowcache.tier import ValkeyTier
from tier.test_several_buckets import BUCKETS, two_tenants

warnings.simplefilter("ignore", DeprecationWarning)
tier = ValkeyTier(sys.argv[1], buckets=BUCKETS, soft_timeout=30, hard_timeout=60, lease=60)
cache = create_cache(tier=tier, name="buckets-of-forks")
one, other = two_tenants(cache)
for space in (one, other):
    space.set("k", 1)
    assert space.get("k") == 1
while not ("k" in one and "k" in other):
    assert one.get("k") == other.get("k") == 1
if (child := os.fork()) == 0:
    until = time.monotonic() + 60
    while "k" not in one:
        assert one.get("k") == 1
        assert time.monotonic() < until
    assert "k" not in other
    assert other.get("k") == 1
    cache.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
cache.close()
"""
    paths = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", program, new_server.url],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
