"""Loading calls through the tier, with each of their options; namespaces that are off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from flowcache import MISSING, ConfigurationError, Loaded
from flowcache.loading import backoff
from harness.fleet import Make, gone, run
from harness.servers import Server, wait_until


def ttl_of(value: int) -> float:
    return 100.0 * value


def test_a_ttl_that_is_told_of_the_value_counts_in_the_tier(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert one.fetch("a", lambda: 2, ttl=ttl_of) == 2
    assert run(one.afetch("b", lambda: 3, ttl=ttl_of)) == 3
    assert one.fetch_many([4], lambda keys: {4: 4}, ttl=ttl_of) == {4: 4}
    one.set("e", 5, ttl=ttl_of)
    one.set_many({"f": 6}, ttl=ttl_of)
    assert one.add("g", 7, ttl=ttl_of)
    assert one.refresh("h", lambda: 8, ttl=ttl_of) == 8
    for key, hundreds in {"a": 2, "b": 3, 4: 4, "e": 5, "f": 6, "g": 7, "h": 8}.items():
        for namespace in (one, other):
            assert hundreds * 100 - 30 < namespace.ttl(key) <= hundreds * 100
    # What the loader says goes before the call.
    assert one.fetch("i", lambda: Loaded(9, ttl=50), ttl=ttl_of) == 9
    assert 20 < other.ttl("i") <= 50


def test_a_bad_ttl_of_a_value_leaves_no_lease(new_server: Server, pair: tuple[Any, Any]) -> None:
    one, other = pair
    with pytest.raises(TypeError, match=r"^ttl: "):
        one.fetch("k", lambda: 1, ttl=lambda value: "soon")
    assert new_server.call("KEYS", "*leaves_no_lease:*:l:*") == []
    assert other.fetch("k", lambda: 2) == 2
    for call in (lambda: one.touch("k", ttl_of), lambda: one.incr("c", ttl=ttl_of)):
        with pytest.raises(TypeError, match=r"^ttl: "):
            call()
    assert other.get("k") == 2


def test_the_ttl_of_a_load_is_drawn_once_for_all(pair: tuple[Any, Any]) -> None:
    one, other = pair
    keys = list(range(20))
    for key in keys[:10]:
        one.fetch(key, lambda: 1, ttl=1000, jitter=0.5)
    one.fetch_many(keys[10:], lambda missing: dict.fromkeys(missing, 1), ttl=1000, jitter=0.5)
    left = {key: one.ttl(key) for key in keys}
    assert len({round(ttl) for ttl in left.values()}) > 5
    assert all(450 < ttl <= 1000 for ttl in left.values())
    for key in keys:
        assert other.fetch(key, lambda: 2, ttl=1000, jitter=0.5) == 1
        assert abs(other.ttl(key) - one.ttl(key)) < 30


def test_a_loader_is_given_the_old_value_of_the_fleet(pair: tuple[Any, Any]) -> None:
    one, other = pair
    given: list[Any] = []

    def load(old: Any) -> int:
        given.append(old)
        return 0 if old is MISSING else old + 1

    async def aload(old: Any) -> int:
        return load(old)

    assert one.fetch("k", load, pass_old=True) == 0
    assert other.refresh("k", load, pass_old=True) == 1  # Held in the tier alone.
    gone(one, "k")
    assert one.get("k") == 1
    assert one.refresh("k", load, pass_old=True) == 2
    gone(other, "k")
    assert run(other.arefresh("k", aload, pass_old=True)) == 3
    assert run(other.afetch("m", aload, pass_old=True)) == 0
    assert given == [MISSING, 0, 1, 2, MISSING]


def test_a_stale_window_of_the_loader_counts_in_the_fleet(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert one.fetch("k", lambda: Loaded(1, ttl=600, stale=600)) == 1
    assert other.fetch("k", lambda: 2) == 1
    assert one.fetch("m", lambda: Loaded(1, ttl=600, stale=None), stale=600) == 1
    assert other.fetch("m", lambda: 2, stale=600) == 1
    for key in "km":
        one.expire(key)
        wait_until(lambda key=key: other.get(key) is None)
    for namespace in pair:  # By the window of the value alone.
        assert namespace.fetch("k", lambda: 3) in (1, 3)
        assert namespace.fetch("m", lambda: 4, stale=600) == 4
    assert one.stats().stale_hits + other.stats().stale_hits >= 1
    # A message that comes late withdraws a load not yet begun; the next call begins another.
    wait_until(lambda: all(namespace.fetch("k", lambda: 3) == 3 for namespace in pair))


def test_errors_are_covered_as_the_call_says(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "SHORTEST_DELAY", 3600.0)
    one, other = pair
    covers = {"stale_if_error": 600, "fallback_on": ZeroDivisionError}
    for key in ("k", "a"):
        assert one.fetch(key, lambda: 1, ttl=1, stale_if_error=600) == 1
    time.sleep(1.1)
    with pytest.raises(KeyError):
        other.fetch("k", lambda: {}["x"], **covers)
    assert other.fetch("k", lambda: 1 / 0, **covers) == 1
    assert run(other.afetch("a", lambda: 1 / 0, **covers)) == 1
    for _ in range(3):  # It backs off, whichever read of the tier brought the value here.
        assert other.fetch("k", lambda: 2, **covers) == 1
        assert run(other.afetch("a", lambda: 2, **covers)) == 1
    assert other.fetch("k", lambda: 2) == 2
    assert other.fetch("k", lambda: 3, **covers) == 2


def test_a_key_backs_off_after_a_load_behind_a_stale_value(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "SHORTEST_DELAY", 3600.0)
    one, other = pair
    assert one.fetch("k", lambda: 1, ttl=1, stale=600) == 1
    time.sleep(1.1)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ZeroDivisionError

    assert other.fetch("k", fail, stale=600) == 1
    wait_until(lambda: other.stats().load_failures == 1)
    for _ in range(3):
        assert other.fetch("k", fail, stale=600) == 1
        assert run(other.afetch("k", fail, stale=600)) == 1
    wait_until(lambda: other.stats().pending == 0)
    assert calls == [1]


def test_what_surrounds_loaders_does_not_surround_the_tier(new_server: Server, make: Make) -> None:
    entered: list[Any] = []

    @contextmanager
    def around(path: tuple[str, ...], key: Any) -> Iterator[None]:
        entered.append((path, key))
        yield
        entered.append("left")

    one, other = (make(new_server, around_load=around).namespace("t") for _ in range(2))
    assert one.fetch("k", lambda: entered.append("load") or 1) == 1
    assert other.fetch("k", lambda: 2) == 1
    assert entered == [(("t",), "k"), "load", "left"]
    entered.clear()

    async def load() -> int:
        await asyncio.sleep(0)
        entered.append("load")
        return 3

    assert run(one.afetch("a", load)) == 3
    assert run(other.afetch("a", load)) == 3
    assert entered == [(("t",), "a"), "load", "left"]
    entered.clear()
    assert other.fetch_many(["k", "l", "m"], lambda keys: dict.fromkeys(keys, 4)) == {
        "k": 1,
        "l": 4,
        "m": 4,
    }
    assert entered == [(("t",), ("l", "m")), "left"]


def test_an_exception_that_surroundings_suppress_is_no_value(
    new_server: Server, make: Make
) -> None:
    @contextmanager
    def around(path: tuple[str, ...], key: Any) -> Iterator[None]:
        with suppress(ZeroDivisionError):
            yield

    one = make(new_server, around_load=around).namespace("t")
    with pytest.raises(RuntimeError, match=r"^around_load: "):
        one.fetch("k", lambda: 1 / 0)
    assert one.fetch("k", lambda: 2) == 2


def test_sliding_is_refused_where_values_lie_in_the_tier(pair: tuple[Any, Any]) -> None:
    one, _ = pair
    calls = [
        lambda: one.fetch("k", lambda: 1, sliding=5),
        lambda: one.refresh("k", lambda: 1, sliding=5),
        lambda: one.fetch_many(["k"], lambda keys: {}, sliding=5),
        lambda: run(one.afetch("k", lambda: 1, sliding=5)),
        lambda: one.wrap(module_level, sliding=5),
        lambda: one.set("k", 1, sliding=5),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match=r"^sliding: .*tiered=False"):
            call()
    assert one.get("k") is None
    here = one.namespace("here", tiered=False)
    assert here.fetch("k", lambda: 1, sliding=5) == 1
    assert here.wrap(module_level, sliding=5)(1) == 2
    assert one.wrap(lambda: 1, sliding=5)() == 1  # A closure stays in the process.


def module_level(x: int) -> int:
    return x + 1


def by_default(x: int, y: int = 2, *, z: int = 3) -> tuple[int, int, int]:
    return x, y, z


def test_a_bound_call_is_one_key_in_the_fleet(pair: tuple[Any, Any]) -> None:
    one, other = (namespace.wrap(by_default, bind=True) for namespace in pair)
    assert one(1) == (1, 2, 3)
    assert not other.cache_contains(1)  # Tells of this process.
    assert other(1, y=2, z=3) == (1, 2, 3)
    assert other.cache_contains(x=1)
    assert [namespace.stats().loads for namespace in pair] == [1, 0]
    assert other.invalidate(x=1)
    wait_until(lambda: not one.cache_contains(1))


def tags_of_one(x: int) -> str:
    return f"x:{x}"


def test_functions_that_make_tags_do_not_number_the_keys_of_a_fleet() -> None:
    # Each process makes its lambdas in another order.
    program = """
