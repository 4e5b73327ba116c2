"""Calls of two caches of one fleet, on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.fleet import Make, gone, run
from harness.servers import Server, wait_until

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
