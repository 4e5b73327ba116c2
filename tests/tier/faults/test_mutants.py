"""Each rule that is broken is found by a test: the same test, with the mutant, fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness import servers
from harness.fleet_mutants import MUTANTS

from . import test_elsewhere, test_processes, test_servers

pytestmark = pytest.mark.once


def a_load_that_hangs(bench: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_processes.test_a_load_that_hangs_holds_up_others_no_longer_than_it_may(bench, patch)


FOUND_BY: dict[str, tuple[str, Callable[..., None]]] = {
    "no WAIT on beats": (
        "new_two",
        lambda two: test_servers.test_a_fleet_that_is_split(two, "reader"),
    ),
    "no WAIT on writes": (
        "new_two",
        lambda two: test_servers.test_a_fleet_that_is_split(two, "writer"),
    ),
    "no replid": ("bench", test_servers.test_a_server_that_comes_back_from_an_older_dump),
    "no incarnation": (
        "bench",
        lambda bench: test_servers.test_a_record_that_is_lost_while_a_key_loads(bench, "both"),
    ),
    "set sent again": ("bench", test_processes.test_a_set_that_arrives_late),
    "left connection": (
        "new_two",
        test_servers.test_a_primary_that_is_replaced_while_it_sleeps_and_wakes,
    ),
    "lease from the reply": ("bench", test_processes.test_the_lease_runs_from_the_beat),
    "replay from the wrong id": (
        "bench",
        test_processes.test_a_bus_that_was_cut_hears_what_it_missed,
    ),
    "log before subscription": (
        "bench",
        test_processes.test_what_comes_between_subscription_and_log,
    ),
    "unfenced store here": ("bench", test_elsewhere.test_a_reply_that_comes_after_the_invalidation),
    "unfenced store there": (
        "bench",
        lambda bench: test_elsewhere.test_an_invalidation_while_the_key_loads(
            bench, lambda space: space.clear()
        ),
    ),
    "late tags unchecked": (
        "bench",
        lambda bench: test_elsewhere.test_an_invalidation_while_the_key_loads(
            bench, lambda space: space.invalidate_tag("late")
        ),
    ),
    "renewal for ever": ("bench", a_load_that_hangs),
    "struck at once": (
        "bench",
        test_processes.test_a_member_that_was_not_heard_is_waited_for_while_it_serves,
    ),
    "list of another history": (
        "bench",
        test_servers.test_a_list_of_members_from_an_older_dump,
    ),
}
"""By mutant: the fixture of its scenario, and the scenario.

"no second drop", "unfenced set", "no floor" and "token alone" are found by the histories of
`harness.fleet_histories`, and by the model.
"""


@pytest.mark.parametrize("mutant", FOUND_BY)
def test_a_broken_rule_is_found(
    mutant: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture, scenario = FOUND_BY[mutant]
    MUTANTS[mutant](monkeypatch.setattr)
    bench: Any = request.getfixturevalue(fixture)
    # What would come within milliseconds is waited for, for a while.
    monkeypatch.setattr(servers.wait_until, "__defaults__", (4.0,))
    # A pause of the machine may be the very fault that hides a mutant.
    for _ in range(5):
        try:
            scenario(bench)
        except AssertionError:
            return
    pytest.fail("not found")
