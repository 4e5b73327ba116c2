"""The examples as real servers: each is a process of its own, started as its page says."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from contrib.interleaving import TENANTS

FRAMEWORKS = Path(__file__).resolve().parents[2] / "examples" / "frameworks"
STARTS_WITHIN = 60.0
"""Seconds that a server may take to start, or to end, on a busy machine."""
LISTENING = re.compile(r"(?:Listening at|running on|Running on):? (http://127\.0\.0\.1:\d+)")


class Program:
    """A process and its output so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Return where a pattern matches what is written; fail if that takes too long."""
        self.wait_while(lambda: pattern.search(self.written()) is None)
        found = pattern.search(self.written())
        assert found is not None
        return found

    def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition ends; fail if the process ends first, or that takes too long."""
        until = time.monotonic() + STARTS_WITHIN
        while condition():
            assert self._process.poll() is None, self.written()
            assert time.monotonic() < until, self.written()
            time.sleep(0.02)

    def written(self) -> str:
        """Return what is written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running(
    *command: str, folder: Path = FRAMEWORKS, raised: int = 0, **variables: str
) -> Iterator[Program]:
    """Run a Python command for as long as the block lasts; it must end when it is told to.

    ``raised``: how many exceptions it is expected to log.
    """
    with tempfile.TemporaryDirectory(prefix="fc-example-") as name:
        log = Path(name, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        program = Program(process, log)
        try:
            yield program
        finally:
            process.terminate()
            try:
                process.wait(STARTS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        assert program.written().count("Traceback") == raised, program.written()


@contextmanager
def serving(*command: str, folder: Path = FRAMEWORKS, **variables: str) -> Iterator[str]:
    """Run a server on a port of its choice, and yield its address when it takes connections."""
    with running(*command, folder=folder, **variables) as program:
        address = program.wait_for(LISTENING)[1]
        # The parent of uvicorn's workers tells the address before one of them listens.
        port = int(address.rpartition(":")[2])
        program.wait_while(lambda: not takes_connections(port))
        yield address


def takes_connections(port: int) -> bool:
    """Tell whether a server takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=STARTS_WITHIN).close()
    except ConnectionRefusedError:
        return False
    return True


class Client:
    """Requests for a tenant, each on a connection of its own, so that any worker may take it."""

    def __init__(self, address: str) -> None:
        self._place = address.removeprefix("http://")

    def ask(self, path: str, tenant: str, method: str = "GET") -> Any:
        """Return what is answered."""
        connection = http.client.HTTPConnection(self._place, timeout=STARTS_WITHIN)
        with closing(connection):
            connection.request(method, path, headers={"X-Tenant-ID": tenant})
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, body
        return json.loads(body)

    def ask_at_once(self, path: str, rounds: int = 10) -> dict[str, Counter[tuple[str, int]]]:
        """Ask for both tenants in two threads each; return each one's reports by process."""
        answers: dict[str, Counter[tuple[str, int]]] = {name: Counter() for name in TENANTS}
        together = threading.Barrier(4, timeout=STARTS_WITHIN)

        def work(tenant: str) -> list[tuple[str, int]]:
            together.wait()
            told = [self.ask(path, tenant) for _ in range(rounds)]
            return [(one["report"], one["process"]) for one in told]

        with ThreadPoolExecutor(4) as pool:
            asking = [(name, pool.submit(work, name)) for name in TENANTS * 2]
            for name, one in asking:
                answers[name].update(one.result())
        return answers
