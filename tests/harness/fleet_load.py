"""A fleet at work: processes whose tasks and threads call at a pace, watched from outside.

    python -m harness.fleet_load --minutes 60 --every 3     faults of one server and its replica
    python -m harness.fleet_load --minutes 10 --fail-over   a cluster, a fail-over each minute

With faults it asserts that nothing grows: memory, threads, open files, tasks. With fail-overs it
measures how long the fleet takes to be back at its pace. In both nothing old may be served, and no
call may be left without an answer.

What is old is judged as in `harness.fleet_histories`, though as it happens: the upstream's version
at an invalidation's call, once that has returned, is the oldest that may be served; here at once,
elsewhere a lease later. Each place is invalidated by one process.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from flowcache import create_cache
from flowcache.errors import TierUnavailableError
from flowcache.tier import ValkeyTier
from harness.board import SIZE, Board
from harness.fleet import add_arguments_of_workers, confirmed
from harness.fleet_faults import Site
from harness.servers import Cluster, cluster, wait_until

__all__ = ["Load", "fail_over", "soak"]

TENANTS, KEYS = 24, 8
PLACES = TENANTS * KEYS
LEASE = 2.0
SLACK = 0.1
PROCESSES, TASKS, THREADS = 4, 64, 8
INVALIDATES = 0.02
"""Of calls; the others read."""
ENDS_WITHIN = 120.0
FIELDS = (
    "ready",
    "calls",
    "confirmed",
    "refused",
    "old",
    "errors",
    "longest",
    "memory",
    "resident",
    "blocks",
    "threads",
    "files",
    "tasks",
)
"""What each process tells of itself: `longest` in µs, `memory` that is in use in bytes."""
PACE, STOP = 0, 1
NO_THREAD_CACHES = "glibc.malloc.tcache_count=0"
"""Blocks that a thread has freed and caches would count as given out: up to 0.2 MB a thread."""


class LoadBoard(Board):
    """What processes tell each other. Each number is written by one of them."""

    @staticmethod
    def version(place: int) -> int:
        """Where the upstream's version of a place stands."""
        return 16 + place

    @staticmethod
    def everywhere(place: int) -> int:
        """Where the oldest version stands that any process may serve."""
        return 16 + PLACES + place

    @staticmethod
    def field(process: int, name: str) -> int:
        """Where a process's number stands."""
        return 16 + 2 * PLACES + process * len(FIELDS) + FIELDS.index(name)


class Heap(ctypes.Structure):
    """What glibc's allocator tells of itself."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


def memory_in_use() -> int:
    """Return the bytes that malloc has given out. Resident memory has its fragments as well."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = Heap
    heap = mallinfo2()
    return int(heap.uordblks + heap.hblkhd)


