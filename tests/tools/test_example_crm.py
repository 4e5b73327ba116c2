"""The CRM demo, through real HTTP: it keeps its promises, and reports a broken one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flowcache import Namespace, create_cache

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import crm_dashboard  # noqa: E402
from crm import fleet as fleets  # noqa: E402
from crm.checks import Check, Checks, Invalidation, check_early_calls  # noqa: E402
from crm.dashboard import MAX_LIMIT, Dashboard  # noqa: E402
from crm.report import print_report  # noqa: E402
from crm.scenario import Scenario, Tenant  # noqa: E402
from crm.servers import serving  # noqa: E402
from crm.upstream import FIRST_CONTACTS, Call, Upstream  # noqa: E402

DASHBOARD = "/api/crm/dashboard"
PATIENCE = 30.0  # seconds after which a test that waits for something gives up

# TTLs that outlast any run: an entry that is loaded twice was lost.
SMALL = Scenario(
    tenants=(
        Tenant("north", limits=(10, 25), pause=0.01),
        Tenant("south", limits=(10, 25), pause=0.01, writes_every=0.05),
        Tenant("hoover", limits=range(1, 41), pause=0.01, writes_every=0.08),
    ),
    concurrent=60,
    seconds=0.5,
    contacts_ttl=600.0,
    stats_ttl=600.0,
    contacts_delay=0.02,
    stats_delay=0.02,
    max_entries=20,
)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """Hold a running CRM and dashboard, and ask the dashboard as a tenant."""

    def __init__(self, url: str, dashboard: Dashboard, crm: Upstream, clock: Clock) -> None:
        self.url, self.dashboard, self.crm, self.clock = url, dashboard, crm, clock
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)

    def read(self, tenant: str, limit: int = 25) -> Any:
        return self.ask("GET", f"{DASHBOARD}?limit={limit}", tenant)

    def ask(self, method: str, path: str, tenant: str, **options: Any) -> Any:
        response = self.client.request(method, path, headers={"X-Tenant-ID": tenant}, **options)
        assert response.is_success, response.text
        return response.json()

    def calls(self) -> Counter[tuple[str, str]]:
        return Counter((call.tenant, call.key) for call in self.crm.calls)


@contextlib.contextmanager
def running(crm: Upstream) -> Iterator[House]:
    clock = Clock()
    with serving(crm.app()) as crm_url:
        dashboard = Dashboard(crm_url, contacts_ttl=60.0, stats_ttl=60.0, max_entries=1000)
        dashboard.cache.close()
        dashboard.cache = create_cache(default_ttl=60.0, clock=clock, require_namespace=True)
        with serving(dashboard.app()) as url:
            house = House(url, dashboard, crm, clock)
            with house.client:
                yield house


@pytest.fixture
def house() -> Iterator[House]:
    with running(Upstream(contacts_delay=0.0, stats_delay=0.0)) as house:
        yield house


# -- the demo as a whole ------------------------------------------------------------------------


def test_demo_keeps_every_promise_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert crm_dashboard.main(["--alone", f"--seconds={SMALL.seconds}"], SMALL) == 0
    printed = capsys.readouterr().out
    for tenant in SMALL.tenants:
        assert f"\n {tenant.name} " in printed or f"\n{tenant.name} " in printed
    assert printed.count("kept ") == len(list(Checks()))
    assert "BROKEN" not in printed
    assert max(map(len, printed.splitlines())) <= 80


class OneNamespaceForAll(Dashboard):
    def tenant_cache(self, tenant_id: str) -> Namespace[Any]:
        return self.cache.namespace("everybody")


class Careless:
    """Pass every call on to a tenant's namespace, except those that a subclass gets wrong."""

    def __init__(self, dashboard: Dashboard, namespace: Namespace[Any]) -> None:
        self.dashboard = dashboard
        self.namespace = namespace

    def __getattr__(self, name: str) -> Any:
        return getattr(self.namespace, name)


class ClearsEverybody(Careless):
    async def aclear(self, **_: Any) -> int:
        return self.dashboard.cache.clear()


class InvalidatesEverybody(Careless):
    async def ainvalidate_tag(self, tag: str, **_: Any) -> int:
        return self.dashboard.cache.invalidate_tag(tag)


