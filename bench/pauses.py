"""The longest time that one call takes, with a million entries.

    python bench/pauses.py [--entries 1000000] [--runs 3] [--only clear]

Each case fills a cache of its own and times single calls with the collector off. A run's figure is
the longest of its calls; of several runs the least counts, because other load can only add to it.
Prints a table and writes bench/results/pauses.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from collections.abc import Callable, Iterable
from time import perf_counter_ns, thread_time_ns
from typing import Any

from machine import RESULTS, environment
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flowcache import Cache, create_cache
from flowcache._core import _testing

SMALL = 1_000
"""The entries left after a cache is shrunk."""

NAMESPACES = 100_000
SINGLE = 20_000
"""Calls of each kind beside so many namespaces."""

# Each case takes the number of entries and returns, by name, the nanoseconds of its longest call.
Case = Callable[[int], dict[str, int]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__.replace("_", " ")] = function
    return function


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watch:
    read = staticmethod(perf_counter_ns)


def timed(call: Callable[[], Any]) -> int:
    begin = Watch.read()
    call()
    return Watch.read() - begin


def longest(calls: Iterable[Callable[[], Any]]) -> int:
    return max(map(timed, calls))


def sets(cache: Any, first: int, last: int, **options: Any) -> Iterable[Callable[[], Any]]:
    """Stores of new strings under new strings, each made just before its call."""
    for number in range(first, last):
        key, value = f"key:{number}", f"value:{number}"
        yield lambda key=key, value=value: cache.set(key, value, **options)  # type: ignore[misc]


def filled(entries: int, *, tags: Any = (), clock: Clock | None = None, **settings: Any) -> Any:
    cache: Cache[str] = create_cache(
        max_entries=settings.pop("max_entries", 2 * entries), default_ttl=3600, clock=clock
    )
    for number in range(entries):
        cache.set(f"key:{number}", f"value:{number}", tags=tags)
    return cache


def and_after(cache: Any, call: Callable[[], Any], entries: int) -> dict[str, int]:
    """Time the call, then the stores that give back the memory of its debris."""
    held = timed(call)
    cache._check()
    first = 10 * entries
    after = longest(sets(cache, first, first + entries // 3))
    assert _testing.debris(cache) == 0
    return {"the call": held, "later set": after}


@case
def clear(entries: int) -> dict[str, int]:
    cache = filled(entries)
    return and_after(cache, cache.clear, entries)


@case
def clear_of_10000_tenants(entries: int) -> dict[str, int]:
    cache = create_cache(max_entries=2 * entries, default_ttl=3600)
    tenants = [cache.namespace(f"tenant:{number}") for number in range(10_000)]
    for number in range(entries):
        tenants[number % 10_000].set(f"key:{number}", f"value:{number}")
    return and_after(cache, cache.clear, entries)


@case
def invalidate_tag_borne_by_all(entries: int) -> dict[str, int]:
    cache = filled(entries, tags="tag")
    return and_after(cache, lambda: cache.invalidate_tag("tag"), entries)


@case
def invalidate_tag_beside_others(entries: int) -> dict[str, int]:
    cache = create_cache(max_entries=2 * entries + 1, default_ttl=3600)
    for number in range(entries):
        cache.set(f"key:{number}", f"value:{number}", tags=("tag", "other"))
        if number % 8 == 0:
            cache.set(f"kept:{number}", f"value:{number}")
    return and_after(cache, lambda: cache.invalidate_tag("tag"), entries)


@case
def invalidate_tags_all_of_two(entries: int) -> dict[str, int]:
    cache = filled(entries, tags=("tag", "other"))
    return and_after(cache, lambda: cache.invalidate_tags(("tag", "other"), match="all"), entries)


@case
def invalidate_prefix(entries: int) -> dict[str, int]:
    cache = filled(entries)
    return and_after(cache, lambda: cache.invalidate_prefix("key:"), entries)


@case
def invalidate_prefix_of_nothing(entries: int) -> dict[str, int]:
    cache = filled(entries)
    return {"the call": timed(lambda: cache.invalidate_prefix("no such"))}


@case
def shrinking(entries: int) -> dict[str, int]:
    cache = filled(entries)
    return and_after(cache, lambda: cache.configure(max_entries=SMALL), entries)


@case
def mass_expiry(entries: int) -> dict[str, int]:
    """All are due at once: the cost of the first call of each kind, and of the later stores."""
    held = {}
    for name, call in (
        ("get", lambda cache: cache.get("key:7")),
        ("set", lambda cache: cache.set("new", "value")),
        ("len", len),
    ):
        clock = Clock()
        cache = filled(entries, clock=clock)
        clock.now += 3600
        held[name] = timed(lambda call=call, cache=cache: call(cache))
        cache._check()
    held["later set"] = longest(sets(cache, 10 * entries, 11 * entries))
    assert len(cache) == entries
    return held


@case
def mass_expiry_under_a_full_bound(entries: int) -> dict[str, int]:
    """Overwritten before they came due, so that every key in the heap is out of date."""
    clock = Clock()
    cache = filled(entries, clock=clock, max_entries=entries)
    clock.now += 1800
    for number in range(entries):
        cache.set(f"key:{number}", f"value:{number}")
    clock.now += 1800
    return {"set": longest(sets(cache, 10 * entries, 10 * entries + entries // 2))}


@case
def sweep(entries: int) -> dict[str, int]:
    clock = Clock()
    cache = filled(entries, clock=clock)
    clock.now += 3600
    slices = []
    more = True
    while more:
        begin = Watch.read()
        _, more = cache._sweep()
        slices.append(Watch.read() - begin)
    return {"a slice": max(slices), "all": sum(slices)}


@case
def growth(entries: int) -> dict[str, int]:
    held = {}
    for name, settings in (
        ("bounded", {"max_entries": entries}),
        ("unbounded", {"max_entries": None}),
        ("raised", {}),
    ):
        cache: Cache[str] = create_cache(default_ttl=3600, **settings)  # type: ignore[arg-type]
        if not settings:
            cache.configure(max_entries=entries)
        held[name] = longest(sets(cache, 0, entries))
        held[f"{name}, tagged"] = longest(sets(cache, 0, entries, tags=("tag", "other")))
    return held


def many_namespaces(entries: int, **settings: Any) -> dict[str, int]:
    """Time calls for one of many namespaces, in a cache that they fill.

    Then all but one entry of each are deleted, and the bound becomes what is left. So a heap may
    have a key out of date for each namespace, and one store that evicts must not correct them all.
    """
    each = max(entries // NAMESPACES, 2)
    cache: Any = create_cache(max_entries=each * NAMESPACES, default_ttl=3600, **settings)
    spaces = [cache.namespace(f"tenant:{number}") for number in range(NAMESPACES)]
    for number in range(each):
        for space in spaces:
            space.set(number, number)
    draw = random.Random(1)

    def calls(call: Callable[[Any, int], Any]) -> int:
        some = draw.choices(spaces, k=SINGLE)
        return longest(
            lambda space=space, number=number: call(space, number)  # type: ignore[misc]
            for number, space in enumerate(some, each)
        )

    held = {
        "namespace": calls(lambda _, number: cache.namespace(f"tenant:{number}")),
        "get, hit": calls(lambda space, _: space.get(0)),
        "get, miss": calls(lambda space, _: space.get("absent")),
        "set that evicts": calls(lambda space, number: space.set(number, number)),
        "set that overwrites": calls(lambda space, _: space.set(0, 0)),
        "configure": calls(lambda space, number: space.configure(share=1 / (1 + number % 3))),
        "stats": calls(lambda space, _: space.stats()),
        "clear": calls(lambda space, _: space.clear()),
    }
    for space in spaces:
        for key in list(space)[1:]:
            space.delete(key)
    cache.configure(max_entries=cache.stats().entries)
    held["set that evicts again"] = calls(lambda space, number: space.set(number, number))
    cache._check()
    return held


@case
def many_namespaces_sharing_fairly(entries: int) -> dict[str, int]:
    return many_namespaces(entries)


@case
def many_namespaces_sharing_by_utility(entries: int) -> dict[str, int]:
    return many_namespaces(entries, sharing="utility")


@case
def close(entries: int) -> dict[str, int]:
    return {"the call": timed(filled(entries, tags="tag").close)}


@case
def dropping_the_cache(entries: int) -> dict[str, int]:
    caches = [filled(entries, tags="tag")]
    return {"the call": timed(caches.clear)}


@case
def a_dict_for_comparison(entries: int) -> dict[str, int]:
    held: dict[str, str] = {}
    store = longest(
        lambda key=f"key:{number}", value=f"value:{number}": held.__setitem__(key, value)  # type: ignore[misc]
        for number in range(entries)
    )
    return {"growth": store, "clear": timed(held.clear)}


def least(runs: list[dict[str, int]]) -> dict[str, int]:
    return {name: min(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    parser.add_argument("--no-file", action="store_true", help="print only")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="measure the thread's processor time, which other load on the machine disturbs less",
    )
    options = parser.parse_args()
    if options.cpu:
        Watch.read = staticmethod(thread_time_ns)
    chosen = options.only or list(CASES)
    gc.disable()
    results: dict[str, dict[str, int]] = {}
    for name in track(chosen, "measuring", console=Console(stderr=True), transient=True):
        results[name] = least([CASES[name](options.entries) for _ in range(options.runs)])
    table = Table(title=f"The longest that one call takes, {options.entries:,} entries")
    table.add_column("case")
    table.add_column("call")
    table.add_column("ms", justify="right")
    for name, held in results.items():
        for number, (call, nanoseconds) in enumerate(held.items()):
            table.add_row(name if number == 0 else "", call, f"{nanoseconds / 1e6:,.3f}")
    Console().print(table)
    if not options.no_file:
        RESULTS.mkdir(exist_ok=True)
        report = {
            "environment": environment(),
            "entries": options.entries,
            "runs": options.runs,
            "clock": "processor time" if options.cpu else "elapsed time",
            "milliseconds": {
                name: {call: round(held / 1e6, 4) for call, held in calls.items()}
                for name, calls in results.items()
            },
        }
        (RESULTS / "pauses.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
