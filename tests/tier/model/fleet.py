"""Rule 11: the list of members, and the calls that wait for those on it.

A process that serves nothing is on no list here: to wait for it only makes a call longer. If its
own calls wait for the fleet, it learns of itself which list there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rules import Rules, server_at
from .states import Bus, Member, Members, State, Store, Write

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .states import Step

__all__ = ["Fleet"]


class Fleet(Rules):
    """What the rules say of the list of members."""

    # Processes

    def _join(self, state: State, p: int) -> tuple[State, int]:
        """Put a process on the list with a new mark; return the birth of the list too."""
        bus = state.processes[p].bus
        state, members = self._open_list(state, bus.server)
        others = frozenset(one for one in members.entries if one.process != p)
        joined = members._replace(entries=others | {Member(p, bus.joins + 1)})
        server = server_at(state, bus.server)._replace(members=joined)
        state = self._process(state, p, bus=bus._replace(joins=bus.joins + 1))
        return self._serve(state, bus.server, server), members.birth

    def _learn_list(self, state: State, p: int) -> Iterator[Step]:
        """A process that serves nothing learns which list there is if it waits for the fleet."""
        bus, at = state.processes[p].bus, state.processes[p].commands
        server = server_at(state, at)
        if "fleet" not in self.bounds.kinds[p] or not server.owns:
            return
        if bus.history != server.history:
            knows = self._take_history(bus, server.history)
            yield f"{p}: takes over another history", self._process(state, p, bus=knows)
            return
        state, members = self._open_list(state, at)
        knows = self._take_list(state, p, bus, server.history, members.birth)
        if knows != bus:
            yield f"{p}: learns list {members.birth}", self._process(state, p, bus=knows)

    def _open_list(self, state: State, at: int) -> tuple[State, Members]:
        """A list that is missing is a new one."""
        server = server_at(state, at)
        if server.members is not None:
            return state, server.members
        members = Members(state.births + 1, frozenset())
        state = self._serve(state, at, server._replace(members=members))
        return state._replace(births=members.birth), members

    def _take_list(self, state: State, p: int, bus: Bus, history: int, birth: int) -> Bus:
        """Note which list of members a history has, and since when for those that wait for it."""
        bus = self._take_history(bus, history)
        if bus.birth == birth:
            return bus
        born = state.epoch if "fleet" in self.bounds.kinds[p] else -1
        return bus._replace(birth=birth, born=born)

    def _take_history(self, bus: Bus, history: int) -> Bus:
        """Another history ends the lease (rule 8), and no list is known under it."""
        if history == bus.history:
            return bus
        birth = bus.birth if self.without == "list from a dump believed" else 0
        return bus._replace(history=history, lease=-1, birth=birth)

    def _is_listed(self, bus: Bus, server: Store, p: int) -> bool:
        """Tell if a heart-beat finds its process on the list that it joined, and no suspect."""
        members = server.members
        if members is not None and members.birth == bus.birth:
            for one in members.entries:
                if one.process == p:
                    return not one.is_suspect or self.without == "beat of a suspect"
        return self.without == "beat of the struck"

    def _note_applied(self, state: State, p: int, messages: Collection[int]) -> State:
        """Remember which calls wait for a process that has applied their messages."""
        for q, t, call in _waiting(state):
            if call.message in messages and any(one.process == p for one in call.waits_for):
                state = self._call(state, q, t, call._replace(applied=call.applied | {p}))
        return state

    def _acknowledge(self, state: State, p: int, *, is_heard: bool) -> State:
        """Tell these calls of it; those that do not hear wait on."""
        for q, t, call in _waiting(state):
            if p in call.applied:
                missing = frozenset(
                    one for one in call.waits_for if one.process != p or not is_heard
                )
                told = call._replace(applied=call.applied - {p}, waits_for=missing)
                state = self._call(state, q, t, told)
        return state

    # Calls

    def _await_fleet(self, state: State, p: int, call: Write) -> Write:
        """Wait for all that are on the list now, and for a whole lease if it may lack some."""
        process = state.processes[p]
        server = server_at(state, process.commands)
        entries = frozenset[Member]() if server.members is None else server.members.entries
        return call._replace(
            waits_for=frozenset(one for one in entries if one.process != p),
            is_whole=not self._is_complete(state, process.bus, server),
            since=state.epoch,
        )

    def _is_complete(self, state: State, bus: Bus, server: Store) -> bool:
        """Tell if all that serve are on the list: it was joined a lease ago, in this history."""
        if bus.history != server.history and self.without != "list of another history believed":
            return False
        birth = 0 if server.members is None else server.members.birth
        is_known = birth == bus.birth and (birth > 0 or self.without == "no list believed")
        if not is_known and self.without != "lost list believed":
            return False
        return state.epoch > bus.born or self.without == "young list believed"

    def _is_awaiting(self, state: State, call: Write) -> bool:
        """Tell if a call still has to wait."""
        if self.without == "fleet waits for nobody":
            return False
        return state.epoch <= call.since and (call.is_whole or bool(call.waits_for))

    def _forget(self, state: State, p: int, missing: frozenset[Member]) -> Step:
        """Suspect those that were not heard of for a whole lease, or strike them; say whom."""
        at, words = state.processes[p].commands, ""
        for one in sorted(missing):
            server = server_at(state, at)
            if server.members is None:
                break
            birth, entries = server.members
            held = self._held(one, entries)
            if held is None:
                continue
            entries -= {held}
            if held.is_suspect or one.is_suspect or self.without == "struck at once":
                words += f"; {one.process} is struck"
            else:
                entries |= {held._replace(is_suspect=True)}
                words += f"; {one.process} is suspected"
            state = self._serve(state, at, server._replace(members=Members(birth, entries)))
        return words, state

    def _held(self, one: Member, entries: frozenset[Member]) -> Member | None:
        """Return what stands in the list by now, if it is what the call has read."""
        for held in entries:
            is_old = one.is_suspect and self.without == "struck by an old mark"
            is_new = held.is_suspect and self.without == "suspected meanwhile"
            if (
                held == one
                or (is_old and held.process == one.process)
                or (is_new and held.mark == one.mark and held.process == one.process)
            ):
                return held
        return None


def _waiting(state: State) -> list[tuple[int, int, Write]]:
    return [
        (q, t, call)
        for q, process in enumerate(state.processes)
        for t, call in enumerate(process.threads)
        if isinstance(call, Write) and call.waits_for and call.step == "end"
    ]
