"""The tier's protocol as a transition system: one key, a few processes, every order of steps.

A process has threads with one call each, the bus's connection and the connection of commands. One
step here is one step of a server or of a process. Time is a count of leases: at `tick` each lease
that was sent before ends. A value invalidated by then may be served by no process. A value is the
upstream's version at which it was loaded.

The rules bear the numbers that they have in `flowcache.tier`. Each guard of a rule can be taken
out: `MUTANTS` names them. A slot moves in one step with all its keys. TTLs and stale windows are
counted in leases too; all clocks are one here, and the model leaves real ones out. No trace here
finds a store that ignores markers, or one of a tenant with an invalidation that waits: the value
bears the number of its grant, and each reader judges it
again. An invalidation that waits is a clear when it is sent. No trace finds an acknowledgement of
a process whose lease is over either: it has applied the message all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from .bus import Following
from .rules import named, node, server_at, shown
from .states import (
    NEVER,
    NEW,
    OLD,
    Bus,
    Fill,
    Grant,
    Member,
    Members,
    Process,
    Record,
    State,
    Step,
    Store,
    Value,
    Write,
)

__all__ = ["Protocol"]

COVERING = ("clear", "fleet", "delete", "prefix")
"""The kinds of calls after which no value of before may be served."""


class Protocol(Following):
    """The transition system; `without` names the guard that is taken out."""

    def start(self) -> State:
        """Return the first state: all are live, on the old server."""
        bounds = self.bounds
        record = Record(1, OLD, 1, 0, 0) if bounds.held else None
        ttl = bounds.ttl or NEVER
        value = Value(0, 1, 1, ttl, ttl + bounds.window) if bounds.held else None
        serves = [p for p, kinds in enumerate(bounds.kinds) if "fetch" in kinds]
        members = Members(1, frozenset(Member(p, 1) for p in serves))
        log = () if "log lost" in bounds.gap else (0,)
        first, second = bounds.epochs
        store = Store(OLD, value, record, None, log, members, epoch=first)
        bus = Bus(OLD, "attached", OLD, 0, 0, epoch=first, joins=1, birth=1)
        follows = "cut" if bounds.gap else "attached"
        held = 0 if bounds.here else None
        new = None
        at = bounds.after_promotion or ((OLD, OLD),) * len(bounds.threads)
        if bounds.after_promotion:
            bound = None if record is None else record._replace(bound=NEW)
            new = store._replace(history=NEW, record=bound, epoch=second)
        elif bounds.nodes:
            new = Store(NEW, owns=False, epoch=0)
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
                        left=frozenset({OLD} - {server}),
                        epoch=bounds.epochs[server],
                    ),
                    commands,
                    0,
                    (None,) * threads,
                    until=ttl if bounds.here else NEVER,
                    window=bounds.window if bounds.here else 0,
                    ends=ttl if bounds.here else NEVER,
                )
                for threads, kinds, (server, commands) in zip(
                    bounds.threads, bounds.kinds, at, strict=True
                )
            ),
            upstream=0,
            incarnations=1,
            births=1,
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
            if "fetch" in self.bounds.kinds[p]:
                self._hits(state, p)
            for t, call in enumerate(process.threads):
                if call is None:
                    if state.calls[p]:
                        yield from self._begin(state, p, t)
                elif isinstance(call, Fill):
                    yield from self._fill(state, p, t, call)
                else:
                    yield from self._write(state, p, t, call)
            yield from self._flush(state, p)
            yield from self._bus(state, p)
        if state.epoch < self.bounds.ticks:
            # A whole lease passes. A value invalidated before may be served nowhere.
            later = state._replace(
                epoch=state.epoch + 1,
                everywhere=state.returned,
                fresh_everywhere=state.fresh_returned,
            )
            yield "a whole lease passes", later
        if state.faults:
            yield from self._fault(state)
        yield from self._finds(state)

    # Calls

    def _begin(self, state: State, p: int, t: int) -> Iterator[Step]:
        calls = tuple(left - (q == p) for q, left in enumerate(state.calls))
        for kind in self.bounds.kinds[p]:
            if kind == "fetch":
                fetches = self._fetch(state._replace(calls=calls), p, t)
                yield from self._at_once(fetches, p, t) if self.bounds.at_once else fetches
                continue
            # The upstream has changed, and then the call is made. A set value is new when the
            # server has it: sets are ordered there, and nowhere before.
            prepares = self._soften if kind == "expire" else self._drop
            after = prepares(state._replace(calls=calls), p)
            if kind in ("set", "add", "incr", "touch", "other prefix"):
                write = Write(kind, "script", 0, self._floors(state, p)[0])
                yield f"{p}: {kind} drops here", self._call(after, p, t, write)
                continue
            version = state.upstream + 1
            does = "ends its freshness" if kind == "expire" else "drops"
            yield (
                f"{p}: upstream is at version {version}; {kind} {does} here",
                self._call(after._replace(upstream=version), p, t, Write(kind, "script", version)),
            )

    def _fetch(self, state: State, p: int, t: int) -> Iterator[Step]:
        """A miss reads. A hit has changed nothing."""
        if not self._hits(state, p):
            at_least, at_least_fresh = self._floors(state, p)
            fill = Fill("get", at_least, at_least_fresh=at_least_fresh)
            yield f"{p}: fetch misses here and begins a read", self._call(state, p, t, fill)

    def _hits(self, state: State, p: int) -> bool:
        """Look at what is held here, in each state; tell if a fetch finds it fresh."""
        process = state.processes[p]
        at_least, at_least_fresh = self._floors(state, p)
        held = process.held
        if held is None or not self._is_live(state, process):
            return False
        if state.epoch < process.until:
            self._check(state, p, held, at_least)
            self._check_fresh(state, p, held, at_least_fresh, process.ends)
            return True
        if state.epoch < process.until + process.window or self.without == "stale for ever":
            self._check(state, p, held, at_least)
            self._check_stale(state, p, held, process.ends + process.window)
        return False

    def _at_once(self, steps: Iterator[Step], p: int, t: int) -> Iterator[Step]:
        """Go on with a fetch until it returns, and make one step of that."""
        for label, after in steps:
            call = after.processes[p].threads[t]
            if isinstance(call, Fill):
                yield from self._at_once(self._fill(after, p, t, call), p, t)
            else:
                yield label, after

    def _fill(self, state: State, p: int, t: int, fill: Fill) -> Iterator[Step]:
        process = state.processes[p]
        server = server_at(state, process.commands)
        if fill.step in ("get", "judge") and process.queued and self.without != "queued read":
            yield (
                f"{p}: reads nothing there, for an invalidation waits to be sent",
                self._call(state, p, t, fill._replace(step="load")),
            )
        elif fill.step not in ("keep", "load") and not server.owns:
            other = self._process(state, p, commands=1 - process.commands)
            again = fill._replace(step="lead") if fill.step == "judge" else fill
            yield f"{p}: is told that the slot has moved", self._call(other, p, t, again)
        elif fill.step == "get":
            # The value first; the record is read after every GET of its batch.
            value = self._lies_there(state, server)
            sent = state.epoch if self.bounds.ttl else 0
            yield (
                f"{p}: GET gives {shown(value)}",
                self._call(state, p, t, fill._replace(step="judge", value=value, sent=sent)),
            )
        elif fill.step == "judge":
            yield from self._judge(state, p, t, fill, server)
        elif fill.step == "lead":
            yield from self._lead(state, p, t, fill)
        elif fill.step == "keep":
            is_late = fill.grant is None and state.epoch >= fill.sent + fill.left
            if is_late and self.without != "stale counts as fresh":
                late = Fill("lead", fill.at_least, at_least_fresh=fill.at_least_fresh)
                yield f"{p}: the value has become stale on its way", self._call(state, p, t, late)
            else:
                yield from self._end_fill(state, p, t, fill, keep=True)
        elif fill.step == "load":
            loaded = fill._replace(step="store", version=state.upstream)
            yield f"{p}: loads version {state.upstream}", self._call(state, p, t, loaded)
        else:
            state, server = self._open(state, process.commands)
            grant = fill.grant
            if grant is not None and not process.queued and self._admits(server, grant):
                deadline, window = NEVER, self.bounds.window
                if self.bounds.ttl:
                    deadline = state.epoch + self.bounds.ttl
                    fill = fill._replace(sent=state.epoch, left=self.bounds.ttl, window=window)
                value = Value(
                    fill.version, grant.incarnation, grant.number, deadline, deadline + window
                )
                state = self._serve(
                    state, process.commands, server._replace(value=value, lease=None)
                )
                kept = self._call(state, p, t, fill._replace(step="keep", ends=deadline))
                yield f"{p}: version {fill.version} is stored there", kept
            else:
                # A value that the tier refused is returned, and not stored here.
                yield from self._end_fill(state, p, t, fill, keep=False)

    def _judge(self, state: State, p: int, t: int, fill: Fill, server: Store) -> Iterator[Step]:
        """Take what was read if the records, read after it, and the server's time allow it."""
        value, process = fill.value, state.processes[p]
        leads = self._call(state, p, t, fill._replace(step="lead", value=None, sent=0))
        if value is None or not self._may_take(state, process, server):
            yield f"{p}: the value is void", leads
            return
        deadline, last = self._end_of(server, value)
        is_stale = state.epoch >= deadline
        if not self._is_valid(server, value) and not (
            is_stale and self.without == "stale not judged"
        ):
            yield f"{p}: the value is void", leads
            return
        if not is_stale or self.without == "stale counts as fresh":
            told = deadline
            if self.without == "another's TTL" and server.value is not None:
                told = server.value.deadline
            yield f"{p}: the value is valid", self._take(state, p, t, fill, value, (told, last))
            return
        if state.epoch < last or self.without == "stale for ever":
            self._check(state, p, value.version, fill.at_least)
            self._check_stale(state, p, value.version, last)
            yield (
                f"{p}: fetch serves version {value.version}, which is stale, from there",
                self._call(state, p, t, None),
            )
        yield f"{p}: the value is stale", leads

    def _take(
        self, state: State, p: int, t: int, fill: Fill, value: Value, told: tuple[int, int]
    ) -> State:
        """Take a value that is valid: for how long, the server's time of this moment tells."""
        deadline, last = told
        took = fill._replace(step="keep", version=value.version, value=None)
        if self.bounds.ttl:
            left = deadline - state.epoch
            took = took._replace(left=left, window=last - deadline, ends=value.deadline)
        return self._call(state, p, t, took)

    def _lead(self, state: State, p: int, t: int, fill: Fill) -> Iterator[Step]:
        process = state.processes[p]
        if process.queued and self.without != "queued read":
            # The load is this process's own affair; what it gives is stored nowhere.
            own = fill._replace(step="load")
            yield f"{p}: asks for no lease, for an invalidation waits", self._call(state, p, t, own)
            return
        state, server = self._open(state, process.commands)
        token = 10 * p + t
        held = server.lease
        if held is not None and held.token != token:
            return  # It waits. The lease may run out, as a fault.
        value = self._lies_there(state, server)
        if value is not None and self._is_valid(server, value):
            ends = self._end_of(server, value)
            is_fresh = state.epoch < ends[0] or self.without == "stale counts as fresh"
            if is_fresh and self._may_take(state, process, server):
                fill = fill._replace(sent=state.epoch if self.bounds.ttl else 0)
                took = self._take(state, p, t, fill, value, ends)
                yield f"{p}: the lease's script finds the value", took
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
        if fill.grant is None and keep:  # What it has loaded itself is new at any time.
            self._check_fresh(state, p, version, fill.at_least_fresh, fill.ends)
        keep = keep and (not fill.fenced or self.without == "unfenced store here")
        state = self._call(state, p, t, None)
        if keep:
            until = NEVER
            if self.bounds.ttl:
                late = self.without == "until from the arrival"
                until = (state.epoch if late else fill.sent) + fill.left
            state = self._process(
                state, p, held=version, until=until, window=fill.window, ends=fill.ends
            )
        word = "keeps it" if keep else "keeps nothing"
        yield f"{p}: fetch returns version {version} and {word} here", state

    def _write(self, state: State, p: int, t: int, call: Write) -> Iterator[Step]:
        process = state.processes[p]
        if call.step == "forget":
            words, after = self._forget(self._call(state, p, t, None), p, call.waits_for)
            yield f"{p}: its late request arrives{words}", after
            return
        if call.step == "script":
            flushed = self.without == "queue after writes" or call.kind in COVERING
            if process.queued and not flushed:
                return  # What waits goes first; `_flush` sends it.
            if not server_at(state, process.commands).owns:
                other = self._process(state, p, commands=1 - process.commands)
                yield f"{p}: is told that the slot has moved", other
                return
            yield from self._send(state, p, t, call)
            return
        if call.kind == "fleet":
            if not self._is_awaiting(state, call):
                label, after = self._end_write(state, p, t, call)
                words, forgotten = self._forget(after, p, call.waits_for)
                yield f"{label}{words}", forgotten
                if call.waits_for and state.faults and "late request" in self.bounds.faults:
                    late = Write("fleet", "forget", 0, waits_for=call.waits_for)
                    after = self._call(after._replace(faults=state.faults - 1), p, t, late)
                    yield f"{label}; its request to the list is late", after
            return
        yield self._end_write(state, p, t, call)

    def _end_write(self, state: State, p: int, t: int, call: Write) -> Step:
        """Return here as well: drop once more, and have it hold from now on."""
        # The second drop, of all but one's own registered store.
        if call.kind in ("set", "add"):
            keeps = not call.fenced or (
                call.kind == "set" and self.without == "set keeps its value"
            )
            state = self._call(state, p, t, None)
            if call.held is None:
                state = self._drop(state, p)
            if keeps and self._is_live(state, state.processes[p]):
                held = call.version if call.held is None else call.held
                state = self._process(state, p, held=held)
        else:
            state = self._call(state, p, t, None)
            if self.without != "no second drop":
                state = (self._soften if call.kind == "expire" else self._drop)(state, p)
        if call.held is not None:
            return f"{p}: add finds version {call.held}", state
        if call.kind == "expire":
            fresh = max(state.processes[p].own_fresh, call.version)
            state = self._process(state, p, own_fresh=fresh)
            state = state._replace(fresh_returned=max(state.fresh_returned, call.version))
            return f"{p}: {named(call)} returns", state
        state = self._process(state, p, own=max(state.processes[p].own, call.version))
        if call.kind != "add":  # The others had nothing to drop.
            state = state._replace(returned=max(state.returned, call.version))
        if call.kind == "fleet":
            state = state._replace(everywhere=max(state.everywhere, call.version))
        return f"{p}: {named(call)} returns", state

    def _send(self, state: State, p: int, t: int, call: Write) -> Iterator[Step]:
        """A call's script runs, or does not; its answer arrives, or does not."""
        faults = self.bounds.faults if state.faults else ()
        if "lost request" in faults and call.kind in COVERING:
            lost = state._replace(faults=state.faults - 1)
            yield self._unconfirmed(lost, p, t, call, "does not arrive")
        if not call.version and call.kind in ("set", "add", "incr"):
            # The value is new when the server has it: these are ordered there.
            call = call._replace(version=state.upstream + 1)
            state = self._call(state._replace(upstream=call.version), p, t, call)
        after, call, confirmed = self._script(state, p, call)
        if confirmed:
            ends = call._replace(step="end")
            if call.kind == "fleet":
                ends = self._await_fleet(after, p, ends)
            yield (
                f"{p}: {named(call)} is confirmed",
                self._call(self._note(after, p), p, t, self._now(after, p, t, ends)),
            )
        else:
            yield self._unconfirmed(after, p, t, call, "is not confirmed")
        if "lost reply" in faults and call.kind in ("set", "add"):
            lost = after._replace(faults=state.faults - 1)
            if self.without == f"{call.kind} sent again":
                yield f"{p}: the answer to {call.kind} is lost; it will be sent again", lost
            else:
                yield self._unconfirmed(lost, p, t, call, "has lost its answer")

    def _unconfirmed(self, state: State, p: int, t: int, call: Write, why: str) -> Step:
        """It drops here, and raises or is queued: then it holds for this process."""
        state = self._call(self._drop(state, p), p, t, None)
        if not self.bounds.queues or call.kind not in COVERING or call.kind == "fleet":
            return f"{p}: {named(call)} {why}, drops and raises", state
        process = state.processes[p]
        own, queued = max(process.own, call.version), max(process.queued, call.version)
        queues = self._process(state, p, own=own, queued=queued)
        return f"{p}: {named(call)} {why}, drops and is queued", queues

    def _flush(self, state: State, p: int) -> Iterator[Step]:
        """What waits is sent again, and struck when it is confirmed."""
        process = state.processes[p]
        if process.sent:
            newer = process.queued != process.sent and self.without != "newer one forgotten"
            struck = self._process(state, p, queued=process.queued if newer else 0, sent=0)
            returned = max(state.returned, process.sent)
            yield (
                f"{p}: version {process.sent} waits no more",
                struck._replace(returned=returned),
            )
        elif process.queued and server_at(state, process.commands).owns:
            again = Write("clear", "script", process.queued)
            after, _, confirmed = self._script(state, p, again)
            if confirmed:
                sent = self._process(self._note(after, p), p, sent=process.queued)
                yield f"{p}: clear of {process.queued} is sent again and confirmed", sent
            elif self.without == "queued forgotten":
                yield f"{p}: what waits is sent again", self._process(after, p, queued=0)
            if self.without == "queued forgotten" and "lost request" in self.bounds.faults:
                yield f"{p}: what waits is sent again, and lost", self._process(state, p, queued=0)

    def _script(self, state: State, p: int, call: Write) -> tuple[State, Write, bool]:
        """Run a write's script where the process's commands go, and wait for the replica."""
        at = state.processes[p].commands
        state, server = self._open(state, at)
        record = server.record
        assert record is not None
        is_valid = self._is_valid(server, server.value)
        value, lease, tells = server.value, server.lease, True
        if call.kind in ("clear", "fleet"):
            record = record._replace(number=record.number + 1, marker=record.number + 1)
        elif call.kind == "expire":
            number = record.number + 1
            record = record._replace(number=number, soft=number, softened=state.epoch)
        elif call.kind in ("prefix", "other prefix"):
            record = self._list(record, covers=call.kind == "prefix")
        elif call.kind == "touch":
            if value is not None and not is_valid and self.without == "touch revives":
                value = Value(value.version, record.incarnation, record.number)
        elif call.kind == "add" and is_valid:
            assert value is not None
            if value.version != call.version:  # Else it is its own, of a time before.
                self._check(state, p, value.version, call.at_least, "an add finds")
                call = call._replace(held=value.version)
            tells = False
        else:
            lease = lease if self.without == "no unlink" else None
            made = None
            if call.kind == "delete":
                pass
            elif (
                call.kind == "incr"
                and value is not None
                and (is_valid or self.without == "incr counts on")
            ):
                self._check(state, p, value.version, call.at_least, "an incr counts on from")
                made = Value(call.version, value.incarnation, value.number)
            else:
                made = Value(call.version, record.incarnation, record.number)
            value, tells = made, call.kind != "add"
        server = server._replace(record=record, value=value, lease=lease)
        if tells:
            message = server.log[-1] + 1 if server.log else 1
            server = server._replace(log=(*server.log, message))
            state = self._serve(state, at, server)
            word = "expiry" if call.kind == "expire" else "message"
            state = self._publish(state, at, (word, message, p))
            if call.kind == "fleet":
                call = call._replace(message=message)
        else:
            state = self._serve(state, at, server)
        state, confirmed = self._confirm(state, at, "no WAIT on writes")
        return state, call, confirmed and server.history not in state.processes[p].bus.left

    def _list(self, record: Record, *, covers: bool) -> Record:
        """List a prefix. There is room for one: the second makes a clear of both."""
        number = record.number + 1
        record = record._replace(number=number)
        if record.listed and self.without != "prefix forgotten":
            return record._replace(marker=number, listed=0)
        return record._replace(listed=number if covers else 0)

    def _note(self, state: State, p: int) -> State:
        """Rule 8: a confirmed write that names another history ends lease and bus."""
        process = state.processes[p]
        bus, history = process.bus, server_at(state, process.commands).history
        if (
            bus.phase == "none"
            or history == bus.history
            or self.without == "write names no history"
        ):
            return state
        return self._cut(self._process(state, p, bus=bus._replace(last=-1, lease=-1)), p)

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
            # The dump is of the beginning.
            dump = server_at(self.start(), OLD)
            if dump.members is not None:
                birth, entries = dump.members
                early = frozenset(one for one in entries if one.process not in self.bounds.late)
                dump = dump._replace(members=Members(birth, early))
            yield "the server restarts from an old dump", self._restart(after, dump)
        if "no dump" in faults and new is None:
            yield "the server restarts empty", self._restart(after, Store(OLD))
        if "promote" in faults and new is None:
            promoted = state.replica._replace(history=1, epoch=old.epoch + 1)
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
        if "slot moves" in faults and new is not None:
            yield self._move_slot(after)
        if "cut" in faults:
            for p, process in enumerate(state.processes):
                if process.bus.phase not in ("cut", "none"):
                    yield f"{p}: the bus's connection is cut", self._cut(after, p)

    def _restart(self, state: State, server: Store) -> State:
        """The server ends, and comes back with another history."""
        history = max(server_at(state, OLD).history, NEW) + 1
        state = self._serve(state, OLD, server._replace(history=history))
        for p in range(len(state.processes)):
            state = self._cut(state, p)
        return state

    def _move_slot(self, state: State) -> Step:
        """A slot goes to the other node with its keys; that one's epoch rises above all."""
        owner = OLD if server_at(state, OLD).owns else NEW
        source, target = server_at(state, owner), server_at(state, 1 - owner)
        taken = source._replace(history=target.history, epoch=max(source.epoch, target.epoch) + 1)
        left = Store(source.history, owns=False, epoch=source.epoch)
        if self.without != "moved slot unnoticed":
            state = self._publish(state, owner, ("moved",))
        state = self._serve(self._serve(state, 1 - owner, taken), owner, left)
        return f"the slot moves to {node(1 - owner)}", state
