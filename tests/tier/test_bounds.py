"""Bounds of a tenant in the tier, and invalidations that wait for a server to come back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from flowcache import TierUnavailableError, _core
from flowcache.tier import ValkeyTier
from harness.fleet import Make, confirmed, gone, run
from harness.servers import Server, server, wait_until

HASTY = {"soft_timeout": 0.2, "hard_timeout": 0.3}


def test_a_tenant_stores_so_many_values_a_second(new_server: Server, make: Make) -> None:
    one, other = (make(new_server, tier={"unit_stores": 5}) for _ in range(2))
    names = (f"acme {number}" for number in itertools.count())

    def stored_in_one_second() -> Any:
        """Store them; return their namespace if the server's clock is in the same second still."""
        acme = one.namespace(next(names))
        second = new_server.call("TIME")[0]
        acme.set_many(dict.fromkeys(range(20), 1))
        return acme if new_server.call("TIME")[0] == second else None

    found: list[Any] = []
    wait_until(lambda: found.append(stored_in_one_second()) or found[-1] is not None)
    acme, beta = found[-1], one.namespace("beta")
    beta.set("k", 1)
    assert acme.stats().tier_stores == 5
    assert acme.stats().untiered == 15
    assert acme.get_many(range(20)) == dict.fromkeys(range(20), 1)  # Held here.
    assert len(other.namespace(*acme.path).get_many(range(20))) == 5
    assert other.namespace("beta").get("k") == 1


def test_calls_beyond_the_bound(new_server: Server, make: Make) -> None:
    acme, there = (make(new_server, tier={"unit_stores": 5}).namespace("acme") for _ in range(2))
    numbers = iter(range(1000, 100_000))

    def is_refused(call: str) -> bool:
        """Tell if a call comes in the second in which the bound is reached."""
        acme.set_many(dict.fromkeys(range(5), 1))
        try:
            getattr(acme, call)(next(numbers), 1)
        except TierUnavailableError as error:
            return "unit_stores=" in str(error)
        return False

    def is_kept_here() -> bool:
        acme.set_many(dict.fromkeys(range(5), 1))
        key = next(numbers)
        # A load is handed to its callers and held here, in either case.
        assert acme.fetch(key, lambda: key) == key
        assert key in acme
        return there.get(key) is None

    wait_until(lambda: is_refused("add"))
    wait_until(lambda: is_refused("incr"))
    wait_until(is_kept_here)


def test_a_set_beyond_the_bound_voids_the_old_value(new_server: Server, make: Make) -> None:
    one, other = (make(new_server, tier={"unit_stores": 1}).namespace("acme") for _ in range(2))

    def is_stored() -> bool:
        one.set("k", 1)
        return bool(other.get("k") == 1)

    def is_void() -> bool:
        one.set("first", 0)  # In the same second as the other, at last.
        one.set("k", 2)
        return other.get("k") is None

    wait_until(is_stored)
    wait_until(is_void)
    assert one.get("k") == 2
    assert other.fetch("k", lambda: 3) == 3
    one.invalidate_prefix("k")
    assert one.get("k") is None
    gone(other, "k")


def test_markers_are_bounded_beside_the_count_of_stores(new_server: Server, make: Make) -> None:
    one = make(new_server, tier={"unit_stores": 1000}).namespace("acme")
    engine = _core._tier_of(one).engine
    one.set("k", 1)
    for number in range(200):
        engine.run(engine.invalidate_tags(engine.layout.place(("acme",)), (f"t{number}",)))
    assert one.get("k") == 1


