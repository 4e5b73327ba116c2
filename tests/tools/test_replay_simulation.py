"""The replay against a real cache: the calls of an application, on the time of the log."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from flowcache import Cache, Limits
from flowcache.replay.simulate import Settings, replay
from flowcache.replay.trace import ADD, DELETE, READ, REPLACE, SET
from harness.replay_support import keys_only, skewed_keys, trace_of


@pytest.mark.parametrize("capacity", [1, 7, 50, 299])
def test_keys_alone_hit_as_in_an_ordered_dict_lru(capacity: int) -> None:
    keys = skewed_keys(1)
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys:
        if key in held:
            hits += 1
            held.move_to_end(key)
        else:
            held[key] = None
            if len(held) > capacity:
                held.popitem(last=False)

    outcome = replay(keys_only(keys), Settings(max_entries=capacity))

    assert outcome.total.hits == hits
    assert outcome.total.misses == len(keys) - hits
    assert outcome.total.entries == outcome.peak_entries == min(capacity, len(set(keys)))
    assert outcome.total.evictions == outcome.total.sets - outcome.total.entries


def test_ttls_run_on_the_time_of_the_log() -> None:
    trace = trace_of(
        ("a", SET, 100.0, 10.0), ("a", READ, 109.9), ("a", READ, 110.1), ("a", READ, 119.0)
    )
    total = replay(trace, Settings()).total
    # The read at 110.1 misses and fills again, with the TTL that the key was last stored with.
    assert (total.hits, total.misses, total.sets, total.expirations) == (2, 1, 2, 1)


def test_the_default_ttl_is_for_requests_without_one() -> None:
    trace = trace_of(("a", SET, 0.0), ("b", SET, 0.0, 50.0), ("a", READ, 20.0), ("b", READ, 20.0))
    total = replay(trace, Settings(default_ttl=10.0)).total
    assert (total.hits, total.misses) == (1, 1)


def test_writes_do_what_memcached_does() -> None:
    trace = trace_of(
        ("a", REPLACE, 0.0),  # not there: stores nothing
        ("a", READ, 0.0),  # miss; --no-fill stores nothing
        ("a", ADD, 0.0, 5.0),
        ("a", ADD, 1.0, 50.0),  # there already: its TTL stays 5
        ("a", READ, 2.0),  # hit
        ("a", READ, 7.0),  # miss: expired
        ("a", SET, 8.0),
        ("a", REPLACE, 9.0, 5.0),
        ("a", DELETE, 10.0),
        ("a", READ, 11.0),  # miss
    )
    total = replay(trace, Settings(fill=False)).total
    assert (total.hits, total.misses, total.sets) == (1, 3, 3)
    assert (total.expirations, total.invalidations, total.entries) == (1, 1, 0)


def test_tenants_do_not_share_keys_and_get_their_own_limits() -> None:
    requests = [(key, READ, 0.0, 0.0, 0, tenant) for tenant in ("a", "b") for key in range(40)] * 2
    outcome = replay(
        trace_of(*requests, tenants=True),
        Settings(child_limits=Limits(max_entries=10), tenants={"b": Limits(max_entries=40)}),
    )
    assert outcome.tenants["a"].entries == 10
    assert outcome.tenants["a"].hits == 0
    assert outcome.tenants["b"].entries == 40
    assert outcome.tenants["b"].hits == 40
    assert outcome.total.misses == 80 + 40


def test_weights_are_sizes_and_what_is_too_heavy_is_counted() -> None:
    trace = trace_of(
        ("a", SET, 0.0, 0.0, 60),
        ("b", SET, 0.0, 0.0, 60),
        ("c", SET, 0.0, 0.0, 200),
        sizes=True,
    )
    outcome = replay(trace, Settings(max_weight=100))
    assert outcome.refused == 1
    assert outcome.total.weight == outcome.peak_weight == 60
    assert outcome.total.evictions == 1


def test_every_moment_can_be_looked_at_and_counts_add_up() -> None:
    draw = random.Random(5)
    operations = [READ] * 6 + [SET, ADD, REPLACE, DELETE]
    trace = trace_of(
        *(
            (
                draw.randrange(60),
                draw.choice(operations),
                at / 10,
                draw.choice([0, 3, 20]),
                1,
                name,
            )
            for at in range(1_500)
            for name in [draw.choice("abcd")]
        ),
        tenants=True,
        sizes=True,
    )
    seen = []

    def observe(done: int, cache: Cache[int]) -> None:
        cache._check()
        seen.append(done)

    outcome = replay(
        trace, Settings(max_entries=80, max_weight=70), observe=observe, observe_every=1
    )
    assert seen == list(range(1_501))
    for name, total in outcome.total.as_dict().items():
        if name not in ("hit_rate", "load_seconds"):
            parts = sum(stats.as_dict()[name] for stats in outcome.tenants.values())
            assert parts == total, name
