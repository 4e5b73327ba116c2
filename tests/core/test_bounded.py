"""Names come from requests: no choice of names makes the remaining memory grow without bound.

`FLOWCACHE_STRANGERS=1000000 pytest tests/core/test_bounded.py` makes a million tenants.
`FLOWCACHE_COLLIDING=50000` stores as many keys of one hash in one namespace. Each takes a minute.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
from typing import Any

import pytest

from flowcache import InvalidNamespaceError, InvalidTagError, TooManyLoadsError
from flowcache._core import _testing
from flowcache.loading import backoff
from harness.support import ADDRESS_SANITIZED, new_cache, run_isolated

STRANGERS = int(os.environ.get("FLOWCACHE_STRANGERS", "40000"))
COLLIDING = int(os.environ.get("FLOWCACHE_COLLIDING", "4000"))

# Prints the growth of the process in bytes during the second half of the strangers.
MEETING_STRANGERS = """
    import os
    import sys
    from flowcache import create_cache
    from flowcache._core import _testing

    strangers, idle, held = int(sys.argv[1]), 500, 1_000
    cache = create_cache(max_idle_namespaces=idle, max_entries=held)

    def failing():
        raise ConnectionError

    def meet(number):
        own = cache.namespace(f"tenant:{number}")
        assert own.get("contacts") is None
        try:
            own.fetch("contacts", failing)
        except ConnectionError:
            pass
        own.set("contacts", number, tags=("crm", f"tag:{number}"))
        own.subscribe(id, kinds=("load",))()
        assert own.invalidate_tag(f"made up:{number}") == 0
        if number % 10:                            # the others leave their entry behind
            assert own.invalidate_tag(f"tag:{number}") == 1

    def resident():
        if not os.path.exists("/proc/self/statm"):
            return None                            # what the cache counts is checked all the same
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    for number in range(strangers // 2):
        meet(number)
    before = resident()
    for number in range(strangers // 2, strangers):
        meet(number)
    print("unknown" if before is None else resident() - before)

    stats = cache.stats()
    assert stats.misses == 2 * strangers and stats.load_failures == strangers, stats
    assert stats.sets == strangers and held - 1 <= stats.entries <= held, stats
    assert stats.entries + stats.evictions + stats.invalidations == strangers, stats
    assert _testing.namespaces_held(cache) <= 1 + held + idle, _testing.namespaces_held(cache)
    assert len(list(cache.namespaces())) == _testing.namespaces_held(cache) - 1
    cache._check()
"""


def test_made_up_tenants_leave_bounded_memory_and_their_counts_behind() -> None:
    grown = run_isolated(MEETING_STRANGERS, str(STRANGERS), seconds=280).strip()
    if ADDRESS_SANITIZED:
        pytest.skip("counts are as they should be; AddressSanitizer keeps what is freed")
    if grown == "unknown":
        pytest.skip("counts are as they should be; this platform does not tell resident memory")
    assert int(grown) < 1 << 20


def test_made_up_paths_are_forgotten_from_the_leaf_up() -> None:
    cache, _ = new_cache(max_idle_namespaces=10)
    for number in range(2_000):
        cache.namespace(*(f"{level}:{number}" for level in range(4))).get("k")
    # A namespace above an idle one is not idle itself: at most four for each remembered path.
    assert _testing.namespaces_held(cache) <= 1 + 4 * 11
    assert cache.stats().misses == 2_000
    cache._check()


def test_a_namespace_is_asked_for_without_being_remembered_where_none_may_be() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    for number in range(1_000):
        cache.namespace(f"tenant:{number}").get("k")
        assert _testing.namespaces_held(cache) <= 2
    assert cache.stats().misses == 1_000 and list(cache.namespaces()) == []


def test_failing_coroutines_of_made_up_tenants_are_forgotten_too() -> None:
    cache, _ = new_cache(max_idle_namespaces=10)

    async def failing() -> Any:
        raise ConnectionError

    async def ask(number: int) -> None:
        with pytest.raises(ConnectionError):
            await cache.namespace(f"tenant:{number}").afetch("k", failing)

    async def ask_all() -> None:
        for first in range(0, 1_000, 50):
            await asyncio.gather(*(ask(number) for number in range(first, first + 50)))

    asyncio.run(ask_all())
    cache.namespace("one more").get("k")  # The end of a view forgets a few idle namespaces.
    for _ in range(50):
        cache.namespace("one more").get("k")
    assert _testing.namespaces_held(cache) <= 12
    assert cache.stats().load_failures == 1_000 and cache.stats().pending == 0
    cache._check()


def test_background_loads_that_fail_are_remembered_for_so_many_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES", 20)
    cache, _ = new_cache()
    for number in range(200):
        own = cache.namespace(f"tenant:{number}")
        own.set("k", 1, ttl=1, stale=True)
        backoff.note_failure(own, "k")
    assert len(backoff._failures[cache._store()]) == 20


@pytest.mark.parametrize("end", ["delete", "set", "clear", "evict", "expire", "invalidate_tag"])
def test_a_tag_goes_with_the_last_entry_that_bears_it(end: str) -> None:
    cache, clock = new_cache(max_entries=4)
    own = cache.namespace("tenant")
    for number in range(500):
        tag = f"tag:{number}"
        own.set("k", number, tags=(tag, "shared"), ttl=1)
        assert own._tagged(tag) == cache._tagged(tag) == 1
        match end:
            case "delete":
                own.delete("k")
            case "set":
                own.set("k", number)
            case "clear":
                own.clear()
            case "evict":
                for other in range(4):
                    own.set(other, other)
            case "expire":
                clock.advance(2)
                cache.sweep()
            case "invalidate_tag":
                own.invalidate_tag(tag)
        assert own._tagged(tag) == cache._tagged(tag) == 0
        assert own._tagged("shared") == 0
    cache._check()  # No tag is left that no entry bears.


def test_tags_of_no_entry_are_looked_up_without_being_remembered() -> None:
    cache, _ = new_cache()
    own = cache.namespace("tenant")
    own.set("k", 1, tags="crm")
    for number in range(1_000):
        assert own.invalidate_tags([f"made up:{number}", f"or:{number}"]) == 0
        assert own.invalidate_tags([f"made up:{number}", "crm"], match="all") == 0
    assert own._tagged("crm") == 1
    cache._check()


def test_loads_that_run_are_capped_by_tenant_and_those_that_run_are_joined() -> None:
    """Each of ten tenants asks for fifty keys, twice; the upstream sees three of each."""
    cache, _ = new_cache()
    tenants = [cache.namespace(f"tenant:{n}", max_pending=3) for n in range(10)]
    upstream_answers = asyncio.Event()
    running = 0

    async def load() -> str:
        nonlocal running
        running += 1
        await upstream_answers.wait()
        return "loaded"

    async def ask_all() -> list[Any]:
        asked = [
            asyncio.ensure_future(own.afetch(key, load))
            for own in tenants
            for key in [*range(50), *range(50)]
        ]
        while running < 30 or sum(one.done() for one in asked) < 10 * 2 * 47:
            await asyncio.sleep(0)
        assert running == cache.stats().pending == 30
        upstream_answers.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask_all())
    assert answers.count("loaded") == 10 * 2 * 3
    assert sum(isinstance(answer, TooManyLoadsError) for answer in answers) == 10 * 2 * 47
    assert [own.stats().coalesced for own in tenants] == [3] * 10
    assert cache.stats().pending == 0


def test_a_tenant_at_its_cap_of_loads_does_not_hold_up_its_neighbour() -> None:
    cache, _ = new_cache()
    greedy = cache.namespace("greedy", max_pending=1)
    neighbour = cache.namespace("neighbour")
    started, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        assert go_on.wait(60)
        return "slow"

    thread = threading.Thread(target=lambda: greedy.fetch("a", slow))
    thread.start()
    try:
        assert started.wait(60)
        with pytest.raises(TooManyLoadsError):
            greedy.fetch("b", lambda: "b")
        assert neighbour.fetch("b", lambda: "b") == "b"
        greedy.set("b", "stored")  # Only loads are capped.
        assert greedy.fetch("b", lambda: "b") == "stored"
    finally:
        go_on.set()
        thread.join()
    assert greedy.fetch("c", lambda: "c") == "c"


def test_the_longest_name_tag_and_path_are_accepted_and_one_more_is_not() -> None:
    cache, _ = new_cache()
    longest = "\N{GRINNING FACE}" * 256  # Characters are counted, not bytes.
    own = cache.namespace(longest)
    with pytest.raises(InvalidNamespaceError, match="256"):
        cache.namespace(longest + "x")
    own.set("k", 1, tags=longest)
    assert own.invalidate_tag(longest) == 1
    with pytest.raises(InvalidTagError, match="256"):
        own.set("k", 1, tags=longest + "x")
    deepest = cache.namespace(*["deeper"] * 64)
    for too_deep in (("deeper",), ("deeper", "still")):
        with pytest.raises(InvalidNamespaceError, match="64"):
            deepest.namespace(*too_deep)
    with pytest.raises(InvalidNamespaceError, match="64"):
        cache.namespace(*["elsewhere"] * 65)
    assert "elsewhere" not in set(cache.namespaces())  # A refused path creates no namespace.
    deepest.set("k" * 1_000_000, 1)
    assert deepest.get("k" * 1_000_000) == 1
    cache._check()


@pytest.mark.parametrize(
    ("namespaces", "keys"), [(1, COLLIDING), (100, 500)], ids=["in one namespace", "50,000 in all"]
)
def test_keys_of_one_hash_cost_their_own_tenant_alone(namespaces: int, keys: int) -> None:
    """Counted in buckets that a look-up examines, as a measure of its work."""
    # The smallest table that holds them, so that the victim's keys lie among them.
    cache, _ = new_cache(max_entries=namespaces * keys + 1_000)
    modulus = 2**61 - 1  # Integers are hashed modulo this, without a secret.
    chosen = [7 + number * modulus for number in range(keys)]
    assert len({hash(key) for key in chosen}) == 1
    attackers = [cache.namespace("attacker", str(number)) for number in range(namespaces)]
    for attacker in attackers:
        for key in chosen:
            attacker.set(key, "x")
    assert cache.stats().entries == namespaces * keys

    victim = cache.namespace("victim")
    absent = [f"contacts:{number}" for number in range(5_000)]
    looks = [_testing.probe_length(victim, key) for key in absent]
    assert statistics.mean(looks) < 12
    assert max(looks) < 250
    for key in absent[:1_000]:
        victim.set(key, key)
    assert [victim.get(key) for key in absent[:1_000]] == absent[:1_000]
    # The victim does not meet them with the same keys either.
    assert statistics.mean(_testing.probe_length(victim, key) for key in chosen) < 250
    assert victim.get_many(chosen[:100]) == {}
    assert all(attacker.get(chosen[-1]) == "x" for attacker in attackers)
    # They collide among themselves, so the attack is real.
    assert _testing.probe_length(attackers[0], chosen[0]) > keys / 7 / 2
    cache._check()
