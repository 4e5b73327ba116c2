"""Histories of a fleet at random: processes with threads and tasks, a real server, an upstream.

The upstream is a versioned register for each key, in memory that all processes share. Whatever is
stored says which version it is of. A history is wrong if

- a read gives a version that is older than the upstream's at the *call* of an invalidation that
  covers the key and had returned before the read was called: at once in the process of the call,
  and in all with `wait="fleet"`, else a lease later (promises 1 and 2); or it gives what a `set`
  had stored that had returned before that call, for a `set` may store any version;
- two loads of a key overlap and no invalidation came between their beginnings (promise 3);
- a load that hangs, for longer than its lease may be renewed, holds up a load in another process
  (with faults, which make histories long enough);
- a value is of another key or another tenant (promise 5);
- a call raises, or does not return.

With faults, drawn by the same seed, a write may raise `TierUnavailableError`, and then promises
nothing; and two loads may overlap, for a process that cannot ask for a lease loads on its own.

As a program it makes as many calls as it is told to: `python -m harness.fleet_histories --help`.
The mutants break one rule each; a run with one has to be found wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from flowcache import Loaded, create_cache
from flowcache.errors import TierUnavailableError
from flowcache.tier import ValkeyTier, engine
from flowcache.tier.errors import ServerError
from harness.board import SIZE, Board
from harness.fleet import add_arguments_of_workers, confirmed
from harness.fleet_faults import ClusterSite, Site
from harness.fleet_hangs import MAY_HANG, Hangs, shorten_leases
from harness.fleet_mutants import MUTANTS
from harness.servers import server, wait_until

__all__ = ["MUTANTS", "Violation", "run", "verify"]

TENANTS = ("tenant:a", "tenant:b", "tenant:c")
QUIET = "tenant:c"
"""A tenant that few calls write to: what one process has missed of it shows a lease later."""
WRITES = 0.03
"""Of the calls that would write to it."""
KEYS = ("a1", "a2", "b1", "b2")
PLACES = [(tenant, key) for tenant in TENANTS for key in KEYS]
TAGS = {key: (key[0], key[1]) for key in KEYS}
LEASE = 2.0
SLACK = 0.1
"""Seconds by which clocks may be read late, beyond the lease."""
THREADS, TASKS = 2, 3
ONE_HISTORY = 10_000
"""Calls of each of the histories in which a mutant is looked for."""
PATIENCE = 120.0
"""Seconds that a process may take without an end of a call."""


class Violation(AssertionError):  # noqa: N818  what a history may show
    """A history was wrong."""


class Invalidation(NamedTuple):
    """A call that made values void: when, of which keys, and the upstream's versions then."""

    begin: int
    end: int
    covers: tuple[int, ...]
    versions: tuple[int, ...]
    process: int
    fleet: bool
    what: str


class Read(NamedTuple):
    """A call that gave a value, of this version."""

    begin: int
    place: int
    version: int
    process: int
    what: str
    setter: tuple[int, int] | None


class Run(NamedTuple):
    """A run of a loader."""

    begin: int
    end: int
    place: int
    process: int
    forced: bool


class Upstream:
    """A version for each place, in a file that all processes map."""

    def __init__(self, path: str) -> None:
        self._board = Board(path)
        self._file = os.open(path, os.O_RDWR)
        self._lock = threading.Lock()

    def version(self, place: int) -> int:
        """Return the version now."""
        return self._board.get(place)

    def versions(self) -> tuple[int, ...]:
        """Return those of all places."""
        return tuple(self.version(place) for place in range(len(PLACES)))

    def advance(self, place: int) -> int:
        """Make a new version, and return it."""
        with self._lock:
            os.lockf(self._file, os.F_LOCK, 0)
            try:
                version = self.version(place) + 1
                self._board.put(place, version)
            finally:
                os.lockf(self._file, os.F_ULOCK, 0)
        return version


