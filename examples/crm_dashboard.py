"""A CRM dashboard for several tenants on one shared cache, end to end.

Two real servers start on free loopback ports: a slow CRM, and the dashboard in front of it. Then
users of five companies use the dashboard through HTTP. One company sends far more requests than the
others. Every answer is checked. The run ends by itself with a table and exits with 1 if any check
failed.

    python examples/crm_dashboard.py                three worker processes, about 40 seconds
    python examples/crm_dashboard.py --alone        one process without a second tier
    python examples/crm_dashboard.py --serve        the same; the servers stay up to be tried

The three workers share one cache over a real Valkey server. While they work one of them is killed
and replaced, and the server is restarted. Where there is no Valkey server the demo runs alone.

`crm/dashboard.py` is the application, and the part worth reading first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from crm import fleet as fleets
from crm.checks import Checks
from crm.dashboard import Dashboard
from crm.load import Load
from crm.report import print_report
from crm.scenario import Scenario
from crm.servers import serving
from crm.upstream import Upstream


@contextlib.contextmanager
def both_servers(
    scenario: Scenario,
    dashboard: type[Dashboard] = Dashboard,
    upstream: type[Upstream] = Upstream,
) -> Iterator[tuple[str, Upstream]]:
    """Start the CRM and the dashboard; yield the dashboard's address, and the CRM's records."""
    crm = upstream(scenario.contacts_delay, scenario.stats_delay)
    with serving(crm.app()) as crm_url:
        application = dashboard(
            crm_url,
            contacts_ttl=scenario.contacts_ttl,
            stats_ttl=scenario.stats_ttl,
            max_entries=scenario.max_entries,
        )
        with serving(application.app()) as dashboard_url:
            yield dashboard_url, crm


@contextlib.contextmanager
def whole_fleet(
    program: str, scenario: Scenario, upstream: type[Upstream] = Upstream
) -> Iterator[tuple[fleets.Fleet, Upstream]]:
    """Start the CRM, a Valkey server and the workers; yield the fleet, and the CRM's records."""
    crm = upstream(scenario.contacts_delay, scenario.stats_delay)
    with (
        serving(crm.app()) as crm_url,
        fleets.running(program, crm_url, scenario) as fleet,
    ):
        yield fleet, crm


async def use(
    target: str | fleets.Fleet, upstream: Upstream, scenario: Scenario, console: Console
) -> Load:
    """Run every part of the load against a dashboard or a fleet of them, with a progress bar."""
    client: httpx.AsyncClient | fleets.Turns
    if isinstance(target, str):
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        client = httpx.AsyncClient(base_url=target, timeout=30.0, limits=unlimited, trust_env=False)
        load = Load(client, upstream, scenario)
    else:
        client = fleets.Turns([worker.url for worker in target.workers])
        load = Load(client, upstream, scenario, target)
    async with client:
        with progress_bar(console) as progress:
            start = bar(progress, load, f"{scenario.concurrent} at once, cold cache")
            await load.cold_start(start)
            alone = bar(progress, load, "writes and clears, one by one")
            await load.one_at_a_time(alone)
            greedy = bar(progress, load, f"{load.noisy.name} scans everything")
            await load.scan(greedy)
            if scenario.seconds:
                together = bar(progress, load, "everybody at once")
                await load.traffic(together)
            await load.bad_requests()
            await load.look_back()
        return load


def progress_bar(console: Console) -> Progress:
    """Return the bars of the parts; away from a terminal they are printed once, when done."""
    return Progress(
        TextColumn("{task.description:30}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[seen]}"),
        console=console,
    )


def bar(progress: Progress, load: Load, description: str) -> Callable[[float], None]:
    """Add a bar and return the function that moves it; the findings so far stand beside it."""
    task = progress.add_task(description, total=1.0, seen="")

    def move(done: float) -> None:
        seen = f"{load.reads.total():,} read, {len(load.upstream.calls):,} upstream"
        progress.update(task, completed=done, seen=seen)

    return move


