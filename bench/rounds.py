"""Rounds in which every contender has its turn, so that other load affects all alike.

A contender is a function that makes a number of plain calls in a loop. Each round runs every
contender once, in an order that is drawn anew, with the collector off. Results hold nanoseconds a
call; medians and ratios of medians are quoted.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter_ns
from typing import Any

Run = Callable[[], object]
Timed = Callable[[], int]


def compare(benchmark: Any, contenders: Mapping[str, Run], calls: int, rounds: int) -> None:
    """Let pytest-benchmark time whole rounds, and keep each contender's times in `extra_info`."""
    runs = {name: (lambda run=run: timed(run)) for name, run in contenders.items()}
    compare_timed(benchmark, runs, calls, rounds)


def compare_timed(benchmark: Any, contenders: Mapping[str, Timed], calls: int, rounds: int) -> None:
    """The same for contenders that prepare something first, and return the time of the rest."""
    samples: dict[str, list[int]] = {name: [] for name in contenders}
    turns = list(contenders.items())

    def one_round() -> None:
        random.shuffle(turns)
        for name, run in turns:
            gc.disable()
            try:
                samples[name].append(run())
            finally:
                gc.enable()

    gc.collect()
    one_round()  # warms up
    benchmark.pedantic(one_round, rounds=rounds, iterations=1)
    benchmark.extra_info["nanoseconds"] = {
        name: round(median(taken[1:]) / calls, 2) for name, taken in samples.items()
    }
    benchmark.extra_info["calls"] = calls
    benchmark.extra_info["rounds"] = rounds


def timed(run: Run, *, expected: object = None) -> int:
    """Return the nanoseconds of one run."""
    began = perf_counter_ns()
    answer = run()
    spent = perf_counter_ns() - began
    if expected is not None and answer != expected:
        raise AssertionError(f"it did {answer}, not {expected}: this is no measurement")
    return spent


def cycling(loop: Callable[[list[str]], None], cycle: list[list[str]]) -> Run:
    """Return a run that takes the next keys of the cycle each time."""
    turn = 0

    def run() -> None:
        nonlocal turn
        loop(cycle[turn % len(cycle)])
        turn += 1

    return run
