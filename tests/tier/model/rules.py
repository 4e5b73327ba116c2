"""What the rules decide in one state, and how one state is made of another."""

from __future__ import annotations

from typing import Any

from .states import (
    MUTANTS,
    NEVER,
    NEW,
    OLD,
    Bounds,
    Bus,
    Fill,
    Grant,
    Process,
    Record,
    State,
    Store,
    Value,
    ViolationError,
    Write,
)

__all__ = ["Rules", "named", "node", "server_at", "shown"]


class Rules:
    """Rules at some bounds; `without` names the guard that is taken out."""

    def __init__(self, bounds: Bounds, without: str | None = None) -> None:
        assert without is None or without in MUTANTS
        self.bounds = bounds
        self.without = without

    def _may_come(self, bus: Bus, server: Store) -> bool:
        """Rule 8: a history that was left comes back only with a greater epoch of its node."""
        if server.history not in bus.left or self.without == "any history returns":
            return True
        if self.without == "equal epoch returns":
            return server.epoch >= bus.epoch
        return server.epoch > bus.epoch

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
        listed = 0 if self.without == "prefix not judged" else record.listed
        return value.number >= max(record.floor, listed) and (
            record.marker <= value.number or self.without == "no marker"
        )

    def _lies_there(self, state: State, server: Store) -> Value | None:
        """Return the value, which the server itself removes when it may not be served any more."""
        value = server.value
        if value is None or (state.epoch >= value.last and self.without != "stale for ever"):
            return None
        return value

    def _end_of(self, server: Store, value: Value) -> tuple[int, int]:
        """Return until when a value is fresh, and until when it may be served: by its own header,
        or since it was expired."""
        deadline, last, record = value.deadline, value.last, server.record
        if record is None or record.soft <= value.number or self.without == "expire forgotten":
            return deadline, last
        at = min(record.softened, deadline)
        return at, at + last - deadline

    def _admits(self, server: Store, grant: Grant) -> bool:
        """Rule 5."""
        if server.lease is None or (server.lease != grant and self.without != "no token"):
            return False
        expired = server.record is not None and grant.number < server.record.soft
        return not expired and self._is_valid(server, Value(0, grant.incarnation, grant.number))

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

    def _check(
        self, state: State, p: int, version: int, at_least: int, what: str = "a fetch returns"
    ) -> None:
        if version < at_least:
            raise ViolationError(
                f"{p}: {what} version {version}, which an invalidation that had returned "
                f"before the call has covered: {at_least} is the oldest that may be served"
            )

    def _check_fresh(self, state: State, p: int, version: int, at_least: int, ends: int) -> None:
        if version < at_least:
            raise ViolationError(
                f"{p}: a fetch returns version {version} as a fresh one, which an expiry that had "
                f"returned before the call has covered: {at_least} is the oldest fresh one"
            )
        if state.epoch >= ends:
            raise ViolationError(
                f"{p}: a fetch returns version {version} as a fresh one, {state.epoch - ends} "
                "leases after the end of its TTL"
            )

    def _check_stale(self, state: State, p: int, version: int, last: int) -> None:
        if state.epoch >= last:
            raise ViolationError(
                f"{p}: a fetch returns version {version} as a stale one, "
                "after the end of its window"
            )

    # States

    def _floors(self, state: State, p: int) -> tuple[int, int]:
        """Return the oldest version that a call that begins now may return, and as a fresh one."""
        process = state.processes[p]
        return (
            max(process.own, state.everywhere),
            max(process.own_fresh, state.fresh_everywhere),
        )

    def _soften(self, state: State, p: int) -> State:
        """End the freshness of what is held, and fence what runs."""
        process = state.processes[p]
        dropped = self._drop(state, p)
        if process.held is None or not process.window:
            return dropped
        return self._process(
            dropped,
            p,
            held=process.held,
            until=min(process.until, state.epoch),
            window=process.window,
            ends=process.ends,
        )

    def _drop(self, state: State, p: int, *, fences: bool = True) -> State:
        """Drop what is held, and fence what runs."""
        process = state.processes[p]
        threads = tuple(
            one._replace(fenced=True) if one is not None and fences else one
            for one in process.threads
        )
        return self._process(
            state, p, held=None, until=NEVER, window=0, ends=NEVER, threads=threads
        )

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


def server_at(state: State, at: int) -> Store:
    server = state.servers[at]
    assert server is not None
    return server


def node(at: int) -> str:
    return "the new primary" if at == NEW else "the old primary"


def named(call: Write) -> str:
    return f"{call.kind} of {call.version}" if call.version else call.kind


def shown(value: Value | None) -> str:
    return "nothing" if value is None else f"version {value.version}"
