"""A process shows itself on a Unix socket that its own user alone can open.

A reader writes one line, an `Ask` in JSON; the process writes one snapshot in JSON, and closes.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any

from flowcache.reports import report, shown

from .merging import Answer
from .snapshot import Ask, Watcher

__all__ = ["Shown", "SocketError", "answers", "ask_one", "sockets_of"]

PATIENCE = 2.0
"""Seconds that either side waits for the other."""
LONGEST_ASK = 1 << 17
LONGEST_PATH = 100
"""Bytes of a socket's path; systems allow some more."""
NAME = re.compile(r"(?P<cache>.+)-(?P<pid>\d+)\.sock")


class SocketError(Exception):
    """A process that did not answer, and why."""


class Shown:
    """Answers on a socket, in a daemon thread, until ``close()``; in a child on its own."""

    def __init__(self, watcher: Watcher, folder: str | os.PathLike[str]) -> None:
        self._watcher = watcher
        self._folder = Path(folder)
        name = re.sub(r"[^A-Za-z0-9_.]+", "_", watcher.cache._store().name)[:40] or "cache"
        self._name = name
        self._closed = False
        self._listen()
        shown_ones.add(self)

    @property
    def path(self) -> Path:
        """The path of the socket."""
        return self._path

    def _listen(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_dead(self._folder)
        nth = 0
        self._path = self._folder / f"{self._name}-{os.getpid()}.sock"
        while self._path.exists():  # Another cache of this process with the same name.
            nth += 1
            self._path = self._folder / f"{self._name}.{nth}-{os.getpid()}.sock"
        if len(os.fsencode(self._path)) > LONGEST_PATH:
            raise ValueError(
                f"folder: must be short enough for the path of a socket, {LONGEST_PATH} bytes; "
                f"got {shown(str(self._path))}"
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            # Nothing can connect before `listen`, so that no other user ever has.
            self._path.chmod(stat.S_IRUSR | stat.S_IWUSR)
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        # In an empty context: a thread with its starter's context would keep it alive.
        thread = threading.Thread(
            target=serve, args=(listener, self._watcher), name="flowcache-show", daemon=True
        )
        Context().run(thread.start)

    def close(self) -> None:
        """End the thread and remove the socket. A second call has no effect."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        shown_ones.discard(self)

    def after_fork(self) -> None:
        """Leave the parent's socket to it, and listen on one of this process."""
        if not self._closed:
            self._listener.close()
            self._listen()


def close_all() -> None:
    """Remove the sockets at the end of the process; those of a parent are not this process's."""
    for one in list(shown_ones):
        one.close()


def serve(listener: socket.socket, watcher: Watcher) -> None:
    """Answer one reader after the other."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # It was closed.
        with connection:
            try:
                connection.settimeout(PATIENCE)
                connection.sendall(answer(watcher, connection))
            except OSError:
                continue  # The reader is gone.
            except Exception as error:  # noqa: BLE001  one bad reading must not be the last
                report("ERROR", "a snapshot could not be made", event="show_failed", error=error)


def answer(watcher: Watcher, connection: socket.socket) -> bytes:
    """Read a question and return its answer."""
    try:
        told: Any = watcher.look(Ask.of(json.loads(read_line(connection))))
    except ValueError as error:
        told = {"state": "refused", "why": str(error)}
    return json.dumps(told).encode() + b"\n"


def read_line(connection: socket.socket) -> bytes:
    """Read up to the end of a line or of the connection."""
    parts = bytearray()
    while not parts.endswith(b"\n"):
        part = connection.recv(1 << 16)
        if not part:
            break
        parts += part
        if len(parts) > LONGEST_ASK:
            raise ValueError(f"ask: must be at most {LONGEST_ASK} bytes")
    return bytes(parts)


# ---------------------------------------------------------------------- readers


def sockets_of(place: str | os.PathLike[str]) -> list[Path]:
    """Return the sockets of a folder, or the one socket; `SocketError` for what is neither."""
    path = Path(place)
    if path.is_dir():
        return sorted(one for one in path.glob("*.sock") if NAME.fullmatch(one.name))
    if path.exists():
        return [path]
    raise SocketError(f"{path}: there is no such socket or folder")


def pid_of(path: Path) -> int:
    """Return the process that a socket is named after; 0 for another name."""
    match = NAME.fullmatch(path.name)
    return int(match["pid"]) if match else 0


def ask_one(path: Path, ask: Ask) -> Answer:
    """Return the snapshot of one process; `SocketError` if it does not answer."""
    line = json.dumps(ask.as_dict()).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(path))
            connection.sendall(line)
            parts = bytearray()
            while part := connection.recv(1 << 16):
                parts += part
        told: Answer = json.loads(parts)
    except (ConnectionRefusedError, FileNotFoundError):
        raise SocketError("it has ended") from None
    except TimeoutError:
        raise SocketError(f"no answer within {PATIENCE:g} s") from None
    except OSError as error:
        raise SocketError(error.strerror or "it cannot be reached") from None
    except ValueError:
        raise SocketError("its answer was cut off") from None
    if told["state"] == "refused":
        raise SocketError(told["why"])
    return told


def answers(paths: list[Path], ask: Ask) -> list[Answer]:
    """Ask processes side by side; one that does not answer is told of as gone."""

    def one(path: Path) -> Answer:
        try:
            return ask_one(path, ask)
        except SocketError as error:
            return {"state": "gone", "pid": pid_of(path), "why": str(error)}

    if not paths:
        return []
    with ThreadPoolExecutor(min(16, len(paths))) as pool:
        return list(pool.map(one, paths))


def remove_dead(folder: Path) -> None:
    """Remove the sockets of processes that ended without doing so."""
    for path in folder.glob("*.sock"):
        match = NAME.fullmatch(path.name)
        if match is not None and not is_alive(int(match["pid"])):
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


shown_ones: set[Shown] = set()
"""Those that have not been closed: what `show` returns need not be kept."""
atexit.register(close_all)


def _after_fork() -> None:
    for one in list(shown_ones):
        try:
            one.after_fork()
        except (OSError, ValueError) as error:
            shown_ones.discard(one)  # What it has is the parent's.
            report("ERROR", "this process cannot show itself", event="show_failed", error=error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
