"""Tenants that share by utility: what each of them gains, keeps, loses and is told."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache import Stats
from flowcache._core import _testing
from harness.sharing_support import (
    Requests,
    accounts,
    ask,
    growing,
    lending,
    loop,
    on_and_off,
    popular,
    scan,
    shared,
    uniform,
)
from harness.support import new_cache

# ------------------------------------------------------------------------------------ what it gains


def test_room_goes_to_the_tenant_in_which_it_saves_misses() -> None:
    rates = {}
    for sharing in ("fair", "utility"):
        cache, _ = new_cache(max_entries=400, sharing=sharing)
        looping, scanning = cache.namespace("loop"), cache.namespace("scan")
        for key, other in zip(loop(240), range(20_000), strict=False):
            ask(looping, key)
            ask(scanning, other)
        cache._check()
        rates[sharing] = looping.stats().hit_rate
    assert rates["fair"] == 0
    assert rates["utility"] > 0.9
    stats = looping.stats()
    assert stats.fair_entries == 200 and stats.lent == 0
    assert 35 <= stats.borrowed == stats.entries - 200
    other = scanning.stats()
    assert other.lent == 200 - other.entries and other.borrowed == 0 and other.lost_hits == 0


def test_a_tenant_keeps_the_part_that_it_is_guaranteed() -> None:
    kept = {}
    for guaranteed in (0.0, 0.25, 0.5, 0.9, 1.0):
        cache = shared(400)
        looping, idle = cache.namespace("loop"), cache.namespace("idle", guaranteed=guaranteed)
        for number in range(1_200):
            ask(idle, number)
            ask(looping, number)
        for keys in (240, 290, 350, 390):  # Each is in sight from the one before.
            for number in range(20 * keys):
                ask(looping, number % keys)
        cache._check()
        kept[guaranteed] = idle.stats().entries
    assert list(kept.values()) == sorted(kept.values()) and kept[1.0] == 200
    for guaranteed, entries in kept.items():
        assert entries >= int(200 * guaranteed)
    assert kept[0.0] < 20 and kept[0.5] < 120


def test_a_share_counts() -> None:
    cache = shared(300)
    cache.namespace("large", share=2.0)
    for number in range(3_000):
        ask(cache.namespace("large"), number)
        ask(cache.namespace("small"), number)
    cache._check()
    assert (accounts(cache)["large"][1], accounts(cache)["small"][1]) == (200, 100)
    cache.namespace("large", share=1.0)
    cache._check()
    assert (accounts(cache)["large"][1], accounts(cache)["small"][1]) == (150, 150)
    assert cache.namespace("large").stats().fair_entries == 150
    assert cache.stats().fair_entries == 300


def test_room_that_is_not_wanted_is_shared_fairly() -> None:
    cache = shared(300)
    cache.namespace("content").update(dict.fromkeys(range(20), 1))
    for number in range(3_000):
        ask(cache.namespace("a"), number)
        ask(cache.namespace("b"), number)
        ask(cache.namespace("content"), number % 20)
    told = accounts(cache)
    assert told["content"][0] == 20 and not told["content"][5]
    assert told["a"][1] == told["b"][1] == 140
    assert cache.namespace("content").stats().lent == 0


def test_the_namespaces_own_entries_count_as_one_more_tenant() -> None:
    cache = shared(300)
    for number in range(3_000):
        ask(cache, number)
        ask(cache.namespace("a"), number)
        ask(cache.namespace("b"), number)
    cache._check()
    assert len(cache) == pytest.approx(100, abs=2)
    assert accounts(cache)["a"][1] == 100


# ------------------------------------------------------------------------------------- what is kept


def victim_of(before: dict[str, Any], after: dict[str, Any], storing: str) -> str | None:
    """The tenant that lost an entry, if one did."""
    lost = [name for name in before if after[name][0] < before[name][0] + (name == storing)]
    assert len(lost) <= 1
    return lost[0] if lost else None


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    shares=st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0]), min_size=2, max_size=6),
    reserved=st.sampled_from([0, 0, 10]),
)
def test_at_or_below_its_floor_a_tenant_loses_nothing_while_another_holds_more(
    seed: int, shares: list[float], reserved: int
) -> None:
    draw = random.Random(seed)
    bound = draw.choice([120, 300])
    cache = shared(bound)
    tenants = {}
    for number, share in enumerate(shares):
        name = f"t{number}"
        tenants[name] = cache.namespace(
            name,
            share=share,
            guaranteed=draw.choice([0.0, 0.5, 1.0]),
            reserved=reserved * (not number),
        )
    requests = {
        name: draw.choice([loop(draw.randrange(20, bound)), scan(), popular(draw, bound)])
        for name in tenants
    }
    for _ in range(1_500):
        name = draw.choice(list(tenants))
        key = next(requests[name])
        if tenants[name].get(key) is not None:
            continue
        before = accounts(cache)
        tenants[name].set(key, 1)
        victim = victim_of(before, accounts(cache), name)
        above = {
            each
            for each, (entries, _, floor, *_) in before.items()
            if entries + (each == name) > floor
        }
        if victim is not None and victim not in above:
            assert above <= {name}  # Its reservation does not protect the one that stores.
    cache._check()


class Shadow:
    """An exact LRU of a fair share, and the hits of it that the cache misses."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: OrderedDict[Any, None] = OrderedDict()
        self.misses = self.lost = 0

    def ask(self, key: Any, hit: bool) -> None:
        if key in self.held:
            self.held.move_to_end(key)
            self.lost += not hit
            return
        self.misses += 1
        if len(self.held) == self.room:
            self.held.popitem(last=False)
        self.held[key] = None


