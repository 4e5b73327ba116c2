"""Evictions at random beside the model: every victim, and the order of all that stays.

    make evictions ARGS="--operations 1000000"

The caches of `test_model` hold a few entries; these hold up to some hundreds, so that TinyLFU has a
sketch that grows, ages and shrinks, and tenants that share by utility lend each other entries.
Entries expire, are deleted, and are invalidated by tag. Some
caches weigh theirs. Limits move, and namespaces switch from one policy to the other and back.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from flowcache._core import _testing
from harness.test_model import SideBySide

ROUND = 2_500
"""Operations on one cache."""
CHECKED = 50
"""Operations between two recounts of everything."""
PATHS: list[tuple[str, ...]] = [(), ("a",), ("b",), ("b", "c")]
WIDTHS = [1, 2, 4]
"""How many of the paths a cache uses."""
TAGS: list[Any] = [(), (), (), ("t",), ("u",), ("t", "u")]
TTLS = [None, None, 3, 30]
POLICIES: list[dict[str, Any]] = [
    {"eviction": "lru"},
    {"eviction": "tinylfu"},
    {"eviction": "tinylfu"},
]
SHARED: dict[str, Any] = {"sharing": "utility"}
GUARANTEED = [0.0, 0.5, 0.5, 1.0]
FACTORS = [0.1, 0.5, 1, 1, 2]
CALLS = {
    "get": 50,
    "set": 30,
    "fetch": 60,
    "delete": 6,
    "get_many": 3,
    "set_many": 3,
    "incr": 2,
    "touch": 2,
    "pop": 1,
    "popitem": 1,
    "advance": 2,
    "expire": 0.5,
    "invalidate_tag": 0.1,
    "limit": 0.5,
    "switch": 0.3,
    "clear": 0.05,
}


class Round(SideBySide):
    """One cache and its model."""

    def __init__(self, draw: random.Random) -> None:  # no steps of a Hypothesis machine here
        self.draw = draw
        self.bound = draw.choice([8, 20, 40, 100, 300])
        self.paths = PATHS[: draw.choice(WIDTHS)]
        self.weighs = draw.random() < 0.3
        self.skew = draw.choice([0.5, 1.0, 2.0])
        self.begun = 0
        self.start(
            max_entries=self.bound,
            default_ttl=None,
            weigher=(lambda key, value: value) if self.weighs else None,
            max_weight=self.bound * 3 if self.weighs else None,
            **draw.choice([*POLICIES, SHARED]),
        )
        self.policies = ["lru"] if self.model.ledger is not None else ["lru", "tinylfu"]
        if self.model.ledger is not None:
            for path in self.paths:
                part = draw.choice(GUARANTEED)
                for root in (self.core, self.model):
                    if path:
                        root.namespace(*path, guaranteed=part)
        self.listens = draw.random() < 0.5
        if self.listens:
            self.core.subscribe(self.note_eviction, kinds=("remove",))

    def key(self) -> int:
        """A key; some are asked for often, and which ones changes with time."""
        if self.draw.random() < 0.1:
            return self.begun // 3
        return self.begun // 1_000 + int(self.bound * self.draw.paretovariate(self.skew) % 10_000)

    def value(self) -> int:
        return self.draw.choice([0, 1, 1, 2, 3, 9]) if self.weighs else 1

    def options(self) -> dict[str, Any]:
        if self.draw.random() < 0.7:
            return {}
        return {"ttl": self.draw.choice(TTLS), "tags": self.draw.choice(TAGS)}

    def call(self, path: tuple[str, ...], name: str) -> None:
        draw, key = self.draw, self.key()
        match name:
            case "advance":
                self.clock.advance(draw.choice([1, 2, 40]))
            case "fetch":
                self.both(path, "get", key)
                if key not in self.model.namespace(*path):
                    self.both(path, "set", key, self.value(), **self.options())
            case "set":
                self.both(path, "set", key, self.value(), **self.options())
            case "get_many":
                self.both(path, "get_many", [self.key() for _ in range(8)])
            case "set_many":
                self.both(path, "set_many", {self.key(): self.value() for _ in range(8)})
            case "popitem" | "clear":
                self.both(path, name)
            case "invalidate_tag":
                self.both(path, name, draw.choice("tu"))
            case "limit":
                limit = max(1, int(self.bound * draw.choice(FACTORS)))
                self.both(path, "configure", max_entries=limit)
            case "switch":
                self.both(path, "configure", eviction=draw.choice(self.policies))
            case _:
                self.both(path, name, key)

    def step(self) -> None:
        self.begun += 1
        path = self.draw.choice(self.paths)
        name = self.draw.choices(list(CALLS), list(CALLS.values()))[0]
        self.call(path, name)
        self.core.sweep()
        self.model.sweep()
        for node in self.model.root.tree():
            self.compare_order(self.at(node.path)[0], node)
        ledger = self.model.ledger
        if ledger is not None:
            told = _testing.ledger(self.core)
            assert told is not None and told[1:] == (ledger.clock, ledger.told())
        if self.begun % CHECKED == 0:
            self.core._check()
            self.compare_counters(settled=True)

    def finish(self) -> None:
        self.core._check()
        self.compare_contents()
        self.compare_counters(settled=True)
        if self.listens:
            evictions = ("evicted", "over_limit")
            assert self.evicted == [one for one in self.model.removed if one[2] in evictions]


def run(operations: int, seed: int) -> dict[str, int]:
    """Make so many operations; return how many entries gave way, and in how many contests."""
    counts = {"rounds": 0, "evictions": 0, "rejections": 0}
    while operations > 0:
        one = Round(random.Random(f"{seed}-{counts['rounds']}"))
        for _ in range(min(ROUND, operations)):
            one.step()
        one.finish()
        operations -= ROUND
        counts["rounds"] += 1
        counts["evictions"] += one.core.stats().evictions
        counts["rejections"] += one.core.stats().rejections
        one.core.close()
    return counts


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    print(run(options.operations, options.seed))


if __name__ == "__main__":
    main()
