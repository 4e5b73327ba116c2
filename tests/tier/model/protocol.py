"""The tier's protocol as a transition system: one key, a few processes, every order of steps.

A process has threads with one call each, the bus's connection and the connection of commands. One
step here is one step of a server or of a process. Time is a count of leases: at `tick` each lease
that was sent before ends. A value invalidated by then may be served by no process. A value is the
upstream's version at which it was loaded.

The rules bear the numbers that they have in `flowcache.tier`. Each guard of a rule can be taken
out: `MUTANTS` names them. The model leaves out slot moves, prefixes, TTLs and stale windows, `add`,
`incr` and `touch`. No trace here finds a store that ignores markers: its value bears the number of
its grant, and each reader judges it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["MUTANTS", "NEW", "OLD", "Bounds", "Protocol", "State", "ViolationError"]

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
    "lost list believed": "rule 11: a list of members that was lost counts as complete",
}

OLD, NEW = 0, 1  # The two servers: the first primary, and the replica that may be promoted.


class Record(NamedTuple):
    incarnation: int
    bound: int
    number: int
    floor: int
    marker: int


class Value(NamedTuple):
    version: int
    incarnation: int
    number: int


class Grant(NamedTuple):
    token: int
    incarnation: int
    number: int


class Store(NamedTuple):
    """One server. `log` holds the messages' ids; `history` names it as master_replid does."""

    history: int
    value: Value | None = None
    record: Record | None = None
    lease: Grant | None = None
    log: tuple[int, ...] = ()
    members: frozenset[int] | None = None


class Fill(NamedTuple):
    """A fetch: its progress, the oldest value that it may return, and whether it was fenced."""

    step: str
    at_least: int
    fenced: bool = False
    value: Value | None = None
    grant: Grant | None = None
    version: int = 0


class Write(NamedTuple):
    """An invalidation, a delete or a set, of the upstream's version `version`."""

    kind: str
    step: str
    version: int
    fenced: bool = False
    waits_for: frozenset[int] = frozenset()
    since: int = 0


class Bus(NamedTuple):
    """A process's bus: `queue` is what the server has sent and the process has not yet read."""

    server: int
    phase: str
    history: int
    last: int
    lease: int
    queue: tuple[tuple[Any, ...], ...] = ()


class Process(NamedTuple):
    held: int | None
    bus: Bus
    commands: int
    own: int
    """The version below which this process may serve nothing."""
    threads: tuple[Fill | Write | None, ...]


class State(NamedTuple):
    servers: tuple[Store, Store | None]
    replica: Store
    processes: tuple[Process, ...]
    upstream: int
    incarnations: int
    epoch: int
    everywhere: int
    """The version below which no process may serve anything."""
    returned: int
    """The version of the last invalidation that has returned."""
    calls: tuple[int, ...]
    """How many calls each process may still begin."""
    faults: int
    beats: int


class Bounds(NamedTuple):
    """The possible events, with their numbers: calls, faults by name, passing leases."""

    calls: tuple[int, ...] = (1, 1)
    """How many calls each process makes. One that only writes needs no bus, and has none."""
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


class ViolationError(Exception):
    """A read returned what it may not."""


Step = tuple[str, State]


