"""A cluster of three primaries and three replicas that loses nodes, replaces them, moves slots.

Promises and rules are numbered as in `flowcache.tier` and docs/fleet.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcache.tier.breaker import Breaker
from flowcache.tier.errors import ServerError
from flowcache.tier.layout import slot_of
from flowcache.tier.servers import Servers
from flowcache.tier.wire import Dialer
from harness.fleet import Make
from harness.servers import Cluster, Server, cluster, newest, wait_until

from .bench import SHORT, Upstream, bus_of, is_in, tier_of, tried

pytestmark = pytest.mark.once

BUCKETS = 8


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(replicas=1) as six:
        yield six


@pytest.fixture
def six(running: Cluster) -> Iterator[Cluster]:
    """The cluster, with all its nodes."""
    yield running
    running.wait_whole()


class Fleet:
    """Two processes, each with a tenant on each primary, and one upstream of all of them."""

    def __init__(self, six: Cluster, make: Make) -> None:
        tier = {"buckets": BUCKETS, "lease": SHORT, "soft_timeout": 1.0, "hard_timeout": 1.0}
        self.caches = [make(six, tier=tier) for _ in range(2)]
        self.upstream = Upstream()
        names: dict[int, str] = {}
        layout = self.caches[0].tier.layout
        for number in range(100):
            name = f"tenant:{number}"
            names.setdefault(six.shard_of(layout.place((name,)).bucket.slot), name)
        self.tenants = [
            tuple(cache.namespace(names[shard]) for cache in self.caches) for shard in range(3)
        ]
        self.hold()

    def hold(self) -> None:
        """Have both processes hold the upstream's version for each tenant, and be live."""
        for spaces in self.tenants:
            for space in spaces:
                wait_until(lambda space=space: self._is_held(space))
        wait_until(lambda: all(is_in(space, "live") for space in self.tenants[0]))

    def _is_held(self, space: Any) -> bool:
        version = space.fetch("k", self.upstream.load, tags="t")
        return bool(version == self.upstream.version and "k" in space)

    def change(self, writer: int) -> None:
        """Make a new version and invalidate the old one: nothing old is served, here at once."""
        self.upstream.change()
        for spaces in self.tenants:
            space = spaces[writer]
            wait_until(lambda space=space: tried(lambda: space.invalidate_tag("t")))
            assert space.get("k") in (None, self.upstream.version)

    def has_calmed(self) -> bool:
        """Tell if no connection is being opened, and no primary counts as out of reach."""
        dialling = any(one.name == "flowcache-dial" for one in threading.enumerate())
        return not dialling and all(bus_of(one).trouble is None for one in self.tenants[0])


@pytest.fixture
def fleet(six: Cluster, make: Make) -> Fleet:
    return Fleet(six, make)


def test_a_primary_that_is_killed_and_comes_back(six: Cluster, fleet: Fleet) -> None:
    """Promises 1, 4 and 6: its replica takes over, the dead node comes back as a replica of it, and
    takes over in its turn. The other primaries' tenants are served all the time."""
    for writer in (0, 1):
        six.primaries[0].kill()
        for space in fleet.tenants[1]:  # Of another primary.
            wait_until(lambda space=space: space.get("k") == fleet.upstream.version)
        old = six.take_over(0)
        fleet.change(writer)
        fleet.hold()
        old.start()
        six.wait_whole()
        fleet.change(1 - writer)
        fleet.hold()
        wait_until(fleet.has_calmed)


def test_a_primary_that_wakes_after_it_was_replaced(six: Cluster, fleet: Fleet) -> None:
    """Rules 7 and 8: it has the old values, and takes itself for the primary until it is told."""
    with six.primaries[0].stopped():
        six.take_over(0)
        fleet.change(0)
        fleet.hold()
        # The attempts to reach the old one have ended; no trouble is left of them.
        wait_until(fleet.has_calmed)
    for _ in range(20):
        for space in fleet.tenants[0]:
            assert space.get("k") in (None, 1)
    six.wait_whole()
    fleet.change(1)
    fleet.hold()


