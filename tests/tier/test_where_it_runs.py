"""A cache with a tier where it is used: a cluster, Sentinel, TLS and users, preforking servers."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import signal
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

from flowcache import ConfigurationError, TierUnavailableError, create_cache
from flowcache.tier import ValkeyTier
from harness.fleet import PATIENT, Make, confirmed, gone, run
from harness.servers import Cluster, Server, binaries, free_port, sentinel, server, wait_until

# A cluster


@pytest.mark.once  # Of servers, and not of interpreters.
def test_a_cluster_of_three_primaries(three: Cluster, make: Make) -> None:
    import valkey

    seeds = [valkey.cluster.ClusterNode("127.0.0.1", one.port) for one in three.primaries]
    caches = [
        make(valkey.ValkeyCluster(startup_nodes=seeds), tier={"lease": 2.0}) for _ in range(2)
    ]
    tenants = [f"tenant:{number}" for number in range(24)]
    one, other = ([cache.namespace(tenant) for tenant in tenants] for cache in caches)
    for number, space in enumerate(one):
        space.set_many({"a": number, "b": -number}, tags="all")
    for number, space in enumerate(other):
        assert space.get_many(["a", "b"]) == {"a": number, "b": -number}
        assert space.fetch("c", lambda number=number: number) == number
    assert [space.get("c") for space in one] == list(range(24))
    held = [primary.call("DBSIZE") for primary in three.primaries]
    assert min(held) > 0
    # Below one tenant: no other is touched. From the root: each is, in every bucket.
    other[0].clear()
    gone(one[0], "a")
    assert one[0].get("a") is None
    assert all(space.get("a") == number for number, space in enumerate(one) if number)
    caches[1].invalidate_tag("all")
    for space in one:
        gone(space, "a")
        assert space.get("a") is None
        assert space.get("c") is not None or space is one[0]
    caches[0].clear(wait="fleet")
    assert not any("c" in space for space in other)
    assert [space.get("c") for space in other] == [None] * 24


# Sentinel


@pytest.mark.once  # Of servers, and not of interpreters.
def test_a_primary_that_fails_over(make: Make) -> None:
    with sentinel() as watched:
        # Half of the hard one is how long a write waits for a replica that is gone.
        settings = {"soft_timeout": 5.0, "hard_timeout": 5.0, "lease": 2.0}
        one, other = (
            make(watched.master(), tier=settings).namespace("tenant:acme") for _ in range(2)
        )
        confirmed(lambda: one.set("k", 1))
        wait_until(lambda: other.get("k") == 1)
        confirmed(lambda: one.set("gone", 1))
        confirmed(lambda: other.delete("gone"))
        watched.primary.kill()
        watched.fail_over()
        confirmed(lambda: one.set("k", 2))
        gone(other, "k")
        wait_until(lambda: other.get("k") == 2)
        assert other.get("gone") is None
        assert other.fetch("new", lambda: 3) == 3
        wait_until(lambda: one.get("new") == 3)


# Encryption and users


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on the path, to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True
    )
    return certificate, key


@pytest.fixture
def encrypted(certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """A server that speaks TLS, and its port for that.

    It outlives the caches of a test. One that dies as a bus dials it leaves a socket of `ssl` open.
    """
    path, key = certificate
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(path), "--tls-key-file", str(key))
    options += ("--tls-ca-cert-file", str(path), "--tls-auth-clients", "no")
    for binary in binaries():
        spoken = Server(binary, tmp_path / binary.name, *options)
        try:
            spoken.start()
        except RuntimeError:
            continue  # It was built without TLS.
        break
    else:
        pytest.skip("no server of this machine speaks TLS")
    yield spoken, port
    spoken.kill()


@pytest.mark.once  # Of servers, and not of interpreters.
def test_tls_with_a_user_and_a_password(
    encrypted: tuple[Server, int], certificate: tuple[Path, Path], make: Make
) -> None:
    spoken, port = encrypted
    rights = "~fc1:* &fc1:* +@all -@dangerous -@admin +info"
    spoken.call("ACL", "SETUSER", "flowcache", "on", ">se:cret@", *rights.split())
    where = f"127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}"
    target = f"valkeys://flowcache:se%3Acret%40@{where}"
    one, other = (make(target).namespace("tenant:acme") for _ in range(2))
    one.set("k", 1, tags="t")
    assert other.get("k") == 1
    assert run(other.afetch("m", lambda: 2)) == 2
    one.invalidate_tag("t", wait="fleet")
    assert "k" not in other
    spoken.call("ACL", "SETUSER", "blind", "on", ">x", "~*", "&*", "+@all", "-info")
    for user, error in (
        ("flowcache:wrong", TierUnavailableError),
        ("blind:x", ConfigurationError),
    ):
        bad = make(f"valkeys://{user}@{where}", connects=False, name=user.partition(":")[0])
        with pytest.raises(error) as raised:
            bad.connect()
        assert "wrong" not in str(raised.value)
    # A certificate that nothing vouches for.
    strange = make(f"valkeys://flowcache:se%3Acret%40@127.0.0.1:{port}/0", connects=False)
    with pytest.raises(TierUnavailableError, match=r"(?i)certificate"):
        strange.connect()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this platform has no Unix sockets")
def test_a_unix_socket_by_its_url(make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    with server(None, "--unixsocket", str(path)):
        settings: Any = {"tier": ValkeyTier(f"unix://{path}", **PATIENT), "name": "unix"}
        with create_cache(**settings) as one, create_cache(**settings) as other:
            confirmed(one.connect)
            confirmed(other.connect)
            one.namespace("t").set("k", 1)
            wait_until(lambda: other.namespace("t").get("k") == 1)


# Servers that can never do


def refused(cache: Any, said: str) -> None:
    """Connecting and each write tell why; nothing is half done."""
    space = cache.namespace("tenant:acme")
    for call in (cache.connect, lambda: space.set("k", 1), space.clear, lambda: space.delete("k")):
        with pytest.raises(ConfigurationError, match=said):
            call()
    assert "k" not in space


@pytest.mark.once  # Of servers, and not of interpreters.
def test_a_server_that_is_too_old(
    new_server: Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowcache.tier.wire.OLDEST", (99, 0))
    refused(make(new_server, connects=False), r"127\.0\.0\.1.* is version \d+\.\d+")


@pytest.mark.once  # Of servers, and not of interpreters.
def test_a_server_that_hides_its_history(make: Make) -> None:
    with server() as running:
        running.call("ACL", "SETUSER", "default", "-info")
        refused(make(running, connects=False), r"must be Valkey or Redis 7\.0 or newer.*INFO")


# Event loops


def test_two_loops_and_threads_of_one_process(pair: tuple[Any, Any]) -> None:
    one, other = pair
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        await asyncio.sleep(0.05)
        return 1

    async def use() -> list[int]:
        found: list[int] = await asyncio.gather(*(one.afetch("k", load) for _ in range(10)))
        await one.aset(threading.get_ident(), 2)
        return found

    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(run(use()))) for _ in range(2)]
    threads.append(threading.Thread(target=lambda: found.append([one.fetch("k", lambda: 1)])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=len) == [[1], [1] * 10, [1] * 10]
    assert len(calls) <= 1
    assert all(other.get(thread.ident) == 2 for thread in threads[:2])


# Servers that fork

APPLICATION = """
import json, os, sys, time
from flowcache import create_cache
from flowcache.tier import ValkeyTier

