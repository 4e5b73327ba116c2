"""Hit ratios of tenants from real traces in one cache, with and without a tenant that scans.

    python bench/tenants.py --web web07.trace.xz --orm orm-busy.trace.xz [--sharing fair,utility]
    python bench/tenants.py --prefix orm-busy.trace.xz [--sharing fair,utility]
    python bench/tenants.py --twitter twitter-sample.csv.xz

Five tenants share a bound: two halves of a trace of product pages and three parts of a trace of
object-relational reads. Their requests are interleaved at random. flowcache, by one way of sharing
or both, is compared with one LRU for all and with a fixed part for each. There are four mixes: the
five alone; beside a sixth that reads every key once only; beside a sixth that reads keys of a loop
of one and a quarter shares in turn; and the five by turns, each idle for about half of the time.
Nothing here depends on time: the figures are the same on every machine, but for those by utility at
40,000 entries, where the keys that are sampled depend on their hashes.

The second form takes the highest byte of a key, the kind of the object, for its tenant.

The third form replays a request log in which each client is a tenant. It applies TTLs and deletes
under a virtual clock. It checks that the tenants' counters add up to the cache's.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import lzma
import random
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
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
SIXTH = "the sixth"
PHASES = 12
PREFIXED, PREFIXED_ENTRIES = 2_000_000, 4_000
Request = tuple[str, Hashable]
Ask = Callable[[str, Hashable], bool]
"""Looks a tenant's key up, stores it if it is absent, and returns whether it was a hit."""


def keys_of(path: str) -> array[int]:
    with lzma.open(path) as packed:
        keys = array("i", packed.read())
    if sys.byteorder == "little":
        keys.byteswap()
    return keys