class Worker:
    """One process of the fleet."""

    def __init__(self, number: int, board: LoadBoard, cache: Any) -> None:
        self.number = number
        self.board = board
        self.cache = cache
        self.spaces = [cache.namespace(f"tenant:{tenant}") for tenant in range(TENANTS)]
        self.own = [place for place in range(PLACES) if place % PROCESSES == number]
        self.floors = dict.fromkeys(self.own, 0)
        self.due: deque[tuple[float, int, int]] = deque()
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(("calls", "confirmed", "refused", "old", "errors"), 0)
        self.longest = 0.0
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def stops(self) -> bool:
        return bool(self.board.get(STOP))

    def load(self, place: int) -> tuple[int, int]:
        return place, self.board.get(LoadBoard.version(place))

    def floor(self, place: int) -> int:
        """Return the oldest version that a read that begins now may give."""
        return max(self.floors.get(place, 0), self.board.get(LoadBoard.everywhere(place)))

    def seen(self, place: int, floor: int, value: Any) -> None:
        if value is not None and (value[0] != place or value[1] < floor):
            self.add("old")
            print(f"process {self.number}: {value} at {floor} of {place}", flush=True)

    def add(self, name: str) -> None:
        with self.lock:
            self.counts[name] += 1

    def change(self, place: int) -> int:
        with self.lock:
            version = self.board.get(LoadBoard.version(place)) + 1
            self.board.put(LoadBoard.version(place), version)
        return version

    def returned(self, place: int, version: int) -> None:
        """An invalidation has returned: from now on it holds here, and a lease later elsewhere."""
        with self.lock:
            self.counts["confirmed"] += 1
            self.floors[place] = max(self.floors[place], version)
            self.due.append((time.monotonic() + LEASE + SLACK, place, version))

    # Calls

    @contextmanager
    def invalidating(self, chance: random.Random) -> Iterator[int]:
        """Draw a place to invalidate; what is older is old once the block has ended well."""
        place = chance.choice(self.own)
        version = self.change(place)
        try:
            yield place
        except TierUnavailableError:
            self.add("refused")
        else:
            self.returned(place, version)

    def step(self, chance: random.Random) -> None:
        """One call of a thread."""
        draw = chance.random()
        if draw < INVALIDATES:
            with self.invalidating(chance) as place:
                self.spaces[place % TENANTS].invalidate_tag(f"t{place}")
            return
        place = chance.randrange(PLACES)
        space, floor = self.spaces[place % TENANTS], self.floor(place)
        if draw < 0.2:
            value = space.get(place)
        else:
            value = space.fetch(place, lambda: self.load(place), tags=f"t{place}")
        self.seen(place, floor, value)

    async def astep(self, chance: random.Random) -> None:
        """One call of a task."""
        draw = chance.random()
        if draw < INVALIDATES:
            with self.invalidating(chance) as place:
                await self.spaces[place % TENANTS].ainvalidate_tag(f"t{place}")
            return
        place = chance.randrange(PLACES)
        space, floor = self.spaces[place % TENANTS], self.floor(place)
        if draw < 0.2:
            value = await space.aget(place)
        else:
            value = await space.afetch(place, lambda: self.load(place), tags=f"t{place}")
        self.seen(place, floor, value)

    # All at once

    def _ended(self, began: float, due: float) -> float:
        """Note the end of a call; return the seconds until the caller's next."""
        now = time.monotonic()
        with self.lock:
            self.counts["calls"] += 1
            self.longest = max(self.longest, now - began)
        return max(due - now, 0.0)

    def _next(self, due: float) -> float:
        """Return when the next call is due. Calls that a fault held up are not made up for."""
        return max(due, time.monotonic() - 0.1) + self.board.get(PACE) / 1e6

    def in_thread(self, seed: int) -> None:
        chance, due = random.Random(seed), time.monotonic()
        while not self.stops:
            due, began = self._next(due), time.monotonic()
            try:
                self.step(chance)
            except Exception as error:
                self.add("errors")
                print(f"process {self.number}: {error!r}", flush=True)
            time.sleep(self._ended(began, due))

    async def in_task(self, seed: int) -> None:
        chance, due = random.Random(seed), time.monotonic()
        while not self.stops:
            due, began = self._next(due), time.monotonic()
            try:
                await self.astep(chance)
            except Exception as error:
                self.add("errors")
                print(f"process {self.number}: {error!r}", flush=True)
            await asyncio.sleep(self._ended(began, due))

    def in_loop(self, seed: int) -> None:
        async def all_tasks() -> None:
            self.loop = asyncio.get_running_loop()
            await asyncio.gather(*(self.in_task(seed + number) for number in range(TASKS)))
            await self.cache.tier.finish_writes()

        asyncio.run(all_tasks())

    def tell(self) -> None:
        """Write this process's numbers, and what holds everywhere by now."""
        with self.lock:
            told = dict(self.counts) | {"longest": int(self.longest * 1e6)}
            while self.due and self.due[0][0] <= time.monotonic():
                _, place, version = self.due.popleft()
                at = LoadBoard.everywhere(place)
                self.board.put(at, max(self.board.get(at), version))
        with open("/proc/self/statm") as file:  # A `Path` would intern its parts each time.
            pages = int(file.read().split()[1])
        told |= {
            "memory": memory_in_use(),
            "resident": pages * os.sysconf("SC_PAGE_SIZE"),
            "blocks": sys.getallocatedblocks(),
            "threads": len(os.listdir("/proc/self/task")),
            "files": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks(self.loop)) if self.loop is not None else 0,
        }
        for name, number in told.items():
            self.board.put(LoadBoard.field(self.number, name), number)

    def run(self) -> None:
        """Call until the board says stop."""
        users = [
            threading.Thread(target=self.in_thread, args=(self.number * 1000 + number,))
            for number in range(THREADS)
        ]
        users.append(threading.Thread(target=self.in_loop, args=(self.number * 1000 + 100,)))
        for user in users:
            user.start()
        self.board.put(LoadBoard.field(self.number, "ready"), 1)
        while any(user.is_alive() for user in users):
            self.tell()
            time.sleep(0.1)
        self.tell()


