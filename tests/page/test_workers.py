"""Processes that show themselves: sockets, sums over workers, and `flowcache top`."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pty
import re
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowcache import cli, create_cache
from flowcache.page import ADMIN, CachePage, show
from flowcache.watching.snapshot import Ask
from flowcache.watching.sockets import SocketError, answers, ask_one, shown_ones, sockets_of
from harness.support import SOURCE_FOLDER
from page.asking import by_wsgi

WORKER = """
import sys
from flowcache import create_cache
from flowcache.page import show
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = create_cache(name="crm", max_entries=10_000)
shown = show(cache, folder)
for number in range(first, last):
    view = cache.namespace(f"tenant:{number}")
    for key in range(number + 1):
        view.set(key, "secret value")
        view.get(key)
print(cache.stats().hits, cache.stats().entries, flush=True)
sys.stdin.readline()
"""


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.hits, self.entries = map(int, process.stdout.readline().split())

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def worker(folder: Path, first: int, last: int) -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(first), str(last)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": SOURCE_FOLDER},
    ) as process:  # fmt: skip
        try:
            yield Worker(process)
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "s"


def filled(tenants: int = 3, **settings: Any) -> Any:
    cache: Any = create_cache(name="crm", **settings)
    for number in range(tenants):
        cache.namespace(f"tenant:{number}").set("k", number)
    return cache


def test_a_socket_is_its_user_s_alone_and_goes_with_its_end(folder: Path) -> None:
    shown = show(filled(), folder)
    assert stat.S_IMODE(shown.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ask_one(shown.path, Ask())["stats"]["entries"] == 3
    shown.close()
    shown.close()
    assert list(folder.iterdir()) == []


def test_what_show_returns_need_not_be_kept(folder: Path) -> None:
    show(filled(), folder)
    gc.collect()
    (path,) = sockets_of(folder)
    assert ask_one(path, Ask())["stats"]["entries"] == 3
    for one in list(shown_ones):
        one.close()
    assert sockets_of(folder) == []


def test_two_caches_of_one_name_have_two_sockets(folder: Path) -> None:
    first, second = show(filled(1), folder), show(filled(2), folder)
    assert [a["stats"]["entries"] for a in answers(sockets_of(folder), Ask())] in ([1, 2], [2, 1])
    first.close()
    second.close()


def test_a_path_that_is_too_long_is_said_to_be(folder: Path) -> None:
    with pytest.raises(ValueError, match="folder: must be short enough for the path of a socket"):
        show(filled(), folder / ("x" * 120))


def test_nonsense_is_refused_and_the_next_reader_answered(folder: Path) -> None:
    shown = show(filled(), folder)
    for sent in (b"\n", b"[]\n", b"{\n", b'{"top": -1}\n', b'{"path": [1]}\n', b"x" * (1 << 18)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(shown.path))
            try:
                connection.sendall(sent)
                assert json.loads(connection.makefile().readline() or "{}").get("state") in (
                    "refused",
                    None,
                )
            except (BrokenPipeError, ConnectionResetError):
                assert len(sent) > 1 << 17
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(shown.path))  # It says nothing and leaves.
    assert ask_one(shown.path, Ask())["state"] == "live"
    with pytest.raises(SocketError, match="by must be one of"):
        ask_one(shown.path, Ask(by="size"))
    shown.close()


def test_the_figures_of_workers_add_up_and_every_tenant_is_whole(folder: Path) -> None:
    with worker(folder, 0, 60) as one, worker(folder, 40, 120) as other:
        page = CachePage(filled(0), authorize=lambda request: ADMIN, workers=folder)
        told = by_wsgi(page).json
        assert told["stats"]["hits"] == one.hits + other.hits
        assert told["stats"]["entries"] == one.entries + other.entries
        assert {w["pid"] for w in told["workers"]} == {one.pid, other.pid, os.getpid()}
        rows = {row["name"]: row for row in told["tenants"]["rows"]}
        assert len(rows) == 50
        assert all(rows[f"tenant:{n}"]["entries"] == n + 1 for n in range(100, 120))
        # The last of these lead in neither process, but together.
        assert all(rows[f"tenant:{n}"]["entries"] == 2 * (n + 1) for n in range(49, 60))
        both = by_wsgi(page, "/data", "search=tenant:5").json["tenants"]["rows"]
        assert {row["name"]: row["entries"] for row in both}["tenant:59"] == 120
        assert told["limits"]["max_entries"] == 30_000
        assert "secret value" not in json.dumps(told)


def test_a_worker_that_is_gone_is_said_to_be(folder: Path, capsys: Any) -> None:
    with worker(folder, 0, 3) as one, worker(folder, 0, 3) as other:
        other.process.kill()
        other.process.wait()
        page = CachePage(filled(), authorize=lambda request: ADMIN, workers=folder)
        told = by_wsgi(page).json
        gone = [w for w in told["workers"] if w["state"] == "gone"]
        assert [(w["pid"], w["why"]) for w in gone] == [(other.pid, "it has ended")]
        assert told["stats"]["entries"] == one.entries + 3
        assert cli.main(["top", str(folder), "-1"]) == 0
        assert f"worker {other.pid} is gone: it has ended" in capsys.readouterr().out
        one.process.kill()
        one.process.wait()
        assert cli.main(["top", str(folder), "-1"]) == 1
        assert "no worker answers" in capsys.readouterr().out
        show(filled(), folder).close()  # The next process removes what they left.
        assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_has_a_socket_of_its_own(folder: Path) -> None:
    program = """
