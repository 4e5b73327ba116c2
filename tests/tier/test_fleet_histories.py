"""Four processes at random: their histories keep the promises, and a broken rule is found."""

from __future__ import annotations

import pytest

from harness.fleet_histories import MUTANTS, Violation, run

CALLS = (6_000, 14_000)
"""`python -m harness.fleet_histories --calls 500000` makes more, and `--mutants` tries them all."""


@pytest.mark.parametrize(
    ("calls", "seed"), [(CALLS[0], 1), pytest.param(CALLS[1], 2, marks=pytest.mark.once)]
)
def test_a_fleet_keeps_its_promises(calls: int, seed: int) -> None:
    total = run(calls, seed)
    assert total["tier_errors"] == 0
    assert min(total["reads"], total["invalidations"], total["tier_hits"], total["hits"]) > 500


@pytest.mark.once
def test_a_fleet_keeps_its_promises_under_faults() -> None:
    """A link, a server, the data or a process: something happens every second, by the seed."""
    total = run(4_000, seed=2, faults=1.0)
    assert min(total["reads"], total["invalidations"], total["faults"]) > 0


@pytest.mark.once  # About the checker, whose verdict no interpreter changes.
@pytest.mark.parametrize("mutant", ["unfenced store here", "unfenced store there", "unfenced set"])
def test_a_broken_rule_is_found(mutant: str) -> None:
    assert mutant in MUTANTS
    for seed in range(8):
        try:
            run(4000, seed, mutant=mutant)
        except Violation:
            return
    pytest.fail(f"{mutant}: not found")