class Protocol:
    """The transition system; `without` names the guard that is taken out."""

    def __init__(self, bounds: Bounds, without: str | None = None) -> None:
        assert without is None or without in MUTANTS
        self.bounds = bounds
        self.without = without

    def start(self) -> State:
        """Return the first state: all are live, on the old server."""
        bounds = self.bounds
        record = Record(1, OLD, 1, 0, 0) if bounds.held else None
        value = Value(0, 1, 1) if bounds.held else None
        members = frozenset(p for p, kinds in enumerate(bounds.kinds) if "fetch" in kinds)
        log = () if "log lost" in bounds.gap else (0,)
        store = Store(OLD, value, record, None, log, members)
        bus = Bus(OLD, "attached", OLD, 0, 0)
        follows = "cut" if bounds.gap else "attached"
        held = 0 if bounds.here else None
        new = None
        at = bounds.after_promotion or ((OLD, OLD),) * len(bounds.threads)
        if bounds.after_promotion:
            bound = None if record is None else record._replace(bound=NEW)
            new = store._replace(history=NEW, record=bound)
        return State(
            servers=(store, new),
            replica=store,
            processes=tuple(
                Process(
                    held,
                    bus._replace(
                        phase=follows if "fetch" in kinds else "none",
                        server=server,
                        history=server,
                    ),
                    commands,
                    0,
                    (None,) * threads,
                )
                for threads, kinds, (server, commands) in zip(
                    bounds.threads, bounds.kinds, at, strict=True
                )
            ),
            upstream=0,
            incarnations=1,
            epoch=0,
            everywhere=0,
            returned=0,
            calls=bounds.calls,
            faults=bounds.fault_count,
            beats=bounds.beats,
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Yield each thing that can happen next; raises for a read that is wrong."""
        for p, process in enumerate(state.processes):
            for t, call in enumerate(process.threads):
                if call is None:
                    if state.calls[p]:
                        yield from self._begin(state, p, t)
                elif isinstance(call, Fill):
                    yield from self._fill(state, p, t, call)
                else:
                    yield from self._write(state, p, t, call)
            yield from self._bus(state, p)
        if state.epoch < self.bounds.ticks:
            # A whole lease passes. A value invalidated before may be served nowhere.
            later = state._replace(epoch=state.epoch + 1, everywhere=state.returned)
            yield "a whole lease passes", later
        if state.faults:
            yield from self._fault(state)
        if state.servers[NEW] is not None:
            # Each connection finds the new primary at a time of its own.
            for p, process in enumerate(state.processes):
                if process.bus.server == OLD and process.bus.phase != "none":
                    yield f"{p}: the bus finds the new primary", self._move_bus(state, p)
                if process.commands == OLD:
                    after = self._process(state, p, commands=NEW)
                    yield f"{p}: commands find the new primary", after

    # Calls

    def _begin(self, state: State, p: int, t: int) -> Iterator[Step]:
        process = state.processes[p]
        calls = tuple(left - (q == p) for q, left in enumerate(state.calls))
        for kind in self.bounds.kinds[p]:
            if kind == "fetch":
                after = state._replace(calls=calls)
                if process.held is not None and self._is_live(state, process):
                    self._check(state, p, process.held, max(process.own, state.everywhere))
                    yield f"{p}: fetch finds version {process.held} here", after
                else:
                    fill = Fill("get", max(process.own, state.everywhere))
                    yield f"{p}: fetch misses here and begins a read", self._call(after, p, t, fill)
                continue
            # The upstream has changed, and then the call is made. A set value is new when the
            # server has it: sets are ordered there, and nowhere before.
            after = self._drop(state._replace(calls=calls), p)
            if kind == "set":
                yield f"{p}: set drops here", self._call(after, p, t, Write(kind, "script", 0))
                continue
            version = state.upstream + 1
            yield (
                f"{p}: upstream is at version {version}; {kind} drops here",
                self._call(after._replace(upstream=version), p, t, Write(kind, "script", version)),
            )

    def _fill(self, state: State, p: int, t: int, fill: Fill) -> Iterator[Step]:
        process = state.processes[p]
        server = state.servers[process.commands]
        assert server is not None
        if fill.step == "get":
            # The value first; the record is read after every GET of its batch.
            yield (
                f"{p}: GET gives {_shown(server.value)}",
                self._call(state, p, t, fill._replace(step="judge", value=server.value)),
            )
        elif fill.step == "judge":
            if self._is_valid(server, fill.value) and self._may_take(state, process, server):
                assert fill.value is not None
                took = fill._replace(step="keep", version=fill.value.version)
                yield f"{p}: the value is valid", self._call(state, p, t, took)
            else:
                yield f"{p}: the value is void", self._call(state, p, t, fill._replace(step="lead"))
        elif fill.step == "lead":
            yield from self._lead(state, p, t, fill)
        elif fill.step == "keep":
            yield from self._end_fill(state, p, t, fill, keep=True)
        elif fill.step == "load":
            loaded = fill._replace(step="store", version=state.upstream)
            yield f"{p}: loads version {state.upstream}", self._call(state, p, t, loaded)
        else:
            assert fill.grant is not None
            grant = fill.grant
            if self._admits(server, grant):
                value = Value(fill.version, grant.incarnation, grant.number)
                state = self._serve(
                    state, process.commands, server._replace(value=value, lease=None)
                )
                kept = self._call(state, p, t, fill._replace(step="keep"))
                yield f"{p}: version {fill.version} is stored there", kept
            else:
                # A value that the tier refused is returned, and not stored here.
                yield from self._end_fill(state, p, t, fill, keep=False)

    def _lead(self, state: State, p: int, t: int, fill: Fill) -> Iterator[Step]:
        process = state.processes[p]
        state, server = self._open(state, process.commands)
        token = 10 * p + t
        held = server.lease
        if held is not None and held.token != token:
            return  # It waits. The lease may run out, as a fault.
        if self._is_valid(server, server.value) and self._may_take(state, process, server):
            assert server.value is not None
            took = fill._replace(step="keep", version=server.value.version)
            yield f"{p}: the lease's script finds the value", self._call(state, p, t, took)
            return
        assert server.record is not None
        grant = held
        if grant is None or grant.incarnation != server.record.incarnation:
            grant = Grant(token, server.record.incarnation, server.record.number)
        state = self._serve(state, process.commands, server._replace(lease=grant))
        yield (
            f"{p}: is granted the lease at number {grant.number}",
            self._call(state, p, t, fill._replace(step="load", grant=grant)),
        )

    def _end_fill(self, state: State, p: int, t: int, fill: Fill, *, keep: bool) -> Iterator[Step]:
        version = fill.version
        self._check(state, p, version, fill.at_least)
        keep = keep and (not fill.fenced or self.without == "unfenced store here")
        state = self._call(state, p, t, None)
        if keep:
            state = self._process(state, p, held=version)
        word = "keeps it" if keep else "keeps nothing"
        yield f"{p}: fetch returns version {version} and {word} here", state

    def _write(self, state: State, p: int, t: int, call: Write) -> Iterator[Step]:
        process = state.processes[p]
        if call.step == "script":
            if not call.version:
                call = call._replace(version=state.upstream + 1)
                state = self._call(state._replace(upstream=call.version), p, t, call)
            after, confirmed = self._script(state, p, call)
            if confirmed:
                members = after.servers[process.commands]
                assert members is not None
                waits = frozenset(members.members or ()) - {p} if call.kind == "fleet" else None
                if call.kind == "fleet" and (
                    members.members is None and self.without != "lost list believed"
                ):
                    waits = frozenset({-1})  # The whole lease.
                ends = call._replace(step="end", waits_for=waits or frozenset(), since=after.epoch)
                yield (
                    f"{p}: {call.kind} of {call.version} is confirmed",
                    self._call(after, p, t, self._now(after, p, t, ends)),
                )
            else:
                yield (
                    f"{p}: {call.kind} of {call.version} is not confirmed, drops and raises",
                    self._call(self._drop(after, p), p, t, None),
                )
            if "lost reply" in self.bounds.faults and state.faults and call.kind == "set":
                lost = after._replace(faults=state.faults - 1)
                if self.without == "set sent again":
                    yield f"{p}: the answer to set is lost; it will be sent again", lost
                else:
                    yield (
                        f"{p}: the answer to set is lost; it drops and raises",
                        self._call(self._drop(lost, p), p, t, None),
                    )
            return
        if call.waits_for and not (
            state.epoch > call.since or self.without == "fleet waits for nobody"
        ):
            return
        # The second drop, of all but one's own registered store.
        if call.kind == "set":
            keeps = not call.fenced or self.without == "set keeps its value"
            state = self._call(state, p, t, None)
            state = self._drop(state, p)
            if keeps:
                state = self._process(state, p, held=call.version)
        else:
            state = self._call(state, p, t, None)
            if self.without != "no second drop":
                state = self._drop(state, p)
        state = self._process(state, p, own=max(state.processes[p].own, call.version))
        state = state._replace(returned=max(state.returned, call.version))
        if call.kind == "fleet":
            state = state._replace(everywhere=max(state.everywhere, call.version))
        yield f"{p}: {call.kind} of {call.version} returns", state

    def _script(self, state: State, p: int, call: Write) -> tuple[State, bool]:
        """Run a write's script where the process's commands go, and wait for the replica."""
        at = state.processes[p].commands
        state, server = self._open(state, at)
        record = server.record
        assert record is not None
        if call.kind in ("clear", "fleet"):
            record = record._replace(number=record.number + 1, marker=record.number + 1)
            server = server._replace(record=record)
        else:
            lease = server.lease if self.without == "no unlink" else None
            value = None
            if call.kind == "set":
                value = Value(call.version, record.incarnation, record.number)
            server = server._replace(value=value, lease=lease)
        message = server.log[-1] + 1 if server.log else 1
        server = server._replace(log=(*server.log, message))
        state = self._serve(state, at, server)
        state = self._publish(state, at, ("message", message, p, call.kind == "fleet"))
        return self._confirm(state, at, "no WAIT on writes")

    def _publish(self, state: State, at: int, event: tuple[Any, ...]) -> State:
        for p, process in enumerate(state.processes):
            bus = process.bus
            if bus.server == at and bus.phase in ("subscribed", "attached"):
                state = self._process(state, p, bus=bus._replace(queue=(*bus.queue, event)))
        return state

    def _confirm(self, state: State, at: int, mutant: str) -> tuple[State, bool]:
        """`WAIT`: the replica has it, which it takes from no primary once it is one itself."""
        if at == NEW or self.without == mutant:
            return state, True
        if state.servers[NEW] is not None:
            return state, False
        return state._replace(replica=state.servers[OLD]), True

    # The bus

    def _bus(self, state: State, p: int) -> Iterator[Step]:
        process = state.processes[p]
        bus = process.bus
        server = state.servers[bus.server]
        assert server is not None
        if bus.queue:
            yield self._read(state, p, bus._replace(queue=bus.queue[1:]), bus.queue[0])
        if bus.phase == "cut":
            if self.without == "log before subscription":
                entries = tuple(one for one in server.log if one > bus.last)
                ready = bus._replace(phase="logged", queue=(("replay", True, entries),))
                yield f"{p}: reads the log", self._process(state, p, bus=ready)
            else:
                ready = bus._replace(phase="subscribed")
                yield f"{p}: subscribes again", self._process(state, p, bus=ready)
        elif bus.phase == "logged" and not bus.queue:
            ready = bus._replace(phase="attached")
            yield f"{p}: subscribes after the log", self._process(state, p, bus=ready)
        elif bus.phase == "subscribed" and not any(one[0] == "replay" for one in bus.queue):
            last = bus.last
            there = last in server.log or self.without == "replay without the entry"
            there = there and server.history == bus.history
            entries = tuple(one for one in server.log if one > last)
            members = (server.members or frozenset()) | {p}
            after = self._serve(state, bus.server, server._replace(members=members))
            queue = (*bus.queue, ("replay", there, entries))
            yield f"{p}: asks for the log", self._process(after, p, bus=bus._replace(queue=queue))
        beats = bus.phase == "attached" or (
            bus.phase == "subscribed" and self.without == "beat before replay"
        )
        if beats and state.beats and not any(one[0] == "beat" for one in bus.queue):
            after, confirmed = self._confirm(state, bus.server, "no WAIT on beats")
            beat = ("beat", state.epoch, server.history, confirmed)
            bus = after.processes[p].bus
            after = self._process(after, p, bus=bus._replace(queue=(*bus.queue, beat)))
            yield f"{p}: sends a heart-beat", after._replace(beats=state.beats - 1)

    def _read(self, state: State, p: int, bus: Bus, event: tuple[Any, ...]) -> Step:
        """Take what the server has sent, in its order."""
        state = self._process(state, p, bus=bus)
        if event[0] in ("message", "other"):
            message = event[1]
            if bus.phase == "attached" or self.without == "pushes advance the id":
                state = self._process(state, p, bus=bus._replace(last=max(bus.last, message)))
            if event[0] == "other":
                return f"{p}: hears of another key", state
            _, _, sender, fleet = event
            if sender != p:  # One's own echo is ignored.
                state = self._drop(state, p)
            if fleet and self._is_live(state, state.processes[p]):
                state = self._acknowledge(state, p)
            return f"{p}: applies message {message}", state
        if event[0] == "replay":
            _, there, entries = event
            if there:
                if entries:
                    state = self._drop(state, p)
            else:
                state = self._drop(state, p, fences=self.without != "clear without fence")
            server = state.servers[bus.server]
            assert server is not None
            last = entries[-1] if entries else (bus.last if there else max(server.log, default=0))
            phase = "logged" if bus.phase == "logged" else "attached"
            bus = state.processes[p].bus
            if server.history != bus.history:
                bus = bus._replace(lease=-1)  # Rule 8.
            after = bus._replace(phase=phase, last=last, history=server.history)
            word = f"replays {list(entries)}" if there else "clears"
            return f"{p}: {word}", self._process(state, p, bus=after)
        _, sent, history, confirmed = event
        if history == bus.history and confirmed:
            runs_from = state.epoch if self.without == "lease from the reply" else sent
            after = bus._replace(lease=max(bus.lease, runs_from))
            return f"{p}: its lease is extended", self._process(state, p, bus=after)
        return f"{p}: a heart-beat is not confirmed", state

    def _acknowledge(self, state: State, p: int) -> State:
        for q, process in enumerate(state.processes):
            for t, call in enumerate(process.threads):
                if isinstance(call, Write) and p in call.waits_for:
                    heard = call._replace(waits_for=call.waits_for - {p})
                    state = self._call(state, q, t, heard)
        return state

    # Faults

    def _fault(self, state: State) -> Iterator[Step]:
        faults = self.bounds.faults
        after = state._replace(faults=state.faults - 1)
        old, new = state.servers
        if "evict record" in faults and old.record is not None:
            yield "the server evicts the record", self._serve(after, OLD, old._replace(record=None))
        if "evict value" in faults and old.value is not None:
            yield "the server evicts the value", self._serve(after, OLD, old._replace(value=None))
        if "trim" in faults and old.record is not None and old.record.marker:
            floor = old.record.floor if self.without == "no floor" else old.record.marker
            record = old.record._replace(marker=0, floor=floor)
            yield (
                "the marker goes, for there are many",
                self._serve(after, OLD, old._replace(record=record)),
            )
        if "lease runs out" in faults and old.lease is not None:
            yield (
                "the lease of the load runs out",
                self._serve(after, OLD, old._replace(lease=None)),
            )
        if "flush" in faults:
            yield "the server is flushed", self._serve(after, OLD, Store(old.history))
        if "lose members" in faults and old.members is not None:
            yield "the list of members is lost", self._serve(after, OLD, old._replace(members=None))
        if "old dump" in faults and new is None:
            # The dump is of the beginning. Another history comes back.
            dump = self.start().servers[OLD]._replace(history=2)
            back = self._serve(after, OLD, dump)
            for p in range(len(state.processes)):
                back = self._cut(back, p)
            yield "the server restarts from an old dump", back
        if "promote" in faults and new is None:
            promoted = state.replica._replace(history=1)
            yield (
                "the replica is promoted; the old primary sleeps",
                after._replace(servers=(old, promoted)),
            )
        if "lose log" in faults and old.log:
            yield "the log is lost", self._serve(after, OLD, old._replace(log=()))
        if "other message" in faults:
            message = old.log[-1] + 1 if old.log else 1
            other = self._serve(after, OLD, old._replace(log=(*old.log, message)))
            yield "another key is invalidated", self._publish(other, OLD, ("other", message))
        if "cut" in faults:
            for p, process in enumerate(state.processes):
                if process.bus.phase not in ("cut", "none"):
                    yield f"{p}: the bus's connection is cut", self._cut(after, p)

    def _cut(self, state: State, p: int) -> State:
        bus = state.processes[p].bus
        if bus.phase == "none":
            return state
        return self._process(state, p, bus=bus._replace(phase="cut", queue=()))

    def _move_bus(self, state: State, p: int) -> State:
        # Another history: the one that was left never comes back, and its lease has ended.
        bus = state.processes[p].bus
        return self._process(
            state, p, bus=bus._replace(server=NEW, phase="cut", queue=(), lease=-1)
        )

    # Invariants

    def _is_live(self, state: State, process: Process) -> bool:
        return process.bus.lease >= state.epoch or self.without == "no lease ends"

    def _may_take(self, state: State, process: Process, server: Store) -> bool:
        """Rule 8: the connection's history is the current one, and the lease lives under it."""
        current = server.history == process.bus.history or self.without == "left connection"
        return current and (self._is_live(state, process) or self.without == "no lease")

    def _is_valid(self, server: Store, value: Value | None) -> bool:
        """Rule 4."""
        record = server.record
        if value is None or record is None or value.incarnation != record.incarnation:
            return False
        if record.bound != server.history and self.without != "no replid":
            return False
        return value.number >= record.floor and (
            record.marker <= value.number or self.without == "no marker"
        )

    def _admits(self, server: Store, grant: Grant) -> bool:
        """Rule 5."""
        if server.lease is None or (server.lease != grant and self.without != "no token"):
            return False
        return self._is_valid(server, Value(0, grant.incarnation, grant.number))

    def _open(self, state: State, at: int) -> tuple[State, Store]:
        """Rule 2: a record that is missing, or of another history, is a new one."""
        server = state.servers[at]
        assert server is not None
        record = server.record
        if record is not None and (record.bound == server.history or self.without == "no replid"):
            return state, server
        fresh = 1 if self.without == "no incarnation" else state.incarnations + 1
        record = Record(fresh, server.history, 1, 0, 0)
        server = server._replace(record=record)
        return self._serve(state, at, server)._replace(incarnations=state.incarnations + 1), server

    def _check(self, state: State, p: int, version: int, at_least: int) -> None:
        if version < at_least:
            raise ViolationError(
                f"{p}: a fetch returns version {version}, which an invalidation that had returned "
                f"before the call has covered: {at_least} is the oldest that may be served"
            )

    # States

    def _drop(self, state: State, p: int, *, fences: bool = True) -> State:
        """Drop what is held, and fence what runs."""
        process = state.processes[p]
        threads = tuple(
            one._replace(fenced=True) if one is not None and fences else one
            for one in process.threads
        )
        return self._process(state, p, held=None, threads=threads)

    def _now(self, state: State, p: int, t: int, call: Write) -> Write:
        """Return a call's next step with the fence that it bears by now."""
        current = state.processes[p].threads[t]
        assert isinstance(current, Write)
        return call._replace(fenced=current.fenced)

    def _call(self, state: State, p: int, t: int, call: Fill | Write | None) -> State:
        threads = state.processes[p].threads
        return self._process(state, p, threads=(*threads[:t], call, *threads[t + 1 :]))

    def _process(self, state: State, p: int, **changes: Any) -> State:
        processes = state.processes
        changed = processes[p]._replace(**changes)
        return state._replace(processes=(*processes[:p], changed, *processes[p + 1 :]))

    def _serve(self, state: State, at: int, server: Store) -> State:
        old, new = state.servers
        return state._replace(servers=(server, new) if at == OLD else (old, server))


def _shown(value: Value | None) -> str:
    return "nothing" if value is None else f"version {value.version}"
