"""`max_pending`: the loads that take a place, the namespaces where they do, and the times."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import (
    Limits,
    LoadTimeoutError,
    Namespace,
    TooManyLoadsError,
    create_cache,
)
from harness.loading_support import (
    AsyncGate,
    Caller,
    Gate,
    LoopThread,
    assert_nothing_left,
    cancel_all,
    loop_thread,
    until,
    wait_until,
)
from harness.support import new_cache


def one() -> int:
    return 1


def refused(namespace: Namespace[Any], key: str = "one more") -> bool:
    """Whether a load that begins now finds no place; one that does has ended by then."""
    namespace._check()
    try:
        assert namespace.fetch(key, one) == 1
    except TooManyLoadsError:
        return True
    finally:
        namespace._check()
        namespace.delete(key)
    return False


# Numbers and levels


@pytest.mark.parametrize("limited", range(4), ids=["root", "tenant", "user", "own"])
def test_every_namespace_above_a_load_counts_it(limited: int) -> None:
    cache, _ = new_cache()
    path = ["tenant:busy", "user:7", "inbox"]
    own = cache.namespace(*path)
    (cache.namespace(*path[:limited]) if limited else cache).configure(max_pending=2)
    gate = Gate()
    beside = cache.namespace(*path[:2], "outbox")
    running = [Caller(lambda key=key: own.fetch(key, gate)) for key in "ab"]
    wait_until(lambda: gate.calls == 2)
    label = "/".join(map(repr, path[:limited])) or "(the root)"
    with pytest.raises(TooManyLoadsError, match=re.escape(f"{label} already has max_pending=2 ")):
        own.fetch("c", one)
    assert refused(own)
    assert refused(beside) == (limited < 3)
    assert refused(cache.namespace("tenant:other")) == (limited == 0)
    gate.open.set()
    assert [caller.result() for caller in running] == ["loaded"] * 2
    assert not refused(own)
    assert_nothing_left(cache)


def test_fifty_users_of_a_tenant_start_no_more_loads_than_the_tenant_may() -> None:
    cache = create_cache(child_limits=Limits(max_pending=2))
    tenant = cache.namespace("tenant:busy")
    gate = Gate()

    def ask(number: int) -> Any:
        try:
            return tenant.namespace("user", str(number)).fetch("inbox", gate)
        except TooManyLoadsError:
            return "refused"

    callers = [Caller(lambda number=number: ask(number)) for number in range(50)]
    wait_until(lambda: sum(not caller.is_alive() for caller in callers) == 48)
    assert gate.calls == 2 == tenant.stats().pending
    gate.open.set()
    answers = [caller.result() for caller in callers]
    assert (answers.count("refused"), answers.count("loaded")) == (48, 2)
    assert_nothing_left(cache)


def test_a_limit_set_while_loads_run_counts_those() -> None:
    cache, _ = new_cache()
    own = cache.namespace("a", "b")
    gate = Gate()
    running = [Caller(lambda key=key: own.fetch(key, gate)) for key in "xyz"]
    wait_until(lambda: gate.calls == 3)
    assert not refused(own)
    cache.namespace("a", max_pending=3)
    assert refused(own)
    cache.namespace("a", max_pending=4)
    assert not refused(own)
    gate.open.set()
    for caller in running:
        caller.result()
    assert_nothing_left(cache)


# Too old


def hang_in_thread(namespace: Namespace[Any], key: str, gate: Gate) -> object:
    return Caller(lambda: namespace.fetch(key, gate))


def hang_overdue(namespace: Namespace[Any], key: str, gate: Gate) -> object:
    with pytest.raises(LoadTimeoutError):
        namespace.fetch(key, gate, timeout=0)
    return None


def hang_many(namespace: Namespace[Any], key: str, gate: Gate) -> object:
    return Caller(lambda: namespace.fetch_many([key], lambda keys: {keys[0]: gate()}))


def hang_refresh(namespace: Namespace[Any], key: str, gate: Gate) -> object:
    return Caller(lambda: namespace.refresh(key, gate))


HANGS: dict[str, Callable[[Namespace[Any], str, Gate], object]] = {
    "fetch": hang_in_thread,
    "timeout": hang_overdue,
    "fetch_many": hang_many,
    "refresh": hang_refresh,
}


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
@pytest.mark.parametrize("limited", ["own", "tenant", "root"])
def test_a_load_that_is_too_old_gives_its_place_back_and_stores_nothing(
    hang: Callable[[Namespace[Any], str, Gate], object], limited: str
) -> None:
    cache, clock = new_cache()
    tenant = cache.namespace("tenant")
    own = tenant.namespace("below")
    {"own": own, "tenant": tenant, "root": cache}[limited].configure(max_pending=2)
    gates = [Gate("late a"), Gate("late b")]
    callers = [hang(own, key, gate) for key, gate in zip("ab", gates, strict=True)]
    wait_until(lambda: all(gate.calls for gate in gates))
    clock.advance(30)
    assert refused(own)
    clock.advance(0.5)
    for key in "acb":
        assert own.fetch(key, lambda key=key: f"fresh {key}") == f"fresh {key}"
    own.clear()
    assert not refused(own)
    for gate in gates:
        gate.open.set()
    wait_until(lambda: own.stats().pending == 0)
    for caller in callers:
        assert caller is None or caller.result() is not None  # type: ignore[attr-defined]
    assert len(own) == 0
    own._check()
    assert_nothing_left(cache)


def test_tasks_that_are_too_old_give_their_places_back() -> None:
    cache, clock = new_cache()
    own = cache.namespace("tenant", max_pending=2)

    async def main() -> None:
        gate = AsyncGate("late")
        callers = [asyncio.ensure_future(own.afetch(key, gate)) for key in "ab"]
        await until(lambda: gate.calls == 2)
        with pytest.raises(TooManyLoadsError):
            await own.afetch("c", one)
        clock.advance(31)
        assert await own.afetch("c", one) == 1
        assert await own.afetch("a", one) == 1
        gate.open.set()
        assert await asyncio.gather(*callers) == ["late"] * 2
        assert dict(own) == {"c": 1, "a": 1}

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_hung_background_load_gives_its_place_back() -> None:
    cache, clock = new_cache()
    own = cache.namespace("tenant", max_pending=1)
    own.set("k", "old", ttl=1, stale=1_000)
    clock.advance(2)
    gate = Gate("late")
    assert own.fetch("k", gate) == "old"
    wait_until(lambda: gate.calls)
    assert refused(own)
    clock.advance(31)
    assert not refused(own)
    gate.open.set()
    wait_until(lambda: own.stats().pending == 0)
    assert own.fetch("k", lambda: "new", stale=False) == "new"
    assert_nothing_left(cache)


def test_places_are_given_back_by_age_and_only_as_they_are_wanted() -> None:
    cache, clock = new_cache()
    own = cache.namespace("tenant", max_pending=2)
    other = cache.namespace("other")
    gate = Gate()
    callers = [Caller(lambda: other.fetch("old", gate)), Caller(lambda: own.fetch("old", gate))]
    wait_until(lambda: gate.calls == 2)
    clock.advance(20)
    callers.append(Caller(lambda: own.fetch("young", gate)))
    wait_until(lambda: gate.calls == 3)
    assert refused(own)
    clock.advance(11)
    callers.append(Caller(lambda: own.fetch("younger", gate)))
    wait_until(lambda: gate.calls == 4)
    assert refused(own)
    assert own.stats().pending == 3  # They run on, and are told of.
    gate.open.set()
    for caller in callers:
        assert caller.result() == "loaded"
    assert sorted(own) == ["young", "younger"]
    assert_nothing_left(cache)


# Cannot end


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_has_the_places_of_the_threads_that_it_lacks() -> None:
    cache = create_cache()
    tenant = cache.namespace("tenant", max_pending=1)
    own = tenant.namespace("below")
    gate = Gate()
    caller = Caller(lambda: own.fetch("a", gate))
    assert gate.begun.wait(30)
    child = os.fork()
    if not child:
        try:
            ok = not refused(own) and not refused(tenant) and own.fetch("a", one) == 1
            own._check()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert refused(own)
    gate.open.set()
    assert caller.result() == "loaded"
    assert_nothing_left(cache)


def test_a_loop_that_does_not_run_holds_no_places() -> None:
    cache, _ = new_cache()
    tenant = cache.namespace("tenant", max_pending=1)
    own = tenant.namespace("below")
    elsewhere = create_cache()
    standing, gate = AsyncGate(), AsyncGate()

    async def ask(namespace: Namespace[Any], key: str, load: AsyncGate) -> Any:
        return await namespace.afetch(key, load)

    stopped = LoopThread()
    with loop_thread() as running:
        for namespace in (elsewhere, own):
            stopped.call(ask(namespace, "k", standing))
        wait_until(lambda: standing.calls == 2)
        assert refused(tenant)
        stopped.stop()
        assert not refused(tenant)
        assert own.stats().pending == 0
        assert elsewhere.stats().pending == 1  # Of another cache, and in no call's way.
        held = running.call(ask(own, "other", gate))
        wait_until(lambda: gate.calls == 1)
        assert refused(tenant)
        running.loop.call_soon_threadsafe(gate.open.set)
        assert held.result() == "loaded"
        stopped.loop.run_until_complete(cancel_all())
        stopped.loop.close()
    assert_nothing_left(cache)
    assert_nothing_left(elsewhere)


# Within another load


def test_a_load_within_a_load_of_the_same_tenant_takes_no_place() -> None:
    cache, _ = new_cache(child_limits=Limits(max_pending=1))
    tenant = cache.namespace("tenant")
    below = tenant.namespace("a", "b")
    seen: list[int] = []

    def load() -> list[Any]:
        nested = [
            tenant.fetch("in own", lambda: below.fetch("deep", one)),
            below.fetch_many(["x", "y"], lambda keys: dict.fromkeys(keys, 1)),
            below.refresh("z", one),
            tenant.cached(one)(),
            tenant.fetch("timed", one, timeout=60),
        ]
        seen.append(tenant.stats().loads)
        return nested

    assert tenant.fetch("outer", load)[0] == 1
    assert seen == [7]
    assert not refused(tenant)
    cache._check()
    assert_nothing_left(cache)


def test_a_load_within_a_load_of_another_tenant_takes_a_place() -> None:
    cache, _ = new_cache(child_limits=Limits(max_pending=1))
    one_tenant, other = cache.namespace("one"), cache.namespace("other")
    gate = Gate()
    caller = Caller(lambda: other.fetch("busy", gate))
    assert gate.begun.wait(30)
    with pytest.raises(TooManyLoadsError, match="other"):
        one_tenant.fetch("outer", lambda: other.fetch("inner", one))
    gate.open.set()
    caller.result()
    assert one_tenant.fetch("outer", lambda: other.fetch("inner", one)) == 1
    cache.configure(max_pending=1)
    other.clear()
    with pytest.raises(TooManyLoadsError):
        one_tenant.refresh("outer", lambda: other.fetch("inner", one))
    assert_nothing_left(cache)


def test_tasks_and_threads_within_a_load_take_no_place_while_it_runs() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant", max_pending=1)
    later: list[asyncio.Task[Any]] = []

    async def main() -> None:
        outer_ended = asyncio.Event()

        async def ask_later() -> Any:
            await outer_ended.wait()
            return await own.afetch("later", one)

        async def load() -> Any:
            later.append(asyncio.ensure_future(ask_later()))
            in_thread = asyncio.to_thread(own.fetch, "thread", one)
            return await asyncio.gather(own.afetch("a", one), own.afetch("b", one), in_thread)

        assert await own.afetch("outer", load) == [1, 1, 1]
        gate = AsyncGate()
        busy = asyncio.ensure_future(own.afetch("busy", gate))
        await until(lambda: gate.calls == 1)
        outer_ended.set()
        with pytest.raises(TooManyLoadsError):  # Its context is that of a load that has ended.
            await later[0]
        later.clear()  # Its error's traceback holds the load.
        gate.open.set()
        assert await busy == "loaded"

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_load_beside_another_one_shares_its_place() -> None:
    """A coroutine's loader that blocks its loop in a sync fetch of a key which that loop loads."""
    cache, _ = new_cache()
    own = cache.namespace("tenant", max_pending=1)

    async def main() -> None:
        gate = AsyncGate("theirs")
        theirs = asyncio.ensure_future(own.afetch("k", gate))
        await until(lambda: gate.calls == 1)
        assert own.fetch("k", lambda: own.fetch("nested", one) + 1) == 2
        gate.open.set()
        assert await theirs in ("theirs", 2)

    asyncio.run(main())
    assert_nothing_left(cache)


