"""Concurrent calls of several threads on one object stay whole, with the GIL and without."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable

import pytest

from flowcache import create_cache

THREADS = 4


def all_at_once(work: Callable[[], None]) -> None:
    """Do the work in several threads that begin together."""
    barrier = threading.Barrier(THREADS)

    def begin() -> None:
        barrier.wait(30)
        work()

    threads = [threading.Thread(target=begin) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this build always has the GIL"
)
def test_the_gil_stays_off_when_flowcache_is_imported() -> None:
    program = "import sys, flowcache; sys.exit(sys._is_gil_enabled())"
    # -W error: CPython warns when an extension that is not declared compatible turns it on.
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_of_many_that_await_one_hit_one_gets_its_value() -> None:
    cache = create_cache()
    cache["plan"] = ["gold"]

    async def load() -> list[str]:
        raise AssertionError("it is held")

    for _ in range(200):
        hit = cache.afetch("plan", load)
        answers: list[object] = []

        def take(hit: object = hit, answers: list[object] = answers) -> None:
            try:
                hit.send(None)  # type: ignore[attr-defined]
            except StopIteration as stop:
                answers.append(stop.value)
            except RuntimeError as refused:
                answers.append(str(refused))

        all_at_once(take)
        assert answers.count(["gold"]) == 1
        assert sum("already awaited" in answer for answer in answers) == THREADS - 1  # type: ignore[operator]


def test_no_call_of_a_cached_function_goes_uncounted() -> None:
    cache = create_cache()

    @cache.cached()
    def double(n: int) -> int:
        return 2 * n

    def call() -> None:
        for n in range(2_000):
            assert double(n % 10) == 2 * (n % 10)

    all_at_once(call)
    info = double.cache_info()
    assert info.hits + info.misses == THREADS * 2_000
    assert info.currsize == 10
    assert cache.stats().hits + cache.stats().misses == THREADS * 2_000
    cache._check()


def test_namespaces_made_and_dropped_by_all_are_one_each() -> None:
    cache = create_cache(max_idle_namespaces=3)

    def visit() -> None:
        for n in range(500):
            view = cache.namespace("tenant", f"t{n % 20}")
            view.set(n, n, tags=f"tag{n % 3}")
            del view
            if n % 50 == 0:
                cache.namespace("tenant").clear()

    all_at_once(visit)
    cache._check()
    assert set(cache.namespace("tenant").namespaces()) <= {f"t{n}" for n in range(20)}