class Worker:
    """One process of the fleet: what it does, and what it saw."""

    def __init__(
        self,
        number: int,
        url: str,
        upstream: str,
        calls: int,
        seed: int,
        *,
        buckets: int,
        faults: bool,
    ) -> None:
        self.number = number
        self.upstream = Upstream(upstream)
        self.left = iter(range(calls))
        self.seed = seed
        self.errs: tuple[type[Exception], ...] = ()
        """What a call may raise."""
        self.hangs: Hangs | None = None
        if faults:

            def tier() -> ValkeyTier:
                # The replica is always waited for, also by a process that has not seen it yet.
                return ValkeyTier(
                    url, buckets=buckets, soft_timeout=0.25, hard_timeout=0.5, replicas=1
                )

            self.errs = (TierUnavailableError, ServerError)
            hanging = create_cache(tier=tier(), name="hangs", max_pending_age=MAY_HANG)
            self.hangs = Hangs(hanging, Board(upstream), len(PLACES))
            self.cache = create_cache(tier=tier(), name="histories", default_ttl=60)
        else:
            patient = ValkeyTier(url, soft_timeout=60.0, hard_timeout=60.0)
            self.cache = create_cache(tier=patient, name="histories", default_ttl=60)
        self.spaces = {tenant: self.cache.namespace(tenant) for tenant in TENANTS}
        self.invalidations: list[Invalidation] = []
        self.reads: list[Read] = []
        self.runs: list[Run] = []
        self.sets: list[int] = []
        """When each `set` had returned."""
        self.errors: list[str] = []
        self.lock = threading.Lock()
        self.url = url

    @property
    def pause(self) -> float:
        """Seconds between two calls, so that faults come between many of them.

        Without the tier calls cost little, and most of a run's calls would be made then.
        """
        if not self.errs:
            return 0.0
        return 0.03 if self.cache.tier.state == "apart" else 0.003  # type: ignore[union-attr]

    # What is seen

    def read(self, begin: int, place: int, value: Any, what: str) -> None:
        if value is None:
            return
        tenant, key, version, setter = value
        if (tenant, key) != PLACES[place]:
            raise Violation(f"{what}: {PLACES[place]} was given {value}")
        self.reads.append(Read(begin, place, version, self.number, what, setter))

    @contextmanager
    def invalidating(self, covers: list[int], what: str, *, fleet: bool = False) -> Iterator[None]:
        begin, versions = time.monotonic_ns(), self.upstream.versions()
        yield
        end = time.monotonic_ns()
        self.invalidations.append(
            Invalidation(begin, end, tuple(covers), versions, self.number, fleet, what)
        )

    # What is done

    def value(self, place: int, setter: tuple[int, int] | None = None) -> tuple[Any, ...]:
        return (*PLACES[place], self.upstream.version(place), setter)

    @contextmanager
    def setting(self, place: int, what: str, *, fleet: bool) -> Iterator[tuple[Any, ...]]:
        """Give a value to set. It is an invalidation, too, of what is held."""
        self.upstream.advance(place)
        with self.lock:
            number = len(self.sets)
            self.sets.append(1 << 62)
        with self.invalidating([place], what, fleet=fleet):
            yield self.value(place, (self.number, number))
        self.sets[number] = time.monotonic_ns()

    def loaded(self, chance: random.Random, place: int, begin: int, *, forced: bool) -> Any:
        value = self.value(place)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.003)
        self.runs.append(Run(begin, time.monotonic_ns(), place, self.number, forced))
        if chance.random() < 0.5:
            return Loaded(value, tags=TAGS[PLACES[place][1]])
        return Loaded(value, tags=TAGS[PLACES[place][1]], ttl=30)

    def loader(self, chance: random.Random, place: int, *, forced: bool = False) -> Any:
        own = random.Random(chance.random())

        def load() -> Any:
            return self.loaded(own, place, time.monotonic_ns(), forced=forced)

        return load

    def async_loader(self, chance: random.Random, place: int, *, forced: bool = False) -> Any:
        own = random.Random(chance.random())

        async def load() -> Any:
            begin, value = time.monotonic_ns(), self.value(place)
            await asyncio.sleep(own.random() * 0.003)
            self.runs.append(Run(begin, time.monotonic_ns(), place, self.number, forced))
            return Loaded(value, tags=TAGS[PLACES[place][1]])

        return load

    def covered(self, chance: random.Random, tenant: str, what: str) -> tuple[Any, list[int]]:
        """Return an argument of an invalidation, and the places that it covers."""

        def places(holds: Callable[[str], bool]) -> list[int]:
            return [
                number for number, (of, key) in enumerate(PLACES) if of == tenant and holds(key)
            ]

        if what == "prefix":
            prefix = chance.choice(("a", "b", ""))
            return prefix, places(lambda key: key.startswith(prefix))
        if what == "tag":
            tag = chance.choice("ab12")
            return tag, places(lambda key: tag in TAGS[key])
        return None, places(lambda key: True)

    def step(self, chance: random.Random) -> None:
        """One call of a thread."""
        place = chance.randrange(len(PLACES))
        tenant, key = PLACES[place]
        space, draw, fleet = self.spaces[tenant], chance.random(), chance.random() < 0.05
        wait = "fleet" if fleet else None
        if tenant == QUIET and draw >= 0.63 and chance.random() >= WRITES:
            draw = chance.uniform(0.0, 0.6)
        begin = time.monotonic_ns()
        if draw < 0.35:
            found = space.fetch(key, self.loader(chance, place))
            self.read(begin, place, found, "fetch")
        elif draw < 0.55:
            self.read(begin, place, space.get(key), "get")
        elif draw < 0.6:
            found_many = space.get_many(KEYS)
            for other, value in found_many.items():
                self.read(begin, PLACES.index((tenant, other)), value, "get_many")
        elif draw < 0.63:
            load = self.loader(chance, place, forced=True)
            self.read(begin, place, space.refresh(key, load), "refresh")
        elif draw < 0.73:
            with self.setting(place, "set", fleet=fleet) as value:
                space.set(key, value, tags=TAGS[key], wait=wait)
        elif draw < 0.8:
            self.upstream.advance(place)
            with self.invalidating([place], "delete", fleet=fleet):
                space.delete(key, wait=wait)
        elif draw < 0.9:
            self.upstream.advance(place)
            tag, covers = self.covered(chance, tenant, "tag")
            with self.invalidating(covers, f"tag {tag}", fleet=fleet):
                space.invalidate_tag(tag, wait=wait)
        elif draw < 0.94:
            self.upstream.advance(place)
            prefix, covers = self.covered(chance, tenant, "prefix")
            with self.invalidating(covers, f"prefix {prefix}", fleet=fleet):
                space.invalidate_prefix(prefix, wait=wait)
        elif draw < 0.988:
            self.upstream.advance(place)
            _, covers = self.covered(chance, tenant, "clear")
            with self.invalidating(covers, "clear", fleet=fleet):
                space.clear(wait=wait)
        elif draw < 0.989:
            self.upstream.advance(place)
            with self.invalidating(list(range(len(PLACES))), "root tag a 1", fleet=False):
                self.cache.invalidate_tags(["a", "b"])
        else:
            self.forget(chance, tenant)

    def forget(self, chance: random.Random, tenant: str) -> None:
        """Have the server lose a tenant's record, as one that is full does."""
        engine = self.cache.tier.engine  # type: ignore[union-attr]
        place = engine.layout.place((tenant,))
        wire = engine.servers.all[0].dial()
        try:
            from flowcache.tier.resp import pack

            wire.ask(pack(b"DEL", place.record), patience=30.0)
        finally:
            wire.close()

    async def astep(self, chance: random.Random) -> None:
        """One call of a task."""
        place = chance.randrange(len(PLACES))
        tenant, key = PLACES[place]
        space, draw, fleet = self.spaces[tenant], chance.random(), chance.random() < 0.05
        wait: Any = "fleet" if fleet else None
        if tenant == QUIET and draw >= 0.7 and chance.random() >= WRITES:
            draw = chance.uniform(0.0, 0.7)
        begin = time.monotonic_ns()
        if draw < 0.5:
            found = await space.afetch(key, self.async_loader(chance, place), tags=TAGS[key][:1])
            self.read(begin, place, found, "afetch")
        elif draw < 0.7:
            self.read(begin, place, await space.aget(key), "aget")
        elif draw < 0.8:
            with self.setting(place, "aset", fleet=fleet) as value:
                await space.aset(key, value, tags=TAGS[key], wait=wait)
        elif draw < 0.9:
            self.upstream.advance(place)
            tag, covers = self.covered(chance, tenant, "tag")
            with self.invalidating(covers, f"atag {tag}", fleet=fleet):
                await space.ainvalidate_tag(tag, wait=wait)
        elif draw < 0.95:
            self.upstream.advance(place)
            with self.invalidating([place], "adelete", fleet=fleet):
                await space.adelete(key, wait=wait)
        else:
            self.upstream.advance(place)
            _, covers = self.covered(chance, tenant, "clear")
            with self.invalidating(covers, "aclear", fleet=fleet):
                await space.aclear(wait=wait)

    # All at once

    def in_thread(self, seed: float) -> None:
        chance = random.Random(seed)
        try:
            for _ in self.left:
                with suppress(*self.errs):
                    self.step(chance)
                time.sleep(self.pause)
        except BaseException as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def in_loop(self, seed: float) -> None:
        async def use(number: int) -> None:
            chance = random.Random(seed + number)
            for _ in self.left:
                with suppress(*self.errs):
                    await self.astep(chance)
                await asyncio.sleep(self.pause)

        async def use_all() -> None:
            await asyncio.gather(*(use(number) for number in range(TASKS)))
            await self.cache.tier.finish_writes()  # type: ignore[union-attr]

        try:
            asyncio.run(use_all())
        except BaseException as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def run(self) -> None:
        """Make all calls."""
        chance = random.Random(self.seed)
        users = [
            threading.Thread(target=target, args=(chance.random(),), daemon=True)
            for target in (*[self.in_thread] * THREADS, self.in_loop)
        ]
        for user in users:
            user.start()
        if self.hangs is not None:
            self.hangs.begin(leads=self.number == 0)
        for user in users:
            user.join()
        if self.hangs is not None:
            self.hangs.end()
            self.errors += self.hangs.errors


