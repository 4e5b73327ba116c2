"""What a second tier costs, on a real Valkey server on the loopback.

    python bench/fleet.py [--rounds 9] [--calls 2000] [--large 1000000] [--no-file]
    python bench/fleet.py --quick    that everything runs, with figures that are not to be quoted

The cases of one round run one after the other, and the rounds are interleaved; a figure is the
median of its rounds, and a ratio that of the ratios within its rounds. Prints a table with the
targets, and writes bench/results/fleet.json. Needs the extras `bench` and `demo`, with client and
server. What a hit in the process costs with a tier, `instructions.py` counts: "get, hit, with a
tier" and the like.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep
from typing import Any

import valkey
import valkey.asyncio
from machine import RESULTS, environment
from rich.console import Console
from rich.table import Table

from flowcache import _core, create_cache
from flowcache.tier import ValkeyTier
from flowcache.tier.link import ThreadLink

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from crm.fleet import Valkey, server_program

VALUE = {
    "id": 4711,
    "name": "Ada Lovelace",
    "tags": ["one", "two", "three"],
    "notes": "x" * 850,
    "score": 0.75,
    "active": True,
}
TASKS, THREADS = 64, 16
TAGS_TOGETHER = 500
"""Tags of one call, where a million of them are invalidated."""
PATIENCE = {"soft_timeout": 5.0, "hard_timeout": 10.0}

Figures = dict[str, list[float]]

QUICK = {"rounds": 3, "calls": 512, "large": 20_000, "tags": 10_000}
AT_MOST = {
    "tier get / bare get, one thread": 1.3,
    "tier get / bare get, 64 tasks": 0.6,
    "tier get, 16 threads / one": 0.9,
    "round trips of set": 1,
    "round trips of set_many of 100 keys": 1,
    "round trips of fetch that loads": 3,
    "invalidate_tag, 1,000,000 values": 1e-3,
    "clear, 1,000,000 values": 1e-3,
    "invalidate_tag, 1,000,000 values / 1,000": 1.1,
    "clear, 1,000,000 values / 1,000": 1.1,
    "gone elsewhere, p50": 1e-3,
    "gone elsewhere, p99": 10e-3,
    "gone from a process that computes, p50": 1e-3,
    "gone from a process that computes, p99": 10e-3,
    "invalidate_tag(wait=fleet), three processes, p50": 5e-3,
    "messages of 10,000 fills": 0,
    "record after 1,000,000 tags, bytes": 512_000,
}
"""The targets."""


@contextlib.contextmanager
def server() -> Iterator[Valkey]:
    program = server_program()
    if program is None:
        print("left out: there is no Valkey server for this platform")
        sys.exit(0)
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as folder:
        running = Valkey(program, folder)
        running.start()
        try:
            yield running
        finally:
            running.kill()


def timed(call: Callable[[], Any], times: int) -> float:
    """Return the seconds of one of so many calls."""
    began = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - began) / times


def forgetting(space: Any) -> Callable[[], Any]:
    """Return a `get` that always misses in the process: the entry is dropped there before."""
    drop, get = _core.Namespace.delete, space.get

    def read() -> Any:
        drop(space, "k")
        return get("k")

    return read


def from_threads(call: Callable[[], Any], times: int) -> float:
    """Return the seconds of one call where many threads call at once, over all calls."""
    barrier = threading.Barrier(THREADS + 1)

    def use() -> None:
        barrier.wait()
        for _ in range(times // THREADS):
            call()

    threads = [threading.Thread(target=use) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = perf_counter()
    for thread in threads:
        thread.join()
    return (perf_counter() - began) / (times // THREADS * THREADS)


async def from_tasks(call: Callable[[], Any], times: int) -> float:
    """Return the seconds of one call where many tasks call at once."""

    async def use() -> None:
        for _ in range(times // TASKS):
            await call()

    began = perf_counter()
    await asyncio.gather(*(use() for _ in range(TASKS)))
    return (perf_counter() - began) / (times // TASKS * TASKS)


def reads(target: Valkey, rounds: int, calls: int, figures: Figures) -> None:
    """Compare a hit in the tier with a bare client's GET and `json.loads`."""
    client = valkey.Valkey(port=target.port)
    client.set("bare", json.dumps(VALUE))
    cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="reads")
    space = cache.namespace("tenant:acme")
    space.set("k", VALUE, ttl=3600)
    read = forgetting(space)

    def bare() -> Any:
        return json.loads(client.get("bare"))

    async def tasks(kind: str) -> float:
        if kind == "bare":
            pool = valkey.asyncio.ConnectionPool(port=target.port, max_connections=TASKS)
            async with valkey.asyncio.Valkey(connection_pool=pool) as aclient:

                async def abare() -> Any:
                    return json.loads(await aclient.get("bare"))

                await from_tasks(abare, TASKS)
                return await from_tasks(abare, calls)

        async def aread() -> Any:
            _core.Namespace.delete(space, "k")
            return await space.aget("k")

        await from_tasks(aread, TASKS)
        return await from_tasks(aread, calls)

    assert read() == bare() == VALUE
    for _ in range(rounds):
        figures["bare get, one thread"].append(timed(bare, calls))
        figures["tier get, one thread"].append(timed(read, calls))
        figures["tier get, 16 threads"].append(from_threads(read, calls))
        figures["bare get, 64 tasks"].append(asyncio.run(tasks("bare")))
        figures["tier get, 64 tasks"].append(asyncio.run(tasks("tier")))
    cache.close()
    client.close()


