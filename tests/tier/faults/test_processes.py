"""Processes that are stopped, killed, forked and ended, and links that hang: what the rest sees.

Promises and rules are numbered as in `flowcache.tier` and docs/fleet.md.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowcache._core import lease_time
from flowcache.errors import TierUnavailableError
from flowcache.tier.breaker import Breaker
from flowcache.tier.errors import UnreachableError
from flowcache.tier.servers import Servers
from flowcache.tier.wire import Dialer
from harness.fleet import Gated, Gives, Process, gone, run
from harness.servers import STARTS_WITHIN, wait_until

from .bench import ACME, SHORT, Bench, Calling, Marker, Upstream, bus_of, is_in, tier_of, tried

PATH = (ACME,)


@contextmanager
def process(bench: Bench, name: str, **settings: Any) -> Iterator[Process]:
    """Run another process of the fleet, on a link of its own."""
    one = Process(bench.link().url, name, **settings)
    try:
        yield one
        one.close()
    finally:
        one.kill()


# Our own processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform stops no process")
def test_a_process_that_was_stopped_serves_nothing_old(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """Promise 1, right after SIGCONT: its lease ended while it stood still, and the fleet's call
    waited for that."""
    one = bench.space(lease=SHORT)
    with process(bench, request.node.name, lease=SHORT) as other:
        wait_until(lambda: tried(lambda: one.set("k", "old", tags="t")))
        wait_until(lambda: other.call(PATH, "get", "k") == "old")
        wait_until(lambda: "k" in other.call(PATH, "get_many", ["k"]))
        with other.stopped():
            wait_until(lambda: tried(lambda: one.invalidate_tag("t", wait="fleet")))
            # Asked while it stands: the first thing that it does is this call.
            other.begin(PATH, "get", "k")
        assert other.result() is None
        assert other.call(PATH, "fetch", "k", Gives("new")) == "new"
        wait_until(lambda: one.get("k") == "new")


def test_a_leader_that_is_killed_holds_up_others_for_its_lease(
    bench: Bench, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Promise 3: its load's lease runs out, and the next in line loads."""
    one = bench.space()
    loader = Gated(tmp_path, "never")
    leader = Process(bench.link().url, request.node.name, holds=1.0, lease=60.0)
    try:
        leader.begin(PATH, "fetch", "k", loader)
        loader.wait()
        with Calling(lambda: one.fetch("k", lambda: "mine")) as waiting:
            leader.kill()
        assert waiting.result() == "mine"
        assert one.get("k") == "mine"
    finally:
        leader.kill()


