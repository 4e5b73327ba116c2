"""The record of a history of loads, and its verdict: see `histories`, which makes the calls."""

from __future__ import annotations

import asyncio
import itertools
import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest import mock

from flowcache import LoadTimeoutError, RecursiveLoadError
from flowcache.loading import attempt
from flowcache.loading.load import Load as Running
from flowcache.loading.load import Outcome
from flowcache.loading.run import Run

KEYS = [f"{letter}{number}" for letter in "pq" for number in range(3)]
PLACES = ("a", "b")

Place = tuple[str, str]
"""The place of a load: a namespace's name and a key."""


class Violation(AssertionError):  # noqa: N818  what it is, not that it is one
    """A history that a cache must not have."""


class Failed(Exception):  # noqa: N818
    """The exception of a loader."""

    def __init__(self, *about: object) -> None:
        super().__init__(*about)
        self.raised = object()
        """The same in every copy of it, and in no other."""


class Struck(KeyboardInterrupt):
    """The exception that interrupts the thread that runs a loader."""

    def __init__(self, *about: object) -> None:
        super().__init__(*about)
        self.raised = object()


class Foreign(BaseException):
    """What a killed greenlet or the time-out of a task runner raises: no `Exception`."""

    def __init__(self, *about: object) -> None:
        super().__init__(*about)
        self.raised = object()


STRIKES = (Struck, Foreign)


def what_was_raised(error: BaseException | None) -> object:
    """Return the same for copies of one exception: each caller raises one of its own."""
    return getattr(error, "raised", error)


class Value:
    """The value of a load or a write, and the numbers of its making."""

    __slots__ = ("begin", "end", "is_kept", "is_load", "place")

    def __init__(self, place: Place, begin: int, *, is_load: bool) -> None:
        self.place = place
        self.begin = begin
        self.end = sys.maxsize
        self.is_load = is_load
        self.is_kept = True

    def __repr__(self) -> str:
        kind = "load" if self.is_load else "write"
        return f"<{kind} of {self.place} from {self.begin} to {self.end}>"


class Load:
    """One run of a loader for one key."""

    __slots__ = ("background", "beside", "leader", "raised", "registered", "value")

    def __init__(
        self, value: Value, registered: int, leader: Call | None, *, background: bool
    ) -> None:
        self.value = value
        self.registered = registered
        """It was not in the table of running loads before."""
        self.leader = leader
        self.background = background
        self.beside = leader is not None and leader.blocks_loop
        self.raised: BaseException | None = None


class Call:
    """One call that may load, or look up."""

    __slots__ = (
        "begin",
        "blocks_loop",
        "cancelled",
        "end",
        "error",
        "falls_back",
        "found",
        "mark",
        "nested",
        "timeout",
    )

    def __init__(self, begin: int, *, nested: bool = False, blocks_loop: bool = False) -> None:
        self.begin = begin
        self.end = sys.maxsize
        self.found: dict[Place, Any] = {}
        self.error: BaseException | None = None
        self.cancelled = False
        self.timeout = False
        self.falls_back = False
        self.mark: str | None = None
        """A tag that it bears beside those of its key."""
        self.nested = nested
        self.blocks_loop = blocks_loop

    def __repr__(self) -> str:
        got = self.found if self.error is None else self.error
        return f"<call from {self.begin} to {self.end}: {got!r}>"

    def may_have_missed(self) -> bool:
        """True if this call may lack an error that it waited for."""
        if self.error is None:
            return self.falls_back
        if len(self.found) > 1 and isinstance(self.error, (Failed, LoadTimeoutError)):
            return True  # A batch raises the error of the first key that it reaches.
        return self.cancelled and isinstance(self.error, asyncio.CancelledError)


calling: ContextVar[Call | None] = ContextVar("calling", default=None)