def work(arguments: argparse.Namespace) -> int:
    """Be one process of the fleet."""
    tier = ValkeyTier(
        arguments.url, buckets=arguments.buckets, replicas=1 if arguments.buckets == 1 else None
    )
    with create_cache(tier=tier, name="histories", default_ttl=60) as cache:
        confirmed(cache.connect)
        Worker(arguments.worker, LoadBoard(arguments.board), cache).run()
    return 0


# The fleet, from outside


class Moment(NamedTuple):
    """The fleet's numbers at a time: those of calls over all processes, the others by process."""

    at: float
    calls: int
    confirmed: int
    refused: int
    of_each: tuple[dict[str, int], ...]


class Load:
    """Four processes at work on a server; ending the block ends them, and every call in them."""

    def __init__(self, urls: list[str], *, buckets: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fc-load-")
        path = Path(self._folder.name) / "board"
        path.write_bytes(bytes(SIZE))
        self.board = LoadBoard(str(path))
        self.moments: list[Moment] = []
        self.rate(0)
        paths = os.pathsep.join(part for part in sys.path if part)
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "harness.fleet_load", "--worker", str(number)),
                    *("--url", url, "--buckets", str(buckets), "--board", str(path)),
                ],
                env=os.environ | {"PYTHONPATH": paths, "GLIBC_TUNABLES": NO_THREAD_CACHES},
            )
            for number, url in enumerate(urls)
        ]
        wait_until(lambda: all(one["ready"] for one in self._of_each()))

    def rate(self, calls: float) -> None:
        """Have the fleet make so many calls in a second; 0: as many as it can."""
        callers = PROCESSES * (TASKS + THREADS)
        self.board.put(PACE, round(callers / calls * 1e6) if calls else 0)

    def _of_each(self) -> tuple[dict[str, int], ...]:
        return tuple(
            {name: self.board.get(LoadBoard.field(number, name)) for name in FIELDS}
            for number in range(PROCESSES)
        )

    def look(self) -> Moment:
        """Take the numbers of now."""
        each = self._of_each()
        calls, sure, refused = (
            sum(one[name] for one in each) for name in ("calls", "confirmed", "refused")
        )
        self.moments.append(Moment(time.monotonic(), calls, sure, refused, each))
        return self.moments[-1]

    def watch(self, seconds: float) -> float:
        """Look ten times a second for so long; return the calls in a second of that time."""
        first = self.look()
        while (now := self.look()).at < first.at + seconds:
            time.sleep(0.1)
            assert all(one.poll() is None for one in self.processes), "a process has ended"
        return (now.calls - first.calls) / (now.at - first.at)

    def end(self) -> None:
        """End all processes; each has to have an answer to each of its calls."""
        self.board.put(STOP, 1)
        try:
            for one in self.processes:
                assert one.wait(ENDS_WITHIN) == 0, "a process has failed"
            last = self.look()
            assert not sum(one["old"] for one in last.of_each), "an old value was served"
            assert not sum(one["errors"] for one in last.of_each), "a call has raised"
        finally:
            for one in self.processes:
                one.kill()
                one.wait()
            self._folder.cleanup()


# Fail-overs


class Promotion(NamedTuple):
    """A fail-over: when the replica was primary, and how long the fleet took, in seconds."""

    how: str
    normal: float
    lost: float
    until_back: float
    until_confirmed: float


def fail_over(minutes: float, every: float, say: Callable[[str], None]) -> list[Promotion]:
    """Replace a primary of a cluster again and again, at half of what the machine can do."""
    found = []
    with ExitStack() as stack:
        six = stack.enter_context(cluster(replicas=1))
        load = Load([six.url] * PROCESSES, buckets=32)
        stack.callback(load.end)
        load.watch(5)
        most = load.watch(5)
        load.rate(most / 2)
        say(f"{most:,.0f} calls a second at most; {most / 2:,.0f} from now on")
        load.watch(5)
        end = time.monotonic() + minutes * 60
        while time.monotonic() + every <= end or not found:
            number = len(found)
            found.append(replace(six, load, number, every))
            say(str(found[-1]))
    return found