def round_trips(target: Valkey) -> dict[str, float]:
    """Count the times that a server is written to and read from, by call."""
    cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="trips")
    space = cache.namespace("tenant:acme")
    space.set("warm", 1)
    space.fetch("loaded", lambda: 1)  # The server knows the scripts from now on.
    trips = 0
    exchange = ThreadLink._exchange

    def counted(self: Any, batch: Any) -> None:
        nonlocal trips
        trips += 1
        exchange(self, batch)

    found = {}
    ThreadLink._exchange = counted  # type: ignore[method-assign]
    try:
        for name, call in (
            ("set", lambda: space.set("a", 1)),
            ("set_many of 100 keys", lambda: space.set_many(dict.fromkeys(range(100), 1))),
            ("fetch that loads", lambda: space.fetch("b", lambda: 1)),
        ):
            trips = 0
            call()
            found[f"round trips of {name}"] = float(trips)
    finally:
        ThreadLink._exchange = exchange  # type: ignore[method-assign]
        cache.close()
    return found


def invalidations(rounds: int, large: int, figures: Figures) -> None:
    """Time a clear and a tag with few and with many values behind them, each on its own server."""
    with contextlib.ExitStack() as stack:
        spaces = {}
        for count in (1_000, large):
            target = stack.enter_context(server())
            cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name=f"behind-{count}")
            stack.callback(cache.close)
            spaces[count] = space = cache.namespace("tenant:acme")
            space.set("warm", 1, tags=("t",))
            fill(target, cache, count)
        for _ in range(rounds):
            for count, space in spaces.items():
                by_tag, by_clear = partial(space.invalidate_tag, "t"), space.clear
                figures[f"invalidate_tag, {count:,} values"].append(timed(by_tag, 20))
                figures[f"clear, {count:,} values"].append(timed(by_clear, 20))


def fill(target: Valkey, cache: Any, count: int) -> None:
    """Put many values there, as `set` lays them, by a pipeline."""
    engine = cache.tier.engine
    item = engine.items.item(("tenant:acme",), "warm")
    with valkey.Valkey(port=target.port) as client:
        value = client.get(item.name)
        prefix = item.name.rpartition(b":")[0]
        for first in range(0, count, 10_000):
            pipe = client.pipeline(transaction=False)
            for number in range(first, min(first + 10_000, count)):
                pipe.set(prefix + b":%027d" % number, value, px=3_600_000)
            pipe.execute()


def follow(url: str, computes: bool, ready: Any, gone: Any, stop: Any) -> None:
    """Be another process: hold what is set, and tell when it is gone."""
    cache = create_cache(tier=ValkeyTier(url, **PATIENCE), name="across")
    cache.connect()
    space = cache.namespace("tenant:acme")
    while not stop.is_set():
        if not ready.acquire(timeout=0.2):
            continue
        while space.get("k") is None:
            sleep(0.0005)
        gone.put("held")
        while "k" in space:
            if not computes:
                sleep(0.0002)
        gone.put(perf_counter())
    cache.close()


def across(target: Valkey, rounds: int, *, computes: bool) -> list[float]:
    """Time how long an invalidation takes to be seen by another process, again and again.

    That process waits, or it `computes`: its Python code gives up the GIL each 5 ms only, so that
    the thread which receives the invalidation has to wait for that.
    """
    context = multiprocessing.get_context("spawn")
    ready, gone, stop = context.Semaphore(0), context.Queue(), context.Event()
    other = context.Process(target=follow, args=(target.url, computes, ready, gone, stop))
    other.start()
    cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="across")
    cache.connect()
    space = cache.namespace("tenant:acme")
    seen: list[float] = []
    try:
        for _ in range(rounds * 40):
            space.set("k", 1, tags=("t",))
            ready.release()
            assert gone.get(timeout=30) == "held"
            space.invalidate_tag("t")
            returned = perf_counter()
            seen.append(max(0.0, gone.get(timeout=30) - returned))
    finally:
        stop.set()
        other.join(10)
        cache.close()
    return quantiles(seen, n=100, method="inclusive")


