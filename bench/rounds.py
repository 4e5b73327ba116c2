"""Rounds in which every contender has its turn, so that a machine's moods strike all alike.

A case is a function a contender: it makes `calls` plain calls in a loop and returns nothing. Each
round runs every contender once, in an order that shifts from round to round, with the collector
off. What is kept is nanoseconds a call; what is quoted is the median, and ratios of medians.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter_ns
from typing import Any

Run = Callable[[], object]


class Interleaved:
    """Times contenders in turn; `medians` afterwards, in nanoseconds a call."""

    def __init__(self, contenders: Mapping[str, Run], calls: int) -> None:
        self.contenders = list(contenders.items())
        self.calls = calls
        self.samples: dict[str, list[float]] = {name: [] for name in contenders}
        self.turn = 0

    def warm_up(self) -> None:
        """Run everybody once, uncounted."""
        for _, run in self.contenders:
            run()

    def round(self) -> None:
        """Run everybody once, counted."""
        shift = self.turn % len(self.contenders)
        self.turn += 1
        for name, run in self.contenders[shift:] + self.contenders[:shift]:
            gc.disable()
            try:
                began = perf_counter_ns()
                run()
                spent = perf_counter_ns() - began
            finally:
                gc.enable()
            self.samples[name].append(spent / self.calls)

    @property
    def medians(self) -> dict[str, float]:
        return {name: median(samples) for name, samples in self.samples.items()}


def compare(benchmark: Any, contenders: Mapping[str, Run], calls: int, rounds: int) -> None:
    """Let pytest-benchmark time whole rounds, and keep what each contender took in `extra_info`."""
    timed = Interleaved(contenders, calls)
    timed.warm_up()
    benchmark.pedantic(timed.round, rounds=rounds, iterations=1)
    benchmark.extra_info["nanoseconds"] = {name: round(ns, 2) for name, ns in timed.medians.items()}
    benchmark.extra_info["calls"] = calls
    benchmark.extra_info["rounds"] = rounds
