"""Sharing by utility: what may be guaranteed, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flowcache import ConfigurationError, Limits, create_cache
from flowcache._core import _testing
from harness.sharing_support import (
    ask,
    shared,
)
from harness.support import new_cache

# ------------------------------------------------------------------------------------ what is given


def test_what_is_guaranteed_is_given_from_above() -> None:
    cache = shared(100, child_limits=Limits(guaranteed=0.25))
    a = cache.namespace("a")
    assert a.limits.guaranteed == 0.25 and cache.limits.guaranteed == 0.5
    a.configure(guaranteed=0.1)
    with pytest.raises(ConfigurationError, match=r"^guaranteed: at most 0.25"):
        a.configure(guaranteed=0.3)
    assert a.limits.guaranteed == 0.1
    gold = cache.namespace("gold", guaranteed=1.0)
    assert gold.limits.guaranteed == 1
    gold.configure(guaranteed=1)
    cache.namespace("a", guaranteed=1)
    cache._check()
    assert "guaranteed=1.0" in repr(gold.limits)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"sharing": "greedy"}, ValueError, 'sharing: must be "fair" or "utility"'),
        ({"sharing": None}, TypeError, "sharing: must be a str"),
        ({"max_loss": 0}, ValueError, "max_loss: must be more than 0 and at most 1, got 0"),
        ({"max_loss": 1.5}, ValueError, "max_loss: "),
        ({"max_loss": float("nan")}, ValueError, "max_loss: "),
        ({"max_loss": "5%"}, TypeError, "max_loss: must be a number, got str"),
        ({"max_loss": True}, TypeError, "max_loss: "),
        ({"sharing": "utility", "max_entries": None}, ConfigurationError, "sharing: .*max_entries"),
        (
            {"sharing": "utility", "eviction": "tinylfu"},
            ConfigurationError,
            'eviction: must be "lru"',
        ),
        (
            {"sharing": "utility", "child_limits": Limits(eviction="tinylfu")},
            ConfigurationError,
            "eviction: ",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        create_cache(**settings)


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), "half", None, True])
def test_a_part_that_cannot_be_guaranteed_is_refused(value: Any) -> None:
    cache = shared(10)
    for call in (
        lambda: Limits(guaranteed=value),
        lambda: cache.namespace("a", guaranteed=value),
        lambda: cache.configure(guaranteed=value),
    ):
        with pytest.raises((TypeError, ValueError), match="guaranteed: must be a number"):
            call()
    assert list(cache.namespaces()) == []


def test_tinylfu_is_refused_below_as_well() -> None:
    cache = shared(10)
    for call in (
        lambda: cache.configure(eviction="tinylfu"),
        lambda: cache.namespace("a", "b", eviction="tinylfu"),
        lambda: cache.configure(child_limits=Limits(child_limits=Limits(eviction="tinylfu"))),
    ):
        with pytest.raises(ConfigurationError, match="sharing="):
            call()
    cache.namespace("a", eviction="lru")
    cache._check()


def test_fair_sharing_keeps_no_ledger() -> None:
    cache, _ = new_cache(max_entries=50)
    for number in range(200):
        ask(cache.namespace("a", guaranteed=1.0), number)
    assert _testing.ledger(cache) is None
    assert cache.stats().fair_entries == 0
    cache._check()


def test_a_cache_of_many_tenants_lists_them_and_forgets_them() -> None:
    cache = shared(500, max_idle_namespaces=10)
    for number in range(5_000):
        ask(cache.namespace(f"t{number % 700}"), number % 3)
    cache._check()
    cache.clear()
    cache._check()
    assert len(list(cache.namespaces())) < 100
    for number in range(2_000):
        ask(cache.namespace(f"u{number % 90}"), number % 11)
    cache._check()
