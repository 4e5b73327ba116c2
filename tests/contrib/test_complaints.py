"""Complaints about other caches, with two tenants at once, beyond those in other files.

The others stand in the files of their integrations. Pages of two tenants, and a clear that empties
other prefixes: test_django and test_django_requests. /me of another user: test_fastapi. Memoized
results of one tenant: test_cachelib. Memory that grows: test_litestar. The tenant of the last task:
test_celery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from contrib.interleaving import TENANTS, in_step
from flowcache import create_cache
from flowcache.tenancy import current_tenant, tenant


class User:
    """An object whose repr does not tell it from others of its kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<User>"


def test_objects_that_look_alike_are_not_mixed() -> None:
    """superset #26023: keys made by repr() give one user the result of another."""
    mine = create_cache().for_current_tenant()
    users = {name: [User(f"{name} {number}") for number in range(3)] for name in TENANTS}

    @mine.cached()
    def greet(user: User) -> str:
        return f"{user.name} at {current_tenant.get()}"

    @mine.cached()
    async def greet_later(user: User) -> str:
        await asyncio.sleep(0)
        return f"{user.name} at {current_tenant.get()}"

    def work(name: str, step: Callable[[], Any]) -> None:
        with tenant(name):
            for _ in range(50):
                step()
                for user in users[name]:
                    assert greet(user) == f"{user.name} at {name}"

    async def ask(name: str) -> None:
        with tenant(name):
            for _ in range(20):
                for user in users[name]:
                    assert await greet_later(user) == f"{user.name} at {name}"

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(name) for name in TENANTS * 2))

    in_step(work, *TENANTS)
    asyncio.run(all_of_them())


def test_a_cached_none_is_no_miss() -> None:
    """debug-toolbar #2417: a cached None shows as a miss."""
    cache = create_cache()

    def work(name: str, step: Callable[[], Any]) -> None:
        mine = cache.namespace(f"tenant:{name}")
        mine.set("k", None)
        for _ in range(100):
            step()
            assert mine.get("k", "absent") is None
            assert mine.fetch("k", lambda: "loaded") is None

    in_step(work, *TENANTS)
    for name in TENANTS:
        stats = cache.namespace(f"tenant:{name}").stats()
        assert (stats.hits, stats.misses, stats.loads) == (200, 0, 0)