class History:
    """The events of one round."""

    def __init__(self) -> None:
        # Drawing a number is one step under the GIL, and list.append is too.
        self.ticket = itertools.count(1).__next__
        self.calls: list[Call] = []
        self.loads: list[Load] = []
        self.waits: list[tuple[Call, Running, Outcome | None]] = []
        self.runs: dict[Running, Load] = {}
        """The run of a loader, by the record of the load in the cache."""
        self.registered: dict[Running, int] = {}
        self.invalidations: list[tuple[int, int, str, Callable[[str], bool], str]] = []
        """Start, end, namespace, a test whether a key was covered, and the call."""
        self.lost: list[tuple[int, int, str, Callable[[str], bool]]] = []
        """Invalidations after which a call need not join a load that they did not cover.

        Each tag of `match="all"` counts as lost: the load may yet turn out to bear the others.
        """

        self.marked: list[tuple[int, int, str, str]] = []
        """Invalidations of the tags that some calls bear: begin, end, namespace, tag."""

    # Recording

    def end(self, call: Call) -> None:
        call.end = self.ticket()
        self.calls.append(call)

    def begin_load(self, place: Place, running: Running) -> Load:
        value = Value(place, self.ticket(), is_load=True)
        leader = calling.get()
        # Compiled code registers without a call that could be watched, some time after the call.
        registered = self.registered.get(running, value.begin if leader is None else leader.begin)
        load = Load(value, registered, leader, background=running.background)
        self.loads.append(load)
        self.runs[running] = load
        return load

    @contextmanager
    def invalidation(
        self, place: str | None, covers: Callable[[str], bool], what: str
    ) -> Iterator[None]:
        begin = self.ticket()
        yield
        end = self.ticket()
        for name in PLACES if place is None else (place,):
            self.invalidations.append((begin, end, name, covers, what))

    def end_wait(self, load: Running, *, in_time: bool) -> None:
        call = calling.get()
        assert call is not None
        self.waits.append((call, load, load.outcome if in_time else None))

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record the registration of loads, the calls that wait for each, and their outcomes."""
        begin, in_thread, in_task = Run.begin, attempt.wait_in_thread, attempt.wait_in_task

        def begin_load(job: Run, key: Any) -> Running:
            before = self.ticket()
            running = begin(job, key)
            if isinstance(running, Running) and running.run is job:
                self.registered[running] = before
            return running

        def wait_in_thread(load: Running, *arguments: Any) -> Outcome | None:
            outcome = in_thread(load, *arguments)
            self.end_wait(load, in_time=outcome is not None)
            return outcome

        async def wait_in_task(load: Running, *arguments: Any) -> Outcome | None:
            outcome = await in_task(load, *arguments)
            self.end_wait(load, in_time=outcome is not None)
            return outcome

        with (
            mock.patch.object(Run, "begin", begin_load),
            mock.patch.object(attempt, "wait_in_thread", wait_in_thread),
            mock.patch.object(attempt, "wait_in_task", wait_in_task),
        ):
            yield

    # Verifying

    def verify(self) -> None:
        """Raise `Violation` for the first event that must not have happened."""
        covering: dict[Place, list[tuple[int, int]]] = {
            (name, key): [] for name in PLACES for key in KEYS
        }
        for begin, end, name, covers, _ in self.invalidations:
            for key in KEYS:
                if covers(key):
                    covering[name, key].append((begin, end))
        self.verify_values(covering)
        for begin, end, name, covers in self.lost:
            for key in filter(covers, KEYS):
                covering[name, key].append((begin, end))
        self.verify_loads(covering)
        self.verify_errors()
        self.verify_marks()
        self.verify_not_kept()

    def waited_for(self) -> dict[Value, set[Call]]:
        """By what was loaded: the calls that waited for that load, or led it."""
        waited: dict[Value, set[Call]] = defaultdict(set)
        for call, running, outcome in self.waits:
            load = self.runs.get(running)
            if load is not None and outcome is not None:
                waited[load.value].add(call)
        for load in self.loads:
            if load.leader is not None:
                waited[load.value].add(load.leader)
        return waited

    def found(self) -> Iterator[tuple[Call, Value]]:
        for call in self.calls:
            for value in call.found.values():
                if value is not None:
                    yield call, value

    def verify_marks(self) -> None:
        """The tags of the calls that join a load count like those of the call that leads it."""
        waited = self.waited_for()
        bears: dict[tuple[Value, str], int] = {}
        for load in self.loads:
            leader = load.leader
            if leader is not None and leader.mark is not None:
                bears[load.value, leader.mark] = load.value.begin
        for call, value in self.found():
            if call.mark is not None and call in waited[value]:
                bears.setdefault((value, call.mark), call.end)
        marked: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for begin, end, name, mark in self.marked:
            marked[name, mark].append((begin, end))
        for call, value in self.found():
            for mark in MARKS:
                since = bears.get((value, mark))
                if since is None:
                    continue
                # One who waited bears the tag as well, or not; it is a matter of when it asked.
                for begin, end in marked[value.place[0], mark]:
                    if since < begin and end < call.begin:
                        raise Violation(
                            f"{call} was handed {value}, which bore {mark} since {since} when that "
                            f"was invalidated from {begin} to {end}"
                        )
            if call.mark is None or call not in waited[value]:
                continue
            for begin, end in marked[value.place[0], call.mark]:
                if value.begin < begin and end < call.begin:
                    raise Violation(
                        f"{call} waited for {value}, which had begun when {call.mark}, which the "
                        f"call bears, was invalidated from {begin} to {end}"
                    )

    def verify_not_kept(self) -> None:
        """What is not to be kept is for those that waited, and ends what it was to replace."""
        waited = self.waited_for()
        found: dict[Place, list[tuple[Call, Value]]] = defaultdict(list)
        for call, value in self.found():
            found[value.place].append((call, value))
            if not value.is_kept and call not in waited[value]:
                raise Violation(f"{call} was handed {value}, which was not to be kept")
        fences = [(begin, end, name) for begin, end, name, *_ in (*self.invalidations, *self.lost)]
        fences += [(begin, end, name) for begin, end, name, _ in self.marked]
        beside = {load.value.place for load in self.loads if load.beside}
        for load in self.loads:
            value = load.value
            if value.is_kept or load.raised is not None or value.place in beside:
                continue
            handed = [call.end for call in waited[value] if value in call.found.values()]
            over = min(handed, default=None)
            if over is None or any(
                name == value.place[0] and begin < over and end > load.registered
                for begin, end, name in fences
            ):
                continue  # It may have been fenced, and then it takes nothing away.
            for call, other in found[value.place]:
                made = other.begin if other.is_load else other.end
                if made < load.registered and call.begin > over:
                    raise Violation(f"{call} was handed {other}, which {value} had replaced")

    def verify_loads(self, covering: dict[Place, list[tuple[int, int]]]) -> None:
        by_place: dict[Place, list[Load]] = defaultdict(list)
        for load in self.loads:
            by_place[load.value.place].append(load)
        for place, loads in by_place.items():
            # A call that would block its own loop may load beside a task of that loop. Its store
            # ends the other's claim to the key.
            beside = [(load.value.begin, load.value.end) for load in loads if load.beside]
            breaks = sorted(covering[place] + beside)
            begins = [begin for begin, _ in breaks]
            latest_end = list(itertools.accumulate((end for _, end in breaks), max))
            running: list[Load] = []
            for load in sorted(loads, key=lambda load: load.value.begin):
                now = load.value.begin
                running = [other for other in running if other.value.end > now]
                before = bisect_left(begins, now)
                for other in running:
                    first = min(load.registered, other.registered)
                    if load.beside or (before and latest_end[before - 1] > first):
                        continue
                    raise Violation(f"two loads at once: {other.value} and {load.value}")
                running.append(load)

    def verify_values(self, covering: dict[Place, list[tuple[int, int]]]) -> None:
        ordered: dict[Place, tuple[list[int], list[int]]] = {}
        for place, pairs in covering.items():
            pairs.sort(key=lambda pair: pair[1])
            ends = [end for _, end in pairs]
            ordered[place] = ends, list(itertools.accumulate((begin for begin, _ in pairs), max))
        for call in self.calls:
            for place, value in call.found.items():
                if value is None:
                    continue
                if value.place != place:
                    raise Violation(f"{place} was answered with {value}")
                ends, latest_begin = ordered[place]
                returned = bisect_right(ends, call.begin)
                made = value.begin if value.is_load else value.end
                if returned and latest_begin[returned - 1] >= made:
                    began = latest_begin[returned - 1]
                    what = next(one[4] for one in self.invalidations if one[0] == began)
                    raise Violation(
                        f"{call} was handed {value}, though an invalidation ({what}) began at "
                        f"{began} and had returned before"
                    )

    def verify_errors(self) -> None:
        entitled: dict[object, set[Call]] = defaultdict(set)
        waited: set[tuple[Call, Load]] = set()
        for call, running, outcome in self.waits:
            load = self.runs.get(running)
            if load is not None:
                waited.add((call, load))
            if outcome is None or outcome.error is None:
                continue
            error = outcome.error
            if isinstance(error, STRIKES):
                raise Violation(f"{error!r} is for its leader alone, and reached {call}")
            raised = what_was_raised(error)
            if load is None or what_was_raised(load.raised) is not raised:
                raise Violation(f"{call} waited for a load that did not raise {error!r}")
            entitled[raised].add(call)
            if what_was_raised(call.error) is not raised and not call.may_have_missed():
                raise Violation(f"{error!r} did not reach {call}, which waited for it")
        for load in self.loads:
            leader, error = load.leader, load.raised
            if error is None or leader is None or load.background:
                continue
            raised = what_was_raised(error)
            entitled[raised].add(leader)
            if (
                what_was_raised(leader.error) is not raised
                and (leader, load) not in waited
                and not leader.cancelled
                and not leader.may_have_missed()
            ):
                raise Violation(f"{error!r} did not reach {leader}, which led")
        owner: dict[int, Call] = {}
        for call in self.calls:
            error = call.error
            if error is None:
                continue
            if isinstance(error, (Failed, *STRIKES)):
                if owner.setdefault(id(error), call) is not call:
                    raise Violation(f"one {error!r} was raised in {call} and {owner[id(error)]}")
                if call not in entitled[what_was_raised(error)]:
                    raise Violation(f"{error!r} reached {call}, which did not wait for it")
            elif isinstance(error, asyncio.CancelledError):
                if not call.cancelled:
                    raise Violation(f"{call} was cancelled by somebody else")
            elif isinstance(error, LoadTimeoutError):
                if not call.timeout:
                    raise Violation(f"{call} timed out and had no timeout")
            elif not (isinstance(error, RecursiveLoadError) and call.nested):
                raise Violation(f"{call} failed") from error


MARKS = ("mark:x", "mark:y")
"""Tags that a call in ten bears beside the others."""
