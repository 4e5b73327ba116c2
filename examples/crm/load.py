"""The users of the dashboard: they work at the same time, and check each response."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from crm.checks import Checks, Invalidation, check_early_calls
from crm.fleet import Fleet, Turns
from crm.scenario import Scenario, Tenant
from crm.upstream import Upstream

LIMIT = 25
FOREVER = float("inf")

Progress = Callable[[float], None]
"""Called with the progress of a part, from 0 to 1."""


class Load:
    """Ask the dashboard through HTTP, check each answer, and record the figures of the report."""

    def __init__(
        self,
        client: httpx.AsyncClient | Turns,
        upstream: Upstream,
        scenario: Scenario,
        fleet: Fleet | None = None,
    ) -> None:
        self.client = client
        self.fleet = fleet
        """The fleet whose workers answer; None: one process does."""
        self.upstream = upstream
        self.scenario = scenario
        self.names = [tenant.name for tenant in scenario.tenants]
        self.noisy = max(scenario.tenants, key=lambda tenant: len(tenant.limits))
        self.checks = Checks()
        self.reads: Counter[str] = Counter()
        self.latencies: defaultdict[str, list[float]] = defaultdict(list)
        self.cache_stats: dict[str, Mapping[str, Any]] = {}
        self._invalidations: list[Invalidation] = []
        self._written: defaultdict[str, int] = defaultdict(int)

    # -- the parts of the demo --------------------------------------------------------------

    async def cold_start(self, progress: Progress) -> None:
        """Send many requests at the same moment to a cache that holds nothing."""
        began, done, total = time.perf_counter(), 0, self.scenario.concurrent

        async def visit(tenant: str) -> None:
            nonlocal done
            await self.read(tenant, LIMIT)
            done += 1
            progress(done / total)

        names = [self.names[number % len(self.names)] for number in range(total)]
        await asyncio.gather(*(visit(name) for name in names))
        elapsed = time.perf_counter() - began
        calls = list(self.upstream.calls)
        for tenant in sorted(set(names)):
            for key in (f"contacts:{LIMIT}", "stats"):
                count = sum(call.tenant == tenant and call.key == key for call in calls)
                allowed = 1 + int(elapsed / self.scenario.ttl(key))
                self.checks.one_call.expect(
                    1 <= count <= allowed, f"{tenant}: {count} upstream calls for {key!r}"
                )
        # The time of a request in a queue of hundreds says nothing about the cache.
        self.latencies.clear()

    async def one_at_a_time(self, progress: Progress) -> None:
        """Let each tenant write and clear in turn, while all of them read."""
        for number, tenant in enumerate(self.names, start=1):
            await self._all_tenants_read()
            await self.write(tenant)
            await self._all_tenants_read()
            await self.clear(tenant)
            await self._all_tenants_read()
            progress(number / len(self.names))

    async def scan(self, progress: Progress) -> None:
        """Let the noisy tenant ask for more than the cache can hold, while the others read."""
        await self._all_tenants_read()
        limits = iter(self.noisy.limits)  # shared: each free user takes the next one

        async def visit_all() -> None:
            for limit in limits:
                await self.read(self.noisy.name, limit)
                progress(limit / max(self.noisy.limits))

        await asyncio.gather(*(visit_all() for _ in range(10)))
        await self._all_tenants_read()

    async def traffic(self, progress: Progress) -> None:
        """Let all tenants read, write, clear and scan at once, for the scenario's seconds."""
        began = time.perf_counter()
        until = began + self.scenario.seconds
        async with asyncio.TaskGroup() as group:
            for tenant in self.scenario.tenants:
                for number in range(tenant.readers):
                    choice = random.Random(f"{tenant.name} {number}")
                    group.create_task(self._read_until(until, tenant, choice))
                if tenant.writes_every is not None:
                    group.create_task(self._change_until(until, tenant.name, tenant.writes_every))
            faults = self._faults()
            while (now := time.perf_counter()) < until:
                done = (now - began) / self.scenario.seconds
                progress(done)
                if faults and done >= faults[0][0]:
                    await faults.pop(0)[1]()
                await asyncio.sleep(0.1)
            for _, fault in faults:
                await fault()
        progress(1.0)

    def _faults(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """Return what befalls a fleet, by the part of the time after which it does."""
        fleet, client = self.fleet, self.client
        if fleet is None or not isinstance(client, Turns):
            return []
        return [
            (0.2, lambda: fleet.replace_worker(client)),
            (0.5, lambda: fleet.restart_server(client)),
        ]

    async def bad_requests(self) -> None:
        """Ask without a tenant, with an impossible one, and for an impossible limit."""
        bad: list[tuple[dict[str, str], str]] = [
            ({}, "25"),
            ({"X-Tenant-ID": ""}, "25"),
            ({"X-Tenant-ID": "x" * 300}, "25"),
            ({"X-Tenant-ID": self.names[0]}, "0"),
            ({"X-Tenant-ID": self.names[0]}, "many"),
        ]
        for headers, limit in bad:
            response = await self.client.get(
                "/api/crm/dashboard", params={"limit": limit}, headers=headers
            )
            self.checks.refused.expect(
                response.status_code == 400 and bool(response.json()["error"]),
                f"{headers} with limit={limit} was answered with {response.status_code}",
            )

    async def look_back(self) -> None:
        """Read every tenant's counters, and judge the run as a whole."""
        for tenant in self.names:
            self.cache_stats[tenant] = await self._stats_of(tenant)
        held = sum(stats["entries"] for stats in self.cache_stats.values())
        processes = 1 if self.fleet is None else len(self.fleet.workers)
        bound = self.scenario.max_entries * processes
        self.checks.bounded.expect(held <= bound, f"{held} entries are held, {bound} are allowed")
        evictions = {name: stats["evictions"] for name, stats in self.cache_stats.items()}
        for tenant, lost in evictions.items():
            self.checks.fairness.expect(
                (lost > 0) == (tenant == self.noisy.name), f"{tenant} lost {lost} entries"
            )
        # An evicted entry may be loaded again at any time, so its loads prove nothing.
        calls = [call for call in self.upstream.calls if not evictions[call.tenant]]
        began = 0.0
        for away, back in [*(() if self.fleet is None else self.fleet.outages), (FOREVER, FOREVER)]:
            # While the server is away each process loads for itself, and after it all anew.
            between = [call for call in calls if began <= call.started < away]
            check_early_calls(self.checks.early, between, self._invalidations, self.scenario.ttl)
            began = back + self.scenario.contacts_ttl

    async def _stats_of(self, tenant: str) -> Mapping[str, Any]:
        """Return a tenant's counters, those of all processes together."""
        path = f"/api/admin/cache-stats/{tenant}"
        if not isinstance(self.client, Turns):
            return await self._ask("GET", path) or Counter()
        together: Counter[str] = Counter()
        for answer in await self.client.of_all(path):
            if answer.status_code == 200:  # A process that the tenant never came to knows nothing.
                together.update(answer.json())
        served = together["hits"] + together["stale_hits"] + together["tier_hits"]
        asked = together["hits"] + together["stale_hits"] + together["misses"]
        return {**together, "hit_rate": served / asked if asked else 0.0}

    # -- the actions of one user ------------------------------------------------------------

    async def read(self, tenant: str, limit: int) -> Any:
        """Ask for a dashboard and check that it is the tenant's own, and new enough."""
        written = self._written[tenant]
        began = time.perf_counter()
        body = await self._ask("GET", "/api/crm/dashboard", tenant, params={"limit": limit})
        self.latencies[tenant].append(time.perf_counter() - began)
        self.reads[tenant] += 1
        if body is None:
            return None
        contacts, stats = body["contacts"], body["stats"]
        self.checks.own_data.expect(
            {body["tenant"], contacts["tenant"], stats["tenant"]} == {tenant}
            and len(contacts["items"]) == limit,
            f"{tenant} was shown contacts of {contacts['tenant']}, stats of {stats['tenant']}",
        )
        if written:
            self.checks.writes.expect(
                contacts["version"] >= written,
                f"{tenant} wrote version {written} and was shown {contacts['version']}",
            )
        return body

    async def write(self, tenant: str) -> None:
        """Add a contact and look for it on the tenant's next dashboard."""
        began = time.perf_counter()
        answer = await self._ask(
            "POST", "/api/crm/contacts", tenant, expected=201, json={"name": "Newest"}
        )
        self._invalidations.append(Invalidation(tenant, began, time.perf_counter(), False))
        if answer is None:
            return
        self._written[tenant] = answer["version"]
        body = await self.read(tenant, LIMIT)
        if body is not None:
            shown = [contact["id"] for contact in body["contacts"]["items"]]
            contact = answer["contact"]["id"]
            self.checks.writes.expect(contact in shown, f"{tenant} did not see its {contact}")

    async def clear(self, tenant: str) -> None:
        """Clear the tenant's cache and check that its next dashboard comes from upstream."""
        calls, began = self.upstream.calls_of[tenant], time.perf_counter()
        answer = await self._ask("DELETE", "/api/crm/cache", tenant)
        self._invalidations.append(Invalidation(tenant, began, time.perf_counter(), True))
        body = await self.read(tenant, LIMIT)
        if answer is not None and body is not None:
            for part in ("contacts", "stats"):
                self.checks.clears.expect(
                    body[part]["upstream_call"] > calls, f"{tenant} was shown its old {part}"
                )

    async def _ask(
        self, method: str, path: str, tenant: str | None = None, expected: int = 200, **options: Any
    ) -> Any:
        """Return the JSON of the answer, or None when it is not the expected one."""
        headers = {} if tenant is None else {"X-Tenant-ID": tenant}
        response = await self.client.request(method, path, headers=headers, **options)
        answered = response.status_code == expected
        self.checks.answered.expect(answered, f"{method} {path}: {response.status_code}")
        if tenant is not None:
            strangers = [name for name in self.names if name != tenant and name in response.text]
            self.checks.own_data.expect(not strangers, f"{tenant} was shown data of {strangers}")
        return response.json() if answered else None

    async def _all_tenants_read(self) -> None:
        await asyncio.gather(*(self.read(tenant, LIMIT) for tenant in self.names))

    async def _read_until(self, until: float, tenant: Tenant, choice: random.Random) -> None:
        while time.perf_counter() < until:
            await self.read(tenant.name, choice.choice(tenant.limits))
            await asyncio.sleep(tenant.pause)

    async def _change_until(self, until: float, tenant: str, pause: float) -> None:
        turn = 0
        while time.perf_counter() + pause < until:
            await asyncio.sleep(pause)
            turn += 1
            await (self.clear if turn % 3 == 0 else self.write)(tenant)
