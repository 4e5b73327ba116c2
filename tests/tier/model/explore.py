"""Every state that a protocol can reach, and the shortest way to one that it may not.

python -m tests.tier.model.explore                     the rules as they are, at larger bounds
python -m tests.tier.model.explore "no second drop"    the trace of a mutant
"""

from __future__ import annotations

import argparse
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from .protocol import Protocol
from .states import State, ViolationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Result", "explore"]


class Result(NamedTuple):
    """How many states there are; the trace to a violation, or None."""

    states: int
    trace: list[str] | None


def explore(
    protocol: Protocol, most: int = 10_000_000, until: Callable[[State], bool] | None = None
) -> Result:
    """Visit each state once, nearest first; stop at the first violation.

    With `until` it stops at the first state of which that is true: the trace leads there.
    """
    start = protocol.start()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if until is not None and until(state):
            return Result(len(came_from), _way_to(came_from, state))
        try:
            for label, after in protocol.steps(state):
                if after not in came_from:
                    came_from[after] = (state, label)
                    waiting.append(after)
        except ViolationError as violation:
            return Result(len(came_from), [*_way_to(came_from, state), str(violation)])
        assert len(came_from) <= most, f"more than {most} states"
    return Result(len(came_from), None)


def _way_to(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way = []
    while (step := came_from[state]) is not None:
        state, label = step
        way.append(label)
    return way[::-1]


def main() -> None:
    """Print what is found."""
    from .scenarios import LARGER, SCENARIOS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mutant", nargs="?", help="the guard that is taken out")
    mutant = parser.parse_args().mutant
    if mutant is None:
        for name, bounds in LARGER.items():
            print(name, describe(explore(Protocol(bounds))))
        return
    for name, bounds in SCENARIOS.items():
        result = explore(Protocol(bounds, mutant))
        if result.trace is not None:
            print(f"{name}, without its guard {mutant!r}:")
            print("\n".join(f"  {line}" for line in result.trace))
            return
    print("no counter-example")


def describe(result: Result) -> str:
    """Return a result in a line, or in one a step."""
    if result.trace is None:
        return f"{result.states:,} states, no violation"
    return "\n".join(result.trace)


if __name__ == "__main__":
    main()
