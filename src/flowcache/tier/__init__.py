"""The second tier: one cache for a fleet of processes, on Valkey or Redis.

Code and model name these rules by their numbers.

1. Each operation that fills the process's own cache is registered there before its first request;
   an invalidation fences it, and the store checks that. A value that the tier refused is not stored
   here.
2. A record that is missing, or bound to another history of the server, becomes a new incarnation,
   unique for each attempt.
3. `set`, `add` and `incr`: drop, register, run the script, drop and fence the others, store here
   only if not fenced.
4. A value is valid if its incarnation is the record's, and the record is bound to the history of
   the connection. Its number must be at least the floor, and no marker may be above its number.
5. The lease of a load is its token, the incarnations and the numbers at the grant. Asked again it
   returns that grant, or a new one if an incarnation has changed. A store needs all of them and
   rule 4. `set` and `delete` unlink a lease.
6. After a time-out only `delete`, invalidations, lease and store are sent again, no
   `add`, `set`, `incr` or `pop`. A `set` that timed out raises, drops here, and its echo is
   applied. Other echoes of one's own are ignored.
7. Invalidations, writes and heart-beats are followed by `WAIT` for all replicas that could be
   promoted. Short of it they are not confirmed: the server may be a primary no more.
8. A process holds one current history per bucket, and one that was left never comes back, unless
   a cluster moves the slot back: its node then has a greater epoch than the one before. A node with
   a lower epoch than the one before is never followed. The epoch is read after the node has
   confirmed that it has the slot. A confirmed write that names another history ends the lease. A
   value from the tier is taken only if its connection's history is the current one and the lease
   lives under it. Connections to a server that was left are ended.
9. A heart-beat returns history and role, and a change is a gap. It is sent only after a replay or a
   clear has been applied. The lease runs from the time at which it was sent.
10. After a gap: subscribe, and read the log when that is confirmed. Replay if the history is the
    same and the entry of the last message exists; else clear, which fences.
11. `wait="fleet"`: the members stand in one list with a mark of its birth. A member acknowledges
    only while its lease lives. If the list was lost, or the history is another, the call waits for
    the whole lease. So it does if a member does not acknowledge, which is then suspected. No beat
    extends a suspect's lease before it has joined again. One that still is suspect when a later
    call has waited for a whole lease serves nothing any more, and is struck from the list.
"""

from __future__ import annotations

from .codec import Codec, JsonCodec, MsgpackCodec, PickleCodec, UndecodableError, UnencodableError
from .settings import ValkeyTier

__all__ = [
    "Codec",
    "JsonCodec",
    "MsgpackCodec",
    "PickleCodec",
    "UndecodableError",
    "UnencodableError",
    "ValkeyTier",
]
