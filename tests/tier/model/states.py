"""What a state of the tier's protocol is, where it begins, and which guards can be taken out."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "MUTANTS",
    "NEVER",
    "NEW",
    "OLD",
    "Bounds",
    "Bus",
    "Fill",
    "Grant",
    "Member",
    "Members",
    "Process",
    "Record",
    "State",
    "Step",
    "Store",
    "Value",
    "ViolationError",
    "Write",
]

MUTANTS = {
    "unfenced store here": "rule 1: a result that was fenced is stored here all the same",
    "no incarnation": "rule 2: a record that was lost begins again as the same one",
    "no replid": "rules 2 and 4: a record of any history is taken",
    "set keeps its value": "rule 3: a set stores here without a look at its fence",
    "no floor": "rule 4: a marker that is dropped raises no floor",
    "no marker": "rule 4: a value is valid in spite of invalidations",
    "no token": "rule 5: any lease admits any store",
    "no unlink": "rule 5: set and delete leave a running load its lease",
    "set sent again": "rule 6: a set whose answer was lost is sent again",
    "no second drop": "rule 6: an invalidation drops here only before its script",
    "no WAIT on beats": "rule 7: a heart-beat counts without its replica",
    "no WAIT on writes": "rule 7: an invalidation counts without its replica",
    "left connection": "rule 8: a value is taken from a connection to a server that was left",
    "no lease": "rule 8: a value is taken though the lease is over",
    "lease from the reply": "rule 9: the lease runs from the heart-beat's reply",
    "beat before replay": "rule 9: a heart-beat is sent before the replay is applied",
    "log before subscription": "rule 10: the log is read before the subscription stands",
    "pushes advance the id": "rule 10: messages that come before the replay move its start",
    "clear without fence": "rule 10: a gap's clear leaves running reads unfenced",
    "replay without the entry": "rule 10: a log that lost the last entry is replayed",
    "no lease ends": "the lease: local values are served for ever",
    "fleet waits for nobody": "rule 11: the call returns without acknowledgements",
    "queued read": "a tenant is read in the tier though an invalidation of it waits to be sent",
    "queued forgotten": "an invalidation that waits is sent once, and confirmed or not",
    "newer one forgotten": "what is sent strikes an invalidation that was queued meanwhile",
    "queue after writes": "a write goes before the invalidations that wait",
    "write names no history": "rule 8: a confirmed write of another history leaves the lease",
    "any history returns": "rule 8: one that was left comes back whatever its node's epoch",
    "equal epoch returns": "rule 8: one that was left comes back at the epoch that is known",
    "moved slot unnoticed": "rule 9: a heart-beat counts on a node without the slot",
    "add sent again": "rule 6: an add whose answer was lost is sent again",
    "incr counts on": "an incr counts on from a value that is void",
    "touch revives": "a touch gives a void value the number of its record",
    "until from the arrival": "rule 1: what was read lives here from the time of its arrival",
    "another's TTL": "a value is taken to end when the one ends that lies there by now",
    "stale counts as fresh": "a value past its TTL is given as a fresh one",
    "stale not judged": "rule 4: a stale value is served whatever has invalidated it",
    "stale for ever": "a stale value is served beyond its window",
    "expire forgotten": "a value that was expired counts as fresh there",
    "expired stays here": "a process that is told of an expiry goes on as if it were fresh",
    "prefix not judged": "rule 4: the list of prefixes voids nothing",
    "prefix forgotten": "a list of prefixes that is full drops its oldest",
    "lost list believed": "rule 11: a list of members that was lost counts as complete",
    "no list believed": "rule 11: a list that is missing counts for a process that knows none",
    "young list believed": "rule 11: a list of members counts as complete once it is joined",
    "list from a dump believed": "rule 11: a list that is known counts in the next history too",
    "list of another history believed": "rule 11: a list counts in a history that is not followed",
    "struck at once": "rule 11: the first call that misses an acknowledgement strikes the member",
    "suspected meanwhile": "rule 11: a suspect is struck by a call whose list does not have it so",
    "struck by an old mark": "rule 11: a suspect is struck though it has joined again",
    "beat of a suspect": "rule 11: a heart-beat extends the lease of a suspect",
    "beat of the struck": "rule 11: a heart-beat counts for a process that is on no list",
}

NEVER = 99
"""The tick at which nothing happens any more."""
OLD, NEW = 0, 1  # The two servers: the first primary, and the replica that may be promoted.


class Record(NamedTuple):
    incarnation: int
    bound: int
    number: int
    floor: int
    marker: int
    listed: int = 0
    """The number of a prefix in the record's list that covers the key; 0: there is none."""
    soft: int = 0
    """The number of the last expiry: a value of before is stale since then."""
    softened: int = NEVER
    """The tick of that expiry."""


class Value(NamedTuple):
    """`deadline`: the tick at which it becomes stale; `last`: at which it may not be served."""

    version: int
    incarnation: int
    number: int
    deadline: int = NEVER
    last: int = NEVER


class Grant(NamedTuple):
    token: int
    incarnation: int
    number: int


class Member(NamedTuple):
    """A process on the list of members; `mark` tells its joins apart."""

    process: int
    mark: int
    is_suspect: bool = False


