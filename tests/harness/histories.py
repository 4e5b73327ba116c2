"""A randomised checker of loading: many callers, a record of their results, a verdict at the end.

    make histories ARGS="--operations 1000000"

Threads, and tasks on two event loops, ask two namespaces of one cache for a few keys. Loads fail,
are interrupted, take long, and fetch other keys. Calls are cancelled and time out. Keys are
written, deleted and invalidated by key, tag, prefix and namespace, and time passes. Each call and
each run of a loader draws a number at its start and one at its end. So the numbers of any two tell
whether one ended before the other began. When a round is over, its history is verified:

- At most one load of a key runs at a time, unless the key was invalidated in between.
- No call returns a value whose load began before an invalidation that had returned before the call.
  No call returns the value of another key or namespace.
- Every call comes back, and no load is left behind.
- A loader's exception reaches all calls that waited for that load and no other, each as an object
  of its own; an interrupt, or another exception that is no `Exception`, reaches its leader alone;
  no call is cancelled by another.
- A tag that some calls bear beside the others counts from the moment at which such a call leads a
  load, or joins one: for what is stored, and for what such a call is handed.
- A value that is not to be kept is handed to those that waited for it alone, and what it was to
  replace is not served afterwards.

Values are their own records: the value of a load or a write is an object with the numbers of its
making. Wrappers of the two functions that wait record which call waited for which load.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import itertools
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flowcache import Cache, Loaded, LoadTimeoutError, Namespace, RecursiveLoadError, create_cache
from flowcache.loading import deadlock
from harness.history import (
    KEYS,
    MARKS,
    PLACES,
    STRIKES,
    Call,
    Failed,
    Foreign,
    History,
    Load,
    Place,
    Value,
    Violation,
    calling,
)

THREADS = 4
TASKS = 8
"""On each of two loops."""
ROUND = 20_000
"""Calls after which the history is verified and forgotten."""


class Clock:
    """Seconds that pass when a call advances them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tags_of(key: str) -> tuple[str, str]:
    """The tags of every entry of a key: one that calls name, and one that only loaders name."""
    return "letter:" + key[0], "number:" + key[1]


