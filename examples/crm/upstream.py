"""The CRM itself: slow, with an exact record of each read, its tenant and its time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

FIRST_CONTACTS = 240
FIRST_NAMES = ("Ada", "Bruno", "Chen", "Dalia", "Emeka", "Freya", "Gustavo", "Hana")


@dataclass(slots=True)
class Call:
    """Remember one read: `key` is the key under which the dashboard caches its answer."""

    tenant: str
    key: str
    started: float
    seconds: float = 0.0


class Upstream:
    """Keep the contacts of every tenant and answer slowly.

    A tenant's version is the number of its newest contact, so every answer tells its age.
    `upstream_call` tells which of the tenant's reads produced the answer.
    """

    def __init__(self, contacts_delay: float, stats_delay: float) -> None:
        self.calls: list[Call] = []
        self.calls_of: Counter[str] = Counter()
        self._delays = {"contacts": contacts_delay, "stats": stats_delay}
        self._contacts: dict[str, list[dict[str, str]]] = {}

    def app(self) -> Starlette:
        """Return the CRM as an ASGI application."""
        return Starlette(
            routes=[
                Route("/contacts", self.get_contacts, methods=["GET"]),
                Route("/contacts", self.post_contact, methods=["POST"]),
                Route("/stats", self.get_stats, methods=["GET"]),
            ]
        )

    async def get_contacts(self, request: Request) -> JSONResponse:
        """Answer with at most `limit` contacts, the newest first."""
        tenant = request.headers["X-Tenant-ID"]
        limit = int(request.query_params["limit"])
        number, contacts = await self._read(tenant, f"contacts:{limit}")
        newest = contacts[: -limit - 1 : -1]
        return JSONResponse(self._stamp(tenant, number, contacts) | {"items": newest})

    async def get_stats(self, request: Request) -> JSONResponse:
        """Answer with the tenant's key figures."""
        tenant = request.headers["X-Tenant-ID"]
        number, contacts = await self._read(tenant, "stats")
        figures = {
            "total_contacts": len(contacts),
            "lead_score_avg": 50 + len(tenant),
            "conversion_rate": round(len(tenant) / len(contacts), 4),
        }
        return JSONResponse(self._stamp(tenant, number, contacts) | figures)

    async def post_contact(self, request: Request) -> JSONResponse:
        """Store a contact and answer with it and with the version it made."""
        tenant = request.headers["X-Tenant-ID"]
        name = (await request.json())["name"]
        contacts = self._contacts_of(tenant)
        contact = _contact(tenant, len(contacts) + 1, name)
        contacts.append(contact)
        answer = {"tenant": tenant, "version": len(contacts), "contact": contact}
        return JSONResponse(answer, status_code=201)

    async def work(self, resource: str) -> None:
        """Wait for the delay of an answer."""
        await asyncio.sleep(self._delays[resource])

    async def _read(self, tenant: str, key: str) -> tuple[int, list[dict[str, str]]]:
        call = Call(tenant, key, time.perf_counter())
        self.calls.append(call)
        self.calls_of[tenant] += 1
        number = self.calls_of[tenant]
        # The snapshot comes before the work: an answer is as old as its question. So the result of
        # a load that overlaps a write may be old, and must not be stored.
        contacts = list(self._contacts_of(tenant))
        await self.work(key.partition(":")[0])
        call.seconds = time.perf_counter() - call.started
        return number, contacts

    def _contacts_of(self, tenant: str) -> list[dict[str, str]]:
        if tenant not in self._contacts:
            self._contacts[tenant] = [
                _contact(tenant, number, FIRST_NAMES[number % len(FIRST_NAMES)])
                for number in range(1, FIRST_CONTACTS + 1)
            ]
        return self._contacts[tenant]

    @staticmethod
    def _stamp(tenant: str, number: int, contacts: list[dict[str, str]]) -> dict[str, Any]:
        return {"tenant": tenant, "version": len(contacts), "upstream_call": number}


def _contact(tenant: str, number: int, name: str) -> dict[str, str]:
    return {
        "id": f"{tenant}-{number}",
        "name": name,
        "email": f"contact{number}@{tenant}.example",
    }
