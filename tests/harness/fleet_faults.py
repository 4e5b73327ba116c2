"""Faults that happen to a running fleet, drawn by a seed: a primary, its replica, a link each.

The fleet's processes reach the primary by proxies. Every few seconds something happens to a link,
a server, the data or a process, for a while; the list of what happened is part of a violation's
report. The order is the seed's. The moments are the machine's, so that a run is repeated in kind
and not in every step.
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

from harness.proxy import Proxy
from harness.servers import Server, newest, wait_until

__all__ = ["FAULTS", "Site"]

NAME = "histories"
"""The cache's name, of which the names of its records are made."""


class Site:
    """Two servers, one of them the primary, and the links of the processes to it."""

    def __init__(self, stack: ExitStack, folder: Path, processes: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []
        self.happened: list[tuple[float, str]] = []
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
                name = self._chance.choice(list(FAULTS))
                self.happened.append((time.monotonic() - began, name))
                self._begun.set()
                FAULTS[name](self)
                self._stop.wait(every * self._chance.uniform(0.5, 1.5))
        except BaseException as error:
            self._errors.append(error)

    def _pause(self, most: float) -> None:
        """Let the fault last for a while."""
        self._stop.wait(self._chance.uniform(0.0, most))

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

    def refuse(self) -> None:
        with self._chance.choice(self.links).refused():
            self._pause(3.0)

    # Processes

    def stop_process(self) -> None:
        pid = self._chance.choice(self._pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._pause(4.0)
            os.kill(pid, signal.SIGCONT)

    # Servers and data

    def stop_server(self) -> None:
        with self.primary.stopped():
            self._pause(3.0)

    def kill_clients(self) -> None:
        kind = self._chance.choice(("normal", "pubsub", "replica"))
        self.primary.call("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def forget_scripts(self) -> None:
        self.primary.call("SCRIPT", "FLUSH")

    def flush(self) -> None:
        self.primary.call("FLUSHALL")

    def lose_record(self) -> None:
        keys = self.primary.call("KEYS", f"fc1:{NAME}:*")
        kinds = (b":g:", b":r", b":log", b":m", b":l:")
        kind = self._chance.choice(kinds)
        lost = [key for key in sorted(keys) if kind in key]
        if lost:
            self.primary.call("DEL", *lost)

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
        used = self.primary.call("INFO", "memory")["used_memory"]
        policy = self._chance.choice(("noeviction", "allkeys-random", "volatile-ttl"))
        self.primary.call("CONFIG", "SET", "maxmemory-policy", policy)
        self.primary.call("CONFIG", "SET", "maxmemory", used)
        self._pause(2.0)
        self.primary.call("CONFIG", "SET", "maxmemory", 0)

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
"""What may happen, by name."""