def test_a_background_load_within_a_load_takes_a_place() -> None:
    """It may outlive the load that it was begun in, which does not wait for it."""
    cache, clock = new_cache()
    own = cache.namespace("tenant", max_pending=2)
    for key in "abc":
        own.set(key, "old", ttl=1, stale=1_000)
    clock.advance(2)
    gate = Gate("new")
    assert own.fetch("outer", lambda: [own.fetch(key, gate) for key in "abc"]) == ["old"] * 3
    wait_until(lambda: gate.calls == 1)
    assert own.stats().pending == 1
    gate.open.set()
    wait_until(lambda: own.stats().pending == 0)
    assert_nothing_left(cache)


def test_a_load_within_one_that_is_too_old_takes_a_place() -> None:
    cache, clock = new_cache()
    own = cache.namespace("tenant", max_pending=1)
    gate = Gate()
    callers: list[Caller] = []

    def load() -> str:
        clock.advance(31)
        callers.append(Caller(lambda: own.fetch("busy", gate)))
        assert gate.begun.wait(30)
        with pytest.raises(TooManyLoadsError):
            own.fetch("inner", one)
        return "late"

    assert own.fetch("outer", load) == "late"
    gate.open.set()
    callers[0].result()
    assert sorted(own) == ["busy"]
    assert_nothing_left(cache)


def test_a_load_within_a_load_of_another_cache_takes_a_place() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant", max_pending=1)
    other = create_cache().namespace("tenant")
    gate = Gate()
    caller = Caller(lambda: own.fetch("busy", gate))
    assert gate.begun.wait(30)
    with pytest.raises(TooManyLoadsError):
        other.fetch("outer", lambda: own.fetch("inner", one))
    gate.open.set()
    caller.result()
    assert_nothing_left(cache)