import sys
from flowcache import create_cache
made = {}
def first(x): return x
def second(x): return x
ns = create_cache().namespace("a")
for name in sys.argv[1:]:
    made[name] = ns.wrap(globals()[name], tags=lambda x: f"x:{x}")
print(sorted((made[name].cache_key(1), made[name]._travels()) for name in made))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", program, *names], capture_output=True, text=True, check=True
        ).stdout
        for names in (("first", "second"), ("second", "first"))
    }
    assert len(said) == 1
    assert said.pop().count("True") == 2


def test_a_function_with_two_ways_to_its_tags_stays_in_the_process(pair: tuple[Any, Any]) -> None:
    one, other = pair

    def make(n: int) -> Any:
        return lambda x: f"{n}:{x}"

    wrapped = [one.wrap(module_level, tags=make(n)) for n in range(2)]
    assert len({function.cache_key(1) for function in wrapped}) == 2
    assert [function(1) for function in wrapped] == [2, 2]
    assert other.get(wrapped[0].cache_key(1)) is None
    assert other.get(wrapped[1].cache_key(1)) is None


def test_a_namespace_that_is_off_is_not_read_from_the_tier(pair: tuple[Any, Any]) -> None:
    one, other = pair
    one.set("k", 1, tags="t")
    function = other.wrap(module_level)
    assert other.get("k") == 1
    other.enabled = False
    before = other.stats()
    assert other.get("k") is None
    assert other.fetch("k", lambda: 2) == 2
    assert other.refresh("k", lambda: 2) == 2
    assert other.fetch_many(["k"], lambda keys: {"k": 2}) == {"k": 2}
    assert run(other.afetch("k", lambda: 2)) == 2
    assert run(other.aget("k")) is None
    assert function(1) == 2
    assert other.add("m", 1)
    with pytest.raises(KeyError):
        other.ttl("k")
    after = other.stats()
    assert (after.tier_hits, after.tier_misses) == (before.tier_hits, before.tier_misses)
    assert after.tier_stores == before.tier_stores
    assert one.get("k") == 1
    # It invalidates all the same: what it wrote elsewhere, the fleet must not serve.
    other.set("k", 3)
    gone(one, "k")
    assert one.get("k") is None
    other.enabled = True
    assert other.get("k") is None
    other.set("k", 4)
    assert one.get("k") == 4


def test_a_load_during_which_the_namespace_is_switched_off_is_stored_nowhere(
    pair: tuple[Any, Any],
) -> None:
    one, other = pair

    def load() -> int:
        one.enabled = False
        return 1

    assert one.fetch("k", load) == 1
    assert other.get("k") is None


def test_a_value_too_heavy_to_be_held_is_handed_to_its_callers(
    new_server: Server, make: Make
) -> None:
    cache = make(new_server, max_weight=100, weigher=lambda key, value: len(value))
    heavy = cache.namespace("t", max_weight=3)
    assert heavy.fetch("k", lambda: "abcdef") == "abcdef"
    assert heavy.get("k") is None
    assert heavy.fetch("k", lambda: "abc") == "abc"
    assert heavy.get("k") == "abc"
