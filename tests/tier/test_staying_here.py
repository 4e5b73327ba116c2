"""Keys, values and namespaces that stay in the process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowcache import (
    ConfigurationError,
)
from harness.fleet import Make, gone, run
from harness.servers import Server, wait_until


def test_keys_and_values_that_cannot_travel(
    pair: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = pair
    key, value = frozenset((1, 2)), object()
    one.set(key, "v")
    assert (one.get(key), other.get(key)) == ("v", None)
    one.set("k", 1)
    assert other.get("k") == 1
    one.set("k", value)
    one.set("m", value)
    gone(other, "k")
    assert (one.get("k"), other.get("k")) == (value, None)
    assert one.stats().untiered == 2
    assert (
        len([record for record in caplog.records if "stay in the process" in record.message]) == 1
    )
    assert one.pop("k") is value
    assert one.touch("m", 5)
    assert one.delete("m")
    assert one.fetch("f", lambda: value) is value
    assert one.get("f") is value
    assert other.fetch("f", lambda: 2) == 2
    assert not one.add("f", object())
    assert one.add("g", value)
    assert one.incr(key.union((3,))) == 1
    one.set("large", "x" * ((1 << 20) + 1))
    assert other.get("large") is None
    assert one.clear() > 0
    other.clear()
    wait_until(lambda: len(one) == 0)


def test_a_namespace_may_stay_in_the_process(pair: tuple[Any, Any]) -> None:
    one, other = (each.namespace("session", tiered=False) for each in pair)
    below = one.namespace("below")
    one.set("k", 1)
    below.set("k", 1)
    assert (other.get("k"), one.get("k"), below.get("k")) == (None, 1, 1)
    assert one.incr("c") == 1
    assert one.fetch("f", lambda: 2) == 2
    assert run(one.aget("f")) == 2
    assert run(one.afetch("g", lambda: 3)) == 3
    assert one.fetch_many(["h"], lambda keys: {"h": 4}) == {"h": 4}
    assert one.refresh("h", lambda: 5) == 5
    assert one["h"] == 5

    async def use() -> None:
        one["i"] = 6
        assert one.get("none") is None
        assert one.delete("i")

    asyncio.run(use())
    assert pair[0].clear() > 0
    assert one.get("k") is None


def test_the_local_ttl_bounds_how_long_a_process_holds(new_server: Server, make: Make) -> None:
    one, other = make(new_server), make(new_server, tier={"local_ttl": 1.0})
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("k", 1, stale=60, wait="fleet")
    assert there.get("k") == 1
    assert there.ttl("k") <= 1.0
    assert there.fetch("f", lambda: 2) == 2
    gone(there, "k")
    gone(there, "f")
    assert (there.get("k"), here.get("f")) == (1, 2)


def test_a_cache_that_is_off_stores_nothing_anywhere(new_server: Server, make: Make) -> None:
    other = make(new_server).namespace("tenant:acme")
    off = make(new_server, enabled=False).namespace("tenant:acme")
    other.set("k", 1, tags=("t",))
    assert off.get("k") is None
    assert off.get_many(["k"]) == {}
    assert off.fetch("k", lambda: 2) == 2
    assert off.fetch_many(["k"], lambda keys: {"k": 3}) == {"k": 3}
    assert run(off.afetch("k", lambda: 4)) == 4
    assert off.add("m", 1)
    assert off.setdefault("m", 2) == 2
    assert off.incr("c", 5) == 5
    assert (other.get("m"), other.get("c"), other.get("k")) == (None, None, 1)
    off.invalidate_tag("t")
    gone(other, "k")
    other.set("k", 1)
    off.set("k", 2)
    gone(other, "k")
    assert other.get("k") is None


def test_a_ttl_is_drawn_once_for_all(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set_many(dict.fromkeys(range(10), 1), ttl=1000, jitter=0.5, tags="j")
    left = [one.ttl(number) for number in range(10)]
    assert len({round(ttl) for ttl in left}) > 3
    assert all(490 < ttl <= 1000 for ttl in left)
    assert all(abs(other.ttl(number) - left[number]) < 30 for number in range(10))
    for call in (
        lambda: one.set("k", 1, sliding=5),
        lambda: one.add("k", 1, sliding=5),
        lambda: one.set_many({"k": 1}, sliding=5),
    ):
        with pytest.raises(ConfigurationError, match=r"^sliding: "):
            call()
    assert one.get("k") is None
    one.namespace("here", tiered=False).set("k", 1, sliding=5)