def replace(six: Cluster, load: Load, number: int, every: float) -> Promotion:
    """Lose a primary, promote its replica, bring the old one back; watch for a while."""
    normal = load.watch(every / 3)
    shard, asleep = number % 3, number % 2 == 1
    old = six.primaries[shard]
    lost_at = time.monotonic()
    with ExitStack() as gone:
        if asleep:
            gone.enter_context(old.stopped())
        else:
            old.kill()
        load.watch(1)
        six.take_over(shard)
        promoted = time.monotonic()
        load.watch(every / 6)
    if not asleep:
        old.start()
    load.watch(every / 3)
    six.wait_whole()
    back, sure = recovered(load.moments, promoted, normal)
    return Promotion("asleep" if asleep else "killed", normal, promoted - lost_at, back, sure)


def recovered(moments: list[Moment], since: float, normal: float) -> tuple[float, float]:
    """Return after how many seconds a second began with 90 % of the calls, and from when on no
    write was refused."""
    later = [one for one in moments if one.at >= since]
    back = float("inf")
    for first in later:
        last = next((one for one in later if one.at >= first.at + 1), None)
        if last is not None and last.calls - first.calls >= 0.9 * normal * (last.at - first.at):
            back = first.at - since
            break
    last_refused = since
    for before, after in pairwise(later):
        if after.refused > before.refused:
            last_refused = after.at
    return back, last_refused - since


# Faults, for as long as it takes to see that nothing grows

GROWS_AT_MOST = {
    "memory": 1 << 20,
    "resident": 16 << 20,
    "blocks": 10_000,
    "threads": min(32, (os.cpu_count() or 1) + 4),  # A loop's own pool fills as it is used.
    "files": 4,
    "tasks": 8,
}
"""From the second quarter of a run to its last, of a process's medians: noise, and no more."""


def soak(minutes: float, every: float, seed: int, say: Callable[[str], None]) -> None:
    """Let something happen every few seconds; assert that no number of a process grows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-soak-")))
        site = Site(stack, folder, PROCESSES, seed)
        load = Load(site.urls, buckets=1)
        stack.callback(load.end)
        load.watch(5)
        load.rate(load.watch(5) / 2)
        load.moments.clear()
        site.begin([one.pid for one in load.processes], every)
        stack.callback(site.end)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * 60:
            rate = load.watch(min(30.0, minutes * 60 - passed))
            of_each = load.moments[-1].of_each
            sums = ", ".join(
                f"{sum(one[name] for one in of_each):,} {name}"
                for name in ("refused", *GROWS_AT_MOST)
            )
            passed = time.monotonic() - began
            say(f"{passed:5.0f} s: {rate:,.0f} calls a second, {sums}, {len(site.happened)} faults")
        grown = {
            name: max(growth(load.moments, number, name) for number in range(PROCESSES))
            for name in GROWS_AT_MOST
        }
    say(f"grown by at most: {grown}; {len(site.happened)} faults")
    for name, most in GROWS_AT_MOST.items():
        assert grown[name] <= most, f"{name} has grown by {grown[name]:,.0f} in a process"


def growth(moments: list[Moment], process: int, name: str) -> float:
    """Return by how much a number of a process has grown from the second quarter to the last."""
    quarter = len(moments) // 4
    second, last = moments[quarter : 2 * quarter], moments[3 * quarter :]
    return median(one.of_each[process][name] for one in last) - median(
        one.of_each[process][name] for one in second
    )


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=0.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--fail-over", action="store_true", help="replace primaries of a cluster")
    add_arguments_of_workers(parser, "url", "board")
    arguments = parser.parse_args()
    if arguments.worker >= 0:
        return work(arguments)

    def say(line: str) -> None:
        print(line, flush=True)

    if arguments.fail_over:
        found = fail_over(arguments.minutes, arguments.every or 60.0, say)
        say(
            f"{len(found)} fail-overs: back after {mean(one.until_back for one in found):.1f} s, "
            f"at most {max(one.until_back for one in found):.1f} s; the last write was refused "
            f"{max(one.until_confirmed for one in found):.1f} s after a promotion at most"
        )
        return 0 if all(one.until_back <= 5.0 for one in found) else 1
    say(f"seed {arguments.seed}")
    soak(arguments.minutes, arguments.every or 3.0, arguments.seed, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
