"""Four processes at random: their histories keep the promises, and a broken rule is found."""

from __future__ import annotations

import pytest

from harness.fleet_histories import MUTANTS, Violation, run
from harness.servers import server

CALLS = 20_000
"""`python -m harness.fleet_histories --calls 500000` makes more, and `--mutants` tries them all."""


def test_a_fleet_keeps_its_promises() -> None:
    with server() as running:
        total = run(running.url, CALLS, seed=1)
    assert total["tier_errors"] == 0
    assert min(total["reads"], total["invalidations"], total["tier_hits"], total["hits"]) > 500


@pytest.mark.parametrize("mutant", ["unfenced store here", "unfenced store there", "unfenced set"])
def test_a_broken_rule_is_found(mutant: str) -> None:
    assert mutant in MUTANTS
    for seed in range(8):
        with server() as running:
            try:
                run(running.url, 4000, seed, mutant=mutant)
            except Violation:
                return
    pytest.fail(f"{mutant}: not found")