class NeverInvalidates(Careless):
    async def ainvalidate_tag(self, tag: str, **_: Any) -> int:
        return 0


class NeverClears(Careless):
    async def aclear(self, **_: Any) -> int:
        return 0


class NeverKeeps(Careless):
    def afetch(self, key: str, loader: Callable[[], Any], **options: Any) -> Any:
        return loader()


def careless(kind: type[Careless]) -> type[Dashboard]:
    class Broken(Dashboard):
        def tenant_cache(self, tenant_id: str) -> Any:
            return kind(self, super().tenant_cache(tenant_id))

    return Broken


@pytest.mark.parametrize(
    ("dashboard", "broken"),
    [
        (OneNamespaceForAll, "own_data"),
        (careless(ClearsEverybody), "early"),
        (careless(InvalidatesEverybody), "early"),
        (careless(NeverInvalidates), "writes"),
        (careless(NeverClears), "clears"),
        (careless(NeverKeeps), "one_call"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_demo_notices_a_broken_dashboard(
    dashboard: type[Dashboard], broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crm_dashboard.main(["--alone", "--seconds=0"], SMALL, dashboard) == 1
    printed = capsys.readouterr().out
    assert f"Failed: {getattr(Checks(), broken).title}" in printed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot ask a process to end nicely")
def test_serve_leaves_the_servers_up_until_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "crm_dashboard.py")]
    complaints = tmp_path / "stderr"  # A file: a full pipe without a reader would stop the demo.
    with (
        complaints.open("w") as stderr,
        subprocess.Popen(
            [*command, "--alone", "--serve", "--seconds=0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            curl = next((line for line in process.stdout if line.startswith("curl")), None)
            assert curl is not None, complaints.read_text()
            url = curl.split("'")[3]
            response = httpx.get(url, headers={"X-Tenant-ID": "acme-corp"}, trust_env=False)
            page = httpx.get(f"{url.partition('/api')[0]}/cache/data", trust_env=False).json()
            while not process.stdout.readline().endswith("/api/crm/dashboard\n"):
                pass
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert complaints.read_text() == ""
    assert response.json()["tenant"] == "acme-corp"
    shown = {row["name"] for row in page["tenants"]["rows"]}
    assert {f"tenant:{tenant.name}" for tenant in Scenario().tenants} <= shown
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


# -- many at once -------------------------------------------------------------------------------


class Gate(Upstream):
    """Answer no request before `open()` returns true."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)
        self.open: Callable[[], bool] = lambda: True

    async def work(self, resource: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.open():
                await asyncio.sleep(0.005)


async def read_together(url: str, tenants: list[str]) -> list[Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE, limits=limits, trust_env=False
    ) as client:
        responses = await asyncio.gather(
            *(client.get(DASHBOARD, headers={"X-Tenant-ID": tenant}) for tenant in tenants)
        )
    assert {response.status_code for response in responses} == {200}
    return [response.json() for response in responses]


def test_200_at_once_make_one_upstream_call_per_tenant_key_and_ttl() -> None:
    names = ["acme", "beta", "gamma", "delta", "omega"]
    tenants = names * 40
    each_key = [(tenant, key) for tenant in names for key in ("contacts:25", "stats")]
    crm = Gate()
    with running(crm) as house:
        cache = house.dashboard.cache
        # No answer comes before each of the 200 has looked up both of its keys in vain.
        crm.open = lambda: cache.stats().misses >= 2 * len(tenants)
        bodies = asyncio.run(read_together(house.url, tenants))
        assert [body["tenant"] for body in bodies] == tenants
        assert [body["contacts"]["tenant"] for body in bodies] == tenants
        assert [body["stats"]["tenant"] for body in bodies] == tenants
        assert house.calls() == dict.fromkeys(each_key, 1)
        assert cache.stats().coalesced == 2 * len(tenants) - len(each_key)

        house.clock.now += 59.0
        asyncio.run(read_together(house.url, tenants))
        assert house.calls() == dict.fromkeys(each_key, 1)

        # Past the TTL a request waits for contacts; stats are served stale while one load runs.
        house.clock.now += 2.0
        crm.open = lambda: cache.stats().misses >= 3 * len(tenants)
        asyncio.run(read_together(house.url, tenants))
        until = time.monotonic() + PATIENCE
        while cache.stats().pending and time.monotonic() < until:
            time.sleep(0.005)
        assert house.calls() == dict.fromkeys(each_key, 2)
        assert cache.stats().stale_hits == len(tenants)


# -- one tenant and the others ------------------------------------------------------------------


def test_dashboard_is_loaded_once_and_holds_its_tenants_data(house: House) -> None:
    first, again = house.read("acme", 3), house.read("acme", 3)
    assert first == again
    newest = [f"acme-{FIRST_CONTACTS - number}" for number in range(3)]
    assert [contact["id"] for contact in first["contacts"]["items"]] == newest
    assert first["stats"]["total_contacts"] == FIRST_CONTACTS
    assert house.calls() == {("acme", "contacts:3"): 1, ("acme", "stats"): 1}


def test_post_is_seen_by_its_tenant_and_costs_the_others_nothing(house: House) -> None:
    before = {tenant: house.read(tenant) for tenant in ("acme", "beta")}
    house.read("acme", 5)
    answer = house.ask("POST", "/api/crm/contacts", "acme", json={"name": "Ada"})
    assert answer["invalidated"] == 2
    assert answer["contact"]["name"] == "Ada"

    after = house.read("acme")
    assert after["contacts"]["items"][0] == answer["contact"]
    assert after["stats"] == before["acme"]["stats"]
    assert house.read("beta") == before["beta"]
    assert house.calls() == {
        ("acme", "contacts:25"): 2,
        ("acme", "contacts:5"): 1,
        ("acme", "stats"): 1,
        ("beta", "contacts:25"): 1,
        ("beta", "stats"): 1,
    }


def test_delete_clears_its_tenant_alone(house: House) -> None:
    before = {tenant: house.read(tenant) for tenant in ("acme", "acme-2", "beta")}
    assert house.ask("DELETE", "/api/crm/cache", "acme") == {"cleared": 2}
    for tenant in ("acme-2", "beta"):
        assert house.read(tenant) == before[tenant]
    assert house.read("acme")["contacts"]["upstream_call"] > 2
    assert {tenant: house.crm.calls_of[tenant] for tenant in before} == {
        "acme": 4,
        "acme-2": 2,
        "beta": 2,
    }


def test_cache_stats_are_the_tenants_own(house: House) -> None:
    for _ in range(3):
        house.read("acme")
    house.read("beta")
    stats = house.client.get("/api/admin/cache-stats/acme").json()
    assert (stats["hits"], stats["misses"], stats["entries"]) == (4, 2, 2)
    house.ask("DELETE", "/api/crm/cache", "acme")
    stats = house.client.get("/api/admin/cache-stats/acme").json()
    assert (stats["hits"], stats["misses"], stats["entries"]) == (4, 2, 0)


def test_cache_stats_of_a_made_up_tenant_create_nothing(house: House) -> None:
    house.read("acme")
    for name in ("nobody", "acme-corp", "x" * 300, "%20"):
        response = house.client.get(f"/api/admin/cache-stats/{name}")
        assert response.status_code == 404
        assert "nothing is known" in response.json()["error"]
    assert list(house.dashboard.cache.namespaces()) == ["tenant:acme"]


# -- bad requests -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untouched() -> Iterator[House]:
    """Share one house between the tests after which nothing may have changed."""
    with running(Upstream(contacts_delay=0.0, stats_delay=0.0)) as house:
        yield house


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", DASHBOARD), ("POST", "/api/crm/contacts"), ("DELETE", "/api/crm/cache")],
)
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "X-Tenant-ID header is missing"),
        ({"X-Tenant-ID": ""}, "X-Tenant-ID header is missing"),
        ({"X-Tenant-ID": "x" * 300}, "X-Tenant-ID is not a valid name"),
    ],
    ids=["missing", "empty", "too long"],
)
def test_a_request_without_a_valid_tenant_is_a_400(
    untouched: House, method: str, path: str, headers: dict[str, str], message: str
) -> None:
    response = untouched.client.request(method, path, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]
    assert untouched.crm.calls == []
    assert list(untouched.dashboard.cache.namespaces()) == []


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "", "many", "201", "9" * 5000, "\u0663"])
def test_a_bad_limit_is_a_400(untouched: House, limit: str) -> None:
    response = untouched.client.get(
        DASHBOARD, params={"limit": limit}, headers={"X-Tenant-ID": "acme"}
    )
    assert response.status_code == 400
    assert f"from 1 to {MAX_LIMIT}" in response.json()["error"]
    assert untouched.crm.calls == []


def test_a_contact_without_a_name_is_a_400_and_nothing_is_written(house: House) -> None:
    for body in (b"", b"{", b"\xff", b"[]", b"{}", b'{"name": 1}', b'{"name": " "}'):
        response = house.client.post(
            "/api/crm/contacts", content=body, headers={"X-Tenant-ID": "acme"}
        )
        assert response.status_code == 400
        assert "the body must be JSON" in response.json()["error"]
    assert house.read("acme")["contacts"]["version"] == FIRST_CONTACTS


def test_a_failing_crm_is_a_502_and_nothing_is_kept() -> None:
    class Failing(Upstream):
        def app(self) -> Starlette:
            async def fail(request: Any) -> PlainTextResponse:
                return PlainTextResponse("broken", status_code=500)

            return Starlette(routes=[Route("/{path:path}", fail)])

    with running(Failing(0.0, 0.0)) as house:
        response = house.client.get(DASHBOARD, headers={"X-Tenant-ID": "acme"})
        assert response.status_code == 502
        assert "the CRM failed" in response.json()["error"]
        assert house.dashboard.cache.stats().entries == 0


# -- the demo's verdicts -------------------------------------------------------------------------


def test_a_check_that_saw_nothing_has_not_passed() -> None:
    check = Check("nothing happened")
    assert not check.passed
    check.expect(True, "unused")
    assert check.passed
    check.expect(False, "it went wrong")
    assert not check.passed
    assert check.failures == ["it went wrong"]


@pytest.mark.parametrize(
    ("times", "invalidations", "failures"),
    [
        ([0.0, 10.0], [], 0),
        ([0.0, 9.9], [], 1),
        ([20.0, 25.0], [Invalidation("acme", 23.0, 23.1, everything=False)], 0),
        ([20.0, 25.0], [Invalidation("beta", 23.0, 23.1, everything=True)], 1),
        ([20.0, 25.0], [Invalidation("acme", 10.0, 10.1, everything=True)], 1),
        ([20.0, 25.0], [Invalidation("acme", 26.0, 26.1, everything=True)], 1),
        ([20.0, 21.0, 22.0], [Invalidation("acme", 20.5, 20.6, everything=True)], 1),
    ],
    ids=["expired", "early", "own", "another's", "long before", "after", "only one explained"],
)
def test_an_early_call_needs_an_invalidation_of_its_own_tenant(
    times: list[float], invalidations: list[Invalidation], failures: int
) -> None:
    check = Check("early")
    calls = [Call("acme", "contacts:25", started) for started in times]
    check_early_calls(check, calls, invalidations, lambda key: 10.0)
    assert len(check.failures) == failures
    assert check.examined == len(times) - 1


def test_a_write_does_not_explain_a_second_call_for_stats() -> None:
    check = Check("early")
    calls = [Call("acme", "stats", 20.0), Call("acme", "stats", 25.0)]
    write = Invalidation("acme", 23.0, 23.1, everything=False)
    check_early_calls(check, calls, [write], lambda key: 10.0)
    assert len(check.failures) == 1


@pytest.mark.skipif(
    fleets.server_program() is None, reason="there is no Valkey server for this platform"
)
def test_a_fleet_keeps_its_promises_while_parts_of_it_fail() -> None:
    scenario = replace(SMALL, concurrent=30, seconds=5.0)
    program = fleets.server_program()
    assert program is not None
    console = Console(quiet=True)
    with crm_dashboard.whole_fleet(program, scenario) as (fleet, crm):
        load = asyncio.run(crm_dashboard.use(fleet, crm, scenario, console))
        print_report(console, load)
    broken = {check.title: check.failures for check in load.checks if not check.passed}
    assert broken == {}
    assert len(fleet.outages) == 1
    assert sum(stats["tier_hits"] for stats in load.cache_stats.values()) > 0