def five(web: str, orm: str, *, idle: bool = False) -> list[Request]:
    """Return the requests of five tenants, each tenant's in its own order.

    `idle`: in each of some phases about half of them make requests.
    """
    pages, objects = keys_of(web), keys_of(orm)
    third = len(objects) // 3
    queues: dict[str, Iterator[Hashable]] = {
        "pages, early": iter(pages[:STRETCH]),
        "pages, late": iter(pages[-STRETCH:]),
    }
    for number in range(3):
        stretch = objects[number * third : number * third + STRETCH]
        queues[f"objects {number + 1}"] = iter(stretch)
    draw = random.Random(1)
    turns = [name for name in queues for _ in range(STRETCH)]
    if idle:
        phases: list[list[str]] = [[] for _ in range(PHASES)]
        for name in queues:
            awake = draw.sample(phases, PHASES // 2)
            for number in range(STRETCH):
                awake[number * len(awake) // STRETCH].append(name)
        for phase in phases:
            draw.shuffle(phase)
        turns = [name for phase in phases for name in phase]
    else:
        draw.shuffle(turns)
    return [(name, next(queues[name])) for name in turns]


def beside(requests: list[Request], keys: Iterator[Hashable]) -> Iterator[Request]:
    """Yield the requests with one of a sixth tenant after every five, all others in their order."""
    for number, request in enumerate(requests):
        yield request
        if number % 5 == 4:
            yield SIXTH, next(keys)


def mixes(web: str, orm: str) -> dict[str, tuple[int, Callable[[int], Iterator[Request]]]]:
    """Return the mixes: how many tenants, and their requests to a cache of a capacity."""
    alone, idle = five(web, orm), five(web, orm, idle=True)
    return {
        "alone": (5, lambda _: iter(alone)),
        "scanned": (6, lambda _: beside(alone, itertools.count())),
        "loop": (6, lambda entries: beside(alone, itertools.cycle(range(entries // 6 * 5 // 4)))),
        "idle": (5, lambda _: iter(idle)),
    }


def shares(capacity: int, tenants: int, sharing: Any = "fair") -> Ask:
    cache = create_cache(max_entries=capacity, default_ttl=None, sharing=sharing)
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


Make = Callable[[int, int], Ask]
SHARING: dict[str, tuple[str, Make]] = {
    "fair": ("flowcache", shares),
    "utility": ("flowcache, utility", functools.partial(shares, sharing="utility")),
}
OTHERS: dict[str, Make] = {"one LRU": one_lru, "fixed parts": fixed_parts}


def hit_ratios(requests: Iterable[Request], ask: Ask) -> dict[str, float]:
    asked: dict[str, int] = {}
    hits: dict[str, int] = {}
    for tenant, key in requests:
        asked[tenant] = asked.get(tenant, 0) + 1
        hits[tenant] = hits.get(tenant, 0) + ask(tenant, key)
    return {tenant: hits[tenant] / asked[tenant] for tenant in asked}


def compare(web: str, orm: str, policies: dict[str, Make], console: Console) -> None:
    made = mixes(web, orm)
    alone = list(made["alone"][1](0))
    distinct = {
        name: len({key for who, key in alone if who == name}) for name, _ in set(alone[:99])
    }
    rows: list[dict[str, Any]] = []
    runs = [(capacity, policy) for capacity in CAPACITIES for policy in policies]
    for capacity, policy in track(runs, "replaying", console=console):
        row: dict[str, Any] = {"capacity": capacity, "policy": policy}
        for mix, (tenants, requests) in made.items():
            row[mix] = hit_ratios(requests(capacity), policies[policy](capacity, tenants))
            # A scan never hits; the hits of a loop are told beside those of the five.
            row[f"sixth, {mix}"] = row[mix].pop(SIXTH, None)
        rows.append(row)
    heads = [f"{mix}: five / worst{' / sixth' * (mix == 'loop')}" for mix in made]
    table = Table("capacity", "policy", *heads)
    for row in rows:
        # All tenants make the same number of requests, so the mean is the aggregate.
        ratios = [list(row[mix].values()) for mix in made]
        figures = [f"{sum(one) / 5:.4f} / {min(one):.4f}" for one in ratios]
        figures[2] += f" / {row['sixth, loop']:.4f}"
        table.add_row(f"{row['capacity']:,}", row["policy"], *figures)
    console.print(table)
    tell_losses(rows, list(made), console)
    for row in rows:
        if row["policy"] == "flowcache":
            within = [name for name in distinct if distinct[name] <= row["capacity"] // 6]
            lost = {name: row["alone"][name] - row["scanned"][name] for name in within}
            worst = max(lost.values(), default=0.0)
            console.print(
                f"{row['capacity']:,}: {len(within)} of 5 need no more than their share; the most "
                f"that one of them lost to the scanner: {100 * worst:.2f} points"
            )
    if set(policies) != {SHARING[name][0] for name in SHARING} | set(OTHERS):
        return
    RESULTS.mkdir(exist_ok=True)
    written = {"tenants": distinct, "rows": rows}
    (RESULTS / "tenants.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    draw(rows)


def tell_losses(rows: list[dict[str, Any]], made: list[str], console: Console) -> None:
    """Tell how many more misses than by fair shares any tenant has by utility."""
    fair, utility = (
        {row["capacity"]: row for row in rows if row["policy"] == SHARING[name][0]}
        for name in ("fair", "utility")
    )
    for capacity in fair if utility else ():
        for mix in made:
            before, after = fair[capacity][mix], utility[capacity][mix]
            most = max((1 - after[name]) / (1 - before[name]) - 1 for name in before)
            console.print(
                f"{capacity:,}, {mix}: by utility no tenant has more than {100 * most:.1f}% more "
                "misses than by fair shares"
            )


def by_prefix(path: str, policies: dict[str, Make], console: Console) -> None:
    """Replay a trace in which the kind of the object, the highest byte of a key, is the tenant."""
    keys = keys_of(path)[:PREFIXED]
    requests: list[Request] = [(str(key >> 24), key) for key in keys]
    asked = Counter(tenant for tenant, _ in requests)
    table = Table("policy", "hit ratio", "most misses more than by fair shares")
    fair: dict[str, float] = {}
    for policy, make in policies.items():
        ratios = hit_ratios(requests, make(PREFIXED_ENTRIES, len(asked)))
        fair = fair or ratios
        most = max(
            (1 - ratios[name]) / (1 - fair[name]) - 1 for name in ratios if asked[name] >= 1_000
        )
        together = sum(ratios[name] * asked[name] for name in ratios) / len(requests)
        table.add_row(policy, f"{together:.4f}", f"{100 * most:.1f}%")
    console.print(f"{len(asked)} tenants, {len(requests):,} requests, {PREFIXED_ENTRIES:,} entries")
    console.print(table)


def draw(rows: list[dict[str, Any]]) -> None:
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    figure, axes = plt.subplots(1, len(CAPACITIES), figsize=(11, 3.6), sharey=True)
    for one, capacity in zip(axes, CAPACITIES, strict=True):
        for number, policy in enumerate(policies):
            row = next(r for r in rows if (r["capacity"], r["policy"]) == (capacity, policy))
            for shift, key, shade in ((-0.2, "alone", 0.45), (0.2, "scanned", 1.0)):
                values = row[key].values()
                colour = "#c2410c" if policy.startswith("flowcache") else "#64748b"
                one.bar(number + shift, sum(values) / 5, 0.36, color=colour, alpha=shade)
                one.plot(number + shift, min(values), "k_", markersize=14)
        names = [policy.replace(" ", "\n") for policy in policies]
        one.set_xticks(range(len(policies)), names, fontsize=8)
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
    parser.add_argument("--prefix", help="keys of database objects, by kinds: likewise")
    parser.add_argument("--sharing", default="fair,utility", help="ways of sharing (both)")
    options = parser.parse_args()
    console = Console(width=140)
    if (options.web is None) != (options.orm is None):
        parser.error("give both --web and --orm")
    if not (options.web or options.prefix or options.twitter):
        parser.error("give --web and --orm, --prefix, or --twitter")
    for path in (options.web, options.orm, options.prefix, options.twitter):
        if path is not None and not Path(path).exists():
            parser.error(f"{path}: no such file")
    ways = options.sharing.split(",")
    if not set(ways) <= set(SHARING):
        parser.error(f"--sharing: of {', '.join(SHARING)}, with commas between them")
    policies = dict(SHARING[way] for way in ways) | OTHERS
    if options.web:
        compare(options.web, options.orm, policies, console)
    if options.prefix:
        by_prefix(options.prefix, policies, console)
    if options.twitter:
        twitter(options.twitter, console)


if __name__ == "__main__":
    main()
