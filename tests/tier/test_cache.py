"""A cache with a tier, as its users call it: two caches of one fleet, on a real server."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import (
    ConfigurationError,
    Loaded,
    TierUnavailableError,
    WouldBlockError,
    _core,
    create_cache,
    tenancy,
)
from flowcache.cache import Cache
from flowcache.tier import JsonCodec, MsgpackCodec, PickleCodec, ValkeyTier
from flowcache.tier.namespace import READS, WRITES
from harness.fleet import PATIENT, Make, confirmed, confirmed_on_loop, gone, run
from harness.servers import Server, server, wait_until

# The calls


def test_what_one_stores_the_other_gets(any_server: Server, make: Make) -> None:
    one, other = (make(any_server).namespace("tenant:acme") for _ in range(2))
    one.set(
        "k", {"a": (1, 2)}, tags=("t",), ttl=20, wait="fleet"
    )  # Or its message would come later.
    assert "k" in one
    assert "k" not in other
    assert other.get("k") == {"a": (1, 2)}
    assert "k" in other
    assert 10 < other.ttl("k") <= 20
    assert other.tags() == {"t": 1} if hasattr(other, "tags") else True
    stats = other.stats()
    assert (stats.hits, stats.misses, stats.tier_hits, stats.tier_misses) == (0, 1, 1, 0)
    assert one.stats().tier_stores == 1
    assert other.get("k") == {"a": (1, 2)}
    assert other.stats().hits == 1


DROPS: list[Callable[[Any], Any]] = [
    lambda ns: ns.set("k", 2),
    lambda ns: ns.__setitem__("k", 2),
    lambda ns: ns.update({"k": 2}),
    lambda ns: ns.update(k=2),
    lambda ns: ns.set_many({"k": 2}),
    lambda ns: ns.delete("k"),
    lambda ns: ns.__delitem__("k"),
    lambda ns: ns.delete_many(["k"]),
    lambda ns: ns.pop("k"),
    lambda ns: ns.touch("k", 5),
    lambda ns: ns.incr("k"),
    lambda ns: ns.refresh("k", lambda: 2),
    lambda ns: ns.clear(),
    lambda ns: ns.invalidate_tag("t"),
    lambda ns: ns.invalidate_tags(["t", "u"]),
    lambda ns: ns.invalidate_tags(["t", "s"], match="all"),
    lambda ns: ns.invalidate_prefix("k"),
    lambda ns: ns.set("k", 2, ttl=0),
    lambda ns: ns.set("k", object()),
]


@pytest.mark.parametrize("drop", DROPS)
def test_what_one_changes_the_others_drop(
    pair: tuple[Any, Any], drop: Callable[[Any], Any]
) -> None:
    one, other = pair
    one.set("k", 1, tags=("t", "s"))
    assert other.get("k") == 1
    drop(one)
    gone(other, "k")
    held = one.get("k")
    assert other.get("k") == (None if type(held) is object else held)


@pytest.mark.parametrize("drop", DROPS)
def test_each_call_has_a_twin_that_does_the_same(
    pair: tuple[Any, Any], drop: Callable[[Any], Any]
) -> None:
    one, other = pair
    one.set("k", 1, tags=("t", "s"))
    assert other.get("k") == 1

    class Twins:
        """Awaits the twin of each call."""

        def __getattr__(self, name: str) -> Any:
            twin = {"refresh": "arefresh"}.get(name, f"a{name}")
            return lambda *args, **kwargs: run(getattr(one, twin)(*args, **kwargs))

        def __setitem__(self, key: Any, value: Any) -> None:
            run(one.aset(key, value))

        def __delitem__(self, key: Any) -> None:
            run(one.adelete(key))

        def update(self, *args: Any, **kwargs: Any) -> None:
            run(one.aset_many(dict(*args, **kwargs)))

    drop(Twins())
    gone(other, "k")


def test_answers_follow_the_tier(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert one.add("a", 1)
    assert not other.add("a", 2)
    assert other["a"] == 1
    assert other.setdefault("a", 3) == 1
    assert other.setdefault("b", 3) == 3
    assert one.setdefault("b", 4) == 3
    assert [one.incr("c"), other.incr("c", 5), one.incr("c", -1, default=9)] == [1, 6, 5]
    assert "c" not in one
    assert other.pop("a") == 1
    assert one.pop("a", None) is None
    with pytest.raises(KeyError):
        one.pop("a")
    with pytest.raises(KeyError):
        one["a"]
    with pytest.raises(KeyError):
        one.ttl("a")
    with pytest.raises(KeyError):
        del one["a"]
    assert not one.delete("a")
    assert not one.touch("a", 5)
    one.set_many({"x": 1, "y": 2}, ttl=None)
    assert other.ttl("x") is None
    assert other.get_many(["x", "y", "z"]) == {"x": 1, "y": 2}
    assert other.touch("x", 50)
    gone(one, "x")
    assert 40 < one.ttl("x") <= 50
    assert other.delete("y")
    gone(one, "y")
    assert one.delete_many(["x", "y"]) == 1
    assert run(one.aget_many(["x", "b"])) == {"b": 3}
    assert run(one.attl("b")) > 200
    assert run(other.asetdefault("b", 1)) == 3
    assert run(other.apop("b")) == 3
    assert run(one.aadd("b", 5)) is True
    assert run(other.aincr("b", 2)) == 7
    assert other.get("b", default=0) == 7


def test_bad_arguments_change_nothing(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", 1, wait="fleet")
    assert other.get("k") == 1
    for call in (
        lambda: one.set("k", 2, ttl=-1),
        lambda: one.set("k", 2, tags=("",)),
        lambda: one.set("k", 2, wait="all"),
        lambda: one.delete("k", wait=True),
        lambda: one.clear(wait="all"),
        lambda: one.invalidate_tags(["t"], match="some"),
        lambda: one.set_many({"k": 2, "m": 3}, ttl=float("nan")),
        lambda: one.add("k", 2, stale=-1),
    ):
        with pytest.raises(ValueError, match=r"^(ttl|tags|wait|match|stale): "):
            call()
    for call in (
        lambda: one.set([], 2),
        lambda: one.set("k", 2, tags=3),
        lambda: one.incr("k", 1.5),
        lambda: one.invalidate_tag(3),
        lambda: one.invalidate_prefix(3),
        lambda: one.delete_many([1, []]),
        lambda: one.set("k"),
        lambda: one.set("k", 2, nonsense=1),
    ):
        with pytest.raises(TypeError):
            call()
    time.sleep(0.05)
    assert "k" in other
    assert one.get("k") == 1


def test_a_counter_in_the_tier_has_64_bits(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("c", (1 << 63) - 1)
    with pytest.raises(OverflowError, match="64 bits"):
        other.incr("c")
    one.set("s", "text")
    with pytest.raises(TypeError):
        other.incr("s")
    assert other.get("c") == (1 << 63) - 1


def test_a_root_tag_reaches_all_tenants(new_server: Server, make: Make) -> None:
    one, other = make(new_server, tier={"buckets": 4}), make(new_server, tier={"buckets": 4})
    tenants = [f"tenant:{number}" for number in range(12)]
    for name in tenants:
        one.namespace(name).set("k", name, tags=("all",))
        assert other.namespace(name).get("k") == name
    other.invalidate_tag("all")
    for name in tenants:
        assert other.namespace(name).get("k") is None
        gone(one.namespace(name), "k")
        assert one.namespace(name).get("k") is None
    other.clear()


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
    wait_until(lambda: other.get("k") == "new")
    assert other.stats().stale_hits == 1
    assert one.fetch("k", lambda: "newer") in ("old", "new")


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


# Event loops


def test_a_blocking_call_on_a_loops_thread_names_its_twin(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", 1, tags=("t",), wait="fleet")
    assert other.get("k") == 1
    arguments: dict[str, tuple[Any, ...]] = {
        "set": ("k", 2),
        "add": ("k", 2),
        "setdefault": ("k", 2),
        "set_many": ({"k": 2},),
        "delete_many": (["k"],),
        "get_many": (["m"],),
        "clear": (),
        "invalidate_tag": ("t",),
        "invalidate_tags": (["t"],),
        "invalidate_prefix": ("k",),
        "ttl": ("m",),
        "get": ("m",),
        "refresh": ("k", lambda: 2),
        "fetch": ("m", lambda: 2),
        "fetch_many": (["m"], lambda keys: {}),
    }

    async def use() -> None:
        for name in (*READS, *WRITES, "get", "refresh", "fetch", "fetch_many"):
            with pytest.raises(WouldBlockError, match=rf"^{name}: .*await a{name}\("):
                getattr(one, name)(*arguments.get(name, ("k",)))
        with pytest.raises(WouldBlockError, match="await aget"):
            one["m"]
        with pytest.raises(WouldBlockError, match="await aset"):
            one["k"] = 2
        # What is held here needs no wait.
        assert (one.get("k"), one["k"], one.get_many(["k"])) == (1, 1, {"k": 1})
        assert one.fetch("k", lambda: 2) == 1
        assert one.ttl("k") > 0

    asyncio.run(use())
    assert "k" in other


def test_cancelling_does_not_stop_a_write(pair: tuple[Any, Any]) -> None:
    one, other = pair

    async def use() -> None:
        writing = asyncio.ensure_future(one.aset("k", 1))
        while not one.stats().sets and "k" not in one and not writing.done():
            await asyncio.sleep(0)
            writing.cancel()
            break
        with pytest.raises(asyncio.CancelledError):
            await writing
        await one_cache.tier.finish_writes()

    one_cache = one_of(one)
    asyncio.run(use())
    assert other.get("k") in (1, None)


def one_of(namespace: Any) -> Any:
    """Return the cache of a namespace, which has no way up of its own."""
    from flowcache import _core

    root = _core._root_of(namespace._store())

    class Rooted:
        tier = root._store().tier

    return Rooted


def test_a_write_that_is_not_awaited_warns(pair: tuple[Any, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pair[0].aset("k", 1)
        gc.collect()
    assert any("never awaited" in str(one.message) for one in caught)
    assert pair[1].get("k") is None


def test_several_loops_use_one_cache(pair: tuple[Any, Any]) -> None:
    def use(number: int) -> None:
        async def write() -> None:
            for turn in range(20):
                await pair[0].aset(f"{number}:{turn}", turn)
                assert await pair[1].aget(f"{number}:{turn}") == turn

        asyncio.run(write())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pair[1].get("3:19") == 19


# What stays in the process


def test_keys_and_values_that_cannot_travel(
    pair: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = pair
    key, value = frozenset((1, 2)), object()
    one.set(key, "v")
    assert (one.get(key), other.get(key)) == ("v", None)
    one.set("k", 1)
    assert other.get("k") == 1
    one.set("k", value)
    one.set("m", value)
    gone(other, "k")
    assert (one.get("k"), other.get("k")) == (value, None)
    assert one.stats().untiered == 2
    assert (
        len([record for record in caplog.records if "stay in the process" in record.message]) == 1
    )
    assert one.pop("k") is value
    assert one.touch("m", 5)
    assert one.delete("m")
    assert one.fetch("f", lambda: value) is value
    assert one.get("f") is value
    assert other.fetch("f", lambda: 2) == 2
    assert not one.add("f", object())
    assert one.add("g", value)
    assert one.incr(key.union((3,))) == 1
    one.set("large", "x" * ((1 << 20) + 1))
    assert other.get("large") is None
    assert one.clear() > 0
    other.clear()
    wait_until(lambda: len(one) == 0)


def test_a_namespace_may_stay_in_the_process(pair: tuple[Any, Any]) -> None:
    one, other = (each.namespace("session", tiered=False) for each in pair)
    below = one.namespace("below")
    one.set("k", 1)
    below.set("k", 1)
    assert (other.get("k"), one.get("k"), below.get("k")) == (None, 1, 1)
    assert one.incr("c") == 1
    assert one.fetch("f", lambda: 2) == 2
    assert run(one.aget("f")) == 2
    assert run(one.afetch("g", lambda: 3)) == 3
    assert one.fetch_many(["h"], lambda keys: {"h": 4}) == {"h": 4}
    assert one.refresh("h", lambda: 5) == 5
    assert one["h"] == 5

    async def use() -> None:
        one["i"] = 6
        assert one.get("none") is None
        assert one.delete("i")

    asyncio.run(use())
    assert pair[0].clear() > 0
    assert one.get("k") is None


def test_the_local_ttl_bounds_how_long_a_process_holds(new_server: Server, make: Make) -> None:
    one, other = make(new_server), make(new_server, tier={"local_ttl": 1.0})
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("k", 1, stale=60, wait="fleet")
    assert there.get("k") == 1
    assert there.ttl("k") <= 1.0
    assert there.fetch("f", lambda: 2) == 2
    gone(there, "k")
    gone(there, "f")
    assert (there.get("k"), here.get("f")) == (1, 2)


def test_a_cache_that_is_off_stores_nothing_anywhere(new_server: Server, make: Make) -> None:
    other = make(new_server).namespace("tenant:acme")
    off = make(new_server, enabled=False).namespace("tenant:acme")
    other.set("k", 1, tags=("t",))
    assert off.get("k") is None
    assert off.get_many(["k"]) == {}
    assert off.fetch("k", lambda: 2) == 2
    assert off.fetch_many(["k"], lambda keys: {"k": 3}) == {"k": 3}
    assert run(off.afetch("k", lambda: 4)) == 4
    assert off.add("m", 1)
    assert off.setdefault("m", 2) == 2
    assert off.incr("c", 5) == 5
    assert (other.get("m"), other.get("c"), other.get("k")) == (None, None, 1)
    off.invalidate_tag("t")
    gone(other, "k")
    other.set("k", 1)
    off.set("k", 2)
    gone(other, "k")
    assert other.get("k") is None


def test_a_ttl_is_drawn_once_for_all(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set_many(dict.fromkeys(range(10), 1), ttl=1000, jitter=0.5, tags="j")
    left = [one.ttl(number) for number in range(10)]
    assert len({round(ttl) for ttl in left}) > 3
    assert all(490 < ttl <= 1000 for ttl in left)
    assert all(abs(other.ttl(number) - left[number]) < 30 for number in range(10))
    for call in (
        lambda: one.set("k", 1, sliding=5),
        lambda: one.add("k", 1, sliding=5),
        lambda: one.set_many({"k": 1}, sliding=5),
    ):
        with pytest.raises(ConfigurationError, match=r"^sliding: "):
            call()
    assert one.get("k") is None
    one.namespace("here", tiered=False).set("k", 1, sliding=5)


# The fleet


def test_wait_fleet_returns_when_no_process_can_serve_it(pair: tuple[Any, Any]) -> None:
    one, other = pair
    for number, call in enumerate(
        (
            lambda: one.clear(wait="fleet"),
            lambda: one.delete("k", wait="fleet"),
            lambda: one.set("k", 2, wait="fleet"),
            lambda: one.invalidate_tag("t", wait="fleet"),
            lambda: one.invalidate_tags(["t"], wait="fleet"),
            lambda: one.invalidate_prefix("k", wait="fleet"),
            lambda: run(one.aclear(wait="fleet")),
            lambda: run(one.aset("k", 2, wait="fleet")),
        )
    ):
        other.set("k", 1, tags=("t",))
        assert "k" in other
        call()
        assert "k" not in other, number


def test_a_set_that_races_with_another_keeps_no_value_of_its_own(pair: tuple[Any, Any]) -> None:
    """Without the second drop each process keeps its own value, and the tier has one of them."""
    for turn in range(60):
        barrier = threading.Barrier(2)

        def write(number: int, turn: int = turn, barrier: Any = barrier) -> None:
            barrier.wait()
            pair[number].set("k", (turn, number))

        threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair[0].delete("other", wait="fleet") if turn == 0 else None
        wait_until(lambda: pair[0].get("k") == pair[1].get("k"))


# What goes wrong


INVALIDATIONS: dict[str, Callable[[Any], Any]] = {
    "clear": lambda ns: ns.clear(),
    "invalidate_tags": lambda ns: ns.invalidate_tag("t"),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
    "expire_tags": lambda ns: ns.expire_tag("t"),
    "delete_many": lambda ns: ns.delete("k"),
    "expire": lambda ns: ns.expire("k"),
    "touch": lambda ns: ns.touch("k", 5),
    "pop": lambda ns: ns.pop("k"),
}


@pytest.mark.parametrize("name", INVALIDATIONS)
def test_what_is_filled_while_an_invalidation_is_under_way_goes(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one, _ = pair
    one.set("k", 1, tags=("t",))
    engine = _core._tier_of(one).engine
    real = getattr(engine, name)

    def late(*args: Any, **kwargs: Any) -> Any:
        assert one.get("k") == 1  # After the drop here, and before the tier has heard of it.
        assert "k" in one
        return (yield from real(*args, **kwargs))

    monkeypatch.setattr(engine, name, late)
    INVALIDATIONS[name](one)
    assert "k" not in one
    monkeypatch.undo()
    assert one.get("k") == (1 if name == "touch" else None)


def test_nothing_is_opened_before_it_is_needed(new_server: Server, make: Make) -> None:
    before = set(threading.enumerate())
    cache = make("valkey://127.0.0.1:1/0", connects=False)
    namespace = cache.namespace("tenant:acme", default_ttl=5)
    namespace.stats()
    assert cache.tier is not None
    assert cache.tier.state == "idle"
    assert set(threading.enumerate()) <= before
    real = make(new_server)
    assert real.tier is not None
    assert real.tier.state == "live"
    real.close()
    assert real.tier.state == "closed" if not real._is_closed() else True


def test_a_server_that_cannot_be_reached(make: Make) -> None:
    timeouts = {"soft_timeout": 0.05, "hard_timeout": 0.1}
    cache = make("valkey://127.0.0.1:1/0", connects=False, tier=timeouts)
    with pytest.raises(TierUnavailableError, match=r"connect: .*127\.0\.0\.1:1"):
        cache.connect()
    with pytest.raises(TierUnavailableError, match="connect: "):
        run(cache.aconnect())
    namespace = cache.namespace("tenant:acme")
    assert namespace.get("k") is None
    assert namespace.fetch("k", lambda: 1) == 1
    assert run(namespace.afetch("k", lambda: 2)) == 2  # Nothing is kept.
    for call in (
        lambda: namespace.set("k", 1),
        lambda: namespace.add("k", 1),
        lambda: namespace.incr("k"),
        lambda: namespace.delete("k"),
        namespace.clear,
        lambda: namespace.invalidate_tag("t"),
        lambda: run(namespace.aset("k", 1)),
    ):
        with pytest.raises(TierUnavailableError):
            call()
    assert "k" not in namespace
    assert cache.stats().tier_errors > 0


def test_a_wrong_password_is_told_and_not_shown(make: Make) -> None:
    with server(None, "--requirepass", "right") as locked:
        url = f"valkey://:wrong-secret@127.0.0.1:{locked.port}/0"
        cache = make(url, connects=False)
        with pytest.raises(TierUnavailableError) as caught:
            cache.connect()
        assert "wrong-secret" not in str(caught.value)
        with_password = make(f"valkey://:right@127.0.0.1:{locked.port}/0")
        with_password.namespace("tenant:acme").set("k", 1)


def test_processes_have_to_agree(new_server: Server, make: Make) -> None:
    make(new_server, name="agreed")
    for settings in ({"tier": {"buckets": 2}}, {"tenant_depth": 2}, {"tier": {"lease": 3.0}}):
        other = make(new_server, name="agreed", connects=False, **settings)
        with pytest.raises(ConfigurationError, match="other settings"):
            other.connect()
        with pytest.raises(ConfigurationError, match="other settings"):
            other.namespace("tenant:acme").get("k")
        other.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"url_or_client": "http://127.0.0.1"}, ConfigurationError, "url_or_client: must begin"),
        ({"url_or_client": 7}, ConfigurationError, "url_or_client: must be a URL"),
        ({"codec": object()}, TypeError, "codec: must have methods"),
        ({"buckets": 0}, ValueError, "buckets: must be an int from 1"),
        ({"buckets": True}, TypeError, "buckets: must be an int"),
        ({"lease": 0.1}, ValueError, "lease: must be at least 1.5 seconds"),
        ({"lease": "2"}, TypeError, "lease: must be seconds"),
        ({"local_ttl": -1}, ValueError, "local_ttl: must not be negative"),
        ({"on_partition": "hope"}, ValueError, "on_partition: must be"),
        ({"on_partition": ("stale", -1)}, ValueError, "on_partition: must not be negative"),
        ({"on_primary_change": "x"}, ValueError, "on_primary_change: must be"),
        ({"replicas": -1}, ValueError, "replicas: must be an int from 0"),
        ({"prefix": "a b"}, ValueError, "prefix: must be letters"),
        ({"prefix": 1}, TypeError, "prefix: must be a str"),
        ({"soft_timeout": 1, "hard_timeout": 0.5}, ValueError, "soft_timeout: must not be longer"),
        ({"limit": 0}, ValueError, "limit: must be an int from 1"),
        ({"limit": None}, TypeError, "limit: must be an int"),
        ({"compress_from": "x"}, TypeError, "compress_from: must be an int"),
    ],
)
def test_bad_settings_name_the_argument(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = dict(arguments)
    with pytest.raises(error, match=rf"^{message}"):
        ValkeyTier(settings.pop("url_or_client", "valkey://127.0.0.1:1"), **settings)


def test_create_cache_checks_its_tier() -> None:
    with pytest.raises(ConfigurationError, match=r"^tier: must be a ValkeyTier or a URL"):
        create_cache(tier=7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^clock: a cache with a tier"):
        create_cache(tier="valkey://127.0.0.1:1", clock=time.monotonic)
    for depth, error in ((0, ValueError), (65, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^tenant_depth: must be an int"):
            create_cache(tenant_depth=depth)  # type: ignore[arg-type]


def test_a_value_that_was_tampered_with_is_a_miss(new_server: Server, make: Make) -> None:
    codec = PickleCodec(keys=[b"k" * 16])
    one, other = (make(new_server, tier={"codec": codec}) for _ in range(2))
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("k", {1, 2})
    (name,) = new_server.call("KEYS", f"fc1:{one.name}*:v:*".replace("[", "\\["))
    data = new_server.call("GET", name)
    new_server.call("SET", name, data[:-1] + bytes([data[-1] ^ 1]))
    assert there.get("k") is None
    assert there.stats().tier_errors == 1
    assert new_server.call("EXISTS", name) == 0


def test_a_codec_that_raises(new_server: Server, make: Make) -> None:
    class Broken:
        name = "broken"

        def encode(self, value: Any, /) -> bytes:
            if value == "in":
                raise RuntimeError("encode")
            return MsgpackCodec().encode(value)

        def decode(self, data: bytes, /) -> Any:
            raise RuntimeError("decode")

    one, other = (make(new_server, tier={"codec": Broken()}) for _ in range(2))
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("in", "in")
    assert (here.get("in"), here.stats().untiered, there.get("in")) == ("in", 1, None)
    here.set("out", "out")
    assert (here.get("out"), there.get("out")) == ("out", None)
    assert there.fetch("out", lambda: "loaded") == "loaded"


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec(), PickleCodec(keys=[b"0" * 16])])
def test_each_codec_gives_back_what_was_stored(new_server: Server, make: Make, codec: Any) -> None:
    one, other = (make(new_server, tier={"codec": codec}) for _ in range(2))
    value = {"name": "é" * 3000, "list": [1, 2.5, None, True]}
    one.namespace("tenant:acme").set("k", value)
    assert other.namespace("tenant:acme").get("k") == value


# Without the fleet


def test_without_a_lease_nothing_that_may_be_old_is_served(make: Make) -> None:
    timeouts = {"soft_timeout": 0.5, "hard_timeout": 1.0, "lease": 2.0}
    with server() as stopping:
        load = make(stopping, tier=timeouts).namespace("tenant:acme")
        stale = make(stopping, tier={"on_partition": ("stale", 60), **timeouts})
        strict = make(stopping, tier={"on_partition": "raise", **timeouts})
        stale_ns, strict_ns = stale.namespace("tenant:acme"), strict.namespace("tenant:acme")
        # Or its message would drop what is read now.
        confirmed(lambda: load.set("k", 1, wait="fleet"))
        for namespace in (stale_ns, strict_ns):
            wait_until(lambda namespace=namespace: confirmed(lambda: namespace.get("k")) == 1)
        with stopping.stopped():
            wait_until(lambda: stale.tier is not None and stale.tier.state == "apart")
            wait_until(lambda: "k" not in load)
            assert load.get("k") is None
            assert load.fetch("k", lambda: 2) == 2
            assert load.fetch("k", lambda: 3) == 3
            assert stale_ns.get("k") == 1
            assert stale.tier is not None
            assert stale.tier.stale_served > 0
            with pytest.raises(TierUnavailableError):
                strict_ns.get("k")
        wait_until(lambda: load.get("k") == 1)
        wait_until(lambda: confirmed(lambda: strict_ns.get("k")) == 1)
        for one in (stale, strict):
            one.close()


def test_an_invalidation_that_is_not_confirmed_is_done_here(make: Make) -> None:
    timeouts = {"soft_timeout": 0.5, "hard_timeout": 1.0}
    with server() as stopping:
        namespace = make(stopping, tier=timeouts).namespace("tenant:acme")
        confirmed(lambda: namespace.set("k", 1))
        confirmed(lambda: namespace.set("m", 1))
        with stopping.stopped():
            with pytest.raises(TierUnavailableError):
                namespace.invalidate_prefix("k")
            with pytest.raises(TierUnavailableError):
                namespace.set("m", 2)
            assert "k" not in namespace
            assert "m" not in namespace


# Life


def test_a_cache_that_is_dropped_leaves_the_fleet(new_server: Server, make: Make) -> None:
    cache: Any = create_cache(tier=ValkeyTier(new_server.url, **PATIENT), name="dropped")
    confirmed(cache.connect)
    tier = weakref.ref(cache.tier)
    store = weakref.ref(cache._store())
    del cache
    gc.collect()
    assert store() is None
    assert tier() is None
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "flowcache-bus"])


def test_a_cache_is_closed_from_a_loop(new_server: Server) -> None:
    tier = ValkeyTier(new_server.url, **PATIENT)

    async def use() -> None:
        async with create_cache(tier=tier, name="aclosed") as cache:
            await confirmed_on_loop(cache.aconnect)
            await cache.namespace("tenant:acme").aset("k", 1)
            assert await cache.namespace("tenant:acme").aget("k") == 1
        assert cache._is_closed()

    asyncio.run(use())
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "flowcache-bus"])


def test_a_subclass_of_cache_may_have_a_tier(new_server: Server) -> None:
    class Mine(Cache[Any]):
        """A cache with a call of its own."""

        def twice(self, key: Any) -> Any:
            return self.get(key) * 2

    with Mine(tier=ValkeyTier(new_server.url, **PATIENT), name="mine") as mine:
        mine.set("k", 2)
        assert mine.twice("k") == 4
        assert isinstance(mine, Mine)
        assert type(mine).__name__ == "Mine"
        assert repr(mine) == "<flowcache.Cache 'mine'>"
    with Mine() as plain:
        assert type(plain) is Mine
        assert plain.tier is None


def test_a_logger_hears_of_an_outage_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = make(
        "valkey://127.0.0.1:1/0", connects=False, tier={"soft_timeout": 0.01, "hard_timeout": 0.01}
    )
    for _ in range(5):
        cache.namespace("tenant:acme").get("k")
    time.sleep(0.3)
    assert len([one for one in caplog.records if "cannot be reached" in one.message]) == 1
