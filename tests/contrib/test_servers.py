"""The examples under real servers: two tenants at once, and the invalidations of one of them.

Their results do not depend on the interpreter, so one is enough.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from contrib.interleaving import TENANTS
from contrib.running import FRAMEWORKS, STARTS_WITHIN, Client, running, serving
from harness.servers import server

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
            workers: set[int] = set()
            while len(workers) < 2:
                for name, reports in client.ask_at_once("/report").items():
                    asked[name] += reports.total()
                    # One report a tenant in each process, for any number of requests.
                    assert {report for report, _ in reports} == {f"report 1 of {name}"}
                    workers |= {process for _, process in reports}
            for where in ("/catalogue/", "/sidebar/"):
                for name, reports in client.ask_at_once(where).items():
                    what = where.strip("/")
                    assert {report for report, _ in reports} == {f"{what} 1 of {name}"}
            assert httpx.get(f"{address}/report").status_code == 400
            self.invalidate(client)
            self.look_into_the_admin(address, asked, workers)

    def invalidate(self, client: Client) -> None:
        """A change by one tenant is seen in the process that received it, and by no other."""
        told = client.ask("/changed", "acme", "POST")
        assert told["report"] == 1
        while True:
            answers = {name: client.ask("/report", name) for name in TENANTS}
            assert answers["beta"]["report"] == "report 1 of beta"
            if answers["acme"]["process"] == told["process"]:
                break
        assert answers["acme"]["report"] == "report 2 of acme"

    def look_into_the_admin(self, address: str, asked: dict[str, int], workers: set[int]) -> None:
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

    def test_two_processes_work_for_two_tenants(self) -> None:
        worker = ("-m", "celery", "-A", "celery_app", "worker", "--pool", "prefork")
        options = ("--concurrency", "2", "--loglevel", "INFO", "--without-gossip")
        with server() as broker:
            url = f"redis://127.0.0.1:{broker.port}/0"
            with running(*worker, *options, raised=4, CELERY_BROKER_URL=url) as program:
                program.wait_for(re.compile("ready"))
                told = publish(url)
        processes = {one["process"] for one in told["tenants"]}
        assert len(processes) == 2
        for number, one in enumerate(told["tenants"]):
            assert one["report"] == f"report 1 of {TENANTS[number % 2]}, 2026"
        # A task without a tenant has none, whichever tenants its process has worked for.
        assert told["none"] == ["TenantNotSetError"] * 4


PUBLISH = """
import json, sys
from celery_app import report
from flowcache.tenancy import tenant
tenants, known = [], set()
while len(known) < 2:
    asked = []
    for turn in range(20):
        with tenant(("acme", "beta")[turn % 2]):
            asked.append(report.delay(2026))
    tenants += [one.get(timeout=60) for one in asked]
    known = {one["process"] for one in tenants}
none = [report.delay(2026).get(timeout=60, propagate=False) for _ in range(4)]
print(json.dumps({"tenants": tenants, "none": [type(one).__name__ for one in none]}))
"""


def publish(url: str) -> Any:
    """Publish tasks from a process of their own; return what they answered."""
    finished = subprocess.run(
        [sys.executable, "-c", PUBLISH],
        cwd=FRAMEWORKS,
        env=os.environ | {"CELERY_BROKER_URL": url},
        capture_output=True,
        text=True,
        timeout=4 * STARTS_WITHIN,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)