def verify(workers: list[dict[str, Any]], *, faults: bool = False) -> None:
    """Raise `Violation` for what no fleet that keeps its promises could have shown."""
    for number, seen in enumerate(workers):
        if seen["errors"]:
            raise Violation(f"process {number}: {seen['errors'][0]}")
    invalidations = [one for seen in workers for one in seen["invalidations"]]
    reads = [one for seen in workers for one in seen["reads"]]
    runs = [one for seen in workers for one in seen["runs"]]
    later = int((LEASE + SLACK) * 1e9)
    for process in range(len(workers)):
        for place in range(len(PLACES)):
            covering = sorted(
                (
                    one.end if one.fleet or one.process == process else one.end + later,
                    one.versions[place],
                    one,
                )
                for one in invalidations
                if place in one.covers
            )
            times = [when for when, _, _ in covering]
            # The latest of the invalidations that were over by then: by version, and by their call.
            floors, calls = [], []
            for _, version, one in covering:
                last = floors[-1] if floors else (0, one)
                floors.append(max(last, (version, one), key=lambda pair: pair[0]))
                called = calls[-1] if calls else one
                calls.append(max(called, one, key=lambda other: other.begin))
            for read in reads:
                if read.place != place or read.process != process:
                    continue
                at = bisect_left(times, read.begin) - 1
                if at < 0:
                    continue
                version, culprit = floors[at]
                is_old = read.version < version
                if read.setter is not None:
                    setter, number = read.setter
                    culprit = calls[at]
                    is_old = workers[setter]["sets"][number] < culprit.begin
                if is_old:
                    raise Violation(
                        f"{read.what} of {PLACES[place]} in process {process} gave version "
                        f"{read.version} of {'a load' if read.setter is None else 'a set'} after "
                        f"{culprit.what} in process {culprit.process}, called at version "
                        f"{culprit.versions[place]} and over {(read.begin - culprit.end) / 1e6:.3f}"
                        " ms before"
                    )
    if not faults:
        check_loads(runs, invalidations)


