"""The cost of a hit through fetch, afetch and cached functions, each beside its yardstick.

    make bench ARGS="bench/test_fetch.py -rP"

Each test is one claim. Its contestants take turns: a round is one pass of each over the same 1,000
string keys, in an order that is drawn anew. The result is the median of the rounds. So a machine
that slows down for a moment slows all of them. `-rP` shows the figures, and `--benchmark-json`
stores them as `extra_info`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import statistics
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from time import perf_counter
from typing import Any

import aiocache
import cachebox
import cachetools
import cashews
import moka_py
import pytest
import theine
from async_lru import alru_cache

from flowcache import create_cache
from flowcache.tenancy import tenant

KEYS = [f"contacts:{number}" for number in range(1_000)]
TTL = 300
ROUNDS = 400
ROUNDS_AMONG_RIVALS = 40  # some take a thousand times as long
WARM_UP = 5

Timed = Callable[[], Coroutine[Any, Any, float]]


def load() -> str:
    raise AssertionError("a hit calls no loader")


async def aload() -> str:
    raise AssertionError("a hit calls no loader")


def timed(call: Callable[[str], Any]) -> Timed:
    """A contestant: one pass of plain calls; seconds a call."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            call(key)
        return (perf_counter() - begun) / len(KEYS)

    return once


def timed_with(call: Callable[[str, Any], Any], loader: Any) -> Timed:
    """A contestant that is given a loader."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            call(key, loader)
        return (perf_counter() - begun) / len(KEYS)

    return once


def awaited(call: Callable[[str], Any]) -> Timed:
    """A contestant: one pass of awaited calls; seconds a call."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            await call(key)
        return (perf_counter() - begun) / len(KEYS)

    return once


def awaited_with(call: Callable[[str, Any], Any], loader: Any) -> Timed:
    """A contestant that is given a loader, and awaited."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            await call(key, loader)
        return (perf_counter() - begun) / len(KEYS)

    return once


def timed_for(call: Callable[[str, str], Any]) -> Timed:
    """A contestant whose calls name their tenant."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            call("acme", key)
        return (perf_counter() - begun) / len(KEYS)

    return once


def timed_by_name(call: Callable[..., Any]) -> Timed:
    """A contestant that is given its argument by keyword."""

    async def once() -> float:
        begun = perf_counter()
        for key in KEYS:
            call(key=key)
        return (perf_counter() - begun) / len(KEYS)

    return once


def in_hundreds(keys: list[str]) -> list[list[str]]:
    return [keys[at : at + 100] for at in range(0, len(keys), 100)]


def timed_in_hundreds(call: Callable[[list[str]], Any], keys: list[str]) -> Timed:
    """A contestant that takes a hundred keys a call; seconds a key."""
    batches = in_hundreds(keys)

    async def once() -> float:
        begun = perf_counter()
        for batch in batches:
            call(batch)
        return (perf_counter() - begun) / len(keys)

    return once


def awaited_in_hundreds(call: Callable[[list[str]], Any], keys: list[str]) -> Timed:
    """The same, awaited."""
    batches = in_hundreds(keys)

    async def once() -> float:
        begun = perf_counter()
        for batch in batches:
            await call(batch)
        return (perf_counter() - begun) / len(keys)

    return once


def fresh_keys() -> Callable[[], list[str]]:
    """Keys of a pass that no pass before had: each is a miss."""
    passes = itertools.count()
    return lambda: [
        f"contacts:{number}:{nth}" for nth in (next(passes),) for number in range(1_000)
    ]


def missed(call: Callable[[str], Any]) -> Timed:
    """A contestant: one pass of plain calls for keys that none asked for; seconds a call."""
    keys_of_pass = fresh_keys()

    async def once() -> float:
        keys = keys_of_pass()
        begun = perf_counter()
        for key in keys:
            call(key)
        return (perf_counter() - begun) / len(keys)

    return once


def awaited_missed(call: Callable[[str], Any]) -> Timed:
    """A contestant: one pass of awaited calls for keys that none asked for; seconds a call."""
    keys_of_pass = fresh_keys()

    async def once() -> float:
        keys = keys_of_pass()
        begun = perf_counter()
        for key in keys:
            await call(key)
        return (perf_counter() - begun) / len(keys)

    return once