def whole_fleet(target: Valkey, rounds: int) -> dict[str, float]:
    """Time `invalidate_tag(wait="fleet")` with three processes."""
    code = (
        "import sys; from flowcache import create_cache; from flowcache.tier import ValkeyTier;"
        "cache = create_cache(tier=ValkeyTier(sys.argv[1], soft_timeout=5, hard_timeout=10),"
        "name='whole'); cache.connect(); print('up', flush=True); sys.stdin.read()"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, target.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        other.stdout.readline()
    cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="whole")
    cache.connect()
    sleep(2.5)  # Until then the list of members may be incomplete.
    space = cache.namespace("tenant:acme")
    times = [timed(lambda: space.invalidate_tag("t", wait="fleet"), 1) for _ in range(rounds * 20)]
    for other in others:
        other.communicate("")
    cache.close()
    return {"invalidate_tag(wait=fleet), three processes, p50": median(times)}


def fills_and_records(target: Valkey, tags: int) -> dict[str, float]:
    """Count messages of 10,000 fills, and what a record holds after many tags."""
    cache = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="fills")
    other = create_cache(tier=ValkeyTier(target.url, **PATIENCE), name="fills")
    cache.connect()
    other.connect()
    space = cache.namespace("tenant:acme")
    before = other.tier.engine.bus.messages  # type: ignore[union-attr]
    for number in range(10_000):
        space.fetch(number, lambda: 1)
    sleep(0.5)
    messages = other.tier.engine.bus.messages - before  # type: ignore[union-attr]
    other.close()
    record = cache.tier.layout.place(("tenant:acme",)).record  # type: ignore[union-attr]
    size = 0
    with valkey.Valkey(port=target.port) as client:
        for first in range(0, tags, TAGS_TOGETHER):
            together = range(first, min(first + TAGS_TOGETHER, tags))
            space.invalidate_tags([f"tag:{number}" for number in together])
            if first >= tags - 20 * TAGS_TOGETHER:  # It grows, and halves: the most is told.
                size = max(size, client.memory_usage(record, samples=0))
    cache.close()
    return {"messages of 10,000 fills": messages, f"record after {tags:,} tags, bytes": size}


def shown(name: str, value: float) -> str:
    """Return a figure with its unit."""
    if " / " in name:
        return f"{value:.2f}x"
    if "trips" in name or "messages" in name or "bytes" in name:
        return f"{value:,.0f}"
    return f"{value * 1e6:,.1f} µs"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=2048)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--tags", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="few and small rounds, and no file")
    parser.add_argument("--no-file", action="store_true")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK, no_file=True)
    names = (
        "bare get, one thread",
        "tier get, one thread",
        "tier get, 16 threads",
        "bare get, 64 tasks",
        "tier get, 64 tasks",
        *(
            f"{call}, {n} values"
            for n in ("1,000", f"{options.large:,}")
            for call in ("invalidate_tag", "clear")
        ),
    )
    figures: Figures = {name: [] for name in names}
    with server() as target:
        reads(target, options.rounds, options.calls, figures)
        invalidations(options.rounds, options.large, figures)
        found = {name: median(values) for name, values in figures.items()}
        found |= round_trips(target)
        for place, computes in (("elsewhere", False), ("from a process that computes", True)):
            cuts = across(target, options.rounds, computes=computes)
            found |= {f"gone {place}, p50": cuts[49], f"gone {place}, p99": cuts[98]}
        found |= whole_fleet(target, options.rounds)
        found |= fills_and_records(target, options.tags)
    pairs = {
        "tier get / bare get, one thread": ("tier get, one thread", "bare get, one thread"),
        "tier get / bare get, 64 tasks": ("tier get, 64 tasks", "bare get, 64 tasks"),
        "tier get, 16 threads / one": ("tier get, 16 threads", "tier get, one thread"),
    }
    for call in ("invalidate_tag", "clear"):
        many = f"{call}, {options.large:,} values"
        pairs[f"{many} / 1,000"] = (many, f"{call}, 1,000 values")
    ratios = {
        name: median(map(truediv, figures[one], figures[other]))
        for name, (one, other) in pairs.items()
    }
    table = Table(title="A second tier on the loopback", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("at most", justify="right")
    for name, value in (found | ratios).items():
        most = AT_MOST.get(name)
        table.add_row(name, shown(name, value), "" if most is None else shown(name, most))
    Console().print(table)
    if not options.no_file:
        written = {
            "environment": environment(),
            "seconds": found,
            "ratios": ratios,
            "targets": AT_MOST,
        }
        (RESULTS / "fleet.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
