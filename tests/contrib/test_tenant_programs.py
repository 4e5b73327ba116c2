"""Random programs of tenants' blocks; `harness/tenants.py` runs thousands."""

from __future__ import annotations

import pytest

from harness import tenants
from harness.places import NO_TENANT

PROGRAMS = 300


def test_no_call_is_made_for_a_tenant_that_is_not_its_own() -> None:
    counts = tenants.run(PROGRAMS, seed=20261126)

    assert counts["programs"] == PROGRAMS
    expected = {name.removeprefix("do_") for name in vars(tenants.Program) if name[:3] == "do_"}
    drawn = {kind.replace(" ", "_") for kind in counts}
    assert expected <= drawn, "some step was never drawn"
    places = {"task", "generator", "async generator", "carried thread", "pool", "awaited"}
    if tenants.greenlet is not None:
        places.add("greenlet")
    assert {f"seen in {place}" for place in places} <= counts.keys()
    assert counts["ended elsewhere"] > PROGRAMS / 2


@pytest.mark.parametrize("tenant", ["beta", NO_TENANT])
def test_a_value_of_another_tenant_is_a_violation(tenant: str) -> None:
    program = tenants.Program(1, tenants.Counter())
    with pytest.raises(tenants.Violation):
        program.see({tenant}, "acme's", "call")
    with pytest.raises(tenants.Violation):
        program.see({"acme"}, {"k": f"{tenant}'s"}, "call")
    program.see({"acme", tenant}, "acme's", "call")
