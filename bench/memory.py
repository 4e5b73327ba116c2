"""The memory of an entry, and the time that a million of them add to a collection.

    make bench ARGS="--only memory"

Each cache is filled in a fresh process, with keys and a value made before. The growth of the
process, divided by the entries, is the cache's own memory for one entry. The pause is the time of
`gc.collect()` with the cache full, less that with the same keys and no cache. Each is the least of
several, since other load only ever adds to it. Linux only, for it reads /proc.

A sketch comes with evictions, so the cache that has one is filled twice over.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cachebox
import cachetools
import moka_py
import theine
from lru import LRU
from machine import RESULTS, environment
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flowcache import create_cache

HOUR = 3600
TAGS = ("crm", "crm:contacts")


def flowcache(
    entries: int, *, tags: int = 0, ttl: float | None = HOUR, eviction: str = "lru"
) -> Callable[..., Any]:
    cache = create_cache(max_entries=entries, eviction=eviction)
    view = cache.namespace("tenant:acme", default_ttl=ttl)
    store, borne = view.set, TAGS[:tags]
    return lambda key, value: store(key, value, tags=borne) if borne else store(key, value)


def vttl(entries: int) -> Callable[..., Any]:
    insert = cachebox.VTTLCache(entries).insert
    return lambda key, value: insert(key, value, HOUR)


FILLERS: dict[str, Callable[[int], Callable[..., Any]]] = {
    "flowcache": flowcache,
    "flowcache, no TTL": lambda entries: flowcache(entries, ttl=None),
    "flowcache, 1 tag": lambda entries: flowcache(entries, tags=1),
    "flowcache, 2 tags": lambda entries: flowcache(entries, tags=2),
    "flowcache, tinylfu": lambda entries: flowcache(entries, eviction="tinylfu"),
    "dict": lambda entries: {}.__setitem__,
    "cachebox LRU": lambda entries: cachebox.LRUCache(entries).insert,
    "cachebox TTL": lambda entries: cachebox.TTLCache(entries, HOUR).insert,
    "cachebox VTTL": vttl,
    "cachetools LRU": lambda entries: cachetools.LRUCache(entries).__setitem__,
    "cachetools TTL": lambda entries: cachetools.TTLCache(entries, HOUR).__setitem__,
    "lru-dict": lambda entries: LRU(entries).__setitem__,
    "theine": lambda entries: theine.Cache(entries).set,
    "moka-py": lambda entries: moka_py.Moka(entries, ttl=HOUR, policy="lru").set,
}


SKETCHED = {"flowcache, tinylfu"}


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pause() -> float:
    """Return the least of five full collections, in milliseconds."""
    least = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        gc.collect()
        least = min(least, time.perf_counter() - began)
    return least * 1e3


def measure(name: str, entries: int) -> dict[str, float]:
    stores = entries * 2 if name in SKETCHED else entries
    keys = [f"contacts:{number}" for number in range(stores)]
    value = "value"
    store = FILLERS[name](entries)
    store("first", value)  # the fixed set-up of a cache does not belong to an entry
    before, pause_before = resident(), pause()
    for key in keys:
        store(key, value)
    return {
        "bytes": round((resident() - before) / entries, 1),
        "pause_ms": round(pause() - pause_before, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--results", default=str(RESULTS))
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.entries)))
        return
    figures = {}
    for name in track(FILLERS, "memory of each cache"):
        command = [sys.executable, __file__, "--one", name, "--entries", str(options.entries)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        figures[name] = json.loads(answer.stdout)
    table = Table("cache", "bytes an entry", "added to gc.collect(), ms")
    for name, figure in figures.items():
        table.add_row(name, f"{figure['bytes']:.1f}", f"{figure['pause_ms']:.2f}")
    Console().print(table)
    written = {"environment": environment(), "entries": options.entries, "caches": figures}
    path = Path(options.results, "memory.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
