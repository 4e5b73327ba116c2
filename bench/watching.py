"""What metrics, spans and the live page cost: on a hit, and for a scrape.

    python bench/watching.py [--namespaces 100000] [--only scrape|calls]

`calls` counts instructions with valgrind, with nothing attached and with everything, so the figure
is the same on a busy machine. `scrape` times a reading of a cache with many namespaces, and the
longest slice of it, which is the longest that it holds another call up. The least of several runs
counts, because other load can only add to it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from time import perf_counter, thread_time
from typing import Any

import instructions

from flowcache import _core, create_cache
from flowcache.contrib.prometheus import FlowcacheCollector

RUNS = 7
ATTACHED = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from flowcache.contrib.opentelemetry import instrument
from flowcache.contrib.prometheus import FlowcacheCollector
from flowcache.page import CachePage
registry = CollectorRegistry()
registry.register(FlowcacheCollector(cache))
providers = dict(tracer_provider=TracerProvider(), meter_provider=MeterProvider())
attached = instrument(cache, **providers), CachePage(cache, authorize=lambda request: None)
"""
HOT = {
    "get, hit": "for key in keys: get(key)",
    "get, miss": "for key in new: get(key)",
    "set that overwrites": "for key in keys: put(key, 1)",
    "fetch, hit": "for key in keys: fetch(key, load)",
    "afetch, hit, not awaited": "for key in keys: afetch(key, aload)",
}


def calls() -> None:
    """Print the instructions of each call, off and on."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind: not found")
    off = instructions.PROLOGUE
    begin = off.index("def run(")
    on = off[:begin] + ATTACHED + off[begin:]
    print(f"{'instructions a call':<30}{'off':>8}{'on':>8}{'more':>9}")
    known: dict[tuple[str, str, int], int] = {}

    def count(program: str, calls: int) -> int:
        run = instructions.PROLOGUE, program, calls
        if run not in known:  # The set-up alone is counted once.
            known[run] = instructions.instructions(program, calls)
        return known[run]

    for name, program in HOT.items():
        figures = []
        for prologue in (off, on):
            instructions.PROLOGUE = prologue
            figures.append(instructions.a_call(program, count))
        more = figures[1] / figures[0] - 1
        print(f"{name:<30}{figures[0]:>8.0f}{figures[1]:>8.0f}{more:>9.2%}", flush=True)


def scrape(namespaces: int) -> None:
    """Print the time of a scrape and of its longest slice."""
    cache: Any = create_cache(max_entries=None, max_idle_namespaces=namespaces)
    for number in range(namespaces):
        cache.namespace(f"tenant:{number}").set("k", 1)
    collector = FlowcacheCollector(cache)
    whole, cpu, longest = [], [], []
    for _ in range(RUNS):
        begin, begun = perf_counter(), thread_time()
        list(collector.collect())
        whole.append(perf_counter() - begin)
        cpu.append(thread_time() - begun)
        slices = []
        survey = _core.Survey(cache, top=21)
        more = True
        while more:
            begin = thread_time()
            more = survey.step()
            slices.append(thread_time() - begin)
        longest.append(max(slices))
    print(f"{namespaces:,} namespaces, the least of {RUNS} runs, milliseconds:")
    print(f"  a scrape                    {min(whole) * 1e3:8.2f}")
    print(f"  a scrape, processor time    {min(cpu) * 1e3:8.2f}")
    print(f"  its longest slice, the same {min(longest) * 1e3:8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--namespaces", type=int, default=100_000)
    parser.add_argument("--only", choices=["scrape", "calls"])
    options = parser.parse_args()
    if options.only != "calls":
        scrape(options.namespaces)
    if options.only != "scrape":
        calls()


if __name__ == "__main__":
    main()
