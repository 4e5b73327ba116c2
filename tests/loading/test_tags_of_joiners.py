"""The tags of a call that joins a load count like those of the call that leads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, Loaded, create_cache
from harness.loading_support import AsyncGate, Caller, Gate, assert_nothing_left, until, wait_until

Ask = Callable[[Cache[Any], Callable[[], Any], tuple[str, ...]], Any]
CALLS: dict[str, Ask] = {
    "fetch": lambda cache, load, tags: cache.fetch("k", load, tags=tags),
    "timeout": lambda cache, load, tags: cache.fetch("k", load, tags=tags, timeout=60),
    "fetch_many": lambda cache, load, tags: cache.fetch_many(
        ["k"], lambda _: {"k": load()}, tags=tags
    )["k"],
    "afetch": lambda cache, load, tags: asyncio.run(run(cache.afetch("k", load, tags=tags))),
}


async def run(awaitable: Any) -> Any:
    return await awaitable


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS)
def test_what_a_joiner_s_tag_covers_bears_it(ask: Ask) -> None:
    cache = create_cache()
    gate = Gate()
    leader = Caller(lambda: cache.fetch("k", gate, tags=("a", "both")))
    assert gate.begun.wait(30)
    joiner = Caller(lambda: ask(cache, gate, ("b", "both")))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert leader.result() == joiner.result() == "loaded"
    cache._check()
    assert cache.invalidate_tags(["a", "b"], match="all") == 1
    assert gate.calls == 1


@pytest.mark.parametrize("ask", CALLS.values(), ids=CALLS)
def test_a_call_after_its_tag_was_invalidated_joins_no_older_load(ask: Ask) -> None:
    cache = create_cache()
    gate = Gate("old")
    leader = Caller(lambda: cache.fetch("k", gate, tags="a"))
    assert gate.begun.wait(30)
    cache.invalidate_tag("b")
    assert ask(cache, lambda: "new", ("b",)) == "new"
    gate.open.set()
    assert leader.result() == "old"
    assert cache.get("k") == "new"
    assert cache.invalidate_tag("b") == 1
    assert_nothing_left(cache)


def test_one_with_other_tags_joins_all_the_same() -> None:
    cache = create_cache()
    gate = Gate()
    leader = Caller(lambda: cache.fetch("k", gate, tags="a"))
    assert gate.begun.wait(30)
    cache.invalidate_tag("b")
    joiner = Caller(lambda: cache.fetch("k", gate, tags="c"))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert leader.result() == joiner.result() == "loaded"
    assert cache.invalidate_tag("c") == 1


def test_an_invalidation_of_a_joiner_s_tag_fences_the_load() -> None:
    cache = create_cache()

    async def main() -> None:
        gate = AsyncGate("old")
        leader = asyncio.ensure_future(cache.afetch("k", gate, tags="a"))
        await gate.begun.wait()
        joiner = asyncio.ensure_future(cache.afetch("k", gate, tags="b"))
        await until(lambda: cache.stats().coalesced == 1)
        cache.invalidate_tag("b")
        later = asyncio.ensure_future(cache.afetch("k", lambda: "new"))
        assert await later == "new"
        gate.open.set()
        assert await asyncio.gather(leader, joiner) == ["old", "old"]
        assert cache.get("k") == "new"

    asyncio.run(main())
    assert_nothing_left(cache)


def test_an_invalidation_for_all_of_its_tags_counts_those_of_joiners() -> None:
    cache = create_cache()
    gate = Gate("old")
    callers = [Caller(lambda: cache.fetch("k", gate, tags="a"))]
    assert gate.begun.wait(30)
    callers.append(Caller(lambda: cache.fetch("k", gate, tags="b")))
    wait_until(lambda: cache.stats().coalesced == 1)
    cache.invalidate_tags(["a", "b"], match="all")
    gate.open.set()
    assert [caller.result() for caller in callers] == ["old", "old"]
    assert "k" not in cache


def test_tags_that_the_loader_names_are_added() -> None:
    cache = create_cache()
    gate = Gate(Loaded("value", tags=("c", "a")))
    callers = [Caller(lambda: cache.fetch("k", gate, tags="a"))]
    assert gate.begun.wait(30)
    callers.append(Caller(lambda: cache.fetch("k", gate, tags="b")))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert [caller.result() for caller in callers] == ["value", "value"]
    cache._check()
    assert cache.invalidate_tags(["a", "b", "c"], match="all") == 1


@pytest.mark.parametrize("how", ["joiners", "loader"])
def test_more_tags_together_than_an_entry_bears_are_handed_over_and_not_stored(how: str) -> None:
    cache = create_cache()
    many = tuple(f"tag {number}" for number in range(1024))
    gate = Gate("value" if how == "joiners" else Loaded("value", tags="one more"))
    callers = [Caller(lambda: cache.fetch("k", gate, tags="a" if how == "joiners" else many[1:]))]
    assert gate.begun.wait(30)
    callers.append(Caller(lambda: cache.fetch("k", gate, tags=many)))
    wait_until(lambda: cache.stats().coalesced == 1)
    gate.open.set()
    assert [caller.result() for caller in callers] == ["value", "value"]
    assert "k" not in cache
    assert gate.calls == 1
    assert_nothing_left(cache)


def test_what_a_load_bears_too_many_tags_for_is_not_served_on() -> None:
    cache = create_cache()
    cache.set("k", "old")
    many = tuple(f"tag {number}" for number in range(1000))
    loaded = Loaded("new", tags=[f"other {number}" for number in range(1000)])
    assert cache.refresh("k", lambda: loaded, tags=many) == "new"
    assert "k" not in cache
