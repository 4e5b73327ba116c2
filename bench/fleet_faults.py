"""What a second tier costs while its server is away, and how soon a fleet is back.

    python bench/fleet_faults.py [--minutes 10] [--every 60] [--calls 10000] [--no-file]
    python bench/fleet_faults.py --quick    that everything runs; its figures are not to be quoted

With one server that hangs, and then with one that was killed: what a `get` that misses takes while
the breaker is open, what a hit takes within the lease, and how long after the server's first answer
the tier is in use again. Then a cluster of three primaries and three replicas under four processes
of 64 tasks and 8 threads, at half of what the machine can do: a primary is killed, or put to sleep,
each `--every` seconds, and its replica takes over. Prints a table with the targets, and writes
bench/results/fleet_faults.json. Needs the extras `bench` and `test`, with client and server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from machine import RESULTS, environment
from rich.console import Console
from rich.table import Table

from flowcache import _core, create_cache
from flowcache.tier import ValkeyTier

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness.fleet import confirmed
from harness.fleet_load import fail_over
from harness.servers import Server, binaries, server, wait_until

QUICK = {"minutes": 0.7, "every": 20.0, "calls": 1_000}
AT_MOST = {
    "a get that misses, p99": 1e-3,
    "a hit, breaker open / closed": 1.05,
    "in use again": 2.0,
    "90 % of the calls again": 5.0,
}
"""The targets, by the end of a figure's name."""
LONG = 60.0

Figures = dict[str, float]


@contextmanager
def away(target: Server, how: str, back: list[float]) -> Iterator[None]:
    """Let the server hang, or kill it; then note when it answers again."""
    if how == "hung":
        with target.stopped():
            yield
    else:
        target.kill()
        yield
        target.start()
    target.call("PING")
    back.append(perf_counter())


def each(call: Callable[[int], Any], times: int) -> list[float]:
    """Return the seconds of each of so many calls."""
    seconds = []
    for number in range(times):
        began = perf_counter()
        call(number)
        seconds.append(perf_counter() - began)
    return seconds


def hits(space: Any, calls: int) -> float:
    """Return the seconds of one hit: the median of rounds."""
    get, rounds = space.get, []
    for _ in range(9):
        began = perf_counter()
        for _ in range(calls):
            get("held")
        rounds.append((perf_counter() - began) / calls)
    return median(rounds)


def outage(target: Server, how: str, calls: int) -> Figures:
    """Measure one outage, for a process within its lease and for one whose lease is over."""
    long = create_cache(tier=ValkeyTier(target.url, lease=LONG), name=f"{how}-long")
    short = create_cache(tier=ValkeyTier(target.url), name=f"{how}-short")
    spaces = [cache.namespace("tenant:acme") for cache in (long, short)]
    for cache, space in zip((long, short), spaces, strict=True):
        confirmed(cache.connect)
        confirmed(lambda space=space: space.set("held", 1))
    found: Figures = {}
    before = hits(spaces[0], calls)
    back: list[float] = []
    with away(target, how, back):
        for space in spaces:
            tier = _core._tier_of(space)
            (primary,) = tier.engine.servers.all
            while primary.breaker.state == "closed" and tier.state == "live":
                space.get("missing")
        wait_until(lambda: short.tier.state == "apart")  # type: ignore[union-attr]
        found[f"{how}: a hit, breaker open / closed"] = hits(spaces[0], calls) / before
        for space, word in zip(spaces, ("within the lease", "after it"), strict=True):
            took = each(lambda number, space=space: space.get(f"missing:{number}"), calls)
            found[f"{how}: {word}: a get that misses, p50"] = median(took)
            cut = quantiles(took, n=100, method="inclusive")[98]
            found[f"{how}: {word}: a get that misses, p99"] = cut
            found[f"{how}: {word}: a get that misses, at most"] = max(took)
    space = spaces[1]
    while "new" not in space:  # What the tier does not take is not held here either.
        space.fetch("new", lambda: 1)
    found[f"{how}: in use again"] = perf_counter() - back[0]
    for cache in (long, short):
        cache.close()
    return found


def fail_overs(minutes: float, every: float) -> Figures:
    """Measure fail-overs of a cluster."""
    promotions = fail_over(minutes, every, lambda line: print(line, flush=True))
    return {
        "fail-overs": float(len(promotions)),
        "fail-overs: 90 % of the calls again": max(one.until_back for one in promotions),
        "fail-overs: the last write that raised": max(one.until_confirmed for one in promotions),
    }


def shown(name: str, value: float) -> str:
    """Return a figure with its unit."""
    if " / " in name:
        return f"{value:.2f}x"
    if name == "fail-overs":
        return f"{value:.0f}"
    return f"{value:,.2f} s" if value >= 0.1 else f"{value * 1e6:,.1f} µs"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of fail-overs")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two of them")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="little of each, and no file")
    parser.add_argument("--no-file", action="store_true")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK, no_file=True)
    if not binaries():
        print("left out: there is no Valkey server for this platform")
        return
    found: Figures = {}
    for how in ("hung", "killed"):
        with server() as target:
            found |= outage(target, how, options.calls)
    found |= fail_overs(options.minutes, options.every)
    table = Table(title="A fleet whose servers fail", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("at most", justify="right")
    for name, value in found.items():
        most = next((most for end, most in AT_MOST.items() if name.endswith(end)), None)
        table.add_row(name, shown(name, value), "" if most is None else shown(name, most))
    Console().print(table)
    if not options.no_file:
        written = {"environment": environment(), "seconds": found, "targets": AT_MOST}
        (RESULTS / "fleet_faults.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