def test_a_node_that_was_replaced_and_hears_of_no_other(
    six: Cluster, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 8: started again it has a history of a new name, takes itself for the primary, and some
    process may ask it for the slots. Its epoch tells; and the way back to the fleet is open."""
    # It has to have the settings of the fleet, or it is refused for not having them.
    number = six.shard_of(slot_of(fleet.caches[0].tier.layout.shape))
    six.primaries[number].kill()
    old = six.take_over(number)
    fleet.change(0)
    fleet.hold()
    forget_the_others(old)
    old.start()
    old.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    wait_until(lambda: old.call("CLUSTER", "INFO").startswith(b"cluster_state:ok"))
    spaces = fleet.tenants[number]
    for space in spaces:
        servers = tier_of(space).engine.servers
        with monkeypatch.context() as patch:
            patch.setattr(
                servers,
                "_dial_any",
                lambda patience, servers=servers: servers._dialer.dial(("127.0.0.1", old.port)),
            )
            wait_until(lambda servers=servers: not refusal_of(servers))
            wait_until(lambda space=space: "taken the slot" in trouble_of(space))
    for space in spaces:
        assert space.get("k") in (None, 1)
    # The others are told of it, and it hears from them what it has lost.
    old.call("CLUSTER", "MEET", "127.0.0.1", six.primaries[number].port)
    six.wait_whole()
    fleet.change(1)
    fleet.hold()
    wait_until(fleet.has_calmed)


def refusal_of(servers: Servers) -> str:
    """Find the servers anew, and return why that was not possible."""
    try:
        servers.discover()
    except ServerError as error:
        return str(error)
    return ""


def trouble_of(space: Any) -> str:
    """Return why a tenant's bucket is out of reach."""
    return str(bus_of(space).trouble_of(tier_of(space).layout.place(space.path).bucket))


def forget_the_others(node: Server) -> None:
    """Leave a node that is not running alone with itself, as one that is cut off."""
    configuration = node.folder / "nodes.conf"
    lines = configuration.read_text().splitlines(keepends=True)
    configuration.write_text("".join(one for one in lines if "myself" in one or "vars" in one))


def test_slots_that_move_while_their_tenants_are_used(six: Cluster, fleet: Fleet) -> None:
    """Promises 1 and 2 over moves from node to node, with calls on all of them; and rule 8: what is
    known of a node's epoch is not from before it took the slot."""
    space = fleet.tenants[0][0]
    bucket = tier_of(space).layout.place(space.path).bucket
    stop, returned = threading.Event(), [0]
    served: list[tuple[int, Any]] = []

    def use(reader: Any) -> None:
        while not stop.is_set():
            oldest = returned[0]
            served.append((oldest, reader.get("k")))
            served.append((oldest, reader.fetch("k", fleet.upstream.load, tags="t")))

    threads = [threading.Thread(target=use, args=(space,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for source, target in ((0, 1), (1, 0)):  # A history that was left comes back.
            six.move_slot(bucket.slot, source, target)
            fleet.change(0)
            returned[0] = fleet.upstream.version
            fleet.hold()
            for one in fleet.tenants[0]:
                told = six.primaries[target].call("CLUSTER", "INFO").decode()
                epoch = int(told.partition("cluster_my_epoch:")[2].split()[0])
                assert bus_of(one)._following[bucket.number].epoch == epoch
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not [told for told in served if told[1] is not None and told[1] < told[0]]
    assert served


def test_a_slot_that_no_node_has_at_first(six: Cluster, make: Make) -> None:
    """What has no server is looked for until it has one, though no connection ever fails."""
    cache = make(six, connects=False)
    slot = cache.tier.layout.all[0].slot
    owner = six.primaries[six.shard_of(slot)]
    nodes = (owner, *(one for one in six.primaries if one is not owner))

    def is_gone() -> bool:
        # A message that was under way may tell a node of the owner again.
        there = [node for node in nodes if has_slot(node, slot)]
        for node in there:
            node.call("CLUSTER", "DELSLOTS", slot)
        return not there

    for node in nodes:
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    wait_until(is_gone)
    space = cache.namespace("tenant:acme")
    assert space.fetch("k", lambda: 1) == 1
    wait_until(lambda: f"no server has slot {slot}" in str(bus_of(space).trouble))
    owner.call("CLUSTER", "ADDSLOTS", slot)
    wait_until(lambda: is_in(space, "live"))
    assert bus_of(space).trouble is None
    wait_until(lambda: tried(lambda: space.set("k", 2)))
    for node in nodes:
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")


def has_slot(node: Server, slot: int) -> bool:
    """Tell if a node knows of an owner of a slot."""
    return any(first <= slot <= last for first, last, *_ in node.call("CLUSTER", "SLOTS"))


def test_a_node_that_has_forgotten_its_cluster(six: Cluster, tmp_path: Path) -> None:
    """It is asked once; then the others are, and what was known until then stays known."""
    lone = Server(newest(), tmp_path, "--cluster-enabled", "yes")
    try:
        lone.start()
        servers = Servers(Dialer(six.url), lambda _: Breaker(), 1.0)
        wait_until(lambda: not refusal_of(servers))
        known, address = servers._known, ("127.0.0.1", lone.port)
        servers._known = {address: servers._server(address), **known}  # The first to be asked.
        wait_until(lambda: "knows of no slot" in refusal_of(servers))
        assert len(servers.all) == 3
        wait_until(lambda: not refusal_of(servers))
        assert len(servers.all) == 3 and address not in servers._known
        servers.close()
    finally:
        lone.kill()
