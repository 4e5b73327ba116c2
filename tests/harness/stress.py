"""Eight threads, every call, one cache: no value is lost, and none reaches another tenant.

    make stress ARGS="--seconds 60 --threads 8 --seed 1"

Each thread draws calls at random over a few tenants and few keys, so that they meet all the time.
Every value names its owner, and bears a number from one counter. A loaded value has the number of
its load, another value a number drawn after its store had returned. Every call that removes
something draws a number before it begins, and makes it known once it has returned. So a reader of a
value can detect two faults, without a lock and in any order of the threads:

- the value bears another tenant or key than was asked for;
- its number is lower than that of a removal of its key that had returned before the read began. It
  was held, or being loaded, before the removal, and survived it.

Between rounds the threads meet at a barrier, and one of them recomputes every count and link of the
cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from flowcache import (
    Cache,
    CacheClosedError,
    ConfigurationError,
    Limits,
    Loaded,
    LoadTimeoutError,
    RecursiveLoadError,
    TooManyLoadsError,
    create_cache,
)

TENANTS = tuple(f"tenant:{n}" for n in range(4))
KEYS: tuple[Any, ...] = tuple(f"key:{n}" for n in range(24)) + tuple(("key", n) for n in range(8))
TAGS = ("red", "green", "blue")
ROUND = 400
"""Calls of one thread between two barriers."""


class Value:
    """Whose it is, and the number of the moment from which a removal must take it away."""

    __slots__ = ("key", "number", "tenant")

    def __init__(self, tenant: str, key: Any) -> None:
        self.tenant = tenant
        self.key = key
        self.number: int | None = None
        """None: it is not known to be stored yet."""

    def __repr__(self) -> str:
        return f"<{self.tenant} {self.key!r} #{self.number}>"


class TornError(Exception):
    """The exception that a loader raises at times."""


EXPECTED = (TornError, TooManyLoadsError, LoadTimeoutError, RecursiveLoadError)


class Stress:
    """One cache, and the records of its threads."""

    def __init__(self, threads: int, seed: int) -> None:
        self.cache: Cache[Any] = create_cache(
            default_ttl=None,
            max_entries=100,
            max_weight=2_000,
            weigher=lambda key, value: 1 + len(str(key)) % 7,
            child_limits=Limits(max_entries=40, max_pending=50, reserved=5),
            max_idle_namespaces=8,
            name="stress",
        )
        self.threads = threads
        self.seed = seed
        self.numbers = itertools.count(1)
        # The number of the last removal that has returned, by tenant and key. Written by many: one
        # that is lost to a race leaves an older number, which only asks for less.
        self.removed: dict[tuple[str, Any], int] = {}
        self.faults: list[str] = []
        self.calls: Counter[str] = Counter()
        self.heard = itertools.count()
        self.stopping = False
        self.barrier = threading.Barrier(threads, action=self.meet)
        self.until = 0.0
        self.rounds = 0

    # ------------------------------------------------------------------ what must hold

    def see(self, tenant: str, key: Any, value: Value, before: int) -> None:
        """Judge a value that was read; `before`: what `removed` said before the read began."""
        if (value.tenant, value.key) != (tenant, key):
            self.faults.append(f"{tenant} {key!r} was given {value!r}")
        elif value.number is not None and value.number < before:
            self.faults.append(f"{value!r} outlived its removal {before}")

    def gone(self, tenant: str, keys: Any, number: int) -> None:
        """Note that a removal of these keys, of all values older than `number`, has returned."""
        for key in keys:
            if self.removed.get((tenant, key), 0) < number:
                self.removed[tenant, key] = number

    def meet(self) -> None:
        """Run by one thread while the others wait: recompute the whole cache."""
        self.rounds += 1
        patience = time.monotonic() + 30
        try:
            # The pool's threads come to no barrier: their loads are to end first.
            while self.cache.stats().pending and time.monotonic() < patience:
                time.sleep(0.001)
            self.cache._check()
            stats = self.cache.stats()
            held = sum(len(self.cache.namespace(tenant)) for tenant in TENANTS)
            if stats.pending or held > 100 or stats.entries > 100:
                self.faults.append(f"at a barrier: {held} held, {stats}")
        except Exception as error:
            self.faults.append(f"at a barrier: {error!r}")
        self.stopping = bool(self.faults) or time.monotonic() >= self.until

    # ------------------------------------------------------------------ the threads

    def run(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        workers = [threading.Thread(target=self.work, args=(n,)) for n in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def work(self, n: int) -> None:
        worker = Worker(self, random.Random(f"{self.seed}/{n}"))
        try:
            while not self.stopping:
                worker.round()
                self.barrier.wait()
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.faults.append(f"thread {n}: {error!r}")
            self.barrier.abort()
            raise
        finally:
            self.calls.update(worker.calls)


class Worker:
    """One thread's calls. Each method that is named in `CALLS` is one call on one tenant's key."""

    def __init__(self, stress: Stress, draw: random.Random) -> None:
        self.stress = stress
        self.draw = draw
        self.calls: Counter[str] = Counter()
        self.kept = {tenant: stress.cache.namespace(tenant) for tenant in TENANTS}
        self.names, self.weights = zip(*CALLS.items(), strict=True)

    def round(self) -> None:
        asyncio.run(self.awaiting())
        names = self.draw.choices(self.names, self.weights, k=ROUND)
        if self.stress.rounds == 0:
            # Rare calls too, however few rounds a slow machine gets through.
            names += self.draw.sample(self.names, len(self.names))
        for name in names:
            self.calls[name] += 1
            tenant, key = self.draw.choice(TENANTS), self.draw.choice(KEYS)
            # A view that was kept and one that is made for the call are the same namespace.
            place = (
                self.kept[tenant]
                if self.draw.random() < 0.5
                else self.stress.cache.namespace(tenant)
            )
            with contextlib.suppress(*EXPECTED):
                getattr(self, name)(place, tenant, key)

    async def awaiting(self) -> None:
        """A few tasks at once on a loop of this thread's own."""

        async def one() -> None:
            tenant, key = self.draw.choice(TENANTS), self.draw.choice(KEYS)
            before = self.stress.removed.get((tenant, key), 0)
            load = self.draw.choice((self.load, self.load_async))
            self.calls["afetch"] += 1
            try:
                value = await self.kept[tenant].afetch(
                    key, lambda: load(tenant, key), tags=self.some_tags(), stale=True
                )
            except EXPECTED:
                return
            self.stress.see(tenant, key, value, before)

        await asyncio.gather(*(one() for _ in range(12)))

    # ------------------------------------------------------------------ what is stored

    def loaded(self, tenant: str, key: Any) -> Value:
        value = Value(tenant, key)
        self.stored(value)
        return value

    def stored(self, *values: Value) -> None:
        for value in values:
            value.number = next(self.stress.numbers)

    def some_tags(self) -> tuple[str, ...]:
        return tuple(self.draw.sample(TAGS, self.draw.randrange(len(TAGS) + 1)))

    def some_ttl(self) -> float | None:
        return self.draw.choice((None, None, None, 0.0005, 0.02, 5))

    def load(self, tenant: str, key: Any) -> Any:
        value = self.loaded(tenant, key)
        chance = self.draw.random()
        if chance < 0.05:
            raise TornError
        if chance < 0.1:
            self.stress.cache.namespace(tenant).get("another key")
        if chance < 0.15:
            return Loaded(value, ttl=self.some_ttl(), tags=self.some_tags())
        return value

    async def load_async(self, tenant: str, key: Any) -> Any:
        value = self.load(tenant, key)
        await asyncio.sleep(0)
        return value

    # ------------------------------------------------------------------ reading

    def get(self, place: Any, tenant: str, key: Any) -> None:
        before = self.stress.removed.get((tenant, key), 0)
        value = place.get(key)
        if value is not None:
            self.stress.see(tenant, key, value, before)

    def peek(self, place: Any, tenant: str, key: Any) -> None:
        before = self.stress.removed.get((tenant, key), 0)
        value = place.peek(key)
        if value is not None:
            self.stress.see(tenant, key, value, before)

    def get_many(self, place: Any, tenant: str, key: Any) -> None:
        keys = self.draw.sample(KEYS, 5)
        before = {key: self.stress.removed.get((tenant, key), 0) for key in keys}
        for key, value in place.get_many(keys).items():
            self.stress.see(tenant, key, value, before[key])

    def items(self, place: Any, tenant: str, key: Any) -> None:
        before = dict(self.stress.removed)
        pairs = list(place.items())
        if len({key for key, _ in pairs}) != len(pairs):
            self.stress.faults.append(f"{tenant}: items() repeats a key: {pairs}")
        for key, value in pairs:
            self.stress.see(tenant, key, value, before.get((tenant, key), 0))

    def look_around(self, place: Any, tenant: str, key: Any) -> None:
        len(place), list(place), list(place.values()), key in place
        place.stats(), place.limits, list(self.stress.cache.namespaces()), self.stress.cache.stats()
        place.keys(), place.name, place.maxsize, place.currsize
        place.inspect(key), self.stress.cache.tags(), self.stress.cache.children(top=3)
        place.touch(key, self.some_ttl())
        with contextlib.suppress(ConfigurationError):  # Another thread may switch to TinyLFU.
            place.advice()
        with contextlib.suppress(KeyError):
            place.ttl(key)

    def fetch(self, place: Any, tenant: str, key: Any) -> None:
        before = self.stress.removed.get((tenant, key), 0)
        value = place.fetch(
            key,
            lambda: self.load(tenant, key),
            ttl=self.some_ttl(),
            tags=self.some_tags(),
            stale=self.draw.choice((None, 0.01, True)),
            refresh_ahead=self.draw.choice((None, 0.5)),
        )
        self.stress.see(tenant, key, value, before)

    def fetch_in_time(self, place: Any, tenant: str, key: Any) -> None:
        before = self.stress.removed.get((tenant, key), 0)
        value = place.fetch(key, lambda: self.load(tenant, key), timeout=5)
        self.stress.see(tenant, key, value, before)

    def fetch_many(self, place: Any, tenant: str, key: Any) -> None:
        keys = self.draw.sample(KEYS, 4)
        before = {key: self.stress.removed.get((tenant, key), 0) for key in keys}

        def load(missing: list[Any]) -> dict[Any, Value]:
            return {key: self.loaded(tenant, key) for key in missing}

        for key, value in place.fetch_many(keys, load, tags=self.some_tags()).items():
            self.stress.see(tenant, key, value, before[key])

    def refresh(self, place: Any, tenant: str, key: Any) -> None:
        before = self.stress.removed.get((tenant, key), 0)
        self.stress.see(tenant, key, place.refresh(key, lambda: self.load(tenant, key)), before)

    # ------------------------------------------------------------------ storing

    def set(self, place: Any, tenant: str, key: Any) -> None:
        value = Value(tenant, key)
        place.set(key, value, ttl=self.some_ttl(), tags=self.some_tags())
        self.stored(value)

    def add(self, place: Any, tenant: str, key: Any) -> None:
        value = Value(tenant, key)
        if place.add(key, value, tags=self.some_tags()):
            self.stored(value)

    def setdefault(self, place: Any, tenant: str, key: Any) -> None:
        before, value = self.stress.removed.get((tenant, key), 0), Value(tenant, key)
        found = place.setdefault(key, value)
        self.stress.see(tenant, key, found, before)
        if found is value:
            self.stored(value)

    def set_many(self, place: Any, tenant: str, key: Any) -> None:
        values = {key: Value(tenant, key) for key in self.draw.sample(KEYS, 5)}
        place.set_many(values, tags=self.some_tags())
        self.stored(*values.values())

    def incr(self, place: Any, tenant: str, key: Any) -> None:
        # Beside the tenants: a counter is no value that says whose it is.
        self.stress.cache.namespace("counters").incr(f"{tenant}/{self.draw.randrange(4)}")

    # ------------------------------------------------------------------ removing

    def delete(self, place: Any, tenant: str, key: Any) -> None:
        number = next(self.stress.numbers)
        place.delete(key)
        self.stress.gone(tenant, [key], number)

    def pop(self, place: Any, tenant: str, key: Any) -> None:
        before, number = self.stress.removed.get((tenant, key), 0), next(self.stress.numbers)
        value = place.pop(key, None)
        if value is not None:
            self.stress.see(tenant, key, value, before)
        self.stress.gone(tenant, [key], number)

    def popitem(self, place: Any, tenant: str, key: Any) -> None:
        before = dict(self.stress.removed)
        try:
            key, value = place.popitem()
        except KeyError:
            return
        self.stress.see(tenant, key, value, before.get((tenant, key), 0))

    def delete_many(self, place: Any, tenant: str, key: Any) -> None:
        keys, number = self.draw.sample(KEYS, 4), next(self.stress.numbers)
        place.delete_many(keys)
        self.stress.gone(tenant, keys, number)

    def clear(self, place: Any, tenant: str, key: Any) -> None:
        number = next(self.stress.numbers)
        place.clear()
        self.stress.gone(tenant, KEYS, number)

    def clear_all(self, place: Any, tenant: str, key: Any) -> None:
        number = next(self.stress.numbers)
        self.stress.cache.clear()
        for tenant in TENANTS:
            self.stress.gone(tenant, KEYS, number)

    def invalidate_prefix(self, place: Any, tenant: str, key: Any) -> None:
        number = next(self.stress.numbers)
        place.invalidate_prefix("key:1")
        self.stress.gone(
            tenant, [key for key in KEYS if isinstance(key, str) and key[:5] == "key:1"], number
        )

    def invalidate_where(self, place: Any, tenant: str, key: Any) -> None:
        keys, number = self.draw.sample(KEYS, 4), next(self.stress.numbers)
        place.invalidate_where(lambda key, value: key in keys)
        self.stress.gone(tenant, keys, number)

    def expire(self, place: Any, tenant: str, key: Any) -> None:
        place.expire(key)
        place.expire_tag(self.draw.choice(TAGS))

    def invalidate_tag(self, place: Any, tenant: str, key: Any) -> None:
        self.draw.choice((place, self.stress.cache)).invalidate_tag(self.draw.choice(TAGS))

    def invalidate_tags(self, place: Any, tenant: str, key: Any) -> None:
        place.invalidate_tags(self.some_tags(), match=self.draw.choice(("any", "all")))

    # ------------------------------------------------------------------ around it

    def wander(self, place: Any, tenant: str, key: Any) -> None:
        """Make a namespace that is forgotten soon, with an entry or without."""
        deep = place.namespace(f"below:{self.draw.randrange(30)}", "deeper")
        if self.draw.random() < 0.5:
            deep.set(key, Value(tenant, key), ttl=0.001)

    def configure(self, place: Any, tenant: str, key: Any) -> None:
        place.configure(
            max_entries=self.draw.choice((20, 30, 40)),
            reserved=self.draw.choice((0, 5)),
            eviction=self.draw.choice(("lru", "tinylfu")),
        )
        around = self.draw.choice((None, lambda path, key: contextlib.nullcontext()))
        self.stress.cache.around_load = around

    def listen(self, place: Any, tenant: str, key: Any) -> None:
        def listener(event: Any) -> None:
            next(self.stress.heard)
            if event.path[:1] != (tenant,):
                self.stress.faults.append(f"{tenant} heard {event!r}")

        unsubscribe = place.subscribe(listener)
        place.set(key, Value(tenant, key))
        unsubscribe()

    def collect(self, place: Any, tenant: str, key: Any) -> None:
        gc.collect(0)

    def sweep(self, place: Any, tenant: str, key: Any) -> None:
        self.stress.cache.sweep()

    def closed(self, place: Any, tenant: str, key: Any) -> None:
        """A cache of its own that is closed while another thread uses it."""
        sharing = self.draw.choice(("fair", "utility"))
        with create_cache(max_entries=10, sweep_interval=0.001, sharing=sharing) as cache:
            view = cache.namespace(tenant)
            view.set(key, Value(tenant, key), tags=self.some_tags())
            other = threading.Thread(target=self.use_until_closed, args=(view, key))
            other.start()
        other.join()

    def use_until_closed(self, view: Any, key: Any) -> None:
        try:
            while True:
                view.set(key, 1)
                view.fetch(key, dict)
        except CacheClosedError:
            pass


