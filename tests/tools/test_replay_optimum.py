"""Belady's optimum: no choice of victims hits more often."""

from __future__ import annotations

import random

import pytest

from flowcache.replay.optimum import next_reads, optimum_hits
from flowcache.replay.simulate import Settings, replay
from flowcache.replay.trace import ADD, DELETE, READ, REPLACE, SET
from harness.replay_support import keys_only, skewed_keys, trace_of

pytestmark = pytest.mark.once


def best_possible(keys: list[int], capacity: int) -> int:
    """The most hits of any choice of victims, found by a trial of all."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for key in keys:
        after: dict[frozenset[int], int] = {}
        for held, before in states.items():
            hits = before + (key in held)
            if key in held:
                choices = [held]
            elif len(held) < capacity:
                choices = [held | {key}]
            else:
                choices = [(held - {victim}) | {key} for victim in held]
            for choice in choices:
                after[choice] = max(after.get(choice, 0), hits)
        states = after
    return max(states.values())


@pytest.mark.parametrize("seed", range(30))
def test_no_choice_of_victims_hits_more(seed: int) -> None:
    keys = skewed_keys(seed, requests=60, keys=9)
    trace = keys_only(keys)
    for capacity in (1, 2, 4):
        found = optimum_hits(trace, capacity, next_reads(trace))
        assert found == best_possible(keys, capacity)


def test_is_never_below_the_replay_even_with_writes_and_ttls() -> None:
    draw = random.Random(3)
    for _ in range(20):
        trace = trace_of(
            *(
                (
                    int(80 * draw.random() ** 2),
                    draw.choice([READ] * 8 + [SET, ADD, REPLACE, DELETE]),
                    at / 10,
                    draw.choice([0.0, 0.0, 5.0]),
                )
                for at in range(800)
            )
        )
        for fill in (True, False):
            settings = Settings(max_entries=20, default_ttl=30.0, fill=fill)
            hits = optimum_hits(trace, 20, next_reads(trace), default_ttl=30.0, fill=fill)
            assert hits >= replay(trace, settings).total.hits


def test_a_cache_that_holds_everything_hits_as_the_replay_does() -> None:
    trace = trace_of(
        ("a", SET, 0.0, 5.0),
        ("a", READ, 4.0),
        ("a", READ, 6.0),
        ("a", DELETE, 7.0),
        ("a", READ, 8.0),
    )
    assert optimum_hits(trace, 10, next_reads(trace)) == replay(trace, Settings()).total.hits == 1


def test_many_hits_leave_no_long_trail() -> None:
    trace = keys_only([0, 1, 2] * 20_000)
    assert optimum_hits(trace, 3, next_reads(trace)) == len(trace) - 3