@pytest.mark.parametrize("call", ["clear", "tag", "prefix", "delete", "expire", "many"])
def test_an_invalidation_waits_for_the_server(make: Make, call: str) -> None:
    calls: dict[str, Any] = {
        "clear": lambda ns: ns.clear(),
        "tag": lambda ns: ns.invalidate_tag("t"),
        "prefix": lambda ns: ns.invalidate_prefix("k"),
        "delete": lambda ns: ns.delete("k"),
        "expire": lambda ns: ns.expire("k"),
        "many": lambda ns: ns.delete_many(["k", "m"]),
    }
    with server() as running:
        one = make(running, tier=HASTY | {"queue_invalidations": 10}).namespace("acme")
        other = make(running).namespace("acme")
        confirmed(lambda: one.set("k", 1, tags="t"))
        confirmed(lambda: one.namespace("sub").set("n", 1))
        assert other.get("k") == 1
        with running.stopped():
            calls[call](one)
            calls[call](one)  # Takes no more room.
            assert one._store().tier.queued == (2 if call == "many" else 1)
            assert "k" not in one
            with pytest.raises(TierUnavailableError):
                one.set("k", 2)  # No value is ever queued.
            with pytest.raises(TierUnavailableError):
                one.clear(wait="fleet")  # Nor is what the fleet is waited for.
        assert one.get("k") is None  # Sent first, or not read from there.
        gone(other, "k")
        wait_until(lambda: one._store().tier.queued == 0)
        assert other.get("k") is None
        confirmed(lambda: one.set("k", 3))
        assert other.get("k") == 3


def test_a_tenant_with_waiting_invalidations_is_not_read_nor_stored(
    pair: tuple[Any, Any],
) -> None:
    one, other = pair
    engine = _core._tier_of(one).engine
    other.set("k", 1)
    held: list[bool] = [True]

    def refused() -> Any:
        if held[0]:
            raise TierUnavailableError("not yet")
        return engine.clear(place)

    place = engine.layout.place(one.path)
    engine.queue._most = 1
    assert engine.queue.add(place, "what", refused)
    assert not engine.queue.add(place, "more", refused)
    assert one.get("k") is None
    assert one.get_many(["k"]) == {}
    assert run(one.aget("k")) is None
    assert one.fetch("k", lambda: 2) == 2
    assert one.fetch_many(["k"], lambda keys: {"k": 2}) == {"k": 2}
    assert "k" not in one
    assert one.namespace("sub").get("k") is None
    assert other.get("k") == 1  # What other processes hold is not known to be old there.
    for write in (
        lambda: one.set("k", 3),
        lambda: one.add("m", 3),
        lambda: one.incr("c"),
        lambda: one.touch("k", 5),
        lambda: one.pop("k", None),
    ):
        with pytest.raises(TierUnavailableError):
            write()
    held[0] = False
    wait_until(lambda: len(engine.queue) == 0)
    gone(other, "k")
    assert one.get("k") is None
    assert one.fetch("k", lambda: 4) == 4
    assert other.get("k") == 4


def test_what_waits_for_all_tenants_blocks_each(pair: tuple[Any, Any]) -> None:
    one, other = pair
    engine = _core._tier_of(one).engine
    other.set("k", 1)

    def refused() -> Any:
        raise TierUnavailableError("not yet")

    engine.queue._most = 1
    assert engine.queue.add(engine.layout.place(()), "what", refused)
    assert one.get("k") is None
    assert one.fetch("k", lambda: 2) == 2


def test_a_full_queue_raises(make: Make) -> None:
    with server() as running:
        one = make(running, tier=HASTY | {"queue_invalidations": 1}).namespace("acme")
        confirmed(lambda: one.set_many({"k": 1, "m": 1}))
        with running.stopped():
            one.delete("k")
            with pytest.raises(TierUnavailableError, match=r"^delete: "):
                one.delete("m")
            assert "m" not in one
        wait_until(lambda: one._store().tier.queued == 0)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"queue_invalidations": -1}, ValueError),
        ({"queue_invalidations": None}, TypeError),
        ({"queue_invalidations": 1.5}, TypeError),
        ({"unit_stores": 0}, ValueError),
        ({"unit_stores": True}, TypeError),
    ],
)
def test_bad_bounds_name_the_argument(settings: Any, error: type[Exception]) -> None:
    (name,) = settings
    with pytest.raises(error, match=rf"^{name}: "):
        ValkeyTier("valkey://127.0.0.1", **settings)