def check_loads(runs: list[Run], invalidations: list[Invalidation]) -> None:
    """Two loads of a key may overlap only if it was invalidated after the first had begun."""
    for place in range(len(PLACES)):
        own = sorted(one for one in runs if one.place == place)
        excuses = sorted((one.begin, one.end) for one in invalidations if place in one.covers)
        for first, second in pairwise(own):
            if second.begin >= first.end or second.forced or first.forced:
                continue
            if not any(
                begin <= second.begin and end >= first.begin - int(1e9) for begin, end in excuses
            ):
                raise Violation(f"two loads of {PLACES[place]} at once: {first}, {second}")


# Processes


def work(arguments: argparse.Namespace) -> int:
    """Be one process of the fleet."""
    engine.MOST_MARKERS = 2  # type: ignore[misc]  # So that floors rise.
    engine.MOST_ITEMS = 3  # type: ignore[misc]
    if arguments.faults:
        shorten_leases()
    sys.setswitchinterval(1e-4)
    if arguments.mutant:
        MUTANTS[arguments.mutant](setattr)
    worker = Worker(
        arguments.worker,
        arguments.url,
        arguments.upstream,
        arguments.calls,
        arguments.seed,
        buckets=arguments.buckets,
        faults=arguments.faults > 0,
    )
    confirmed(worker.cache.connect)
    Path(arguments.out).with_suffix(".ready").touch()
    worker.run()
    seen = {
        "invalidations": worker.invalidations,
        "reads": worker.reads,
        "runs": worker.runs,
        "sets": worker.sets,
        "errors": worker.errors,
        "stats": worker.cache.stats().as_dict(),
    }
    # Plain tuples: a module that is run has another name than one that is imported.
    Path(arguments.out).write_bytes(
        pickle.dumps({k: [tuple(x) for x in v] if k in KINDS else v for k, v in seen.items()})
    )
    worker.cache.close()
    return 0


