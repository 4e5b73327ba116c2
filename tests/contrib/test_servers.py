"""The examples under real servers: two tenants at once, and the invalidations of one of them.

Their results do not depend on the interpreter, so one is enough.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contrib.interleaving import TENANTS
from contrib.running import FRAMEWORKS, STARTS_WITHIN, Client, running, serving
from harness.servers import Server, server, wait_until

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn and prefork have no Windows"),
]

GUNICORN = ("-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket")
ONE_PROCESS = {
    "fastapi": ("-m", "uvicorn", "--port", "0", "fastapi_app:app"),
    "flask": (*GUNICORN, "-k", "gthread", "--threads", "8", "flask_app:app"),
    "aiohttp": ("aiohttp_app.py", "0"),
}


@pytest.fixture(scope="module")
def fleet_server() -> Iterator[Server]:
    """The server that the processes of an example share."""
    with server() as running:
        yield running


@pytest.mark.parametrize("framework", ONE_PROCESS)
def test_one_process_serves_two_tenants_at_once(framework: str) -> None:
    with serving(*ONE_PROCESS[framework]) as address:
        client = Client(address)
        assert httpx.get(f"{address}/report").status_code == 400
        first = client.ask("/report", "acme")
        assert first["report"].startswith("report 1 of acme")
        # With Flask-Caching several callers may make what none of them finds.
        client.ask("/report", "beta")
        for name, reports in client.ask_at_once("/report").items():
            ((report, process),) = reports
            assert report.startswith(f"report 1 of {name}")
            assert process == first["process"]
        client.ask("/changed", "acme", "POST")
        assert client.ask("/report", "acme")["report"].startswith("report 2 of acme")
        assert client.ask("/report", "beta")["report"].startswith("report 1 of beta")


FLEETS = {
    "django": (FRAMEWORKS / "django_site", (*GUNICORN, "--workers", "2", "shop.wsgi")),
    "fastapi": (FRAMEWORKS, ("-m", "uvicorn", "--workers", "2", "--port", "0", "fastapi_app:app")),
    "flask": (
        FRAMEWORKS,
        (*GUNICORN, "-k", "gthread", "--threads", "4", "--workers", "2", "flask_app:app"),
    ),
}
PATIENT = {"PYTHONPATH": str(Path(__file__).with_name("patience"))}
SEEN_LATER = ("flask",)
"""Frameworks whose invalidation does not wait until all processes have seen it."""


@pytest.mark.parametrize("framework", FLEETS)
def test_two_processes_have_one_cache(framework: str, fleet_server: Server) -> None:
    folder, command = FLEETS[framework]
    settings = {"SHOP_TIER": fleet_server.url, "CRM_TIER": fleet_server.url, **PATIENT}
    with serving(*command, folder=folder, **settings) as address:
        client = Client(address)
        first = {name: client.ask("/report", name)["report"] for name in TENANTS}
        for name, report in first.items():
            assert report.startswith(f"report 1 of {name} by ")
        ask_both_processes(client, first)
        client.ask("/changed", "acme", "POST")
        if framework in SEEN_LATER:
            wait_until(lambda: client.ask("/report", "acme")["report"] != first["acme"])
            ask_both_processes(client, {"beta": first["beta"]})
        second = client.ask("/report", "acme")["report"]
        assert second != first["acme"]
        ask_both_processes(client, {"acme": second, "beta": first["beta"]})


def ask_both_processes(client: Client, expected: dict[str, str]) -> None:
    """Ask at once for two tenants, until both processes have answered, with one report each."""
    processes: set[int] = set()
    while len(processes) < 2:
        for name, reports in client.ask_at_once("/report", rounds=3).items():
            if name in expected:
                assert {report for report, _ in reports} == {expected[name]}
            processes |= {process for _, process in reports}


class TestDjango:
    """The project under gunicorn with two workers, each of which has a cache of its own."""

    def test_two_workers_serve_two_tenants_at_once(self, tmp_path: Path) -> None:
        folder = FRAMEWORKS / "django_site"
        variables = {
            "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
            "DJANGO_SUPERUSER_USERNAME": "ada",
            "DJANGO_SUPERUSER_EMAIL": "ada@example.com",
            "DJANGO_SUPERUSER_PASSWORD": "of the test",
        }
        prepare = (
            "import django; django.setup()\n"
            "from django.core.management import call_command\n"
            "call_command('migrate', verbosity=0)\n"
            "call_command('createsuperuser', '--noinput')\n"
            "call_command('check', fail_level='WARNING')\n"
        )
        with running(
            "-c", prepare, folder=folder, DJANGO_SETTINGS_MODULE="shop.settings", **variables
        ) as program:
            program.wait_for(re.compile("no issues"))
        command = (*GUNICORN, "--workers", "2", "shop.wsgi")
        with serving(*command, folder=folder, **variables) as address:
            client = Client(address)
            asked = dict.fromkeys(TENANTS, 0)
            seen: dict[str, set[int]] = {name: set() for name in TENANTS}
            while min(map(len, seen.values())) < 2:
                for name, reports in client.ask_at_once("/report").items():
                    asked[name] += reports.total()
                    # One report a tenant in each process, for any number of requests.
                    for report, process in reports:
                        assert report == f"report 1 of {name} by {process}"
                    seen[name] |= {process for _, process in reports}
            (workers,) = {frozenset(processes) for processes in seen.values()}
            for where in ("/catalogue/", "/sidebar/"):
                for name, reports in client.ask_at_once(where).items():
                    for report, _ in reports:
                        assert report.startswith(f"{where.strip('/')} 1 of {name} by ")
            assert httpx.get(f"{address}/report").status_code == 400
            self.invalidate(client)
            self.look_into_the_admin(address, asked, workers)

    def invalidate(self, client: Client) -> None:
        """A change by one tenant is seen in the process that received it, and by no other."""
        told = client.ask("/changed", "acme", "POST")
        assert told["report"] == 1
        while True:
            answers = {name: client.ask("/report", name) for name in TENANTS}
            assert answers["beta"]["report"].startswith("report 1 of beta by ")
            if answers["acme"]["process"] == told["process"]:
                break
        assert answers["acme"]["report"] == f"report 2 of acme by {told['process']}"

    def look_into_the_admin(
        self, address: str, asked: dict[str, int], workers: frozenset[int]
    ) -> None:
        """The counters of two workers are each one's own, and their sums add up."""
        seen: dict[int, dict[str, list[int]]] = {}
        with httpx.Client(base_url=address, timeout=STARTS_WITHIN) as client:
            form = client.get("/admin/login/").text
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
            assert token is not None
            login = {"username": "ada", "password": "of the test"}
            given = {**login, "csrfmiddlewaretoken": token[1], "next": "/admin/cache/"}
            assert client.post("/admin/login/", data=given).status_code == 302
            while seen.keys() != workers:
                page = client.get("/admin/cache/", headers={"Connection": "close"}).text
                process = re.search(r"Cache of process (\d+)", page)
                assert process is not None, page
                seen[int(process[1])] = counters(page)
        for name in TENANTS:
            entries, looked_up = (
                sum(rows[f"tenant:{name}"][column] for rows in seen.values()) for column in (0, 1)
            )
            assert entries >= 3
            assert looked_up >= asked[name]


