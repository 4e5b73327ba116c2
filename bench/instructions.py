"""Count the instructions of one call, with valgrind: the same figure on a busy machine.

    python bench/instructions.py [case ...]

Each case runs twice under `valgrind --tool=callgrind`, with more calls the second time. The
difference, divided by the added calls, is the count of one call and the loop around it. `loop` is
that loop alone. Needs valgrind; takes a minute a case.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FEW, MANY = 2_000, 12_000
SIZE = 1_000

PROLOGUE = f"""
import asyncio, gc, sys
from flowcache import create_cache
from flowcache.tenancy import current_tenant, tenant
calls = int(sys.argv[1])
cache = create_cache(max_entries={SIZE})
view = cache.namespace("tenant:acme", default_ttl=3600)
stored = ["contacts:%d" % n for n in range({SIZE})]
for key in stored:
    view.set(key, 1)
keys = ["contacts:%d" % (n * 7 % {SIZE}) for n in range(calls)]
new = ["new:%d" % n for n in range(calls)]
get, put, fetch, afetch, namespace = view.get, view.set, view.fetch, view.afetch, cache.namespace
table = dict.fromkeys(stored, 1)
def load(): ...
async def aload(): ...
for key in keys + new: hash(key)
def full(tenants, **settings):
    cache = create_cache(max_entries=tenants * 5 // 2, **settings)
    spaces = [cache.namespace(str(n)) for n in range(tenants)]
    for n, space in enumerate(spaces):
        for key in range(2 + n % 2):
            space.set(key, 1)
    return cache, spaces
def crowd(tenants, new, **settings):
    # Each holds two or three, and the cache is full: each store finds the victim's tenant anew.
    cache, spaces = full(tenants, **settings)
    for n, key in enumerate(new):
        spaces[n * 7919 % tenants].set(key, 1)
def among(tenants, new, call, **settings):
    cache, spaces = full(tenants, **settings)
    for n, key in enumerate(new):
        call(cache, spaces[n * 7919 % tenants], n, key)
tiny = create_cache(max_entries={SIZE}, eviction="tinylfu").namespace("tenant:acme")
for key in stored:
    tiny.set(key, 1)
lent = create_cache(max_entries={SIZE}, sharing="utility").namespace("tenant:acme")
for key in stored + stored[:9]:
    lent.set(key, 1)
lent.set("one more", 1)
roomy = create_cache(max_entries=None).namespace("tenant:acme")
cached = create_cache(default_ttl=None).cached()(lambda contact: 1)
for key in stored:
    cached(key)
ahead = create_cache(default_ttl=3600).cached(refresh_ahead=0.5)(lambda contact: 1)
for key in stored:
    ahead(key)
loading = create_cache(max_entries={SIZE}).cached()(lambda contact: 1)
async def missing(keys, afetch, aload):
    for key in keys:
        await afetch(key, aload)
crm = create_cache(default_ttl=None)
mine = crm.for_current_tenant()
current = mine.cached()(lambda contact: 1)
argument = crm.cached(tenant="who")(lambda who, contact: 1)
named = crm.cached()(lambda contact: 1)
with tenant("acme"):
    for key in stored:
        mine.set(key, 1), current(key), argument("acme", key), named(contact=key)
hundreds = [keys[n:n + 100] for n in range(0, calls, 100)]
current_tenant.set("acme")
now = 0
ticking = create_cache(clock=lambda: now, default_ttl=1).namespace("tenant:acme")
async def stale(keys):
    # Each key is past its TTL: it is served, and a background task loads it anew.
    global now
    for key in stored:
        ticking.set(key, 1, stale=True)
    for key in keys:
        now += 2
        await ticking.afetch(key, aload, stale=True)
        await asyncio.sleep(0)
def tiered():
    # A cache with a second tier that nothing is asked of: its lease lasts, and all is held here.
    from flowcache import _core
    from flowcache.tier.counter import counter_ticks
    cache = create_cache(max_entries={SIZE}, tier="valkey://127.0.0.1:1/0")
    _core._lease_ticks(counter_ticks())
    _core._lend(cache._store(), 1e18, 0)
    view = cache.namespace("tenant:acme", default_ttl=3600)
    for key in stored:
        _core.Namespace.set(view, key, 1)
    return view
gc.freeze()  # Or a collection would go through the lists, and cost more with more calls.
def run(keys, new, get, put, fetch, afetch, namespace):
"""
CALL = """
run(keys, new, get, put, fetch, afetch, namespace)
"""

CASES = {
    "loop": "for key in keys: pass",
    "dict.get": "get = table.get\n    for key in keys: get(key)",
    "get, hit": "for key in keys: get(key)",
    "get, miss": "for key in new: get(key)",
    "set that overwrites": "for key in keys: put(key, 1)",
    "set that evicts": "for key in new: put(key, 1)",
    "  by TinyLFU: get, hit": "get = tiny.get\n    for key in keys: get(key)",
    "  by TinyLFU: set that overwrites": "put = tiny.set\n    for key in keys: put(key, 1)",
    "  by TinyLFU: set that evicts": "put = tiny.set\n    for key in new: put(key, 1)",
    "set with two tags": "for key in keys: put(key, 1, tags=('crm', 'crm:contacts'))",
    "set that changes a tag": "for n, key in enumerate(keys): put(key, 1, tags=('crm', new[n]))",
    "set of a new key": "for key in new: roomy.set(key, 1)",
    "  with equal tags": "for key in new: roomy.set(key, 1, tags=('crm', 'crm:contacts'))",
    "  with a tag of its own": "for key in new: roomy.set(key, 1, tags=('crm', key))",
    "add": "for key in new: roomy.add(key, 1)",
    "fetch, hit": "for key in keys: fetch(key, load)",
    "afetch, hit, not awaited": "for key in keys: afetch(key, aload)",
    "cached function, hit": "for key in keys: cached(key)",
    "fetch(refresh_ahead=), hit": "for key in keys: fetch(key, load, refresh_ahead=0.5)",
    "  afetch, not awaited": "for key in keys: afetch(key, aload, refresh_ahead=0.5)",
    "  the current tenant's": "for key in keys: mine.fetch(key, load, refresh_ahead=0.5)",
    "  a cached function's": "for key in keys: ahead(key)",
    "get_many of 100, a key": "for some in hundreds: view.get_many(some)",
    "fetch_many, fresh, a key": "for some in hundreds: view.fetch_many(some, load)",
    "afetch_many, fresh, a key": "for some in hundreds: view.afetch_many(some, aload)",
    "set_many of 100, a key": "for some in hundreds: view.set_many(dict.fromkeys(some, 1))",
    "current tenant: get, hit": "for key in keys: mine.get(key)",
    "current tenant: fetch, hit": "for key in keys: mine.fetch(key, load)",
    "current tenant: cached, hit": "for key in keys: current(key)",
    "cached(tenant=), hit": "for key in keys: argument('acme', key)",
    "cached function, a keyword": "for key in keys: named(contact=key)",
    "fetch that loads": "for key in new: fetch(key, load)",
    "cached function that loads": "for key in new: loading(key)",
    "afetch that loads": "asyncio.run(missing(new, afetch, aload))",
    "afetch, stale, with its load": "asyncio.run(stale(keys))",
    "get, hit, with a tier": "get = tiered().get\n    for key in keys: get(key)",
    "fetch, hit, with a tier": "fetch = tiered().fetch\n    for key in keys: fetch(key, load)",
    "namespace(...).get": "for key in keys: namespace('tenant:acme').get(key)",
    "set under pressure, 10 tenants": "crowd(10, new)",
    "set under pressure, 100,000": "crowd(100_000, new)",
    "  by utility, 10 tenants": "crowd(10, new, sharing='utility')",
    "  by utility, 100,000": "crowd(100_000, new, sharing='utility')",
    "  by utility: get, hit": "get = lent.get\n    for key in keys: get(key)",
    "  by utility: get, miss": "get = lent.get\n    for key in new: get(key)",
    "  by utility: set that evicts": "put = lent.set\n    for key in new: put(key, 1)",
}

BESIDE = {
    "get, miss": "space.get(key)",
    "set that evicts": "space.set(key, 1)",
    "delete and set": "(space.delete(0), space.set(0, 1))",
    "clear and set": "(space.clear(), space.set(0, 1))",
    "configure": "space.configure(share=1 / (1 + n % 3))",
}
"""Calls for one of many namespaces, whose count they must hardly depend on."""
for count in (1_000, 100_000):
    for sharing in ("fair", "utility"):
        for beside, call in BESIDE.items():
            CASES[f"{count:,} namespaces, {sharing}: {beside}"] = (
                f"among({count}, new, lambda cache, space, n, key: {call}, sharing={sharing!r})"
            )


def instructions(program: str, calls: int) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        finished = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={Path(scratch, 'out')}",
                sys.executable,
                "-P",  # The modules of the current folder are not imported.
                "-c",
                f"{PROLOGUE}    {program}{CALL}",
                str(calls),
            ],
            capture_output=True,
            text=True,
            check=True,
            # One order of every dict and set, so that two runs differ in their calls alone.
            env={"PYTHONHASHSEED": "1"},
        )
    match = re.search(r"Collected : (\d+)", finished.stderr)
    assert match is not None, finished.stderr
    return int(match[1])


def a_call(program: str, count: Callable[[str, int], int] = instructions) -> float:
    # The set-up, which grows with the calls as well, is measured alone and subtracted.
    return (
        count(program, MANY) - count(program, FEW) - (count("pass", MANY) - count("pass", FEW))
    ) / (MANY - FEW)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="by default all")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("valgrind: not found")
    known: dict[tuple[str, int], int] = {}

    def count(program: str, calls: int) -> int:
        if (program, calls) not in known:
            known[program, calls] = instructions(program, calls)
        return known[program, calls]

    for name in options.cases or CASES:
        print(f"{name:<46}{a_call(CASES[name], count):>8.0f}", flush=True)


if __name__ == "__main__":
    main()
