"""Two tenants at once: threads in step, each working for its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TENANTS = ("acme", "beta")


def in_step(work: Callable[[str, Callable[[], Any]], None], *names: str) -> None:
    """Run `work(name, step)` in a thread for each name; `step()` waits for the others.

    An exception in one of them ends all, and is raised.
    """
    barrier = threading.Barrier(len(names), timeout=60)

    def run(name: str) -> None:
        try:
            work(name, barrier.wait)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(names)) as pool:
        running = [pool.submit(run, name) for name in names]
    errors = [error for one in running if (error := one.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    assert not errors