cache = create_cache(
    tier=ValkeyTier(os.environ["TIER"], soft_timeout=30, hard_timeout=60, lease=5), name="preload"
)
acme = cache.namespace("tenant:acme")
if os.environ["USED"] == "yes":  # Before the fork.
    acme.set("before", os.getpid())
    assert acme.get("before") == os.getpid()
loads = []


def load():
    loads.append(1)
    time.sleep(0.05)
    return os.getpid()


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/clear":
        acme.clear(wait="fleet")
        said = None
    elif path == "/held":
        said = acme.get("k")
    else:
        said = acme.fetch("k", load)
    body = json.dumps([os.getpid(), said, len(loads)]).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


@contextmanager
def gunicorn(folder: Path, url: str, *, used: bool) -> Iterator[int]:
    """Serve the application from three preforked workers; give the port."""
    (folder / "application.py").write_text(APPLICATION)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--bind"]
    process = subprocess.Popen(
        [*command, f"127.0.0.1:{port}", "--log-level", "error", "application:application"],
        cwd=folder,
        env=os.environ | {"TIER": url, "USED": "yes" if used else "no"},
    )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0


def asked(port: int, path: str) -> Any:
    import json

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        asked(port, "/held")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_gunicorn_with_preload(new_server: Server, tmp_path: Path, used: bool) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed here")
    with gunicorn(tmp_path, new_server.url, used=used) as port:
        wait_until(lambda: answers(port))
        seen: dict[int, Any] = {}
        until = time.monotonic() + 150
        while len(seen) < 3 and time.monotonic() < until:
            pid, value, loads = asked(port, "/fetch")
            seen[pid] = value, loads
        assert len(seen) == 3, "not every worker was asked"
        assert len({value for value, _ in seen.values()}) == 1
        assert sum(loads for _, loads in seen.values()) == 1
        asked(port, "/clear")
        assert [asked(port, "/held")[1] for _ in range(12)] == [None] * 12


TASKS = """
import os, sys
from celery import Celery
from flowcache import create_cache
from flowcache.tier import ValkeyTier

folder = os.environ["FOLDER"]
app = Celery("tasks", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{folder}/queue", "data_folder_out": f"{folder}/queue",
    "processed_folder": f"{folder}/done", "store_processed": True,
}
cache = create_cache(
    tier=ValkeyTier(os.environ["TIER"], soft_timeout=30, hard_timeout=60, lease=5), name="celery"
)
acme = cache.namespace("tenant:acme")
acme.set("before", 1)  # Used before the workers are forked.


@app.task
def count(key):
    return os.getpid(), acme.incr("count"), acme.fetch(key, os.getpid)


@app.task
def clear():
    acme.clear(wait="fleet")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_the_prefork_pool_of_celery(new_server: Server, tmp_path: Path) -> None:
    pytest.importorskip("celery", reason="Celery is not installed here")
    (tmp_path / "tasks.py").write_text(TASKS)
    for name in ("results", "queue", "done"):
        (tmp_path / name).mkdir()
    environment = os.environ | {"TIER": new_server.url, "FOLDER": str(tmp_path)}
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"]
    command += ["--concurrency", "2", "--loglevel", "ERROR", "--without-gossip"]
    worker = subprocess.Popen(
        [*command, "--without-mingle", "--without-heartbeat"], cwd=tmp_path, env=environment
    )
    try:
        program = """
            import tasks
            told = []
            while len({pid for pid, _, _ in told}) < 2:  # One process may be late, or busy.
                asked = [tasks.count.delay("k") for _ in range(20)]
                told += [one.get(timeout=90) for one in asked]
            assert sorted(count for _, count, _ in told) == list(range(1, len(told) + 1)), told
            assert len({value for _, _, value in told}) == 1, told
            tasks.clear.delay().get(timeout=90)
            assert tasks.acme.get("k") is None
            print("done")
            tasks.cache.close()
        """
        finished = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.strip() == "done"
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(90)