class Contest:
    """Contestants that take turns, and their medians."""

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark
        self.loop = asyncio.new_event_loop()
        self.contestants: dict[str, Timed] = {}

    def enter(self, **contestants: Timed) -> None:
        self.contestants.update(contestants)

    def run(self, call: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        return self.loop.run_until_complete(call(*arguments))

    def hold(self, rounds: int) -> dict[str, float]:
        """Nanoseconds a call of each."""
        times: dict[str, list[float]] = {name: [] for name in self.contestants}
        turns = list(self.contestants.items())

        async def one_round() -> None:
            random.shuffle(turns)
            for name, once in turns:
                times[name].append(await once())

        warm_up = WARM_UP
        if self.benchmark.disabled:
            rounds, warm_up = 1, 0
        self.benchmark.pedantic(
            self.run, (one_round,), rounds=rounds, iterations=1, warmup_rounds=warm_up
        )
        medians = {name: statistics.median(taken[warm_up:]) * 1e9 for name, taken in times.items()}
        self.benchmark.extra_info["nanoseconds"] = medians
        return medians

    def claim(self, ours: str, most: float, of: str, rounds: int = ROUNDS) -> None:
        """Print each time, and compare ours with the claim: at most `most` times `of`."""
        medians = self.hold(rounds)
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            print(f"{name:<22}{median:>9.1f} ns  {median / medians[of]:>6.2f} x {of}")
        ratio = medians[ours] / medians[of]
        self.benchmark.extra_info.update(ours=ours, ratio=ratio, of=of, most=most)


@pytest.fixture
def contest(benchmark: Any) -> Iterator[Contest]:
    contest = Contest(benchmark)
    yield contest
    contest.loop.close()


@pytest.fixture
def ns() -> Any:
    ns = create_cache(default_ttl=TTL).namespace("tenant:acme")
    for key in KEYS:
        ns.set(key, key)
    return ns


async def empty(key: str) -> str:
    return key


async def upstream(key: str) -> str:
    return key


async def ask_for_all(call: Callable[[str], Any]) -> None:
    for key in KEYS:
        await call(key)


def test_fetch_hit_beside_get_hit(contest: Contest, ns: Any) -> None:
    contest.enter(get=timed(ns.get), fetch=timed_with(ns.fetch, load), dict_get=timed(dict(ns).get))
    contest.claim("fetch", 1.3, "get")


def test_refresh_ahead_hit_beside_fetch(contest: Contest, ns: Any) -> None:
    def ahead(key: str) -> str:
        return ns.fetch(key, load, refresh_ahead=0.5)

    def plain(key: str) -> str:
        return ns.fetch(key, load)

    contest.enter(fetch=timed(plain), refresh_ahead=timed(ahead))
    contest.claim("refresh_ahead", 2.0, "fetch")


def test_afetch_hit_beside_an_empty_coroutine(contest: Contest, ns: Any) -> None:
    contest.enter(empty_coroutine=awaited(empty), afetch=awaited_with(ns.afetch, aload))
    contest.claim("afetch", 0.9, "empty_coroutine")


def test_cached_async_hit_beside_an_empty_coroutine(contest: Contest, ns: Any) -> None:
    cached = ns.cached()(upstream)
    contest.enter(empty_coroutine=awaited(empty), cached=awaited(cached))
    contest.run(ask_for_all, cached)
    contest.claim("cached", 1.5, "empty_coroutine")


def test_cached_sync_hit_beside_lru_cache(contest: Contest, ns: Any) -> None:
    lru_cache = functools.lru_cache(maxsize=2_000)(str.upper)
    cached = ns.wrap(str.upper)
    for key in KEYS:
        lru_cache(key), cached(key)
    contest.enter(lru_cache=timed(lru_cache), cached=timed(cached))
    contest.claim("cached", 1.5, "lru_cache")


def test_cached_method_hit_beside_lru_cache(contest: Contest, ns: Any) -> None:
    class Client:
        @functools.lru_cache(maxsize=2_000)  # noqa: B019
        def lru_cached(self, key: str) -> str:
            return key

        @ns.cached()
        def cached(self, key: str) -> str:
            return key

    client = Client()
    for key in KEYS:
        client.lru_cached(key), client.cached(key)
    contest.enter(
        lru_cache=timed(lambda key: client.lru_cached(key)),  # noqa: PLW0108 - as it is called
        cached=timed(lambda key: client.cached(key)),  # noqa: PLW0108
    )
    contest.claim("cached", 1.5, "lru_cache")


def test_cached_async_hit_beside_others(contest: Contest, ns: Any) -> None:
    """The decorators of others for async functions, with a TTL where they take one."""
    in_memory = cashews.Cache()
    in_memory.setup("mem://?size=10000&check_interval=0")
    rivals = {
        "flowcache": ns.cached()(upstream),
        "async_lru": alru_cache(maxsize=2_000, ttl=TTL)(upstream),
        "cachebox": cachebox.cached(cachebox.TTLCache(2_000, TTL))(upstream),
        "cashews": in_memory(ttl=TTL)(upstream),
        "aiocache": aiocache.cached(ttl=TTL)(upstream),
        "moka_py": moka_py.cached(maxsize=2_000, ttl=TTL)(upstream),
    }
    contest.enter(empty_coroutine=awaited(empty))
    for name, cached in rivals.items():
        contest.run(ask_for_all, cached)
        contest.enter(**{name: awaited(cached)})
    contest.claim("flowcache", 1.5, "empty_coroutine", ROUNDS_AMONG_RIVALS)


def test_cached_sync_hit_beside_others(contest: Contest, ns: Any) -> None:
    """The decorators of others for plain functions, with a TTL where they take one."""
    rivals = {
        "flowcache": ns.wrap(str.upper),
        "lru_cache": functools.lru_cache(maxsize=2_000)(str.upper),
        "cachetools": cachetools.cached(cachetools.TTLCache(2_000, ttl=TTL))(str.upper),
        "cachebox": cachebox.cached(cachebox.TTLCache(2_000, TTL))(str.upper),
        "moka_py": moka_py.cached(maxsize=2_000, ttl=TTL)(str.upper),
        "theine": theine.Memoize(2_000, timedelta(seconds=TTL))(str.upper),
    }
    for name, cached in rivals.items():
        for key in KEYS:
            cached(key)
        contest.enter(**{name: timed(cached)})
    contest.claim("flowcache", 1.5, "lru_cache", ROUNDS_AMONG_RIVALS)


# The current tenant, and the tenant as an argument


def test_current_tenant_get_beside_a_kept_namespace(contest: Contest) -> None:
    crm = create_cache(default_ttl=TTL)
    kept, mine = crm.namespace("tenant:acme"), crm.for_current_tenant()
    rival: Any = cachebox.TTLCache(2_000, TTL)
    for key in KEYS:
        kept.set(key, key)
        rival.insert(("acme", key), key)
    contest.enter(
        get=timed(kept.get),
        current=timed(mine.get),
        cachebox_of_pairs=timed_for(lambda who, key: rival.get((who, key))),
    )
    with tenant("acme"):
        contest.claim("current", 4.0, "get")


def test_current_tenant_fetch_beside_a_kept_namespace(contest: Contest) -> None:
    crm = create_cache(default_ttl=TTL)
    kept, mine = crm.namespace("tenant:acme"), crm.for_current_tenant()
    for key in KEYS:
        kept.set(key, key)
    contest.enter(get=timed(kept.get), current=timed_with(mine.fetch, load))
    with tenant("acme"):
        contest.claim("current", 4.0, "get")


def test_current_tenant_cached_hit_beside_a_kept_namespace(contest: Contest) -> None:
    crm = create_cache(default_ttl=TTL)
    fixed = crm.namespace("tenant:acme").wrap(str.upper)
    current = crm.for_current_tenant().wrap(str.lower)
    contest.enter(fixed=timed(fixed), current=timed(current))
    with tenant("acme"):
        for key in KEYS:
            fixed(key), current(key)
        contest.claim("current", 5.0, "fixed")


def test_tenant_argument_hit_beside_a_kept_namespace(contest: Contest) -> None:
    crm = create_cache(default_ttl=TTL)

    def contacts(who: str, key: str) -> str:
        return key

    fixed = crm.namespace("tenant:acme").wrap(contacts)
    argument = crm.wrap(contacts, tenant="who")
    rivals = {
        "lru_cache": functools.lru_cache(maxsize=2_000)(contacts),
        "cachetools": cachetools.cached(cachetools.TTLCache(2_000, ttl=TTL))(contacts),
        "cachebox": cachebox.cached(cachebox.TTLCache(2_000, TTL))(contacts),
    }
    contest.enter(fixed=timed_for(fixed), argument=timed_for(argument))
    contest.enter(**{name: timed_for(rival) for name, rival in rivals.items()})
    for key in KEYS:
        for call in (fixed, argument, *rivals.values()):
            call("acme", key)
    contest.claim("argument", 6.0, "fixed")


# Keywords


def test_cached_hit_with_a_keyword_beside_lru_cache(contest: Contest, ns: Any) -> None:
    def contacts(key: str) -> str:
        return key

    rivals = {
        "flowcache": ns.cached()(contacts),
        "lru_cache": functools.lru_cache(maxsize=2_000)(contacts),
        "cachetools": cachetools.cached(cachetools.TTLCache(2_000, ttl=TTL))(contacts),
        "cachebox": cachebox.cached(cachebox.TTLCache(2_000, TTL))(contacts),
    }
    for name, cached in rivals.items():
        for key in KEYS:
            cached(key=key)
        contest.enter(**{name: timed_by_name(cached)})
    contest.claim("flowcache", 2.0, "lru_cache")


# Batches


@pytest.mark.parametrize(("entries", "most"), [(1_000, 0.65), (100_000, 0.5)])
def test_get_many_beside_a_loop_of_get(contest: Contest, entries: int, most: float) -> None:
    ns = create_cache(default_ttl=TTL, max_entries=None).namespace("tenant:acme")
    ns.set_many({f"contacts:{number}": number for number in range(entries)})
    chosen = random.Random(7).sample(range(entries), min(entries, 20_000))
    keys = [f"contacts:{number}" for number in chosen]
    contest.enter(
        loop=timed_in_hundreds(lambda batch: {key: ns.get(key) for key in batch}, keys),
        get_many=timed_in_hundreds(ns.get_many, keys),
    )
    contest.claim("get_many", most, "loop")


def test_fetch_many_of_fresh_keys_beside_get_many(contest: Contest, ns: Any) -> None:
    contest.enter(
        get_many=timed_in_hundreds(ns.get_many, KEYS),
        fetch_many=timed_in_hundreds(lambda batch: ns.fetch_many(batch, load), KEYS),
    )
    contest.claim("fetch_many", 1.3, "get_many")


def test_afetch_many_of_fresh_keys_beside_get_many(contest: Contest, ns: Any) -> None:
    contest.enter(
        get_many=timed_in_hundreds(ns.get_many, KEYS),
        afetch_many=awaited_in_hundreds(lambda batch: ns.afetch_many(batch, aload), KEYS),
    )
    contest.claim("afetch_many", 2.0, "get_many")


@pytest.mark.parametrize("entries", [1_000, 100_000])
def test_set_many_beside_a_loop_of_set(contest: Contest, entries: int) -> None:
    ns = create_cache(default_ttl=TTL, max_entries=None).namespace("tenant:acme")
    ns.set_many({f"contacts:{number}": number for number in range(entries)})
    chosen = random.Random(7).sample(range(entries), min(entries, 20_000))
    keys = [f"contacts:{number}" for number in chosen]

    batches = {batch[0]: dict.fromkeys(batch, 1) for batch in in_hundreds(keys)}

    def loop(batch: list[str]) -> None:
        for key in batch:
            ns.set(key, 1)

    contest.enter(
        loop=timed_in_hundreds(loop, keys),
        set_many=timed_in_hundreds(lambda batch: ns.set_many(batches[batch[0]]), keys),
    )
    contest.claim("set_many", 1.0, "loop")


@pytest.mark.parametrize("ours", ["fetch", "cached"])
def test_sync_miss_beside_others(contest: Contest, ours: str) -> None:
    """A load of a trivial function, stored in a cache that is full; all but one with a TTL."""
    views = [create_cache(max_entries=1_000, default_ttl=TTL).namespace("acme") for _ in range(2)]
    moka = moka_py.Moka(1_000, ttl=TTL)
    contest.enter(
        fetch=missed(lambda key: views[0].fetch(key, str)),
        cached=missed(views[1].wrap(str.upper)),
        cachebox=missed(cachebox.cached(cachebox.TTLCache(1_000, TTL))(str.upper)),
        cachetools=missed(cachetools.cached(cachetools.TTLCache(1_000, ttl=TTL))(str.upper)),
        moka_py=missed(lambda key: moka.get_with(key, str)),
        lru_cache=missed(functools.lru_cache(maxsize=1_000)(str.upper)),
    )
    contest.claim(ours, 1.0, "cachebox", ROUNDS_AMONG_RIVALS)


def test_async_miss_beside_async_lru(contest: Contest) -> None:
    views = [create_cache(max_entries=1_000, default_ttl=TTL).namespace("acme") for _ in range(2)]

    async def given() -> str:
        return "given"

    contest.enter(
        afetch=awaited_missed(lambda key: views[0].afetch(key, given)),
        cached=awaited_missed(views[1].wrap(upstream)),
        async_lru=awaited_missed(alru_cache(maxsize=1_000, ttl=TTL)(upstream)),
        async_lru_without_ttl=awaited_missed(alru_cache(maxsize=1_000)(upstream)),
    )
    contest.claim("afetch", 0.8, "async_lru", ROUNDS_AMONG_RIVALS)
