"""One load for the fleet, and cached functions that share their results."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from flowcache import (
    Loaded,
    _core,
    tenancy,
)
from harness.fleet import Make, gone, run
from harness.servers import Server, wait_until

# Loading


def test_one_load_for_the_fleet(pair: tuple[Any, Any]) -> None:
    calls: list[int] = []
    barrier = threading.Barrier(8)

    def load() -> int:
        calls.append(1)
        time.sleep(0.1)
        return len(calls)

    def use(namespace: Any) -> None:
        barrier.wait()
        found.append(namespace.fetch("k", load, tags=("t",)))

    found: list[int] = []
    threads = [threading.Thread(target=use, args=(pair[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8
    assert len(calls) == 1
    assert pair[0].stats().loads + pair[1].stats().loads == 1


def test_one_load_for_the_fleet_in_tasks(pair: tuple[Any, Any]) -> None:
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        await asyncio.sleep(0.05)
        return len(calls)

    async def use() -> list[int]:
        return await asyncio.gather(
            *(pair[number % 2].afetch("k", load, tags=("t",)) for number in range(20))
        )

    assert run(use()) == [1] * 20
    assert len(calls) == 1
    assert sorted(one.stats().tier_stores for one in pair) == [0, 1]


def test_many_keys_are_loaded_once_for_the_fleet(pair: tuple[Any, Any]) -> None:
    one, other = pair
    asked: list[list[int]] = []

    def load(keys: list[int]) -> dict[int, Any]:
        asked.append(list(keys))
        return {key: Loaded(key * 2, tags=("even",)) for key in keys if key != 3}

    async def aload(keys: list[int]) -> dict[int, Any]:
        return load(keys)

    assert one.fetch_many([1, 2, 3], load) == {1: 2, 2: 4}
    assert other.fetch_many([1, 2, 4], load) == {1: 2, 2: 4, 4: 8}
    assert run(one.afetch_many([4, 5], aload)) == {4: 8, 5: 10}
    assert run(other.afetch_many([5, 1], aload)) == {5: 10, 1: 2}
    assert asked == [[1, 2, 3], [4], [5]]
    assert one.invalidate_tag("even") == 4
    gone(other, 1)
    assert other.fetch_many([1], load) == {1: 2}


def test_a_load_that_is_invalidated_is_stored_nowhere(pair: tuple[Any, Any]) -> None:
    one, other = pair
    for number, invalidate in enumerate(
        (
            lambda ns: ns.clear(),
            lambda ns: ns.invalidate_tag("t"),
            lambda ns: ns.invalidate_tag("late"),
            lambda ns: ns.delete("k"),
            lambda ns: ns.invalidate_prefix("k"),
            lambda ns: ns.set("k", "set"),
        )
    ):
        for invalidates in pair:

            def load(invalidate: Any = invalidate, namespace: Any = invalidates) -> Any:
                invalidate(namespace)
                return Loaded("old", tags=("late",))

            assert one.fetch("k", load, tags=("t",)) == "old"
            expected = "set" if number == 5 else None
            assert one.get("k") == expected
            assert other.get("k") == expected
            one.delete("k")
            gone(other, "k")


def test_tags_of_callers_that_join_are_there_too(pair: tuple[Any, Any]) -> None:
    one, other = pair
    began, goes_on = threading.Event(), threading.Event()

    def load() -> str:
        began.set()
        assert goes_on.wait(20)
        return "v"

    threads = [threading.Thread(target=one.fetch, args=("k", load), kwargs={"tags": "a"})]
    threads[0].start()
    assert began.wait(20)
    threads.append(threading.Thread(target=one.fetch, args=("k", load), kwargs={"tags": "b"}))
    threads[1].start()
    wait_until(lambda: one.stats().coalesced == 1)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert other.get("k") == "v"
    other.invalidate_tag("b")
    gone(one, "k")
    assert one.get("k") is None


def test_what_a_loader_says_counts_in_the_tier(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert one.fetch("a", lambda: Loaded(1, ttl=10)) == 1
    assert other.get("a") == 1
    assert other.ttl("a") <= 10
    assert one.fetch("b", lambda: Loaded(1, store=False)) == 1
    assert one.fetch("c", lambda: 1, store_if=lambda value: value > 1) == 1
    assert one.fetch("d", lambda: 1, ttl=0) == 1
    for key in "bcd":
        assert other.get(key) is None
        assert one.get(key) is None
    with pytest.raises(ZeroDivisionError):
        one.fetch("e", lambda: 1 / 0)
    assert other.fetch("e", lambda: 2) == 2  # No lease was left behind.
    with pytest.raises(TypeError, match="awaitable"):
        one.fetch("f", lambda: asyncio.sleep(0))
    assert other.fetch("f", lambda: 3) == 3


def test_a_stale_value_is_served_and_loaded_anew(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", "old", ttl=600, stale=600)
    assert other.get("k") == "old"
    one.expire("k")
    wait_until(lambda: other.get("k") is None)
    assert other.fetch("k", lambda: "new", stale=600) == "old"
    # The message may come after the read that saw its effect, and withdraw a load not yet begun.
    wait_until(lambda: other.fetch("k", lambda: "new", stale=600) == "new")
    assert other.stats().stale_hits >= 1
    assert one.fetch("k", lambda: "newer") in ("old", "new")


def test_an_expiry_heard_late_withdraws_a_load_that_has_not_begun(
    new_server: Server, make: Make
) -> None:
    works: list[Any] = []

    class Executor:
        def submit(self, work: Any) -> None:
            works.append(work)

    one = make(new_server).namespace("tenant:acme")
    other = make(new_server, executor=Executor()).namespace("tenant:acme")
    one.set("k", "old", ttl=600, stale=600)
    one.expire("k")
    one.set("later", 1, wait="fleet")  # Messages come in their order: that of the expiry is here.
    assert other.get("k") is None
    calls: list[int] = []

    def load() -> str:
        calls.append(1)
        return "new"

    assert other.fetch("k", load, stale=600) == "old"
    one.expire("k")
    one.delete("later", wait="fleet")
    works.pop(0)()
    assert calls == []
    assert other.get("k") is None
    assert other.fetch("k", load, stale=600) == "old"
    works.pop(0)()
    assert other.get("k") == "new"
    assert calls == [1]


def test_a_refresh_loads_though_it_be_fresh(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", 1)
    assert other.get("k") == 1
    assert one.refresh("k", lambda: 2) == 2
    gone(other, "k")
    assert other.get("k") == 2
    assert run(other.arefresh("k", lambda: 3)) == 3
    gone(one, "k")
    assert one.get("k") == 3
    calls: list[int] = []
    assert one.fetch("a", lambda: calls.append(1) or 4, ttl=600, refresh_ahead=0.001) == 4
    time.sleep(0.8)
    assert one.fetch("a", lambda: calls.append(1) or 5, ttl=600, refresh_ahead=0.001) == 4
    wait_until(lambda: one.get("a") == 5)
    assert len(calls) == 2


def test_a_cancelled_load_gives_its_lease_back(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowcache.tier import engine

    monkeypatch.setattr(engine, "LEASE", 3600.0)  # It ends by being given back, or not at all.
    one, other = pair

    async def use() -> Any:
        began = asyncio.Event()

        async def load() -> None:
            began.set()
            await asyncio.sleep(60)

        asking = asyncio.ensure_future(one.afetch("k", load))
        await began.wait()
        asking.cancel()
        await asyncio.sleep(0)
        return await asyncio.wait_for(other.afetch("k", lambda: "v"), 60)

    assert run(use()) == "v"


def test_a_long_load_keeps_its_lease(
    new_server: Server, pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowcache.tier import bus

    monkeypatch.setattr(bus, "RENEWED", 0.1)
    monkeypatch.setattr(bus, "LEASE", 600.0)
    one, other = pair
    item = _core._tier_of(one).engine.items.item(one.path, "k")
    calls: list[int] = []

    def load() -> int:
        calls.append(1)
        ends = [end_of_lease()]
        # Ten seconds were granted; each renewal gives it ten minutes from then on.
        wait_until(lambda: ends.append(end_of_lease()) or len({*ends}) > 2)
        assert sorted(ends) == ends and ends[-1] > ends[0] + 500_000
        return len(calls)

    def end_of_lease() -> int:
        return int(new_server.call("PEXPIRETIME", item.lease))

    thread = threading.Thread(target=one.fetch, args=("k", load))
    thread.start()
    wait_until(lambda: calls)
    assert other.fetch("k", load) == 1
    thread.join()


# Cached functions


def plan_of(tenant: int, *, detail: bool = False) -> tuple[int, bool, int]:
    """Return what a call was asked for, and how many there were."""
    CALLS.append(tenant)
    return tenant, detail, len(CALLS)


async def limits_of(tenant: int) -> tuple[int, int]:
    """Return the same from a coroutine."""
    CALLS.append(tenant)
    return tenant, len(CALLS)


CALLS: list[int] = []


def test_cached_functions_share_their_results(pair: tuple[Any, Any]) -> None:
    one, other = pair
    CALLS.clear()
    here, there = (
        one.cached(ttl=60, tags="plans")(plan_of),
        other.cached(ttl=60, tags="plans")(plan_of),
    )
    assert here(1) == there(1) == here(1) == (1, False, 1)
    assert here(1, detail=True) == there(1, detail=True) == (1, True, 2)
    assert there.cache_info()[:2] == (0, 2)
    assert here.invalidate(1)
    gone(other, there.cache_key(1))
    assert there(1) == (1, False, 3)
    assert here.refresh(1) == (1, False, 4)
    assert run(here.ainvalidate(1))
    run(there.acache_clear())
    assert there(1, detail=True) == (1, True, 5)
    there.cache_clear()
    acached = one.cached(limits_of), other.cached(limits_of)
    assert run(acached[0](7)) == run(acached[1](7)) == (7, 6)


def test_closures_stay_in_the_process(pair: tuple[Any, Any]) -> None:
    made = []
    for number, namespace in enumerate(pair):
        made.append(namespace.cached(lambda number=number: number))
    assert [one() for one in made] == [0, 1]
    assert [one() for one in made] == [0, 1]
    assert pair[1].stats().tier_hits == 0
    made[0].invalidate()
    keyed = [
        namespace.cached(key="shared")(lambda number=number: number)
        for number, namespace in enumerate(pair)
    ]
    assert [one() for one in keyed] == [0, 0]


def test_the_current_tenants_namespace_has_the_twins(new_server: Server, make: Make) -> None:
    one, other = make(new_server), make(new_server)
    here, there = one.for_current_tenant(), other.for_current_tenant()
    with tenancy.tenant("acme"):
        run(here.aset("k", 1))
        pending = there.aget("k")
    assert run(pending) == 1
    with tenancy.tenant("other"):
        assert there.get("k") is None
