"""A load that ends with "do not store" removes the entry to replace, unless it was fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, Loaded, Namespace
from harness.loading_support import AsyncGate, Caller, Gate, assert_nothing_left, settle, wait_until
from harness.support import VirtualClock, new_cache

Ask = Callable[[Namespace[Any]], Any]


def some_cache() -> tuple[Cache[Any], VirtualClock]:
    return new_cache(max_weight=100, weigher=lambda key, value: len(str(value)))


def not_worth(value: Any) -> bool:
    return False


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "store=False": (Loaded("new", store=False), {}),
    "store_if": ("new", {"store_if": not_worth}),
    "ttl=0": ("new", {"ttl": 0}),
    "Loaded(ttl=0)": (Loaded("new", ttl=0), {}),
    "too heavy": ("n" * 101, {}),
}
CALLS: dict[str, Callable[[Namespace[Any], Any, dict[str, Any]], Any]] = {
    "fetch": lambda ns, made, options: ns.fetch("k", lambda: made, **options),
    "timeout": lambda ns, made, options: ns.fetch("k", lambda: made, timeout=60, **options),
    "refresh": lambda ns, made, options: ns.refresh("k", lambda: made, **options),
    "fetch_many": lambda ns, made, options: ns.fetch_many(["k"], lambda _: {"k": made}, **options),
    "cached": lambda ns, made, options: ns.cached(key="k", **options)(lambda: made)(),
    "afetch": lambda ns, made, options: asyncio.run(run(ns.afetch("k", lambda: made, **options))),
    "arefresh": lambda ns, made, options: asyncio.run(
        run(ns.arefresh("k", lambda: made, **options))
    ),
    "afetch_many": lambda ns, made, options: asyncio.run(
        run(ns.afetch_many(["k"], lambda _: {"k": made}, **options))
    ),
}


async def run(awaitable: Any) -> Any:
    answer = await awaitable
    await settle()
    return answer


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_the_load_was_to_replace_is_gone(call: Any, kind: tuple[Any, dict[str, Any]]) -> None:
    cache, clock = some_cache()
    ns = cache.namespace("ns")
    ns.set("k", "old", ttl=10, stale=True)
    clock.advance(11)
    made, options = kind
    got = call(ns, made, {**options, "stale": False})
    assert "new" in str(got) or "nnn" in str(got)
    assert ns.peek("k", "gone") == "gone"
    assert call(ns, made, {**options, "stale": True}) == got
    assert len(ns) == 0
    cache._check()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_so_it_is_when_the_load_ran_behind_it(call: Any, kind: tuple[Any, dict[str, Any]]) -> None:
    if call in (CALLS["refresh"], CALLS["arefresh"]):
        return  # They never run behind.
    cache, clock = some_cache()
    ns = cache.namespace("ns")
    ns.set("k", "old", ttl=10, stale=True)
    clock.advance(11)
    made, options = kind
    call(ns, made, {**options, "stale": True})
    wait_until(lambda: cache.stats().pending == 0)
    assert ns.fetch("k", lambda: "next", stale=True) == "next"
    cache._check()


def test_a_fresh_value_goes_as_well_when_a_refresh_is_not_kept() -> None:
    cache, _ = some_cache()
    cache.set("k", "old")
    assert cache.refresh("k", lambda: Loaded("new", store=False)) == "new"
    assert "k" not in cache


@pytest.mark.parametrize("way", ["fetch_many", "afetch_many", "behind"])
def test_a_key_that_a_batch_leaves_out_is_gone(way: str) -> None:
    cache, clock = some_cache()
    cache.set_many({"a": "old", "b": "old"}, ttl=10, stale=True)
    clock.advance(11)
    found: Any
    if way == "fetch_many":
        found = cache.fetch_many(["a", "b"], lambda keys: {"a": "new"}, stale=False)
    elif way == "afetch_many":
        found = asyncio.run(
            run(cache.afetch_many(["a", "b"], lambda keys: {"a": "new"}, stale=False))
        )
    else:
        found = cache.fetch_many(["a", "b"], lambda keys: {"a": "new"}, stale=True)
        assert found == {"a": "old", "b": "old"}
        wait_until(lambda: cache.stats().pending == 0)
        found = cache.fetch_many(["a", "b"], lambda keys: {}, stale=True)
    assert found == {"a": "new"}
    assert dict(cache.items()) == {"a": "new"}


def test_a_batch_that_leaves_a_key_out_asks_no_weigher_about_it() -> None:
    cache, clock = new_cache(max_weight=100, weigher=lambda key, value: len(value))
    cache.set("a", "old", ttl=10, stale=True)
    clock.advance(11)
    assert cache.fetch_many(["a"], lambda keys: {}) == {"a": "old"}
    wait_until(lambda: cache.stats().pending == 0)
    assert cache.fetch_many(["a"], lambda keys: {}) == {}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_value_that_was_set_meanwhile_stays(kind: tuple[Any, dict[str, Any]]) -> None:
    cache, _ = some_cache()
    made, options = kind
    gate = Gate(made)
    caller = Caller(lambda: cache.refresh("k", gate, **options))
    assert gate.begun.wait(30)
    cache.set("k", "set")
    gate.open.set()
    caller.result()
    assert cache.get("k") == "set"
    assert_nothing_left(cache)


def test_a_value_of_a_newer_load_stays() -> None:
    """The older one was fenced by an invalidation; the newer one has stored its value since."""
    cache, _ = some_cache()

    async def main() -> None:
        gate = AsyncGate(Loaded("older", store=False))
        older = asyncio.ensure_future(cache.afetch("k", gate, tags="t"))
        await gate.begun.wait()
        cache.invalidate_tag("t")
        assert await cache.afetch("k", lambda: "newer") == "newer"
        gate.open.set()
        assert await older == "older"
        assert cache.get("k") == "newer"

    asyncio.run(main())


def test_a_load_that_raises_leaves_the_old_value() -> None:
    cache, clock = some_cache()
    cache.set("k", "old", ttl=10, stale=100)
    clock.advance(11)
    with pytest.raises(ZeroDivisionError):
        cache.fetch("k", lambda: 1 // 0, stale=False)
    assert cache.fetch("k", lambda: "new", stale=100) == "old"
