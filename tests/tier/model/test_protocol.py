"""The eleven rules hold in every order of steps, and each is needed: without it, a trace."""

from __future__ import annotations

import pytest

from .explore import describe, explore
from .protocol import Protocol
from .rules import server_at
from .scenarios import SCENARIOS
from .states import MUTANTS, OLD, Member, State

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
    "no list believed": "the list of members does not come back",
    "young list believed": "the whole fleet",
    "list from a dump believed": "the list of members comes back from a dump",
    "list of another history believed": "the list of members comes back from a dump",
    "struck at once": "a member is not heard",
    "suspected meanwhile": "two processes do not hear a member",
    "struck by an old mark": "a member is not heard",
    "beat of a suspect": "a member is not heard",
    "beat of the struck": "a member is not heard",
    "queued read": "an invalidation is queued",
    "queued forgotten": "an invalidation is queued",
    "newer one forgotten": "two invalidations are queued",
    "queue after writes": "a queue waits before writes",
    "write names no history": "a write finds the new primary first",
    "any history returns": "a server that was left is told of again",
    "equal epoch returns": "a server that was left is told of again",
    "moved slot unnoticed": "a slot moves",
    "add sent again": "an add loses its answer",
    "incr counts on": "a counter is invalidated",
    "touch revives": "a counter is invalidated",
    "prefix not judged": "a prefix is invalidated",
    "prefix forgotten": "a prefix is invalidated",
    "until from the arrival": "a value ends",
    "another's TTL": "a value is lost and loaded while it is read",
    "stale counts as fresh": "a value is stale for a while",
    "stale not judged": "a value is stale for a while",
    "stale for ever": "a value is stale for a while",
    "expire forgotten": "an expiry meets a read",
    "expired stays here": "a value is expired",
}

BROKEN = (
    "an invalidation that had returned",
    "an expiry that had returned",
    "after the end of its TTL",
    "after the end of its window",
)
"""How the end of a trace says what is broken."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_a_promise(name: str) -> None:
    result = explore(Protocol(SCENARIOS[name]))
    assert result.trace is None, describe(result)
    assert result.states > 100  # It was explored, and not refused at the start.


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_guard_is_needed(mutant: str) -> None:
    result = explore(Protocol(SCENARIOS[CAUGHT_IN[mutant]], mutant))
    assert result.trace is not None, f"{MUTANTS[mutant]}: no counter-example"
    assert any(broken in result.trace[-1] for broken in BROKEN)
    assert len(result.trace) > 2


def test_a_slot_that_comes_back_is_followed_again() -> None:
    def is_back(state: State) -> bool:
        bus = state.processes[0].bus
        return bus.history == OLD and bus.lease == state.epoch and bus.epoch > 2

    bounds = SCENARIOS["a slot moves and comes back"]
    trace = explore(Protocol(bounds), until=is_back).trace
    assert trace is not None
    assert sum("the slot moves" in step for step in trace) == 2
    assert trace[-1] == "0: its lease is extended"


def test_a_suspect_joins_again() -> None:
    def has_joined(state: State) -> bool:
        members = server_at(state, OLD).members
        return members is not None and members.entries == {Member(0, 2)}

    trace = explore(Protocol(SCENARIOS["a member is not heard"]), until=has_joined).trace
    assert trace is not None
    assert trace[-1] == "0: joins and asks for the log"
    assert "1: fleet of 1 returns; 0 is suspected" in trace
    assert "0: is not on the list, or suspected" in trace


def test_a_member_that_two_calls_have_not_heard_is_struck() -> None:
    def is_struck(state: State) -> bool:
        members = server_at(state, OLD).members
        return members is not None and not members.entries

    trace = explore(Protocol(SCENARIOS["a member is not heard"]), until=is_struck).trace
    assert trace is not None
    assert trace[-1] == "1: fleet of 2 returns; 0 is struck"
    assert "1: fleet of 1 returns; 0 is suspected" in trace
    assert sum(step == "a whole lease passes" for step in trace) == 2


def test_what_is_queued_is_sent_in_the_end() -> None:
    def is_sent(state: State) -> bool:
        return state.returned > 0 and not state.faults and not state.processes[0].queued

    trace = explore(Protocol(SCENARIOS["an invalidation is queued"]), until=is_sent).trace
    assert trace is not None
    assert trace[-1] == "0: version 1 waits no more"


def test_a_value_that_is_expired_is_held_for_its_window() -> None:
    def is_stale(state: State) -> bool:
        process = state.processes[0]
        return process.held is not None and process.until <= state.epoch

    trace = explore(Protocol(SCENARIOS["a value is expired"]), until=is_stale).trace
    assert trace is not None
    assert trace[-1] == "0: applies message 1"