class Round:
    """One cache and all its concurrent callers."""

    def __init__(self, seed: int, calls: int, *, virtual: bool) -> None:
        self.seed = seed
        self.left = itertools.repeat(None, calls)
        """Drawn from by all; a call for each."""
        self.calls = calls
        self.history = History()
        self.clock = Clock() if virtual else None
        self.unit = 1.0 if virtual else 0.01
        """Seconds in which something expires."""
        self.cache: Cache[Any] = create_cache(
            default_ttl=None,
            max_entries=None if seed % 2 else 8,
            max_pending_age=1e9,
            clock=self.clock,
        )
        self.places = {name: self.cache.namespace("tenant", name) for name in PLACES}
        self.errors: list[BaseException] = []

    # One operation

    def options(self, chance: random.Random, call: Call) -> dict[str, Any]:
        options: dict[str, Any] = {}
        draw = chance.random()
        if draw < 0.3:
            options["ttl"] = self.unit * chance.choice((1, 3))
            if chance.random() < 0.5:
                options["stale"] = chance.choice((True, self.unit * 2))
            if chance.random() < 0.3:
                options["stale_if_error"] = self.unit * 5
                call.falls_back = True
            if chance.random() < 0.3:
                options["refresh_ahead"] = 0.5
            elif chance.random() < 0.3:
                options["sliding"] = self.unit
            if chance.random() < 0.3:
                options["jitter"] = 0.5
        if chance.random() < 0.03:
            options["timeout"] = chance.choice((0, 0.0005))
            call.timeout = True
        options["tags"] = ()
        if chance.random() < 0.1:
            call.mark = chance.choice(MARKS)
            options["tags"] = (call.mark,)
        return options

    def loaded(self, load: Load) -> Loaded[Value]:
        tag = tags_of(load.value.place[1])[1]
        return Loaded(load.value, tags=tag, store=load.value.is_kept)

    def finish(self, load: Load, fate: float, strike: type[BaseException] | None) -> Loaded[Value]:
        """End a run of a loader: with a value, an error, or an interrupt."""
        if fate < 0.1:
            load.raised = Failed(load.value)
        elif fate < 0.12 and strike is not None:
            load.raised = strike(load.value)
        elif fate > 0.95:
            load.value.is_kept = False
        load.value.end = self.history.ticket()
        if load.raised is not None:
            raise load.raised
        return self.loaded(load)

    def loader(
        self, chance: random.Random, place: Place, depth: int, *, blocks_loop: bool
    ) -> Callable[[], Any]:
        fate, pause, nested = chance.random(), chance.random(), chance.random() < 0.02
        seed = chance.random()

        def load() -> Any:
            running = deadlock.current_load()
            assert running is not None
            run = self.history.begin_load(place, running)
            try:
                if nested and depth < 3:
                    own = random.Random(seed)
                    with suppress(Failed, RecursiveLoadError, LoadTimeoutError):
                        self.fetch(own, depth=depth + 1, blocks_loop=blocks_loop)
                if pause < 0.3:
                    time.sleep(pause / 1000 if pause < 0.02 else 0)
            finally:
                run.value.end = self.history.ticket()
            may_strike = depth == 0 and not blocks_loop
            return self.finish(run, fate, STRIKES[seed < 0.5] if may_strike else None)

        return load

    def async_loader(self, chance: random.Random, place: Place, depth: int) -> Callable[[], Any]:
        fate, pauses, nested = chance.random(), chance.randrange(4), chance.random() < 0.02
        seed = chance.random()

        async def load() -> Any:
            running = deadlock.current_load()
            assert running is not None
            run = self.history.begin_load(place, running)
            try:
                if nested and depth < 3:
                    own = random.Random(seed)
                    with suppress(Failed, RecursiveLoadError, LoadTimeoutError):
                        await self.afetch(own, depth=depth + 1)
                for _ in range(pauses):
                    await asyncio.sleep(0)
            finally:
                run.value.end = self.history.ticket()
            return self.finish(run, fate, Foreign if depth == 0 else None)

        return load

    def batch_loader(self, chance: random.Random, name: str, *, may_strike: bool) -> Any:
        fate, absent = chance.random(), chance.random() < 0.1

        def load(missing: list[str]) -> dict[str, Loaded[Value]]:
            running = deadlock.current_load()
            assert running is not None
            loads = tuple(running.run.loads)
            runs = [self.history.begin_load((name, own.key), own) for own in loads]
            time.sleep(0)
            error: BaseException | None = None
            if fate < 0.1:
                error = Failed(name, missing)
            elif fate < 0.12 and may_strike:
                error = STRIKES[len(missing) % 2](name, missing)
            for run in runs:
                run.raised = error
                run.value.is_kept = fate < 0.95
                run.value.end = self.history.ticket()
            if error is not None:
                raise error
            found = {run.value.place[1]: self.loaded(run) for run in runs}
            if absent:
                found.popitem()
            return found

        return load

    def fetch(self, chance: random.Random, *, depth: int = 0, blocks_loop: bool = False) -> None:
        """One sync call that loads, from a thread, or against advice from a task."""
        name, key = chance.choice(PLACES), chance.choice(KEYS)
        call = Call(self.history.ticket(), nested=depth > 0, blocks_loop=blocks_loop)
        token = calling.set(call)
        options = self.options(chance, call)
        which = self.places[name].refresh if chance.random() < 0.1 else self.places[name].fetch
        if which == self.places[name].refresh:
            options.pop("refresh_ahead", None)
        try:
            load = self.loader(chance, (name, key), depth, blocks_loop=blocks_loop)
            options["tags"] += tags_of(key)[:1]
            call.found[name, key] = which(key, load, **options)
        except (Exception, *STRIKES) as error:
            call.error = error
            if depth:
                raise
        finally:
            calling.reset(token)
            self.history.end(call)

    async def afetch(self, chance: random.Random, *, depth: int = 0) -> None:
        """One call that loads, from a task."""
        name, key = chance.choice(PLACES), chance.choice(KEYS)
        call = Call(self.history.ticket(), nested=depth > 0)
        token = calling.set(call)
        options = self.options(chance, call)
        load = self.async_loader(chance, (name, key), depth)
        cancels = depth == 0 and chance.random() < 0.15
        try:
            which = self.places[name].arefresh if chance.random() < 0.1 else None
            options["tags"] += tags_of(key)[:1]
            asking = (which or self.places[name].afetch)(key, load, **options)
            if cancels:
                asking = asyncio.ensure_future(asking)
                asyncio.get_running_loop().call_soon(self.cancel, call, asking, chance.randrange(5))
            call.found[name, key] = await asking
        except asyncio.CancelledError as error:
            call.error = error
            if depth:
                # The load that it is part of is being cancelled; or its own future was.
                call.cancelled = True
                raise
        except (Exception, Foreign) as error:
            call.error = error
            if depth:
                raise
        finally:
            calling.reset(token)
            self.history.end(call)

    def cancel(self, call: Call, asking: asyncio.Future[Any], later: int) -> None:
        if later:
            asyncio.get_running_loop().call_soon(self.cancel, call, asking, later - 1)
        elif asking.cancel():
            call.cancelled = True

    def fetch_many(self, chance: random.Random) -> None:
        name = chance.choice(PLACES)
        keys = chance.sample(KEYS, chance.randrange(1, 4))
        call = Call(self.history.ticket())
        token = calling.set(call)
        call.found = {(name, key): None for key in keys}
        options = self.options(chance, call)
        options.pop("refresh_ahead", None)
        # One tag for all: the loader names tags that differ by key, and both.
        try:
            load = self.batch_loader(chance, name, may_strike=True)
            found = self.places[name].fetch_many(keys, self.with_both_tags(load), **options)
            call.found |= {(name, key): value for key, value in found.items()}
        except (Exception, *STRIKES) as error:
            call.error = error
        finally:
            calling.reset(token)
            self.history.end(call)

    async def afetch_many(self, chance: random.Random) -> None:
        name = chance.choice(PLACES)
        keys = chance.sample(KEYS, chance.randrange(1, 4))
        call = Call(self.history.ticket())
        token = calling.set(call)
        call.found = {(name, key): None for key in keys}
        options = self.options(chance, call)
        options.pop("refresh_ahead", None)
        load = self.with_both_tags(self.batch_loader(chance, name, may_strike=False))

        async def load_later(missing: list[str]) -> Any:
            await asyncio.sleep(0)
            return load(missing)

        try:
            found = await self.places[name].afetch_many(keys, load_later, **options)
            call.found |= {(name, key): value for key, value in found.items()}
        except (Exception, Foreign) as error:
            call.error = error
        finally:
            calling.reset(token)
            self.history.end(call)

    def with_both_tags(self, load: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
        def load_all(missing: list[str]) -> dict[str, Loaded[Value]]:
            return {
                key: Loaded(loaded.value, tags=tags_of(key), store=loaded.store)
                for key, loaded in load(missing).items()
            }

        return load_all

    def other(self, chance: random.Random) -> None:
        """One call that looks up, writes or invalidates, or the passing of time."""
        name, key = chance.choice(PLACES), chance.choice(KEYS)
        place, history = self.places[name], self.history
        draw = chance.random()
        if draw < 0.35:
            call = Call(history.ticket())
            call.found[name, key] = place.get(key)
            history.end(call)
        elif draw < 0.5:
            with history.invalidation(name, lambda other: other == key, "delete"):
                place.delete(key)
        elif draw < 0.65:
            self.write(chance, place, name, key)
        elif draw < 0.7:
            call = Call(history.ticket())
            with history.invalidation(name, lambda other: other == key, "pop"):
                call.found[name, key] = place.pop(key, None)
            history.end(call)
        elif draw < 0.78:
            tag = chance.choice(tags_of(key))
            where, place_name = (place, name) if chance.random() < 0.7 else (self.cache, None)
            covers = lambda other: tag in tags_of(other)  # noqa: E731
            with history.invalidation(place_name, covers, f"invalidate_tag {tag} of {place_name}"):
                where.invalidate_tag(tag)
        elif draw < 0.8:
            covers = lambda other: other[1] == key[1]  # noqa: E731
            begin = history.ticket()
            with history.invalidation(name, covers, "invalidate_where"):
                place.invalidate_where(lambda other, value: covers(other))
            # Which of the running loads the predicate would have been true of was not known.
            history.lost.append((begin, history.ticket(), name, lambda other: True))
        elif draw < 0.83:
            tags = tags_of(key)
            begin = history.ticket()
            with history.invalidation(name, lambda other: other == key, "invalidate_tags"):
                place.invalidate_tags(tags, match="all")
            shares = lambda other: bool(set(tags) & set(tags_of(other)))  # noqa: E731
            history.lost.append((begin, history.ticket(), name, shares))
        elif draw < 0.86:
            covers = lambda other: other[0] == key[0]  # noqa: E731
            with history.invalidation(name, covers, "invalidate_prefix"):
                place.invalidate_prefix(key[0])
        elif draw < 0.89:
            where, place_name = (place, name) if chance.random() < 0.7 else (self.cache, None)
            with history.invalidation(place_name, lambda other: True, f"clear {place_name}"):
                where.clear()
        elif draw < 0.9:
            with history.invalidation(name, lambda other: True, f"switch of {name}"):
                place.enabled = False
                place.enabled = True
        elif draw < 0.92:
            # The value is served for a while; its running load ends in vain.
            begin = history.ticket()
            place.expire(key)
            history.lost.append((begin, history.ticket(), name, lambda other: other == key))
        elif draw < 0.95:
            mark = chance.choice(MARKS)
            begin = history.ticket()
            place.invalidate_tag(mark)
            history.marked.append((begin, history.ticket(), name, mark))
            history.lost.append((begin, history.ticket(), name, lambda other: True))
        elif self.clock is not None:
            self.clock.now += chance.random()

    def write(self, chance: random.Random, place: Namespace[Any], name: str, key: str) -> None:
        begin = self.history.ticket()
        value = Value((name, key), begin, is_load=False)
        # Before it returns, for other calls may receive it at once; corrected after that.
        only_if_absent = chance.random() < 0.3
        terms: dict[str, Any] = {"tags": tags_of(key), "ttl": self.unit * 3}
        if only_if_absent:
            stored = place.add(key, value, **terms)
        else:
            place.set(key, value, **terms)
            stored = True
        value.end = self.history.ticket()
        if stored:
            same = lambda other: other == key  # noqa: E731
            self.history.invalidations.append((begin, value.end, name, same, "add or set"))

    # All of them at once

    def use_in_thread(self, seed: float) -> None:
        chance = random.Random(seed)
        try:
            for _ in self.left:
                draw = chance.random()
                if draw < 0.6:
                    self.fetch(chance)
                elif draw < 0.7:
                    self.fetch_many(chance)
                else:
                    self.other(chance)
        except BaseException as error:
            self.errors.append(error)

    def use_in_loop(self, seed: float) -> None:
        async def use(seed: float) -> None:
            chance = random.Random(seed)
            for _ in self.left:
                draw = chance.random()
                if draw < 0.6:
                    await self.afetch(chance)
                elif draw < 0.7:
                    await self.afetch_many(chance)
                elif draw < 0.72:
                    self.fetch(chance, blocks_loop=True)
                else:
                    self.other(chance)
                if chance.random() < 0.2:
                    await asyncio.sleep(0)

        async def use_all() -> None:
            asyncio.get_running_loop().set_exception_handler(self.complain)
            async with asyncio.TaskGroup() as group:
                for number in range(TASKS):
                    group.create_task(use(seed + number))
            while behind := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(behind)

        try:
            asyncio.run(use_all())
        except BaseException as error:
            self.errors.append(error)

    def complain(self, loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        self.errors.append(Violation(f"an event loop complains: {about}"))

    def run(self, patience: float) -> History:
        """Let all callers run until all calls are made; raise `Violation` if they do not end."""
        chance = random.Random(self.seed)
        users = [
            threading.Thread(target=target, args=(chance.random(),), daemon=True)
            for target, number in ((self.use_in_thread, THREADS), (self.use_in_loop, 2))
            for _ in range(number)
        ]
        with self.history.watch():
            for user in users:
                user.start()
            seen, since = -1, time.monotonic()
            for user in users:
                while user.is_alive():
                    user.join(0.05)
                    now = self.history.ticket()
                    # The ticket itself is one step; callers that are alive take more.
                    if now > seen + 1:
                        since = time.monotonic()
                    elif time.monotonic() > since + patience:
                        faulthandler.dump_traceback()
                        raise Violation("somebody waits for ever")
                    seen = now
        if self.errors:
            raise self.errors[0]
        deadline = time.monotonic() + patience
        while self.cache.stats().pending:
            if time.monotonic() > deadline:
                raise Violation("a load was left behind")
            time.sleep(0.001)
        self.cache._check()
        return self.history


def take_turns(phase: str, about: dict[str, int]) -> None:
    """Run with each collection: let another thread go on where this one allocated something."""
    if about["generation"] == 0:
        time.sleep(0)


def run(operations: int, seed: int, patience: float = 60.0) -> dict[str, int]:
    """Run and verify rounds until so many calls are made; return the number of each kind."""
    kinds = ("calls", "loads", "waits", "failures", "strikes", "not kept", "marked")
    total = dict.fromkeys((*kinds, "invalidations"), 0)
    logger, interval = logging.getLogger("flowcache"), sys.getswitchinterval()
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Failures are what is asked for.
    sys.setswitchinterval(2e-5)  # Threads take turns in the middle of everything,
    threshold = gc.get_threshold()
    gc.set_threshold(5)  # and, up to 3.11, of every allocation that runs the collector.
    gc.callbacks.append(take_turns)
    try:
        for number in itertools.count():
            left = operations - total["calls"]
            if left <= 0:
                return total
            calls = min(ROUND, left)
            history = Round(seed + number, calls, virtual=number % 2 == 0).run(patience)
            history.verify()
            total["calls"] += calls
            total["loads"] += len(history.loads)
            total["waits"] += len(history.waits)
            total["failures"] += sum(load.raised is not None for load in history.loads)
            total["strikes"] += sum(isinstance(load.raised, STRIKES) for load in history.loads)
            total["not kept"] += sum(not load.value.is_kept for load in history.loads)
            total["marked"] += sum(call.mark is not None for call in history.calls)
            total["invalidations"] += len(history.invalidations)
    finally:
        gc.callbacks.remove(take_turns)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
        logger.setLevel(level)
    raise AssertionError("unreachable")


def main() -> int:
    """Run as a program; the exit code is 1 if a history was wrong."""
    parser = argparse.ArgumentParser(description="Check histories of loading at random.")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    try:
        total = run(arguments.operations, arguments.seed)
    except Violation as violation:
        print(f"VIOLATION: {violation}")
        return 1
    gc.collect()
    counts = ", ".join(f"{count:,} {kind}" for kind, count in total.items())
    print(f"{counts}: clean, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
