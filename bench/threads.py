"""The gain of a second thread: throughput of two threads beside that of one.

    python bench/threads.py .venv/test-3-13/bin/python .venv/test-3-13t/bin/python

Names the interpreters to compare; flowcache is installed in each. Every round runs each of them
once, in a fresh process, in an order drawn anew. There one thread makes a number of calls alone,
then two threads make as many each. They call one tenant, a tenant each, or a cache each; a dict
each shows the most that the second core can add. A gain of two is twice the work of one in the same
time, one is no gain. Prints medians and writes bench/results/threads.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

from machine import RESULTS, environment

from flowcache import create_cache

KEYS = 1_000
THREADS = 2

# By name: a function that makes the target of thread number n.
PLACES: dict[str, Callable[[], Callable[[int], Any]]] = {}


def place(function: Callable[[], Callable[[int], Any]]) -> Callable[[], Callable[[int], Any]]:
    PLACES[function.__name__.replace("_", " ")] = function
    return function


@place
def one_tenant() -> Callable[[int], Any]:
    cache = create_cache(max_entries=None)
    return lambda n: cache.namespace("tenant")


@place
def a_tenant_each() -> Callable[[int], Any]:
    cache = create_cache(max_entries=None)
    return lambda n: cache.namespace(f"tenant:{n}")


@place
def a_cache_each() -> Callable[[int], Any]:
    return lambda n: create_cache(max_entries=None)


class Store(dict[str, object]):
    """A dict with the method that a cache has for storing."""

    set = dict.__setitem__


@place
def a_dict_each() -> Callable[[int], Any]:
    return lambda n: Store()


def gets(where: Any, keys: list[str], rounds: int) -> None:
    get = where.get
    for _ in range(rounds):
        for key in keys:
            get(key)


def sets(where: Any, keys: list[str], rounds: int) -> None:
    set_ = where.set
    for _ in range(rounds):
        for key in keys:
            set_(key, key)


CALLS = {"get": gets, "set": sets}


def together(threads: int, make: Callable[[int], Any], loop: Any, rounds: int) -> int:
    """Let the threads make their calls at once; return nanoseconds from first to last."""
    barrier = threading.Barrier(threads)
    begun: list[int] = []
    ended: list[int] = []

    def work(n: int) -> None:
        # A thread's own strings: counting the references of an object costs its creator least.
        keys = [f"key:{number}" for number in range(KEYS)]
        where = make(n)
        loop(where, keys, 1)
        sets(where, keys, 1)
        barrier.wait()
        begun.append(perf_counter_ns())
        loop(where, keys, rounds)
        ended.append(perf_counter_ns())

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(ended) - min(begun)


def one_process(calls: int) -> None:
    """Measure every case once; print nanoseconds a call as JSON."""
    gc.disable()
    rounds = max(1, calls // KEYS)
    cases = [(name, call) for name in PLACES for call in CALLS]
    random.shuffle(cases)
    taken: dict[str, dict[str, list[float]]] = {call: {} for call in CALLS}
    for name, call in cases:
        taken[call][name] = [
            together(threads, PLACES[name](), CALLS[call], rounds) / (rounds * KEYS)
            for threads in (1, THREADS)
        ]
    print(json.dumps({"environment": environment(), "nanoseconds": taken}))


def ask(python: str, calls: int) -> Any:
    command = [python, __file__, "--one-process", "--calls", str(calls)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def summary(answers: list[Any]) -> dict[str, Any]:
    """Return the medians of one interpreter's rounds; a gain is the ratio within one round."""
    figures: dict[str, Any] = {}
    for call in CALLS:
        for name in PLACES:
            pairs = [answer["nanoseconds"][call][name] for answer in answers]
            figures[f"{call}, {name}"] = {
                "ns_alone": round(median(alone for alone, _ in pairs), 1),
                "gain": round(median(THREADS * alone / both for alone, both in pairs), 2),
            }
    return {"environment": answers[0]["environment"], "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=500_000, help="of one thread, in one case")
    parser.add_argument("--no-file", action="store_true", help="print only")
    parser.add_argument("--one-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_process:
        one_process(options.calls)
        return
    answers: dict[str, list[Any]] = {python: [] for python in options.pythons}
    for number in range(1, options.rounds + 1):
        for python in random.sample(options.pythons, len(options.pythons)):
            print(f"round {number} of {options.rounds}: {python}", file=sys.stderr, flush=True)
            answers[python].append(ask(python, options.calls))
    results = [summary(several) for several in answers.values()]
    for result in results:
        about = result["environment"]
        print(f"\n{about['python']}, GIL {'on' if about['gil'] else 'off'}")
        for case, figure in result["figures"].items():
            print(
                f"  {case:<22}{figure['ns_alone']:>8.1f} ns alone,{figure['gain']:>6.2f} x by two"
            )
    if not options.no_file:
        RESULTS.mkdir(parents=True, exist_ok=True)
        Path(RESULTS, "threads.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