def shifting(draw: random.Random, room: int) -> Requests:
    """One pattern after the other, so that what was lent is wanted back."""
    number = 0
    while True:
        number += 1
        keys = draw.choice([room // 3, room * 9 // 10, room, room * 5 // 4, room * 2, room * 5])
        pattern = draw.choice([loop(keys), popular(draw, keys), uniform(draw, keys), scan()])
        for key in itertools.islice(pattern, draw.choice([room, room * 5, room * 20])):
            yield number, key


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_loss", [0.02, 0.05, 0.2])
def test_lost_hits_are_bounded_at_every_moment(seed: int, max_loss: float) -> None:
    """Beside those that are counted there are a few of ghosts that look deeper than they lie."""
    draw = random.Random(f"{seed}-{max_loss}")
    count, room = 4, 60
    cache = shared(count * room, max_loss=max_loss)
    tenants = [cache.namespace(str(number)) for number in range(count)]
    requests = [shifting(draw, room) for _ in tenants]
    shadows = [Shadow(room) for _ in tenants]
    for tenant, pattern in zip(tenants, requests, strict=True):  # All of them want more.
        for _ in range(3 * room):
            tenant.set(next(pattern), 1)
    for number in range(40_000):
        which = draw.randrange(count)
        key = next(requests[which])
        shadow = shadows[which]
        shadow.ask(key, ask(tenants[which], key))
        assert shadow.lost <= 1.5 * max_loss * shadow.misses + 0.5 * room
        if number % 1_000 == 0:
            cache._check()


def test_misses_before_the_first_eviction_earn_credit() -> None:
    """A tenant that fills a cache by misses may lend from the first eviction on."""
    cache = shared(200)
    scanning, other = cache.namespace("scan"), cache.namespace("other")
    for number in range(160):
        ask(scanning, number)
    assert accounts(cache)["scan"][4] == pytest.approx(160 * 0.05)
    scanning.set("no miss", 1)
    assert accounts(cache)["scan"][4] == pytest.approx(160 * 0.05)
    for number in range(2_000):  # There is room all the time.
        ask(other, number)
        other.delete(number)
    assert accounts(cache)["other"][4] == pytest.approx(2_000 * 0.05)
    cache._check()


def test_credit_of_before_the_first_eviction_is_bounded_as_any_other() -> None:
    cache = shared(200)
    looping, scanning = cache.namespace("loop"), cache.namespace("scan")
    for number in range(4_000):
        ask(looping, -1 - number)
        looping.delete(-1 - number)
    for number, key in zip(range(12_000), loop(96), strict=False):
        evicted = cache.stats().evictions
        if not ask(looping, key) and evicted:
            _, fair, _, _, credit, _ = accounts(cache)["loop"]
            assert credit <= max(4, fair / 4) + 1  # The fair share follows the store.
        ask(scanning, number)
        ask(scanning, -1 - number)
    stats = looping.stats()
    assert stats.lost_hits <= 0.05 * stats.misses + 0.5 * stats.fair_entries


# ------------------------------------------------------------------------------------- attackers

ATTACKERS: dict[str, Callable[[random.Random, int], Iterator[Any]]] = {
    "a loop of three shares": lambda draw, share: loop(3 * share),
    "uniform over ten shares": lambda draw, share: uniform(draw, 10 * share),
    "a loop that grows": lambda draw, share: growing(share // 2),
    "a scan": lambda draw, share: scan(),
    "on and off": lambda draw, share: on_and_off(share),
}
ROUNDS = 25_000


def beside(attacker: str | None, sharing: Any) -> tuple[list[Stats], int]:
    """The stats of five honest tenants beside one that makes two requests for each of theirs, and
    all hits."""
    bound = 900
    cache, _ = new_cache(max_entries=bound, sharing=sharing)
    _testing.salt(cache, 1)
    draw = random.Random(17)
    honest = [cache.namespace(f"honest {number}") for number in range(5)]
    patterns = [
        popular(draw, 100, 0.6),
        popular(draw, 1_000, 0.9),
        popular(draw, 5_000, 1.1),
        uniform(draw, 200),
        loop(180),
    ]
    hostile = cache.namespace("hostile")
    attack = None if attacker is None else ATTACKERS[attacker](draw, bound // 6)
    for _ in range(ROUNDS):
        which = draw.randrange(5)
        ask(honest[which], next(patterns[which]))
        for key in itertools.islice(attack or (), 2):
            if key is not None:
                ask(hostile, key)
    cache._check()
    return [tenant.stats() for tenant in honest], cache.stats().hits


@pytest.mark.parametrize("attacker", [None, *ATTACKERS])
def test_an_attacker_costs_no_tenant_more_than_it_may_lose(attacker: str | None) -> None:
    (fair, hits), (utility, utility_hits) = beside(attacker, "fair"), beside(attacker, "utility")
    for before, after in zip(fair, utility, strict=True):
        assert after.misses <= 1.05 * before.misses + 0.5 * after.fair_entries
        assert after.lost_hits <= 0.05 * after.misses + 0.5 * after.fair_entries
    assert utility_hits >= hits


# --------------------------------------------------------------------------------- what lies beyond


def test_what_was_cleared_is_no_lost_hit() -> None:
    cache = shared(200)
    a, b = cache.namespace("a"), cache.namespace("b")
    for number in range(4_000):
        ask(a, number % 140)
        ask(b, number)
    for _ in range(3):
        ask(b, 10**6)
        for key in range(20_000, 20_140):
            ask(b, key)
    b.clear()
    lost = b.stats().lost_hits
    for key in range(20_000, 20_140):
        ask(b, key)
    assert b.stats().lost_hits == lost
    cache._check()


def test_what_expired_meanwhile_is_no_lost_hit() -> None:
    lost = []
    for ttl in (None, 2.0):
        cache, clock = new_cache(max_entries=200, sharing="utility", default_ttl=ttl)
        _testing.salt(cache, 1)
        idle, busy = cache.namespace("idle"), cache.namespace("busy")
        for number in range(2_000):
            ask(idle, number)
            ask(busy, number % 120)
        before = idle.stats().lost_hits
        clock.advance(5)
        for key in range(1_900, 2_000):
            ask(idle, key)
        cache._check()
        lost.append(idle.stats().lost_hits - before)
    assert lost[0] > 0 == lost[1]


def test_tenants_of_two_names_share_the_room_of_their_parent() -> None:
    cache = shared(10_000, tenant_depth=2)
    parent = cache.namespace("eu", max_entries=400)
    looping, scanning = parent.namespace("loop", "below"), parent.namespace("scan")
    for number in range(20_000):
        ask(looping, number % 240)
        ask(scanning, number)
    cache._check()
    assert looping.stats().hit_rate > 0.9
    stats = parent.namespace("loop").stats()
    assert stats.borrowed > 35 and stats == looping.stats().__class__(**vars_of(stats))
    assert looping.stats().borrowed == 0  # It is the tenant that borrows.
    assert parent.stats().fair_entries == 400 == cache.stats().fair_entries
    assert _testing.ledger(cache) is None and _testing.ledger(parent) is not None


def vars_of(stats: Stats) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in Stats.__slots__}


def test_every_look_up_counts() -> None:
    for how in ("get", "get_many", "fetch", "cached"):
        cache = shared(200)
        looping, scanning = cache.namespace("loop"), cache.namespace("scan")
        keyed = looping.cached()(lambda key: 1)
        for number in range(12_000):
            ask(scanning, number)
            key = number % 120
            match how:
                case "get":
                    ask(looping, key)
                case "get_many":
                    if not looping.get_many([key]):
                        looping.set(key, 1)
                case "fetch":
                    looping.fetch(key, lambda: 1)
                case _:
                    keyed(key)
        assert looping.stats().hit_rate > 0.5, how


def test_the_figures_of_tenants_add_up() -> None:
    cache = lending()
    total = cache.stats()
    each = [cache.namespace(name).stats() for name in "abc"]
    for field in ("fair_entries", "lent", "borrowed", "lost_hits", "entries"):
        assert getattr(total, field) == sum(getattr(one, field) for one in each)
    assert total.borrowed > 0 and total.lent > 0
    (first, *_) = cache.children(top=1, by="borrowed").top
    assert first.stats == max(each, key=lambda one: one.borrowed)
    lost = cache.namespace("a").stats().lost_hits
    cache.namespace("a").reset_stats()
    assert cache.namespace("a").stats().lost_hits == 0
    assert cache.stats().lost_hits == total.lost_hits >= lost


def test_advice_begins_with_the_first_eviction() -> None:
    cache = shared(100)
    for number in range(6_000):
        ask(cache.namespace("a"), number % 140)
    advice = cache.advice()
    assert advice.hit_rate == 0 and advice.at_150 is not None and advice.at_150 > 0.9


def test_without_pressure_there_is_nothing_to_share() -> None:
    cache = shared(100)
    cache.namespace("a").update(dict.fromkeys(range(60), 1))
    stats = cache.stats()
    assert (stats.fair_entries, stats.lent, stats.borrowed, stats.lost_hits) == (0, 0, 0, 0)
    cache._check()


def test_a_bound_that_is_lifted_and_lowered() -> None:
    cache = shared(200)
    for number in range(3_000):
        ask(cache.namespace("a"), number % 150)
        ask(cache.namespace("b"), number)
    cache.configure(max_entries=None)
    cache._check()
    for number in range(3_000):
        ask(cache.namespace("b"), number)
    assert cache.stats().fair_entries == 0
    cache.configure(max_entries=80)
    cache._check()
    assert cache.stats().entries == 80
    for number in range(3_000):
        ask(cache.namespace("a"), number % 50)
        ask(cache.namespace("b"), number)
    cache._check()
    assert cache.stats().fair_entries == 80


def test_shares_of_any_size_keep_their_sums() -> None:
    cache = shared(100)
    cache.namespace("vast", share=1e9)
    cache.namespace("tiny", share=1e-9)
    for number in range(600):
        ask(cache.namespace("vast"), number)
        ask(cache.namespace("tiny"), number)
        cache._check()
    cache.namespace("vast").clear()
    for number in range(2_000):
        ask(cache.namespace("tiny"), number)
        ask(cache.namespace("other"), number)
        cache._check()