CALLS: dict[str, float] = {
    "get": 30,
    "peek": 5,
    "get_many": 5,
    "items": 3,
    "look_around": 3,
    "fetch": 20,
    "fetch_in_time": 2,
    "fetch_many": 4,
    "refresh": 2,
    "set": 20,
    "add": 4,
    "setdefault": 3,
    "set_many": 3,
    "incr": 3,
    "delete": 5,
    "pop": 3,
    "popitem": 2,
    "delete_many": 2,
    "clear": 1,
    "clear_all": 0.3,
    "invalidate_prefix": 1,
    "invalidate_where": 1,
    "expire": 1,
    "invalidate_tag": 2,
    "invalidate_tags": 2,
    "wander": 4,
    "configure": 0.5,
    "listen": 0.5,
    "collect": 0.1,
    "sweep": 1,
    "closed": 0.05,
}
"""How often each call is drawn, beside the others."""


def run(seconds: float, threads: int, seed: int) -> Stress:
    """Run the stress for so long, on a switch interval that lets threads meet everywhere."""
    stress = Stress(threads, seed)
    logger, interval, hook = (
        logging.getLogger("flowcache"),
        sys.getswitchinterval(),
        threading.excepthook,
    )
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Loads that fail are part of it.
    threading.excepthook = lambda dead: stress.faults.append(f"{dead.thread}: {dead.exc_value!r}")
    sys.setswitchinterval(1e-6)
    try:
        stress.run(seconds)
    finally:
        sys.setswitchinterval(interval)
        threading.excepthook = hook
        logger.setLevel(level)
    stress.cache.close()
    stress.cache._check()
    return stress


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--threads", type=int, default=8, help="how many threads (8)")
    parser.add_argument("--seed", type=int, default=None, help="draws the calls (random)")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    is_gil_enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    print(
        f"Python {sys.version.split()[0]}, GIL {'on' if is_gil_enabled() else 'off'}, seed {seed}"
    )
    stress = run(options.seconds, options.threads, seed)
    for fault in stress.faults[:20]:
        print("FAULT:", fault)
    print(
        f"{stress.calls.total():,} calls of {len(stress.calls)} kinds by {stress.threads} threads, "
        f"{stress.rounds:,} barriers, {len(stress.faults)} faults"
    )
    return 1 if stress.faults else 0


if __name__ == "__main__":
    sys.exit(main())
