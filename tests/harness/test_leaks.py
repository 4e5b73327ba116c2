"""No object is kept: by calls that succeed, are refused, or fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowcache import Cache, Loaded, create_cache
from harness.loading_support import wait_until
from harness.support import ADDRESS_SANITIZED, run_isolated


class Guest:
    """A key or a value whose references are counted."""


class BadHash:
    def __hash__(self) -> int:
        raise ZeroDivisionError


class BadEq:
    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


def fail(*_: object) -> Any:
    raise ZeroDivisionError


class Interrupt(BaseException):
    """No error, so that no caller of a listener handles it."""


def interrupt(*_: object) -> Any:
    raise Interrupt


async def give(value: Any) -> Any:
    return value


async def fail_later() -> Any:
    raise ZeroDivisionError


# The arguments of a call: a cache, a key, a value, a tag.
Path = Callable[[Cache[Any], Any, Any, str], Any]

PATHS: dict[str, Path] = {
    "set, get": lambda c, k, v, t: (c.set(k, v, tags=t, ttl=5), c.get(k), c.peek(k)),
    "set twice": lambda c, k, v, t: (c.set(k, v), c.set(k, v, tags=(t, t))),
    "set, ttl=0": lambda c, k, v, t: (c.set(k, v), c.set(k, v, ttl=0, tags=t)),
    "set, bad ttl": lambda c, k, v, t: c.set(k, v, tags=t, ttl=timedelta(-1)),
    "set, bad tags": lambda c, k, v, t: c.set(k, v, tags=[t, 7]),
    "set, bad stale": lambda c, k, v, t: c.set(k, v, tags=t, stale="long"),
    "set, bad hash": lambda c, k, v, t: c.set((k, BadHash()), v, tags=t),
    "set, too heavy": lambda c, k, v, t: (
        c.namespace("heavy", max_weight=1).set(k, v, tags=t),
        c.namespace("heavy").set((k, "heavy"), v, tags=t),
    ),
    "keys that do not compare": lambda c, k, v, t: (
        c.set((BadEq(), k), v, tags=t),
        c.get((BadEq(), k)),
    ),
    "set where that raises": lambda c, k, v, t: c.set((BadEq(), k), v),
    "add": lambda c, k, v, t: (c.add(k, v, tags=t), c.add(k, v, tags=t)),
    "delete, pop": lambda c, k, v, t: (c.set(k, v), c.delete(k), c.set(k, v), c.pop(k)),
    "pop, missing": lambda c, k, v, t: (c.pop(k, v), c.pop(k)),
    "popitem": lambda c, k, v, t: (c.set(k, v, tags=t), c.popitem()),
    "touch, ttl": lambda c, k, v, t: (c.set(k, v), c.touch(k, 5), c.ttl(k), c.touch(k, -1)),
    "incr": lambda c, k, v, t: (c.incr(k, 2), c.incr(k, 10**30), c.set(k, v), c.incr(k)),
    "many": lambda c, k, v, t: (
        c.set_many({k: v}, tags=t),
        c.get_many([k]),
        c.delete_many([k]),
        c.set_many({(k, BadHash): v, BadHash(): v}),
    ),
    "mapping": lambda c, k, v, t: (
        c.__setitem__(k, v),
        c[k],
        k in c,
        list(c),
        c.values(),
        c.items(),
        c.setdefault(k, v),
        c.update([(k, v)]),
        c.__delitem__(k),
        c[k],
    ),
    "clear, invalidate": lambda c, k, v, t: (
        c.set(k, v, tags=t),
        c.invalidate_tag(t),
        c.set(k, v, tags=(t, "other")),
        c.invalidate_tags([t, "other"], match="all"),
        c.set(k, v, tags=t),
        c.invalidate_prefix(t),
        c.set(k, v, tags=t, stale=True),
        c.expire(k),
        c.set(k, v, tags=t, sliding=5, jitter=0.5),
        c.get(k),
        setattr(c, "enabled", False),
        c.set(k, v, tags=t),
        setattr(c, "enabled", True),
        c.expire_tag(t),
        c.inspect(k),
        c.tags(),
        c.children(top=1),
        c.advice(),
        c.invalidate_where(lambda key, value: value),
        c.clear(),
        c.invalidate_tags([t], match="none"),
    ),
    "evicted": lambda c, k, v, t: [c.set((k, n), v, tags=t) for n in range(20)],
    "cut off": lambda c, k, v, t: (
        c.configure(max_entries=None),
        c.update({n: v for n in range(9000)}),  # noqa: C420  one reference an entry
        c.clear(),
        c.sweep(),
    ),
    "namespaces": lambda c, k, v, t: (
        c.namespace("a", t).set(k, v),
        c.namespace("a").clear(),
        c.namespace(" "),
    ),
    "listeners": lambda c, k, v, t: (
        c.subscribe(lambda event: event.value)(),
        c.subscribe(fail, "set"),
        c.set(k, v),
        c.clear(),
    ),
    "fetch": lambda c, k, v, t: (c.fetch(k, lambda: v, tags=t), c.fetch(k, lambda: v)),
    "fetch, Loaded": lambda c, k, v, t: c.fetch(k, lambda: Loaded(v, tags=t, ttl=9)),
    "fetch, not stored": lambda c, k, v, t: c.fetch(k, lambda: v, store_if=lambda _: False),
    "fetch, loader raises": lambda c, k, v, t: c.fetch(k, fail, tags=t),
    "fetch, store_if raises": lambda c, k, v, t: c.fetch(k, lambda: v, store_if=fail, tags=t),
    "fetch, bad options": lambda c, k, v, t: c.fetch(k, lambda: v, tags=t, tll=5),
    "fetch, its own key": lambda c, k, v, t: c.fetch(k, lambda: c.fetch(k, lambda: v)),
    "fetch, cleared": lambda c, k, v, t: c.fetch(k, lambda: (c.clear(), v)[1], tags=t),
    "fetch, closed": lambda c, k, v, t: c.fetch(k, lambda: (c.close(), v)[1], tags=t),
    "fetch, stale if error": lambda c, k, v, t: (
        c.set(k, v, ttl=1e-9, stale=False),
        c.fetch(k, fail, stale_if_error=60),
    ),
    "fetch, a listener of stale hits interrupts": lambda c, k, v, t: (
        c.set(k, v, stale=True),
        c.expire(k),
        c.subscribe(interrupt, "stale_hit"),
        c.fetch(k, lambda: v),
    ),
    "fetch, timeout": lambda c, k, v, t: c.fetch(k, lambda: v, timeout=30, tags=t),
    "refresh": lambda c, k, v, t: (c.set(k, v), c.refresh(k, lambda: v), c.refresh(k, fail)),
    "fetch_many": lambda c, k, v, t: (
        c.fetch_many([k, t], lambda keys: dict.fromkeys(keys, v), tags=t),
        c.fetch_many([(k, 1)], lambda keys: [v]),
    ),
    "afetch": lambda c, k, v, t: asyncio.run(give_all(c, k, v, t)),
    "afetch, dropped": lambda c, k, v, t: (
        c.set(k, v),
        c.afetch(k, lambda: give(v)),
        c.afetch(k, lambda: give(v)).throw(ZeroDivisionError()),
    ),
    "cached": lambda c, k, v, t: (
        c.cached(tags=t)(lambda key: v)(k),
        c.cached(key=lambda key: key)(fail)(k),
    ),
    "closed": lambda c, k, v, t: (c.set(k, v, tags=t), c.close(), c.set(k, v)),
}


async def give_all(cache: Cache[Any], key: Any, value: Any, tag: str) -> None:
    await cache.afetch(key, lambda: give(value), tags=tag)
    await asyncio.gather(*(cache.afetch((key, 1), lambda: give(value)) for _ in range(3)))
    await cache.arefresh(key, lambda: give(value))
    await cache.afetch((key, 2), fail_later)


REFUSED = (ZeroDivisionError, ValueError, TypeError, KeyError, RuntimeError, Interrupt)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", PATHS)
def test_keys_values_and_tags_are_let_go(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The capture of the log keeps the tracebacks of listeners that raise.
    monkeypatch.setattr(logging.getLogger("flowcache"), "disabled", True)
    key, value, tag = Guest(), Guest(), f"some tag of {name}"
    threads = set(threading.enumerate())

    def once() -> None:
        cache = create_cache(max_entries=5, weigher=lambda key, value: 1 + (type(key) is tuple))
        with contextlib.suppress(*REFUSED):
            PATHS[name](cache, key, value, tag)

    def counts() -> list[int]:
        # The thread of a load that has answered may be on its way out still.
        wait_until(lambda: set(threading.enumerate()) <= threads)
        gc.collect()
        return [sys.getrefcount(guest) for guest in (key, value, tag)]

    once()
    before = counts()
    for _ in range(3):
        once()

    assert counts() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory as Linux tells it")
@pytest.mark.skipif(ADDRESS_SANITIZED, reason="AddressSanitizer keeps what is freed")
def test_memory_does_not_grow_with_what_was_done() -> None:
    printed = run_isolated(
        """
    import gc, logging, resource, sys
    sys.setswitchinterval(0.005)
    logging.getLogger("flowcache").setLevel(logging.CRITICAL)
    from harness import test_leaks
    from flowcache import create_cache

    paths = [path for name, path in test_leaks.PATHS.items()
             if name not in ("afetch", "cut off", "cached")]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def work(n):
        cache = create_cache(max_entries=50, max_idle_namespaces=100)
        for m in range(n):
            view = create_cache(max_entries=5, weigher=lambda key, value: 1)
            for path in paths:
                try:
                    path(view, f"key {m}", [m], f"tag {m % 50}")
                except test_leaks.REFUSED:
                    pass
            for n in range(20):
                cache.namespace(f"tenant {m} {n}").set(("key", m, n), [m], tags=f"tag {m}")

    # What leaks grows every time. Allocators, above all without the GIL, take a while to have all
    # the pages that they will use over and over.
    work(150)
    grown = []
    for _ in range(3):
        before = resident()
        work(600)
        grown.append(resident() - before)
    print(min(grown))
    """
    )
    assert int(printed) < 500_000, "of 600 times all paths"
