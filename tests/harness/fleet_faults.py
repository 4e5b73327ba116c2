"""Faults that happen to a running fleet, drawn by a seed.

`Site` is a primary, its replica, and a link to each process, by a proxy; `ClusterSite` is a cluster
of three primaries and three replicas, which the processes reach as they are told to. Every few
seconds something happens to a link, a server, the data or a process, for a while; the list of what
happened is part of a violation's report. The order is the seed's. The moments are the machine's, so
that a run is repeated in kind and not in every step.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from flowcache.tier.layout import Layout
from harness.proxy import Proxy
from harness.servers import Server, cluster, newest, wait_until

__all__ = ["CLUSTER_FAULTS", "FAULTS", "ClusterSite", "Site"]

NAME = "histories"
"""The cache's name, of which the names of its records are made."""


class Faulty:
    """Something that happens to `faults`, by their names, while processes run."""

    faults: dict[str, Callable[[Any], None]]

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []
        self._pids: list[int] = []
        self.happened: list[tuple[float, str]] = []

    def begin(self, pids: list[int], every: float) -> None:
        """Let something happen every few seconds, now for the first time, until `end`."""
        self._pids = pids
        self._thread = threading.Thread(target=self._run, args=(every,), daemon=True)
        self._thread.start()
        assert self._begun.wait(60)

    def end(self) -> None:
        """Let what is happening end, and let no more happen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
        if self._errors:
            raise self._errors[0]

    def _run(self, every: float) -> None:
        began = time.monotonic()
        try:
            while not self._stop.is_set():
                name = self._chance.choice(list(self.faults))
                self.happened.append((time.monotonic() - began, name))
                self._begun.set()
                self.faults[name](self)
                self._stop.wait(every * self._chance.uniform(0.5, 1.5))
        except BaseException as error:
            self._errors.append(error)

    def _pause(self, most: float) -> None:
        """Let the fault last for a while."""
        self._stop.wait(self._chance.uniform(0.0, most))

    def stop_process(self) -> None:
        pid = self._chance.choice(self._pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._pause(4.0)
            os.kill(pid, signal.SIGCONT)

    def _lose_records(self, server: Server) -> None:
        keys = server.call("KEYS", f"fc1:{NAME}:*")
        kind = self._chance.choice((b":g:", b":r", b":log", b":m", b":l:"))
        for key in sorted(keys):
            if kind in key:
                server.call("DEL", key)

    def _fill(self, server: Server) -> None:
        used = server.call("INFO", "memory")["used_memory"]
        policy = self._chance.choice(("noeviction", "allkeys-random", "volatile-ttl"))
        server.call("CONFIG", "SET", "maxmemory-policy", policy)
        server.call("CONFIG", "SET", "maxmemory", used)
        self._pause(2.0)
        server.call("CONFIG", "SET", "maxmemory", 0)

    def _kill_clients(self, server: Server) -> None:
        kind = self._chance.choice(("normal", "pubsub", "replica"))
        server.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


class Site(Faulty):
    """Two servers, one of them the primary, and the links of the processes to it."""

    def __init__(self, stack: ExitStack, folder: Path, processes: int, seed: int) -> None:
        super().__init__(seed)
        self.faults = FAULTS
        self.servers: list[Server] = []
        self._between: list[Proxy] = []
        for number in range(2):
            options = ("--replicaof", "127.0.0.1", str(self._between[0].port)) if number else ()
            one = Server(newest(), folder / f"server{number}", *options)
            stack.callback(one.kill)
            self.servers.append(one.start())
            self._between.append(Proxy(one.port))
            stack.callback(self._between[-1].close)
        self._primary = 0
        self.links = [Proxy(self.primary.port) for _ in range(processes)]
        for link in self.links:
            stack.callback(link.close)
        self.urls = [link.url for link in self.links]
        wait_until(self._is_replicated)

    @property
    def primary(self) -> Server:
        """The server that takes writes."""
        return self.servers[self._primary]

    @property
    def replica(self) -> Server:
        """The server that may take over."""
        return self.servers[1 - self._primary]

    def _is_replicated(self) -> bool:
        info = self.replica.call("INFO", "replication")
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")

    # Links

    def _kinds(self) -> tuple[Any, ...]:
        return self._chance.choice((("bus",), ("commands",), ("bus", "commands")))

    def cut(self) -> None:
        for link in self._chance.sample(self.links, self._chance.randint(1, len(self.links))):
            link.cut(*self._kinds())

    def hold(self) -> None:
        way = self._chance.choice((None, "requests", "replies"))
        with self._chance.choice(self.links).held(*self._kinds(), way=way):
            self._pause(3.0)

    def lose(self) -> None:
        way = self._chance.choice((None, "requests", "replies"))
        with self._chance.choice(self.links).lost(*self._kinds(), way=way):
            self._pause(3.0)

    def delay(self) -> None:
        seconds = self._chance.uniform(0.01, 0.3)
        with self._chance.choice(self.links).delayed(seconds, *self._kinds()):
            self._pause(3.0)

    def cut_slow(self) -> None:
        link = self._chance.choice(self.links)
        with link.delayed(0.3, "bus"):
            link.cut("bus")
            self._stop.wait(2.0)

    def slow_then_deaf(self) -> None:
        link = self._chance.choice(self.links)
        with link.delayed(0.7, "bus", way="replies"):
            self._pause(2.0)
            with link.lost("bus", way="replies"):
                self._stop.wait(4.0)

    def be_late(self) -> None:
        """Have requests arrive after the client has given them up."""
        link = self._chance.choice(self.links)
        with link.stuck("commands"):
            self._pause(1.0)
            link.orphan()
            self._pause(1.5)

    def refuse(self) -> None:
        with self._chance.choice(self.links).refused():
            self._pause(3.0)

    # Servers and data

    def stop_server(self) -> None:
        with self.primary.stopped():
            self._pause(3.0)

    def kill_clients(self) -> None:
        self._kill_clients(self.primary)

    def forget_scripts(self) -> None:
        self.primary.call("SCRIPT", "FLUSH")

    def flush(self) -> None:
        self.primary.call("FLUSHALL")

    def lose_record(self) -> None:
        self._lose_records(self.primary)

    def save(self) -> None:
        self.primary.call("SAVE")

    def restart(self) -> None:
        """Kill the primary, and start it with the dump that it last wrote, if any."""
        self.primary.kill()
        self._pause(0.5)
        self.primary.start()
        self.primary.call("REPLICAOF", "NO", "ONE")  # It may have begun as the replica.
        wait_until(self._is_replicated, 60)

    def fill_memory(self) -> None:
        self._fill(self.primary)

    def lag(self) -> None:
        with self._between[self._primary].held("replication", way="replies"):
            self._pause(3.0)

    def replace(self) -> None:
        """Have the replica take over, asleep or awake, behind or not; then the old one wakes, is
        itself for a while, and becomes the replica."""
        wait_until(self._is_replicated, 60)
        old, new = self.primary, self.replica
        sleeps = self._chance.random() < 0.5
        with ExitStack() as lasting:
            if self._chance.random() < 0.5:
                between = self._between[self._primary]
                lasting.enter_context(between.held("replication", way="replies"))
                self._pause(0.5)
            if sleeps:
                old.signal(signal.SIGSTOP)
            new.call("REPLICAOF", "NO", "ONE")
        for link in self.links:
            link.target = new.port
        for link in self._chance.sample(self.links, self._chance.randint(0, len(self.links))):
            link.cut(*self._kinds())
        self._primary = 1 - self._primary
        self._pause(3.0)
        if sleeps:
            old.signal(signal.SIGCONT)
            self._pause(2.0)
        old.call("REPLICAOF", "127.0.0.1", self._between[self._primary].port)
        wait_until(self._is_replicated, 60)


FAULTS: dict[str, Callable[[Site], None]] = {
    "links are cut": Site.cut,
    "a link holds bytes": Site.hold,
    "a link loses bytes": Site.lose,
    "a link is slow": Site.delay,
    "a slow link is cut": Site.cut_slow,
    "a slow link hears nothing more": Site.slow_then_deaf,
    "requests arrive late": Site.be_late,
    "a link is refused": Site.refuse,
    "a process stands still": Site.stop_process,
    "the primary stands still": Site.stop_server,
    "clients are killed": Site.kill_clients,
    "scripts are forgotten": Site.forget_scripts,
    "the server is emptied": Site.flush,
    "records are lost": Site.lose_record,
    "a dump is written": Site.save,
    "the primary is started again": Site.restart,
    "memory is full": Site.fill_memory,
    "the replica lags": Site.lag,
    "the replica takes over": Site.replace,
}
"""What may happen to one server and its replica, by name."""


class ClusterSite(Faulty):
    """A cluster whose nodes and slots change while the processes use it."""

    BUCKETS = 8

    def __init__(self, stack: ExitStack, processes: int, seed: int) -> None:
        super().__init__(seed)
        self.faults = CLUSTER_FAULTS
        self._six = stack.enter_context(cluster(replicas=1))
        self.urls = [self._six.url] * processes
        self._slots = [bucket.slot for bucket in Layout(NAME, buckets=self.BUCKETS).all]

    def _primary(self) -> Server:
        return self._chance.choice(self._six.primaries)

    def stop_server(self) -> None:
        with self._primary().stopped():
            self._pause(3.0)

    def kill_clients(self) -> None:
        self._kill_clients(self._primary())

    def forget_scripts(self) -> None:
        self._primary().call("SCRIPT", "FLUSH")

    def flush(self) -> None:
        self._primary().call("FLUSHALL")

    def lose_record(self) -> None:
        self._lose_records(self._primary())

    def fill_memory(self) -> None:
        self._fill(self._primary())

    def restart(self) -> None:
        """Kill a primary, and start it again before its replica takes over."""
        primary = self._primary()
        if self._chance.random() < 0.5:
            primary.call("SAVE")
        primary.kill()
        self._pause(0.5)
        primary.start()
        self._six.wait_whole()

    def replace(self) -> None:
        """Have a replica take over from a primary that is killed, asleep or awake; it comes back as
        the replica, from a dump or with nothing."""
        number, how = self._chance.randrange(3), self._chance.random()
        old = self._six.primaries[number]
        if how < 0.4:
            if self._chance.random() < 0.5:
                old.call("SAVE")
            old.kill()
            self._six.take_over(number)
            self._pause(3.0)
            old.start()
        elif how < 0.8:
            with old.stopped():
                self._six.take_over(number)
                self._pause(3.0)
        else:
            self._six.take_over(number)
        self._six.wait_whole()

    def move(self) -> None:
        """Move a slot with a bucket to another primary, and back."""
        slot = self._chance.choice(self._slots)
        home = self._six.shard_of(slot)
        target = (home + self._chance.choice((1, 2))) % 3
        self._six.move_slot(slot, home, target)
        self._pause(3.0)
        self._six.move_slot(slot, target, home)


CLUSTER_FAULTS: dict[str, Callable[[ClusterSite], None]] = {
    "a process stands still": ClusterSite.stop_process,
    "a primary stands still": ClusterSite.stop_server,
    "clients are killed": ClusterSite.kill_clients,
    "scripts are forgotten": ClusterSite.forget_scripts,
    "a server is emptied": ClusterSite.flush,
    "records are lost": ClusterSite.lose_record,
    "memory is full": ClusterSite.fill_memory,
    "a primary is started again": ClusterSite.restart,
    "a replica takes over": ClusterSite.replace,
    "a replica takes over from another": ClusterSite.replace,
    "a slot moves": ClusterSite.move,
    "another slot moves": ClusterSite.move,
}
"""What may happen to a cluster, by name."""