import os, sys
from flowcache import create_cache
from flowcache.page import show
cache = create_cache(name="crm")
shown = show(cache, sys.argv[1])
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    cache.set("child", 1)
    os.write(writer, b"x")
    sys.stdin.readline()
    os._exit(0)
os.read(reader, 1)
print(os.getpid(), pid, flush=True)
os.waitpid(pid, 0)
shown.close()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": SOURCE_FOLDER},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        parent, child = map(int, process.stdout.readline().split())
        told = {one["pid"]: one["stats"]["entries"] for one in answers(sockets_of(folder), Ask())}
        assert told == {parent: 0, child: 1}
        process.stdin.write("\n")


def test_a_recording_is_taken_in_every_worker(folder: Path) -> None:
    with worker(folder, 0, 3):
        page = CachePage(filled(), authorize=lambda request: ADMIN, workers=folder)
        told = by_wsgi(page, "/record", method="POST", x_flowcache="1").json
        assert told["hot"]["state"] == "sampling"
        (path,) = sockets_of(folder)
        assert ask_one(path, Ask())["hot"]["state"] == "sampling"


# ---------------------------------------------------------------------- flowcache top


def test_top_once_is_plain_text_with_every_figure(folder: Path, capsys: Any) -> None:
    cache = filled(3, max_entries=10)
    cache.namespace("tenant:1").get("k")
    cache.namespace("tenant:\x1b[31mred\u202e").set("k", 1)
    shown = show(cache, folder)
    assert cli.main(["top", str(shown.path), "-1", "--by", "hits"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and r"\x1b[31mred\u202e" in out
    assert "4 entries of 10 (40.0%)" in out and "100.0% hits of 1 look-ups" in out
    first = next(line for line in out.splitlines() if line.startswith("tenant:"))
    assert re.split(r"\s{2,}", first) == ["tenant:1", "1", "2", "100.0%", "1", "0", "0", "0", "0"]
    shown.close()


def test_top_filters_and_counts_the_rest(folder: Path, capsys: Any) -> None:
    shown = show(filled(40), folder)
    assert cli.main(["top", str(folder), "-1", "-n", "5"]) == 0
    assert "(35 more)" in capsys.readouterr().out
    assert cli.main(["top", str(folder), "-1", "--search", "TENANT:3"]) == 0
    out = capsys.readouterr().out
    assert "tenant:39" in out and "tenant:20" not in out
    assert cli.main(["top", str(folder), "-1", "--search", "none"]) == 0
    assert "no name matches" in capsys.readouterr().out
    assert cli.main(["top", str(folder), "-1", "--at", "tenant:1"]) == 0
    assert "crm > tenant:1" in capsys.readouterr().out
    shown.close()


def test_top_as_json_is_one_snapshot(folder: Path, capsys: Any) -> None:
    shown = show(filled(2), folder)
    assert cli.main(["top", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stats"]["entries"] == 2 and len(told["workers"]) == 1
    shown.close()


def test_top_says_what_there_is_not(folder: Path, capsys: Any) -> None:
    assert cli.main(["top", str(folder)]) == 2
    assert "there is no such socket or folder" in capsys.readouterr().err
    folder.mkdir()
    assert cli.main(["top", str(folder)]) == 2
    assert "no process shows itself here" in capsys.readouterr().err
    one, other = show(filled(), folder), show(create_cache(name="shop"), folder)
    assert cli.main(["top", str(folder), "-1"]) == 2
    assert "there are several caches, --cache says which: crm, shop" in capsys.readouterr().err
    assert cli.main(["top", str(folder), "-1", "--cache", "shop"]) == 0
    out = capsys.readouterr().out
    assert "no tenants yet" in out and "nothing has been asked yet" in out
    assert cli.main(["top", str(folder), "-1", "--cache", "x"]) == 2
    assert "no cache is named x; there are: crm, shop" in capsys.readouterr().err
    one.close()
    other.close()


@pytest.mark.parametrize("arguments", [["-n", "0"], ["-d", "0"], ["-d", "x"], ["--by", "size"], []])
def test_top_refuses_what_it_cannot_do(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["top", *arguments, *(["."] if arguments else [])])
    assert error.value.code == 2


def test_top_on_a_terminal_sorts_filters_and_ends(folder: Path) -> None:
    shown = show(filled(8), folder)
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "flowcache", "top", str(folder), "-d", "0.2"],
        stdin=follower, stdout=follower, stderr=follower,
        env=os.environ | {"PYTHONPATH": SOURCE_FOLDER, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        try:
            os.close(follower)
            seen = ""

            def until(text: str) -> None:
                nonlocal seen
                end = time.monotonic() + 30
                while text not in seen:
                    ready, _, _ = select.select([leader], [], [], 30)
                    assert ready and time.monotonic() < end, seen
                    seen += os.read(leader, 1 << 16).decode(errors="replace")

            until("tenant:7")
            until("entries ↓")
            os.write(leader, b"s")
            until("hits ↓")
            seen = ""
            os.write(leader, b"/")
            until("filter:")
            os.write(leader, b"tenant:3\r")
            until("filtered by 'tenant:3'")
            os.write(leader, b"q")
            with contextlib.suppress(OSError):  # The end of a terminal is an error on Linux.
                while select.select([leader], [], [], 30)[0] and os.read(leader, 1 << 16):
                    pass
            assert process.wait(30) == 0
        finally:
            process.kill()
    os.close(leader)
    shown.close()