KINDS: dict[str, Any] = {"invalidations": Invalidation, "reads": Read, "runs": Run}


def run(
    calls: int,
    seed: int,
    *,
    processes: int = 4,
    mutant: str = "",
    faults: float = 0.0,
    on_cluster: bool = False,
) -> dict[str, int]:
    """Run a fleet on a server of its own and verify its history; return what there was of each.

    `faults`: seconds between two faults; 0 for none. `on_cluster`: the faults of a cluster.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-fleet-")))
        site: Site | ClusterSite | None = None
        buckets = 1
        if faults and on_cluster:
            site, buckets = ClusterSite(stack, processes, seed), ClusterSite.BUCKETS
        elif faults:
            site = Site(stack, folder, processes, seed)
        urls = site.urls if site else [stack.enter_context(server()).url] * processes
        upstream = folder / "upstream"
        upstream.write_bytes(bytes(SIZE))
        outs = [folder / f"out{number}" for number in range(processes)]
        fleet = []
        for number, out in enumerate(outs):
            command = [sys.executable, "-m", "harness.fleet_histories"]
            options = {
                "worker": number,
                "url": urls[number],
                "upstream": upstream,
                "out": out,
                "calls": calls // processes,
                "seed": seed * 1000 + number,
                "mutant": mutant,
                "faults": faults,
                "buckets": buckets,
            }
            for name, value in options.items():
                command += [f"--{name}", str(value)]
            path = os.pathsep.join(part for part in sys.path if part)
            fleet.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}))
        happened: list[tuple[float, str]] = []
        try:
            if site is not None:
                happened = site.happened
                wait_until(lambda: all(out.with_suffix(".ready").exists() for out in outs), 60)
                site.begin([one.pid for one in fleet], faults)
            for process in fleet:
                process.wait(PATIENCE + calls / 100)
        except subprocess.TimeoutExpired:
            raise Violation(
                f"a process does not end: a call waits for ever{told(happened)}"
            ) from None
        finally:
            if site is not None:
                site.end()
            for process in fleet:
                process.kill()
                process.wait()
        if any(process.returncode for process in fleet):
            raise Violation(f"a process ended with {[one.returncode for one in fleet]}")
        workers = []
        for out in outs:
            seen = pickle.loads(out.read_bytes())
            for kind, made in KINDS.items():
                seen[kind] = [made._make(one) for one in seen[kind]]
            workers.append(seen)
    try:
        verify(workers, faults=faults > 0)
    except Violation as violation:
        raise Violation(f"{violation}{told(happened)}") from None
    total = {kind: sum(len(seen[kind]) for seen in workers) for kind in KINDS}
    for name in ("tier_hits", "tier_stores", "tier_errors", "hits"):
        total[name] = sum(seen["stats"][name] for seen in workers)
    return total | {"faults": len(happened)}


def told(happened: list[tuple[float, str]]) -> str:
    """Return the faults of a run, for the end of a message."""
    lines = [f"\n  {when:7.2f} s  {name}" for when, name in happened]
    return "; faults:" + "".join(lines) if lines else ""


def main() -> int:
    """Run as a program; the exit code is 1 if a history was wrong."""
    parser = argparse.ArgumentParser(description="Check histories of a fleet at random.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--mutant", choices=["", *MUTANTS], default="")
    parser.add_argument(
        "--mutants", nargs="*", choices=[*MUTANTS], help="try these, or all, for --calls each"
    )
    parser.add_argument("--faults", type=float, default=0.0, help="seconds between two faults")
    parser.add_argument("--cluster", action="store_true", help="faults of a cluster")
    add_arguments_of_workers(parser, "url", "upstream", "out")
    arguments = parser.parse_args()
    if arguments.worker >= 0:
        return work(arguments)
    if arguments.mutants is not None:
        return hunt(arguments.mutants or [*MUTANTS], arguments)
    began = time.monotonic()
    print(f"seed {arguments.seed}", arguments.mutant or "no mutant", flush=True)
    try:
        total = run(
            arguments.calls,
            arguments.seed,
            processes=arguments.processes,
            mutant=arguments.mutant,
            faults=arguments.faults,
            on_cluster=arguments.cluster,
        )
    except Violation as violation:
        print(f"VIOLATION: {violation}")
        return 1
    counts = ", ".join(f"{count:,} {kind}" for kind, count in total.items())
    print(f"{counts}: clean, in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def hunt(mutants: list[str], arguments: argparse.Namespace) -> int:
    """Try mutants by turns, in histories of one size, until each is found or the calls are made."""
    hidden = list(mutants)
    for made in range(0, arguments.calls, ONE_HISTORY):
        for mutant in list(hidden):
            try:
                run(
                    ONE_HISTORY,
                    arguments.seed + made // ONE_HISTORY,
                    processes=arguments.processes,
                    mutant=mutant,
                    faults=arguments.faults,
                    on_cluster=arguments.cluster,
                )
            except Violation as violation:
                hidden.remove(mutant)
                what = str(violation).partition(";")[0]
                print(f"{mutant}: found within {made + ONE_HISTORY:,} calls: {what}", flush=True)
    for mutant in hidden:
        print(f"{mutant}: not found in {arguments.calls:,} calls")
    return 1 if hidden else 0


if __name__ == "__main__":
    sys.exit(main())