def test_a_waiter_for_a_leader_that_fails_is_told(
    bench: Bench, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Promise 3: a lease that is given back wakes those that wait for it, on a bus that is cut
    meanwhile, too."""
    one_link = bench.link()
    one, other = bench.space(one_link), bench.space()
    begun, opened = threading.Event(), threading.Event()

    def fails() -> Any:
        begun.set()
        assert opened.wait(60)
        raise LookupError("upstream")

    with Calling(lambda: other.fetch("k", fails)) as failing:
        assert begun.wait(60)
        with Calling(lambda: one.fetch("k", lambda: "mine")) as waiting:
            one_link.cut("bus")
            opened.set()
    with pytest.raises(LookupError):
        failing.result()
    assert waiting.result() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_fork_in_the_middle_of_a_gap(bench: Bench) -> None:
    """A child has a bus, connections and a lease of its own, whatever the parent's are doing."""
    link = bench.link()
    one, other = bench.space(link), bench.space()
    other.set("k", "old")
    assert one.get("k") == "old"
    with link.held("bus"), Calling(lambda: bus_of(one) and link.cut("bus")):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                # What it inherited may not be served: it hears of nothing yet.
                if one.peek("k") is None:
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    other.set("k", "new")
    wait_until(lambda: one.get("k") == "new")


ENDING = """
    import sys, threading, time
    from flowcache import create_cache
    from flowcache.tier import ValkeyTier
    cache = create_cache(tier=ValkeyTier(sys.argv[1]), name="ending")
    space = cache.namespace("tenant:acme")
    space.get("k")
    print("ready", flush=True)
    sys.stdin.readline()
    space.get("k")
    if sys.argv[2] == "in use":
        def use():
            while True:
                space.fetch("k", lambda: 1)
                space.get("m")
        for _ in range(4):
            threading.Thread(target=use, daemon=True).start()
        time.sleep(0.05)
"""


@pytest.mark.parametrize("state", ["live", "away", "in use"])
def test_an_interpreter_that_ends(bench: Bench, state: str) -> None:
    """The bus is a daemon: a process ends with its server there, away, or in use by threads, and
    has nothing to say about it."""
    link = bench.link()
    ending = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(ENDING), link.url, state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert ending.stdout is not None
        assert ending.stdout.readline() == "ready\n"
        if state == "away":
            with link.refused():
                _, said = ending.communicate("\n", timeout=60)
        else:
            _, said = ending.communicate("\n", timeout=60)
        lines = [line for line in said.splitlines() if "the tier" not in line]
        assert (lines, ending.returncode) == ([], 0)
    finally:
        ending.kill()
        ending.wait()


def test_a_clock_that_jumps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wall clock counts: values live by the server's, and leases by one that never jumps."""
    one, other = bench.space(), bench.space()
    one.set("k", 1, ttl=3600)
    assert other.get("k") == 1
    now = time.time
    for jump in (86400.0, -86400.0, 1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
        assert one.get("k") == other.get("k") == 1
        one.set("m", jump, ttl=60)
        wait_until(lambda jump=jump: other.get("m") == jump)
        assert 0 < other.ttl("m") <= 60
        other.delete("m")
        gone(one, "m")


# Links


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_connections_that_are_killed(each_bench: Bench) -> None:
    """CLIENT KILL of each kind: an idle connection that was ended costs no call anything."""
    link = each_bench.link()
    one, other = each_bench.space(link), each_bench.space()
    marker = Marker(one, other)
    one.set("k", 0)
    for number, kinds in enumerate((("normal",), ("pubsub",), ("normal", "pubsub")), 1):
        for kind in kinds:
            each_bench.primary.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        # By way of the proxy: wait until the end has come through.
        if "normal" in kinds:
            wait_until(lambda: link.count("commands") == 0)
        wait_until(lambda: is_in(one, "live") and is_in(other, "live"))
        one.set("k", number)
        wait_until(lambda number=number: other.get("k") == number)
        assert one.incr("count") == number
    marker.wait()


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_set_whose_answer_is_lost(bench: Bench) -> None:
    """Rules 3 and 6: it raises, is not sent again, and keeps no process with a value of its own."""
    link = bench.link()
    one, other = bench.space(link, soft_timeout=1.0, hard_timeout=1.0), bench.space()
    wait_until(lambda: tried(lambda: one.set("k", "first")))
    log = tier_of(one).layout.all[0].log
    sets = bench.primary.call("XLEN", log)
    with link.lost("commands", way="replies"):
        with pytest.raises(TierUnavailableError, match="set: "):
            one.set("k", "mine")
        # The server has it.
        wait_until(lambda: bench.primary.call("XLEN", log) == sets + 1)
        other.set("k", "theirs")
    wait_until(lambda: one.get("k") == "theirs")
    assert other.get("k") == "theirs"
    assert bench.primary.call("XLEN", log) == sets + 2


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_an_add_whose_answer_is_lost(bench: Bench) -> None:
    """Rule 6: were it sent again, a value that was invalidated meanwhile would come back."""
    link = bench.link()
    one, other = bench.space(link, soft_timeout=5.0, hard_timeout=5.0), bench.space()
    wait_until(lambda: tried(lambda: one.add("other", 1)))
    with link.held("commands", way="replies"):
        adding = Calling(lambda: one.add("k", "mine")).begin()
        wait_until(lambda: other.get("k") == "mine")
        assert other.delete("k")
        link.cut("commands")
    with pytest.raises(TierUnavailableError, match="add: "):
        adding.result()
    assert other.get("k") is None
    assert one.get("k") is None


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_set_that_arrives_late(bench: Bench) -> None:
    """Rule 6: one that is stuck on its way may still be done. So it is not sent again: were the
    second confirmed, the first could come after all that followed."""
    link = bench.link()
    one, other = bench.space(link, soft_timeout=0.5, hard_timeout=0.5), bench.space()
    wait_until(lambda: tried(lambda: one.set("other", 1)))
    with link.stuck("commands"), Calling(lambda: tried(lambda: one.set("k", "old"))) as setting:
        link.wait_held("commands", way="requests")
        link.orphan()
        is_confirmed = setting.result()
        other.delete("k")
    log = tier_of(one).layout.all[0].log
    if is_confirmed:  # Then nothing of it may come after the `delete`.
        wait_until(lambda: bench.primary.call("XLEN", log) >= 4)
        wait_until(lambda: other.get("k") is None)
        for _ in range(20):
            assert other.get("k") is None
    wait_until(lambda: tried(lambda: one.delete("k")))
    assert one.get("k") is None


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_server_that_hangs_costs_a_bounded_time(bench: Bench) -> None:
    """Promise 6: the breaker opens, calls go on alone, and one probe at a time finds its end."""
    link = bench.link()
    one, other = bench.space(link, soft_timeout=0.5, hard_timeout=0.5), bench.space()
    wait_until(lambda: tried(lambda: one.set("k", 1)))
    (server,) = tier_of(one).engine.servers.all
    breaker: Breaker = server.breaker
    with link.lost("commands"):
        count = 0
        while breaker.state != "open":
            assert one.get(f"missing:{count}") is None
            count += 1
            assert count < 20
        for number in range(20):
            assert one.fetch(f"loaded:{number}", lambda number=number: number) == number
    wait_until(lambda: tried(lambda: one.set("k", 2)))
    assert breaker.state == "closed"
    wait_until(lambda: other.get("k") == 2)


def test_servers_that_say_nothing_are_looked_for_once_a_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise 6 before any server was found: a host that swallows all costs one call its time."""
    monkeypatch.setattr("flowcache.tier.servers.PERIOD", 1e9)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"valkey://127.0.0.1:{silent.getsockname()[1]}/0"
        servers = Servers(Dialer(url), lambda _: Breaker(), 0.05)
        for _ in range(20):
            with pytest.raises(UnreachableError):
                servers.find()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_bus_that_is_late(bench: Bench) -> None:
    """Rule 11: `wait="fleet"` returns when the slowest process has applied the message."""
    link = bench.link()
    one, other = bench.space(lease=SHORT), bench.space(link, lease=SHORT)
    wait_until(lambda: tried(lambda: one.set("k", "old", tags="t")))
    wait_until(lambda: other.get("k") == "old")
    with link.delayed(0.2, "bus", way="replies"):
        for number in range(3):
            wait_until(lambda: tried(lambda: one.invalidate_tag("t", wait="fleet")))
            assert other.peek("k") is None
            one.set("k", number, tags="t")
            wait_until(lambda number=number: other.get("k") == number)


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_messages_that_overtake_no_call(bench: Bench) -> None:
    """Order between links: commands come through and messages do not. The lease bounds it, and
    what was held is applied when it comes."""
    link = bench.link()
    one, other = bench.space(lease=SHORT), bench.space(link, lease=SHORT)
    wait_until(lambda: tried(lambda: one.set("k", 0)))
    wait_until(lambda: other.get("k") == 0 and "k" in other)
    for version in range(1, 3):
        with link.held("bus", way="replies"):
            one.set("k", version)
            wait_until(lambda: is_in(other, "apart"))
            assert other.get("k") in (None, version)
        wait_until(lambda version=version: other.get("k") == version and is_in(other, "live"))
        wait_until(lambda: "k" in other or other.get("k") is None)


def test_a_process_that_is_cut_off_joins_no_load_of_before(bench: Bench) -> None:
    """Promise 1: it hears of nothing after its lease, and an invalidation does not wait for it."""
    link = bench.link()
    one, other = bench.space(lease=SHORT), bench.space(link, lease=SHORT)
    Marker(other, one).wait()
    began, ends = threading.Event(), threading.Event()
    found: list[str] = []

    def old() -> str:
        began.set()
        assert ends.wait(STARTS_WITHIN)
        return "old"

    thread = threading.Thread(target=lambda: found.append(other.fetch("k", old)))
    thread.start()
    assert began.wait(STARTS_WITHIN)
    try:
        with link.refused():
            wait_until(lambda: is_in(other, "apart"))
            wait_until(lambda: tried(lambda: one.invalidate_prefix("", wait="fleet")))
            assert other.fetch("k", lambda: "new") == "new"
    finally:
        ends.set()
        thread.join()
    assert found == ["old"]


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_bus_that_was_cut_hears_what_it_missed(bench: Bench) -> None:
    """Rule 10: the log is replayed from the last message, and nothing that is held is voided."""
    link = bench.link()
    one, other = bench.space(), bench.space(link)
    for version in range(3):
        one.set_many({"k": version, "kept": version})
        Marker(other, one).wait()
        assert other.get_many(["k", "kept"]) == {"k": version, "kept": version}
        with link.refused():
            one.set("k", "new")
        wait_until(lambda: other.get("k") == "new")
        assert "kept" in other


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_what_comes_between_subscription_and_log(bench: Bench) -> None:
    """Rule 10: the log is read after the subscription stands, so that no message is in neither."""
    link = bench.link()
    one, other = bench.space(), bench.space(link)
    one.set("k", "old")
    Marker(other, one).wait()
    assert other.get("k") == "old"
    with link.trapped(b"SSUBSCRIBE", b"XREVRANGE"):
        link.cut("bus")
        link.wait_trapped()
        one.set("k", "new")
    wait_until(lambda: other.get("k") == "new")


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_member_that_was_not_heard_is_waited_for_while_it_serves(bench: Bench) -> None:
    """Rule 11 and promise 1: a lost acknowledgement strikes no member whose lease lives."""
    late = bench.link()
    one, other = bench.space(lease=SHORT), bench.space(late, lease=SHORT)

    def holds() -> bool:
        return tried(lambda: one.set("k", "old")) and other.get("k") == "old" and "k" in other

    wait_until(holds)
    Marker(other, one).wait()
    bus_of(other)._acknowledge = lambda *_: None
    wait_until(lambda: tried(lambda: one.clear(wait="fleet")))
    del bus_of(other)._acknowledge
    wait_until(holds)
    # It hears nothing from now on, and its lease runs to its end.
    with late.held("bus", way="replies"):
        assert tried(lambda: one.delete("k", wait="fleet"))
        assert other.peek("k") is None


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_the_lease_runs_from_the_beat(bench: Bench) -> None:
    """Rule 9 and promise 1: a reply that is late extends the lease by no more than it proves."""
    link = bench.link()
    one, other = bench.space(lease=SHORT), bench.space(link, lease=SHORT)

    def holds() -> bool:
        return other.get("k") == "old" and "k" in other

    with link.delayed(0.8, "bus", way="replies"):
        wait_until(lambda: tried(lambda: one.set("k", "old")))
        Marker(other, one).wait()
        wait_until(holds)
        # The reply to a beat is under way, and the message that comes after it is lost.
        so_far = link.passed("replies", "bus")
        wait_until(lambda: link.passed("replies", "bus") > so_far)
        with link.lost("bus"):
            wait_until(lambda: tried(lambda: one.delete("k")))
            returned, last = lease_time(), 0.0
            while other.peek("k") is not None or lease_time() < returned + SHORT:
                began = lease_time()
                if other.peek("k") is not None:
                    last = began
                time.sleep(0.005)
            assert last < returned + SHORT


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_a_load_that_hangs_holds_up_others_no_longer_than_it_may(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 3: its lease is renewed for `max_pending_age`; then the key is loaded and kept."""
    for name in ("bus", "engine"):
        monkeypatch.setattr(f"flowcache.tier.{name}.LEASE", 1.0)
    monkeypatch.setattr("flowcache.tier.bus.RENEWED", 0.3)
    hangs, other = (bench.space(max_pending_age=1.5) for _ in range(2))
    begun, opened = threading.Event(), threading.Event()

    def never() -> str:
        begun.set()
        assert opened.wait(120)
        return "late"

    with Calling(lambda: hangs.fetch("k", never)):
        try:
            assert begun.wait(60)

            def is_kept() -> bool:
                return other.fetch("k", lambda: "mine") == "mine" and "k" in other

            wait_until(is_kept)
        finally:
            opened.set()
    assert other.get("k") == "mine"


@pytest.mark.once  # Of links and servers, and not of interpreters.
def test_invalidations_wait_for_a_server_that_is_away(bench: Bench) -> None:
    """`queue_invalidations=`: none is lost, and until they are sent the tenant is not read."""
    link = bench.link()
    one = bench.space(link, queue_invalidations=100, soft_timeout=1.0, hard_timeout=1.0)
    other, upstream = bench.space(), Upstream()
    other.set("k", 0, tags="t")
    wait_until(lambda: one.get("k") == 0)
    with link.refused():
        upstream.change()
        assert one.invalidate_tag("t") >= 0
        one.delete("other")
        assert tier_of(one).queued == 2
        assert one.get("k") is None
        assert one.fetch("k", upstream.load) == 1
    wait_until(lambda: tier_of(one).queued == 0)
    gone(other, "k")
    for space in (one, other):
        wait_until(lambda space=space: space.fetch("k", upstream.load, tags="t") == 1)


def test_tasks_are_answered_whatever_ends(bench: Bench) -> None:
    """Promise 6 for tasks: cut, hung and refused links leave no task waiting and none behind."""
    link = bench.link()
    settings = {"soft_timeout": 0.5, "hard_timeout": 0.5}
    cache, other = bench.cache(link, **settings), bench.space()
    spaces = [cache.namespace(f"tenant:{number}") for number in range(16)]

    async def use() -> None:
        import asyncio

        async def one(space: Any, number: int) -> int:
            return int(await space.afetch("k", lambda: number))

        for fault in (link.refused, lambda: link.lost("commands"), lambda: link.held("commands")):
            with fault():
                calls = [one(space, number) for number, space in enumerate(spaces)]
                told = await asyncio.wait_for(asyncio.gather(*calls), 60)
                assert told == list(range(16))
            for space in spaces:
                wait = asyncio.to_thread
                await wait(lambda space=space: wait_until(lambda: tried(lambda: space.delete("k"))))
        await cache.aclose()
        assert len(asyncio.all_tasks()) == 1

    run(use())
    wait_until(lambda: link.count() == 0)
    other.set("k", 1)