class Members(NamedTuple):
    """The list of members, with the mark of its birth."""

    birth: int
    entries: frozenset[Member]


class Store(NamedTuple):
    """One server. `log` holds the messages' ids; `history` names it as master_replid does."""

    history: int
    value: Value | None = None
    record: Record | None = None
    lease: Grant | None = None
    log: tuple[int, ...] = ()
    members: Members | None = None
    owns: bool = True
    """Whether it has the slot, as far as it knows."""
    epoch: int = 0


class Fill(NamedTuple):
    """A fetch: its progress, the oldest value that it may return, and whether it was fenced."""

    step: str
    at_least: int
    fenced: bool = False
    value: Value | None = None
    grant: Grant | None = None
    version: int = 0
    sent: int = 0
    """The tick at which the read of its value was sent; always 0 without TTLs."""
    left: int = NEVER
    """Ticks that the value had left at the server's time of that read."""
    window: int = 0
    """Ticks for which it may be served stale after them."""
    ends: int = NEVER
    """The tick at which the value is fresh no more, as the server has it."""
    at_least_fresh: int = 0
    """The oldest version that it may return as a fresh one."""


class Write(NamedTuple):
    """A call that changes something, of the upstream's version `version`; 0: not known yet."""

    kind: str
    step: str
    version: int
    at_least: int = 0
    held: int | None = None
    """The version that an `add` found."""
    fenced: bool = False
    message: int = 0
    """The message that a call for the fleet has sent."""
    waits_for: frozenset[Member] = frozenset()
    """Whose acknowledgement it has not heard, as the list had them."""
    applied: frozenset[int] = frozenset()
    """Those of them that have applied its message and may not tell it yet."""
    is_whole: bool = False
    """It waits for a whole lease whatever it hears."""
    since: int = 0


class Bus(NamedTuple):
    """A process's bus: `queue` is what the server has sent and the process has not yet read."""

    server: int
    phase: str
    history: int
    last: int
    lease: int
    queue: tuple[tuple[Any, ...], ...] = ()
    left: frozenset[int] = frozenset()
    epoch: int = 0
    joins: int = 0
    """How many times it has joined a list of members."""
    birth: int = 0
    """The mark of the list that it knows under its history; 0: of none."""
    born: int = -1
    """The tick at which it first saw that list."""


class Process(NamedTuple):
    held: int | None
    bus: Bus
    commands: int
    own: int
    """The version below which this process may serve nothing."""
    threads: tuple[Fill | Write | None, ...]
    queued: int = 0
    """The version of the invalidation that waits to be sent; 0: none does."""
    sent: int = 0
    """The version of the one that was sent again and confirmed, and still stands in the queue."""
    until: int = NEVER
    """The tick at which what is held here becomes stale, as this process knows it."""
    window: int = 0
    """Ticks for which that may be served after it."""
    ends: int = NEVER
    """The same as `until`, as the server had it."""
    own_fresh: int = 0
    """The version below which this process may serve nothing as fresh."""


class State(NamedTuple):
    servers: tuple[Store, Store | None]
    replica: Store
    processes: tuple[Process, ...]
    upstream: int
    incarnations: int
    births: int
    """How many lists of members there were."""
    epoch: int
    everywhere: int
    """The version below which no process may serve anything."""
    returned: int
    """The version of the last invalidation that has returned."""
    calls: tuple[int, ...]
    """How many calls each process may still begin."""
    faults: int
    beats: int
    fresh_everywhere: int = 0
    """The version below which no process may serve anything as fresh."""
    fresh_returned: int = 0
    """The version of the last expiry that has returned."""


class Bounds(NamedTuple):
    """The possible events, with their numbers: calls, faults by name, passing leases."""

    calls: tuple[int, ...] = (1, 1)
    """How many calls each process makes. One that only writes needs no bus, and has none.

    A fetch that finds its value here changes nothing, and is made in each state.
    """
    kinds: tuple[tuple[str, ...], ...] = (("fetch", "clear"), ("fetch", "clear"))
    faults: tuple[str, ...] = ()
    fault_count: int = 0
    ticks: int = 1
    beats: int = 1
    threads: tuple[int, ...] = (1, 1)
    held: bool = True
    """The tier holds version 0 at first."""
    here: bool = True
    """The processes hold version 0 at first."""
    gap: tuple[str, ...] = ()
    """A gap begins before the start: `cut`, and perhaps `log lost` besides."""
    after_promotion: tuple[tuple[int, int], ...] = ()
    """The promotion was before the start; the servers of each process's bus and commands."""
    queues: bool = False
    """An invalidation that is not confirmed is queued, and does not raise."""
    nodes: bool = False
    """The servers are two nodes of a cluster; the first has the slot."""
    replicas: bool = True
    """Each server has a replica, which confirms."""
    epochs: tuple[int, int] = (1, 2)
    ttl: int = 0
    """Ticks for which a value is fresh; 0: for ever."""
    window: int = 0
    """Ticks for which it may be served stale after them."""
    at_once: bool = False
    """A fetch is one step: what meets it on its way is explored elsewhere."""
    late: tuple[int, ...] = ()
    """Who joined the list of members after the dump that an `old dump` brings back."""


Step = tuple[str, State]
"""What happens, in words, and the state after it."""


class ViolationError(Exception):
    """A read returned what it may not."""
