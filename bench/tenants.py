"""Hit ratios of tenants from real traces in one cache, with and without a tenant that scans.

    python bench/tenants.py --web web07.trace.xz --orm orm-busy.trace.xz
    python bench/tenants.py --twitter twitter-sample.csv.xz

Five tenants share a bound: two halves of a trace of product pages and three parts of a trace of
object-relational reads. Their requests are interleaved at random. A sixth tenant reads every key
once only. flowcache is compared with one LRU for all and with a fixed part for each. Nothing here
depends on time: the figures are the same on every machine.

The second form replays a request log in which each client is a tenant. It applies TTLs and deletes
under a virtual clock. It checks that the tenants' counters add up to the cache's.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import random
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from machine import RESULTS
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flowcache import create_cache

mpl.use("agg")

import matplotlib.pyplot as plt

CAPACITIES = (1_000, 8_000, 40_000)
STRETCH = 38_000
SCANNER = "scanner"
Request = tuple[str, Hashable]
Ask = Callable[[str, Hashable], bool]
"""Looks a tenant's key up, stores it if it is absent, and returns whether it was a hit."""


def keys_of(path: str) -> array[int]:
    with lzma.open(path) as packed:
        keys = array("i", packed.read())
    if sys.byteorder == "little":
        keys.byteswap()
    return keys


def mixed(web: str, orm: str, *, scanned: bool) -> list[Request]:
    """Return the requests of all tenants, each tenant's in its own order."""
    pages, objects = keys_of(web), keys_of(orm)
    third = len(objects) // 3
    queues: dict[str, Iterator[Hashable]] = {
        "pages, early": iter(pages[:STRETCH]),
        "pages, late": iter(pages[-STRETCH:]),
    }
    for number in range(3):
        stretch = objects[number * third : number * third + STRETCH]
        queues[f"objects {number + 1}"] = iter(stretch)
    turns = [name for name in queues for _ in range(STRETCH)]
    random.Random(1).shuffle(turns)
    requests = [(name, next(queues[name])) for name in turns]
    if not scanned:
        return requests
    # One more request after every five, so that the tenants' own order is the same in both.
    with_scans: list[Request] = []
    for number, request in enumerate(requests):
        with_scans.append(request)
        if number % 5 == 4:
            with_scans.append((SCANNER, number))
    return with_scans


def shares(capacity: int, tenants: int) -> Ask:
    cache = create_cache(max_entries=capacity, default_ttl=None)
    spaces: dict[str, Any] = {}

    def ask(tenant: str, key: Hashable) -> bool:
        space = spaces.get(tenant)
        if space is None:
            space = spaces[tenant] = cache.namespace(tenant)
        if space.get(key) is not None:
            return True
        space.set(key, True)
        return False

    return ask


def one_lru(capacity: int, tenants: int) -> Ask:
    held: OrderedDict[Hashable, None] = OrderedDict()
    return lambda tenant, key: ask_lru(held, capacity, (tenant, key))


def fixed_parts(capacity: int, tenants: int) -> Ask:
    parts: dict[str, OrderedDict[Hashable, None]] = {}
    return lambda tenant, key: ask_lru(
        parts.setdefault(tenant, OrderedDict()), capacity // tenants, key
    )


def ask_lru(held: OrderedDict[Hashable, None], capacity: int, key: Hashable) -> bool:
    if key in held:
        held.move_to_end(key)
        return True
    if len(held) >= capacity:
        held.popitem(last=False)
    held[key] = None
    return False


POLICIES: dict[str, Callable[[int, int], Ask]] = {
    "flowcache": shares,
    "one LRU": one_lru,
    "fixed parts": fixed_parts,
}


def hit_ratios(requests: list[Request], ask: Ask) -> dict[str, float]:
    asked: dict[str, int] = {}
    hits: dict[str, int] = {}
    for tenant, key in requests:
        asked[tenant] = asked.get(tenant, 0) + 1
        hits[tenant] = hits.get(tenant, 0) + ask(tenant, key)
    return {tenant: hits[tenant] / asked[tenant] for tenant in asked if tenant != SCANNER}


