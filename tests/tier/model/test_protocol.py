"""The eleven rules hold in every order of steps, and each is needed: without it, a trace."""

from __future__ import annotations

import pytest

from .explore import describe, explore
from .protocol import MUTANTS, Protocol
from .scenarios import SCENARIOS

pytestmark = pytest.mark.once

CAUGHT_IN = {
    "unfenced store here": "a read meets a clear",
    "no incarnation": "the record is lost",
    "no replid": "the server comes back from a dump",
    "set keeps its value": "two processes set",
    "no floor": "the record is lost",
    "no marker": "two threads of one process",
    "no token": "a load meets a delete",
    "no unlink": "a load meets a delete",
    "set sent again": "an answer is lost",
    "no second drop": "two threads of one process",
    "no WAIT on beats": "the replica is promoted",
    "no WAIT on writes": "a write goes to the old primary",
    "left connection": "a read goes to the old primary",
    "no lease": "a read meets a promotion",
    "lease from the reply": "one process clears, another fetches",
    "beat before replay": "the bus was cut",
    "log before subscription": "the bus was cut",
    "pushes advance the id": "the bus was cut",
    "clear without fence": "a read meets a gap",
    "replay without the entry": "the log is lost",
    "no lease ends": "one process clears, another fetches",
    "fleet waits for nobody": "the whole fleet",
    "lost list believed": "the whole fleet",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_a_promise(name: str) -> None:
    result = explore(Protocol(SCENARIOS[name]))
    assert result.trace is None, describe(result)
    assert result.states > 100  # It was explored, and not refused at the start.


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_guard_is_needed(mutant: str) -> None:
    result = explore(Protocol(SCENARIOS[CAUGHT_IN[mutant]], mutant))
    assert result.trace is not None, f"{MUTANTS[mutant]}: no counter-example"
    assert "an invalidation that had returned" in result.trace[-1]
    assert len(result.trace) > 2
