"""Eight threads, every call, one cache, for a few seconds; `harness/stress.py` runs for longer."""

from __future__ import annotations

import pytest

from harness import stress


@pytest.mark.parametrize("seed", [1, 2])
def test_threads_lose_nothing_and_see_only_what_is_theirs_and_still_valid(seed: int) -> None:
    run = stress.run(seconds=3, threads=8, seed=seed)

    assert run.faults == []
    assert set(run.calls) == {*stress.CALLS, "afetch"}, "some call was never made"


def test_a_value_of_another_tenant_or_one_that_outlived_its_removal_is_a_fault() -> None:
    run = stress.Stress(threads=1, seed=0)
    mine = stress.Value("tenant:0", "key:0")
    mine.number = 5

    run.see("tenant:0", "key:0", mine, before=4)
    assert run.faults == []

    run.see("tenant:1", "key:0", mine, before=0)
    run.see("tenant:0", "key:0", mine, before=6)
    assert len(run.faults) == 2