def counters(page: str) -> dict[str, list[int]]:
    """Return the entries of each namespace that the admin's page shows, and its look-ups."""
    rows = re.findall(r"<th>(\S+)\s+<td>(\d+)<td>(\d+)<td>(\d+)", page)
    return {name: [int(entries), int(hits) + int(misses)] for name, entries, hits, misses in rows}


class TestCelery:
    """Two prefork processes, with a real server as broker and for the results."""

    def test_two_processes_work_for_two_tenants_with_one_cache(self, fleet_server: Server) -> None:
        worker = ("-m", "celery", "-A", "celery_app", "worker", "--pool", "prefork")
        options = ("--concurrency", "2", "--loglevel", "INFO", "--without-gossip")
        settings = {
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{fleet_server.port}/0",
            "CRM_TIER": fleet_server.url,
            **PATIENT,
        }
        with running(*worker, *options, raised=4, **settings) as program:
            program.wait_for(re.compile("ready"))
            told = publish(settings)
        for asked in told["before"], told["after"]:
            assert len({one["process"] for one in asked}) == 2
        for number, name in enumerate(TENANTS):
            (before,) = {one["report"] for one in told["before"][number::2]}
            assert before.startswith(f"report 1 of {name}, 2026, by ")
            (after,) = {one["report"] for one in told["after"][number::2]}
            assert (after != before) is (name == "acme")
        # A task without a tenant has none, whichever tenants its process has worked for.
        assert told["none"] == ["TenantNotSetError"] * 4


PUBLISH = """
import json
from celery_app import changed, report
from flowcache.tenancy import tenant

def ask():
    told, known = [], set()
    while len(known) < 2:
        asked = []
        for turn in range(20):
            with tenant(("acme", "beta")[turn % 2]):
                asked.append(report.delay(2026))
        told += [one.get(timeout=60) for one in asked]
        known = {one["process"] for one in told}
    return told

told = {"before": ask()}
with tenant("acme"):
    changed.delay().get(timeout=60)
told["after"] = ask()
none = [report.delay(2026).get(timeout=60, propagate=False) for _ in range(4)]
told["none"] = [type(one).__name__ for one in none]
print(json.dumps(told))
"""


def publish(settings: dict[str, str]) -> Any:
    """Publish tasks from a process of their own; return what they answered."""
    finished = subprocess.run(
        [sys.executable, "-c", PUBLISH],
        cwd=FRAMEWORKS,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=4 * STARTS_WITHIN,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)
