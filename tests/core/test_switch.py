"""`enabled`: a cache, or a namespace, that is switched off stores nothing and misses."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from flowcache import CacheClosedError, create_cache
from harness.support import new_cache, unchanged


def test_switching_off_clears_and_then_nothing_is_stored() -> None:
    cache, _ = new_cache()
    acme = cache.namespace("acme")
    acme.set("k", 1, tags="t")
    assert cache.enabled and acme.enabled
    cache.enabled = False
    assert not cache.enabled and not acme.enabled
    assert acme.get("k") is None
    acme.set("k", 1)
    acme["k"] = 1
    acme.update(k=1)
    acme.set_many({"k": 1}, tags="t")
    assert acme.add("k", 1) is True and acme.add("k", 1) is True
    assert acme.setdefault("k", 3) == 3
    assert (acme.incr("n"), acme.incr("n", 5, default=2)) == (1, 7)
    assert acme.touch("k") is acme.delete("k") is False
    assert (len(acme), acme.stats().entries, acme.tags()) == (0, 0, {})
    assert acme.invalidate_tag("t") == acme.clear() == 0
    cache._check()


def test_loaders_are_called_one_load_a_key() -> None:
    cache, _ = new_cache(enabled=False)
    assert [cache.fetch("k", lambda: 1, stale=True) for _ in range(2)] == [1, 1]
    assert cache.stats().loads == 2
    calls = []

    async def load() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        return 2

    async def ask() -> list[int]:
        return await asyncio.gather(*(cache.afetch("k", load) for _ in range(5)))

    assert asyncio.run(ask()) == [2] * 5
    assert len(calls) == 1
    assert cache.fetch_many([1, 2], lambda missing: dict.fromkeys(missing, 3)) == {1: 3, 2: 3}
    function = cache.cached(calls.append)
    function(7)
    function(7)
    assert calls == [1, 7, 7]
    assert cache.stats().entries == 0


def test_a_load_that_runs_is_fenced_even_if_it_is_switched_on_meanwhile() -> None:
    cache, _ = new_cache()

    def load() -> int:
        cache.enabled = False
        cache.enabled = True
        return 1

    assert cache.fetch("k", load) == 1
    assert "k" not in cache
    assert cache.fetch("k", lambda: 2) == 2
    assert cache["k"] == 2


def test_a_load_that_begins_while_it_is_off_stores_once_it_is_on() -> None:
    cache, _ = new_cache(enabled=False)

    def load() -> int:
        cache.enabled = True
        return 1

    cache.fetch("k", load)
    assert cache["k"] == 1


def test_add_ends_a_running_load_as_it_says_that_it_stored() -> None:
    cache, _ = new_cache(enabled=False)

    def load() -> int:
        assert cache.add("k", 2) is True
        cache.enabled = True
        return 1

    assert cache.fetch("k", load) == 1
    assert "k" not in cache


def test_one_namespace_is_off_and_what_is_below_it() -> None:
    cache, _ = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    below = acme.namespace("below")
    acme.enabled = False
    for namespace in (acme, below, beta, acme.namespace("made", "since")):
        namespace.set("k", 1)
    assert (acme.enabled, below.enabled, beta.enabled) == (False, False, True)
    assert [len(namespace) for namespace in (acme, below, beta)] == [0, 0, 1]
    assert not acme.namespace("made", "since").enabled
    acme.enabled = True
    below.set("k", 1)
    assert below["k"] == 1
    cache._check()


def test_each_has_a_switch_of_its_own() -> None:
    cache, _ = new_cache()
    acme = cache.namespace("acme")
    acme.enabled = False
    cache.enabled = False
    acme.enabled = True
    assert not acme.enabled
    cache.enabled = True
    assert acme.enabled
    acme.enabled = False
    cache.enabled = False
    cache.enabled = True
    assert cache.enabled and not acme.enabled
    cache._check()


def test_a_namespace_that_is_off_is_remembered_without_a_view() -> None:
    cache, _ = new_cache(max_idle_namespaces=0)
    cache.namespace("acme").enabled = False
    cache.namespace("beta").set("k", 1)
    assert not cache.namespace("acme").enabled


def test_threads_that_store_leave_nothing_behind() -> None:
    cache = create_cache()
    stop = threading.Event()

    def store() -> None:
        n = 0
        while not stop.is_set():
            cache.set(n % 50, n)
            cache.fetch(n % 50 + 100, object)
            n += 1

    threads = [threading.Thread(target=store) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        cache.enabled = False
        assert cache.stats().entries == 0
        cache.enabled = True
    cache.enabled = False
    stop.set()
    for thread in threads:
        thread.join()
    assert cache.stats().entries == 0
    cache._check()


@pytest.mark.parametrize("value", [None, 1, 0, "no"])
def test_anything_but_a_bool_is_refused(value: Any) -> None:
    cache, _ = new_cache()
    cache.set("k", 1)
    with unchanged(cache), pytest.raises(TypeError, match="enabled: must be a bool"):
        cache.enabled = value
    with pytest.raises(TypeError, match="enabled: must be a bool"):
        create_cache(enabled=value)


def test_a_closed_cache_cannot_be_switched() -> None:
    cache, _ = new_cache()
    cache.close()
    with pytest.raises(CacheClosedError):
        cache.enabled = False
