"""Background loads of threads: fair to tenants and caches, finite, in an executor if given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from flowcache import Cache, Namespace, create_cache
from flowcache.loading import pool
from harness.loading_support import assert_nothing_left, wait_until
from harness.support import VirtualClock, logged, new_cache


class Hung:
    """Loaders that do not end before the test does, and count how many of them run."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait(60)
        with self._lock:
            self.running -= 1
        return "late"


@contextmanager
def hung() -> Iterator[Hung]:
    loader = Hung()
    try:
        yield loader
    finally:
        loader.open.set()
        wait_until(lambda: loader.running == 0)


def stale(ns: Namespace[Any], clock: VirtualClock, count: int) -> None:
    """Let the namespace hold so many entries past their TTL, within their window."""
    for key in range(count):
        ns.set(key, "old", ttl=1, stale=True)
    clock.advance(2)


def is_loaded(ns: Namespace[Any], key: Any) -> None:
    """Fetch the key: its background load runs soon, although others hang."""
    assert ns.fetch(key, lambda: "new", stale=True) == "old"
    wait_until(lambda: ns.peek(key) == "new")


@pytest.mark.parametrize("how_many", [pool.PER_TENANT, 5 * pool.PER_TENANT])
def test_hung_loads_of_one_tenant_stop_no_other_one_s(how_many: int) -> None:
    cache, clock = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    stale(acme.namespace("below"), clock, how_many)
    stale(beta, clock, 1)
    with hung() as loader:
        for key in range(how_many):
            assert acme.namespace("below").fetch(key, loader, stale=True) == "old"
        wait_until(lambda: loader.running == pool.PER_TENANT)
        is_loaded(beta, 0)
        assert loader.most == pool.PER_TENANT
    wait_until(lambda: cache.stats().pending == 0)
    assert_nothing_left(cache)


def test_hung_loads_of_all_tenants_of_a_cache_stop_no_other_cache_s() -> None:
    cache, clock = new_cache()
    other = create_cache(clock=clock)
    stale(other, clock, 1)
    tenants = [cache.namespace(f"tenant {number}") for number in range(2 * pool.THREADS)]
    for ns in tenants:
        ns.set(0, "old", ttl=1, stale=True)
    clock.advance(2)
    with hung() as loader:
        for ns in tenants:
            assert ns.fetch(0, loader, stale=True) == "old"
        wait_until(lambda: loader.running == len(tenants))
        is_loaded(other, 0)
    wait_until(lambda: cache.stats().pending == 0)


def test_a_tenant_without_a_thread_gets_one_however_many_hang_for_others() -> None:
    cache, clock = new_cache(max_pending_age=30)
    beta, gamma = cache.namespace("beta"), cache.namespace("gamma")
    tenants = [cache.namespace(f"tenant {number}") for number in range(20)]
    with hung() as loader:
        for _ in range(8):
            for ns in (*tenants, beta, gamma):
                stale(ns, clock, 4)
            for key in range(4):
                for ns in tenants:
                    ns.fetch(key, loader, stale=True)
            is_loaded(beta, 0)
            is_loaded(gamma, 1)
            clock.advance(31)
        assert loader.most <= pool.MOST_LOST + pool.THREADS + len(tenants)
        clock.advance(31)
    wait_until(lambda: cache.stats().pending == 0)
    assert_nothing_left(cache)


def test_a_hung_load_is_replaced_when_it_is_too_old() -> None:
    cache, clock = new_cache(max_pending_age=30)
    ns = cache.namespace("acme")
    stale(ns, clock, pool.PER_TENANT + 1)
    with hung() as loader:
        for key in range(pool.PER_TENANT):
            ns.fetch(key, loader, stale=True)
        wait_until(lambda: loader.running == pool.PER_TENANT)
        clock.advance(31)
        is_loaded(ns, pool.PER_TENANT)


def test_threads_that_are_lost_to_one_tenant_are_bounded() -> None:
    cache, clock = new_cache(max_pending_age=30)
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    stale(beta, clock, 1)
    with hung() as loader:
        for _ in range(20):
            stale(acme, clock, 2 * pool.PER_TENANT)
            clock.advance(31)
            for key in range(2 * pool.PER_TENANT):
                acme.fetch(key, loader, stale=True)
        wait_until(lambda: loader.running >= pool.LOST)
        is_loaded(beta, 0)
        assert loader.most <= pool.LOST + pool.PER_TENANT
        clock.advance(31)
    assert acme.fetch(0, lambda: "new", stale=True) in ("old", "late")
    wait_until(lambda: cache.stats().pending == 0)


def test_a_load_that_waits_too_long_for_its_turn_is_dropped_and_begun_anew() -> None:
    cache, clock = new_cache(max_pending_age=30)
    ns = cache.namespace("acme")
    stale(ns, clock, pool.PER_TENANT + 1)
    calls: list[int] = []
    with hung() as loader:
        for key in range(pool.PER_TENANT):
            ns.fetch(key, loader, stale=True)
        wait_until(lambda: loader.running == pool.PER_TENANT)
        last = pool.PER_TENANT
        assert ns.fetch(last, lambda: calls.append(1) or "first", stale=True) == "old"
        clock.advance(31)
        assert ns.fetch(last, lambda: calls.append(2) or "second", stale=True) == "old"
        wait_until(lambda: ns.peek(last) == "second")
        assert calls == [2]


def test_what_waits_for_a_thread_is_bounded() -> None:
    cache, clock = new_cache()
    ns = cache.namespace("acme")
    most = pool.PER_TENANT + pool.QUEUED
    stale(ns, clock, most + 50)
    with hung() as loader:
        for key in range(most + 50):
            assert ns.fetch(key, loader, stale=True) == "old"
        wait_until(lambda: loader.running == pool.PER_TENANT)
        assert cache.stats().pending <= most
    wait_until(lambda: cache.stats().pending == 0)
    assert_nothing_left(cache)


def test_threads_end_when_there_is_nothing_to_load() -> None:
    cache, clock = new_cache()
    stale(cache, clock, 20)
    for key in range(20):
        cache.fetch(key, lambda: "new", stale=True)
    wait_until(lambda: set(cache.values()) == {"new"})
    wait_until(lambda: not any("refresh" in one.name for one in threading.enumerate()))


# An executor of the application's own


def test_an_executor_runs_the_background_loads() -> None:
    names: list[str] = []
    clock = VirtualClock()
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as executor:
        cache: Cache[Any] = create_cache(clock=clock, executor=executor)
        stale(cache, clock, 10)
        for key in range(10):
            cache.fetch(key, lambda: names.append(threading.current_thread().name), stale=True)
        wait_until(lambda: len(names) == 10)
    assert {name.partition("_")[0] for name in names} == {"mine"}
    assert_nothing_left(cache)


def test_an_executor_that_was_shut_down_leaves_the_old_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock()
    executor = ThreadPoolExecutor(1)
    cache = create_cache(clock=clock, executor=executor)
    stale(cache, clock, 1)
    executor.shutdown()
    assert cache.fetch(0, lambda: "new", stale=True) == "old"
    assert cache.stats().pending == 0
    assert "executor" in logged(caplog)[0].getMessage()


@pytest.mark.parametrize("executor", [3, "threads", ThreadPoolExecutor])
def test_what_is_no_executor_is_refused(executor: Any) -> None:
    if executor is ThreadPoolExecutor:
        executor = object()
    with pytest.raises(TypeError, match="executor: must have a method submit"):
        create_cache(executor=executor)


def test_an_executor_of_processes_is_refused() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(TypeError, match="must run threads"):
        create_cache(executor=executor)
