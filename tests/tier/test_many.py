"""Many keys at once: one round trip for a hundred, and none of them half done."""

from __future__ import annotations

import os
from typing import Any

import pytest

from flowcache import ConfigurationError, TierUnavailableError
from flowcache.tier.link import ThreadLink
from harness.fleet import Make, gone, run
from harness.servers import server


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The asks that threads exchanged with the server."""
    seen: list[Any] = []
    exchange = ThreadLink.exchange

    def counting(self: Any, ask: Any) -> Any:
        seen.append(ask)
        return exchange(self, ask)

    monkeypatch.setattr(ThreadLink, "exchange", counting)
    return seen


def test_many_keys_take_one_round_trip(pair: tuple[Any, Any], exchanges: list[Any]) -> None:
    one, other = pair
    keys = [f"k{number}" for number in range(100)]
    one.set_many({"warm": 1})
    one.delete_many(["warm"])
    exchanges.clear()
    one.set_many(dict.fromkeys(keys, 1), tags="t", ttl=100)
    assert len(exchanges) == 1
    assert one.get_many(keys) == dict.fromkeys(keys, 1)
    assert len(exchanges) == 1  # Held here.
    assert other.get_many(keys) == dict.fromkeys(keys, 1)
    assert 50 < other.ttl("k7") <= 100
    exchanges.clear()
    other.update(dict.fromkeys(keys, 2))
    assert len(exchanges) == 1
    gone(one, "k99")
    assert one.get_many(keys) == dict.fromkeys(keys, 2)
    exchanges.clear()
    assert one.delete_many([*keys, "none", "k1"]) == 100
    assert len(exchanges) == 2  # A hundred keys, and one.
    gone(other, "k99")
    assert other.get_many(keys) == {}
    exchanges.clear()
    one.set_many({key: os.urandom(1 << 18) for key in keys[:10]})
    assert 2 <= len(exchanges) <= 4  # By size.


def test_the_twins_of_many_keys(pair: tuple[Any, Any]) -> None:
    one, other = pair
    keys = list(range(250))
    run(one.aset_many(dict.fromkeys(keys, 1), tags="t"))
    assert run(other.aget_many(keys)) == dict.fromkeys(keys, 1)
    assert run(other.adelete_many(keys[:200])) == 200
    gone(one, 199)
    assert one.get_many(keys) == dict.fromkeys(keys[200:], 1)
    one.invalidate_tag("t")
    gone(other, 249)
    assert other.get_many(keys) == {}


def test_what_cannot_travel_goes_along(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set_many({"old": 1, "gone": 1})
    assert other.get_many(["old", "gone"]) == {"old": 1, "gone": 1}
    stays, key = object(), frozenset({1})
    one.set_many({"a": 1, "old": stays, key: 2})
    gone(other, "old")
    assert one.get_many(["a", "old", key]) == {"a": 1, "old": stays, key: 2}
    assert other.get_many(["a", "old", key]) == {"a": 1}
    one.set_many({"a": 3, "gone": 3}, ttl=0)
    gone(other, "a")
    assert other.get_many(["a", "gone"]) == {}
    assert one.delete_many(["old", key, "a"]) == 2
    assert one.get("old") is None


def test_bad_items_change_nothing(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("a", 1)
    for call in (
        lambda: one.set_many({"a": 2, "b": 2}, ttl="soon"),
        lambda: one.set_many([("a", 2), ([], 2)]),
        lambda: one.set_many({"a": 2}, tags=3),
        lambda: one.delete_many(["a", []]),
        lambda: one.set_many({"a": 2}, jitter=2),
        lambda: one.set_many({"a": 2}, sliding=2),
    ):
        with pytest.raises((TypeError, ValueError, ConfigurationError)):
            call()
        assert one.get_many(["a", "b"]) == {"a": 1}
        assert other.get_many(["a", "b"]) == {"a": 1}


def test_a_script_that_the_server_forgot_is_sent_with_the_first(
    make: Make, exchanges: list[Any]
) -> None:
    with server() as running:
        space = make(running).namespace("t")
        space.set_many({1: 1, 2: 2})
        running.call("SCRIPT", "FLUSH")
        exchanges.clear()
        space.set_many({1: 3, 2: 4, 3: 5})
        assert [len(ask.calls) for ask in exchanges] == [3, 3]
        assert make(running).namespace("t").get_many([1, 2, 3]) == {1: 3, 2: 4, 3: 5}


def test_a_server_that_is_gone_leaves_none_of_them_here(make: Make) -> None:
    with server() as running:
        space = make(running).namespace("t")
        space.set_many({1: 1, 2: 2})
        running.kill()
        with pytest.raises(TierUnavailableError, match=r"^set: "):
            space.set_many({1: 3, 2: 3, 3: 3})
        with pytest.raises(TierUnavailableError, match=r"^delete: "):
            space.delete_many([1, 2])
        assert [key in space for key in (1, 2, 3)] == [False] * 3


def test_a_refused_value_leaves_none_of_them_here(make: Make) -> None:
    """A server that is full takes no more values, and says so for each."""
    with server() as running:
        space = make(running).namespace("t")
        space.set_many(dict.fromkeys(range(100), 1))
        running.call("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
        with pytest.raises(TierUnavailableError, match="OOM"):
            space.set_many(dict.fromkeys(range(50), 2))
        assert not any(key in space for key in range(50))
        assert space.delete_many(range(100)) == 100
