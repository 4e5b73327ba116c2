"""The bus: what it sends and hears, what a heart-beat is worth, and which server it follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .fleet import Fleet
from .rules import node, server_at
from .states import NEW, OLD, State, Step

__all__ = ["Following"]


class Following(Fleet):
    """The steps of the connections that follow servers."""

    def _bus(self, state: State, p: int) -> Iterator[Step]:
        process = state.processes[p]
        bus = process.bus
        server = server_at(state, bus.server)
        if bus.phase == "none":
            yield from self._learn_list(state, p)
            return
        if bus.queue:
            label, after = self._read(state, p)
            yield label, after
            if "lost acknowledgement" in self.bounds.faults and state.faults:
                _, lost = self._read(state, p, is_heard=False)
                if lost != after:
                    lost = lost._replace(faults=state.faults - 1)
                    yield f"{label}; its acknowledgement is lost", lost
        if not server.owns and bus.phase != "attached":
            pass  # It is told so, and looks for the slot.
        elif bus.phase == "cut":
            if self.without == "log before subscription":
                entries = tuple(one for one in server.log if one > bus.last)
                ready = bus._replace(phase="logged", queue=(("replay", True, entries, bus.birth),))
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
            after, birth = self._join(state, p)
            asked = self._take_history(after.processes[p].bus, server.history)
            asked = asked._replace(queue=(*bus.queue, ("replay", there, entries, birth)))
            yield f"{p}: joins and asks for the log", self._process(after, p, bus=asked)
        beats = bus.phase == "attached" or (
            bus.phase == "subscribed" and self.without == "beat before replay"
        )
        if beats and state.beats and not any(one[0] == "beat" for one in bus.queue):
            after, confirmed = self._confirm(state, bus.server, "no WAIT on beats")
            confirmed = confirmed and (server.owns or self.without == "moved slot unnoticed")
            listed = not server.owns or self._is_listed(bus, server, p)
            beat = ("beat", state.epoch, server.history, confirmed, listed)
            bus = after.processes[p].bus
            after = self._process(after, p, bus=bus._replace(queue=(*bus.queue, beat)))
            yield f"{p}: sends a heart-beat", after._replace(beats=state.beats - 1)

    def _read(self, state: State, p: int, *, is_heard: bool = True) -> Step:
        """Take what the server has sent, in its order; calls that wait for it hear so, or not."""
        bus = state.processes[p].bus
        event, *queue = bus.queue
        bus = bus._replace(queue=tuple(queue))
        state = self._process(state, p, bus=bus)
        if event[0] in ("message", "expiry", "other"):
            message = event[1]
            if bus.phase == "attached" or self.without == "pushes advance the id":
                state = self._process(state, p, bus=bus._replace(last=max(bus.last, message)))
            if event[0] == "other":
                return f"{p}: hears of another key", state
            sender = event[2]
            if sender != p and event[0] == "expiry":
                if self.without != "expired stays here":
                    state = self._soften(state, p)
            elif sender != p:  # One's own echo is ignored.
                state = self._drop(state, p)
            state = self._note_applied(state, p, (message,))
            if self._is_live(state, state.processes[p]):
                state = self._acknowledge(state, p, is_heard=is_heard)
            return f"{p}: applies message {message}", state
        if event[0] == "replay":
            _, there, entries, birth = event
            if there:
                if entries:
                    state = self._note_applied(self._drop(state, p), p, entries)
            else:
                state = self._drop(state, p, fences=self.without != "clear without fence")
            server = server_at(state, bus.server)
            last = entries[-1] if entries else (bus.last if there else max(server.log, default=0))
            phase = "logged" if bus.phase == "logged" else "attached"
            bus = self._take_list(state, p, bus, server.history, birth)
            after = bus._replace(phase=phase, last=last)
            word = f"replays {list(entries)}" if there else "clears"
            return f"{p}: {word}", self._process(state, p, bus=after)
        if event[0] == "moved":
            return f"{p}: hears that the slot has moved", self._cut(state, p)
        _, sent, history, confirmed, listed = event
        if history != bus.history or not confirmed:
            return f"{p}: a heart-beat is not confirmed", state
        if not listed:
            return f"{p}: is not on the list, or suspected", self._gap(state, p, "subscribed")
        runs_from = state.epoch if self.without == "lease from the reply" else sent
        after = bus._replace(lease=max(bus.lease, runs_from))
        state = self._acknowledge(self._process(state, p, bus=after), p, is_heard=is_heard)
        return f"{p}: its lease is extended", state

    def _cut(self, state: State, p: int) -> State:
        bus = state.processes[p].bus
        if bus.phase == "none":
            return state
        state = self._process(state, p, bus=bus._replace(queue=()))
        return self._gap(state, p, "cut")

    def _gap(self, state: State, p: int, phase: str) -> State:
        """Begin again; nobody is told of what was applied before."""
        state = self._acknowledge(state, p, is_heard=False)
        return self._process(state, p, bus=state.processes[p].bus._replace(phase=phase))

    # Servers

    def _finds(self, state: State) -> Iterator[Step]:
        """Each connection finds the server that has the slot, at a time of its own."""
        faults = self.bounds.faults if state.faults else ()
        fewer = state._replace(faults=state.faults - 1)
        for p, process in enumerate(state.processes):
            bus = process.bus
            for to, server in enumerate(state.servers):
                if server is None or not server.owns:
                    continue
                other = state.servers[1 - to]
                gone = other is not None and not other.owns
                if bus.server != to and bus.phase != "none" and self._may_come(bus, server):
                    if to == NEW or gone:
                        yield f"{p}: the bus finds {node(to)}", self._move_bus(state, p, to)
                    elif "old view" in faults:
                        yield (
                            f"{p}: the bus is told of {node(to)} by a view of before",
                            self._move_bus(fewer, p, to),
                        )
                if process.commands != to:
                    after = self._process(state, p, commands=to)
                    if to == NEW or gone:
                        yield f"{p}: commands find {node(to)}", after
                    elif "other connection" in faults:
                        after = after._replace(faults=state.faults - 1)
                        yield f"{p}: another connection, to {node(to)}, is used", after

    def _move_bus(self, state: State, p: int, to: int) -> State:
        """Begin to follow another server; the lease under the history that is left has ended."""
        bus, server = state.processes[p].bus, server_at(state, to)
        if server.history != bus.history:
            left = (bus.left | {bus.history}) - {server.history}
            bus = self._take_history(bus, server.history)._replace(left=left, last=-1)
        epoch = max(bus.epoch, server.epoch)
        bus = bus._replace(server=to, epoch=epoch)
        return self._cut(self._process(state, p, bus=bus), p)

    def _publish(self, state: State, at: int, event: tuple[Any, ...]) -> State:
        for p, process in enumerate(state.processes):
            bus = process.bus
            if bus.server == at and bus.phase in ("subscribed", "attached"):
                state = self._process(state, p, bus=bus._replace(queue=(*bus.queue, event)))
        return state

    def _confirm(self, state: State, at: int, mutant: str) -> tuple[State, bool]:
        """`WAIT`: the replica has it, which it takes from no primary once it is one itself."""
        if at == NEW or self.bounds.nodes or not self.bounds.replicas or self.without == mutant:
            return state, True
        if state.servers[NEW] is not None:
            return state, False
        return state._replace(replica=server_at(state, OLD)), True