def compare(web: str, orm: str, console: Console) -> None:
    alone, scanned = mixed(web, orm, scanned=False), mixed(web, orm, scanned=True)
    distinct = {
        name: len({key for who, key in alone if who == name}) for name, _ in set(alone[:99])
    }
    rows: list[dict[str, Any]] = []
    runs = [(capacity, policy) for capacity in CAPACITIES for policy in POLICIES]
    for capacity, policy in track(runs, "replaying", console=console):
        make = POLICIES[policy]
        rows.append(
            {
                "capacity": capacity,
                "policy": policy,
                "alone": hit_ratios(alone, make(capacity, 5)),
                "scanned": hit_ratios(scanned, make(capacity, 6)),
            }
        )
    table = Table("capacity", "policy", "worst", "together", "worst, scanned", "together, scanned")
    for row in rows:
        before, after = list(row["alone"].values()), list(row["scanned"].values())
        # All tenants make the same number of requests, so the mean is the aggregate.
        figures = (min(before), sum(before) / 5, min(after), sum(after) / 5)
        table.add_row(f"{row['capacity']:,}", row["policy"], *(f"{one:.4f}" for one in figures))
    console.print(table)
    for row in rows:
        if row["policy"] == "flowcache":
            within = [name for name in distinct if distinct[name] <= row["capacity"] // 6]
            lost = {name: row["alone"][name] - row["scanned"][name] for name in within}
            worst = max(lost.values(), default=0.0)
            console.print(
                f"{row['capacity']:,}: {len(within)} of 5 need no more than their share; the most "
                f"that one of them lost to the scanner: {100 * worst:.2f} points"
            )
    RESULTS.mkdir(exist_ok=True)
    written = {"tenants": distinct, "rows": rows}
    (RESULTS / "tenants.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    draw(rows)


def draw(rows: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, len(CAPACITIES), figsize=(11, 3.6), sharey=True)
    for one, capacity in zip(axes, CAPACITIES, strict=True):
        for number, policy in enumerate(POLICIES):
            row = next(r for r in rows if (r["capacity"], r["policy"]) == (capacity, policy))
            for shift, key, shade in ((-0.2, "alone", 0.45), (0.2, "scanned", 1.0)):
                values = row[key].values()
                colour = "#c2410c" if policy == "flowcache" else "#64748b"
                one.bar(number + shift, sum(values) / 5, 0.36, color=colour, alpha=shade)
                one.plot(number + shift, min(values), "k_", markersize=14)
        one.set_xticks(range(len(POLICIES)), list(POLICIES), fontsize=8)
        one.set_title(f"{capacity:,} entries", fontsize=10, loc="left")
    axes[0].set_ylabel("hit ratio", fontsize=9)
    figure.text(
        0.01,
        0.01,
        "five tenants together; pale: alone, full: beside one that scans; line: the worst of five",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(RESULTS / "tenants.svg")


def twitter(path: str, console: Console) -> None:
    now = 0.0
    cache = create_cache(max_entries=5_000, default_ttl=None, clock=lambda: now)
    clients: set[str] = set()
    with lzma.open(path, "rt", encoding="utf-8", newline="") as log:
        for number, (time, key, _, size, client, operation, ttl) in enumerate(csv.reader(log)):
            now = float(time)
            space = cache.namespace("client", client)
            clients.add(client)
            lives = float(ttl) or None
            if operation in ("get", "gets"):
                space.get(key)
            elif operation == "delete":
                space.delete(key)
            elif operation == "add":
                space.add(key, int(size), ttl=lives)
            else:
                space.set(key, int(size), ttl=lives)
            if number % 500 == 0:
                cache._check()
    cache.sweep()
    cache._check()
    total = cache.stats().as_dict()
    added: dict[str, float] = dict.fromkeys(total, 0)
    for client in clients:
        for field, value in cache.namespace("client", client).stats().as_dict().items():
            added[field] += value
    wrong = {name for name in total if name != "hit_rate" and added[name] != total[name]}
    console.print(f"{number + 1:,} requests of {len(clients):,} clients: {total}")
    if wrong:
        sys.exit(f"the clients' counters do not add up to the cache's: {sorted(wrong)}")
    console.print("the clients' counters add up to the cache's, and every check held")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--web", help="keys of product pages, big-endian 32-bit numbers, xz")
    parser.add_argument("--orm", help="keys of database objects, likewise")
    parser.add_argument("--twitter", help="time, key, sizes, client, operation, TTL: CSV, xz")
    options = parser.parse_args()
    console = Console(width=100)
    if (options.web is None) != (options.orm is None) or not (options.web or options.twitter):
        parser.error("give --web and --orm, or --twitter")
    if options.web:
        compare(options.web, options.orm, console)
    if options.twitter:
        twitter(options.twitter, console)


if __name__ == "__main__":
    for needed in sys.argv[1:]:
        if not needed.startswith("-") and not Path(needed).exists():
            sys.exit(f"{needed}: no such file")
    main()