def run(
    scenario: Scenario,
    console: Console,
    *,
    serve: bool = False,
    alone: bool = True,
    dashboard: type[Dashboard] = Dashboard,
    upstream: type[Upstream] = Upstream,
) -> Checks:
    """Run the demo and print its report; with `serve`, leave the servers up until interrupted.

    `alone`: in one process, without a second tier.
    """
    program = None if alone else fleets.server_program()
    if program is not None:
        return run_fleet(program, scenario, console, serve=serve, upstream=upstream)
    if not alone:
        console.print("There is no Valkey server for this platform, so the demo runs alone.")
    with both_servers(scenario, dashboard, upstream) as (url, crm):
        names = ", ".join(tenant.name for tenant in scenario.tenants)
        console.print(f"dashboard: {url}, one cache of {scenario.max_entries} entries for")
        console.print(f"live page: {url}/cache/")
        console.print(f"tenants:   {names}\n")
        load = asyncio.run(use(url, crm, scenario, console))
        print_report(console, load)
        if serve:
            print_curl_lines(console, url, scenario)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return load.checks


def run_fleet(
    program: str,
    scenario: Scenario,
    console: Console,
    *,
    serve: bool = False,
    upstream: type[Upstream] = Upstream,
) -> Checks:
    """Run the demo over three worker processes that share one cache."""
    with whole_fleet(program, scenario, upstream) as (fleet, crm):
        names = ", ".join(tenant.name for tenant in scenario.tenants)
        console.print(f"workers:   {', '.join(worker.url for worker in fleet.workers)}")
        console.print(f"tier:      {fleet.server.url}")
        console.print(f"live page: {fleet.workers[0].url}/cache/")
        console.print(f"tenants:   {names}\n")
        load = asyncio.run(use(fleet, crm, scenario, console))
        print_report(console, load)
        if serve:
            print_curl_lines(console, fleet.workers[0].url, scenario)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return load.checks


def print_curl_lines(console: Console, url: str, scenario: Scenario) -> None:
    """Print requests that can be copied into another terminal."""
    one, other = (tenant.name for tenant in scenario.tenants[:2])
    console.print("The servers are up; stop them with Ctrl-C. In another terminal, try:\n")
    for line in (
        f"curl -H 'X-Tenant-ID: {one}' '{url}/api/crm/dashboard?limit=3'",
        f"curl -H 'X-Tenant-ID: {other}' '{url}/api/crm/dashboard?limit=3'",
        f"curl -H 'X-Tenant-ID: {one}' -d '{{\"name\": \"Ada Lovelace\"}}' {url}/api/crm/contacts",
        f"curl -H 'X-Tenant-ID: {one}' -X DELETE {url}/api/crm/cache",
        f"curl {url}/api/admin/cache-stats/{one}",
        f"curl {url}/api/crm/dashboard",
    ):
        # Not wrapped at the width of the terminal: a wrapped line cannot be copied.
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def main(
    arguments: Sequence[str] | None = None,
    scenario: Scenario | None = None,
    dashboard: type[Dashboard] = Dashboard,
) -> int:
    """Run the demo from the command line; return 0 if every check held, else 1."""
    scenario = scenario or Scenario()
    parser = argparse.ArgumentParser(description="Run the multi-tenant CRM dashboard demo.")
    parser.add_argument("--serve", action="store_true", help="leave the servers up afterwards")
    parser.add_argument(
        "--alone", action="store_true", help="one process, without a Valkey server behind it"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=scenario.seconds,
        help="length of the busiest part (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.seconds <= 3600:
        parser.error("--seconds must be from 0 to 3600")
    scenario = replace(scenario, seconds=options.seconds)
    checks = run(scenario, Console(), serve=options.serve, alone=options.alone, dashboard=dashboard)
    return 0 if checks.passed else 1


if __name__ == "__main__":
    # A terminated demo shuts its servers down as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
