"""The checker of histories finds no fault in a short run, and finds each fault that is put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Loaded
from flowcache.loading import load as waiting
from flowcache.loading.load import Load as Running
from flowcache.loading.load import Outcome, ThreadWaiter
from flowcache.loading.options import unpack
from flowcache.loading.run import Run
from harness import histories

ENOUGH = 100_000
"""Calls in which each fault shows many times over; most show in the first rounds."""


def test_a_short_history_is_clean() -> None:
    total = histories.run(10_000, seed=2026)
    assert total["calls"] == 10_000
    assert min(total.values()) > 5, "it hardly did anything"


def store_although_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Run._keep

    def keep_anyway(job: Run, load: Running, produced: Any, *seconds: float) -> None:
        keep(job, load, produced, *seconds)
        if load.fenced:
            value, _, tags, *_ = unpack(produced)
            job.namespace.set(load.key, value, tags=(*job.call.options.tags, *tags))

    monkeypatch.setattr(Run, "_keep", keep_anyway)


def load_beside_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Run.begin

    def begin_own(job: Run, key: Any) -> Any:
        running = begin(job, key)
        if not isinstance(running, Running) or running.run is job or job.many:
            return running
        return job.begin_beside(running)

    monkeypatch.setattr(Run, "begin", begin_own)


def hand_over_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "outcome_for", lambda load, seen: load.outcome)


def keep_errors_from_waiting_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    told = waiting.outcome_for

    def outcome_for(load: Running, seen: int) -> Outcome | None:
        outcome = told(load, seen)
        return outcome if outcome is None or outcome.error is None else Outcome()

    monkeypatch.setattr(waiting, "outcome_for", outcome_for)


def raise_one_object_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcome, "error_for", lambda outcome, job: outcome._original)


def let_a_thread_sleep_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadWaiter, "wake", lambda waiter: None)


def drop_the_tags_of_calls_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Run.begin

    def begin_without(job: Run, key: Any) -> Any:
        options = job.call.options
        job.call.options = options.with_tags(
            tuple(tag for tag in options.tags if tag not in histories.MARKS)
        )
        try:
            return begin(job, key)
        finally:
            job.call.options = options  # What is led bears them at its end.

    monkeypatch.setattr(Run, "begin", begin_without)


def leave_what_was_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Run._keep

    def keep_or_leave(job: Run, load: Running, produced: Any, *seconds: float) -> None:
        old = job.namespace.peek(load.key)
        keep(job, load, produced, *seconds)
        if old is not None and not unpack(produced)[3] and not load.fenced:
            job.namespace.add(load.key, old, tags=histories.tags_of(load.key))

    monkeypatch.setattr(Run, "_keep", keep_or_leave)


def keep_what_is_not_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Run._keep

    def keep_anyway(job: Run, load: Running, produced: Any, *seconds: float) -> None:
        value, ttl, tags, *_ = unpack(produced)
        keep(job, load, Loaded(value, ttl=ttl, tags=tags), *seconds)

    monkeypatch.setattr(Run, "_keep", keep_anyway)


def strike_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    be_interrupted = Run._be_interrupted

    def fail_all(job: Run, interrupt: BaseException) -> None:
        # A `KeyboardInterrupt` that reaches a task leaves its event loop, and with it this test.
        if isinstance(interrupt, histories.Foreign):
            job._fail_all(interrupt, 0.0)
        be_interrupted(job, interrupt)

    monkeypatch.setattr(Run, "_be_interrupted", fail_all)


def leave_a_load_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Run._keep

    def keep_or_forget(job: Run, load: Running, *arguments: Any) -> None:
        keep(job, load, *arguments)
        job.namespace._begin(("left", id(load)), job.call.options, job, [])

    monkeypatch.setattr(Run, "_keep", keep_or_forget)


@pytest.mark.once  # About the checker, whose verdict no interpreter changes.
@pytest.mark.parametrize(
    ("put_in", "found", "patience"),
    [
        (store_although_fenced, "was handed", 60.0),
        (hand_over_what_was_lost, "was handed", 60.0),
        (load_beside_the_one_that_runs, r"two loads at once|was handed", 60.0),
        (keep_errors_from_waiting_calls, "did not reach", 60.0),
        (raise_one_object_in_all, "was raised in", 60.0),
        (drop_the_tags_of_calls_that_join, "which bore mark|which the call bears", 60.0),
        # The value that comes back breaks the rule of the call that reads it first, whichever.
        (leave_what_was_to_be_replaced, ".", 60.0),
        (keep_what_is_not_to_be_kept, "was not to be kept", 60.0),
        (strike_all_that_wait, "for its leader alone", 60.0),
        # These two end by patience alone; on a machine that stands still, both by the first.
        (let_a_thread_sleep_on, "waits for ever", 1.0),
        (leave_a_load_behind, r"left behind|waits for ever", 1.0),
    ],
)
def test_the_checker_finds_the_fault(
    put_in: Callable[[pytest.MonkeyPatch], None],
    found: str,
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_in(monkeypatch)
    monkeypatch.setattr(histories, "ROUND", 2_000)
    with pytest.raises(histories.Violation, match=found):
        histories.run(ENOUGH, seed=7, patience=patience)
