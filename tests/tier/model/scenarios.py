"""Bounds at which the protocol is explored whole; together they show every guard to be needed."""

from __future__ import annotations

from typing import Any

from .states import NEW, OLD, Bounds

__all__ = ["LARGER", "SCENARIOS"]

LOADS: dict[str, Any] = {"held": False, "here": False, "ticks": 0, "beats": 0}
FLEET: dict[str, Any] = {"kinds": (("fetch",), ("fleet",)), "at_once": True}

SCENARIOS = {
    "one process clears, another fetches": Bounds(
        calls=(2, 1), kinds=(("fetch",), ("clear",)), beats=1
    ),
    "a read meets a clear": Bounds(
        calls=(2, 1), kinds=(("fetch",), ("clear",)), beats=1, here=False
    ),
    "two processes set": Bounds(calls=(2, 1), kinds=(("set", "fetch"), ("set",)), beats=1),
    "two threads of one process": Bounds(
        calls=(3,), threads=(2,), kinds=(("fetch", "clear"),), ticks=0, beats=0, here=False
    ),
    "a load meets a delete": Bounds(calls=(1, 3), kinds=(("fetch",), ("fetch", "delete")), **LOADS),
    "a load meets a clear": Bounds(calls=(1, 2), kinds=(("fetch",), ("fetch", "clear")), **LOADS),
    "the record is lost": Bounds(
        calls=(2,),
        threads=(1,),
        kinds=(("fetch", "clear"),),
        faults=("evict record", "trim", "flush"),
        fault_count=1,
        ticks=0,
        beats=0,
    ),
    "the record is lost while it loads": Bounds(
        calls=(3,),
        threads=(2,),
        kinds=(("fetch", "clear"),),
        faults=("evict record",),
        fault_count=1,
        **LOADS,
    ),
    "an answer is lost": Bounds(
        calls=(1, 2),
        kinds=(("set",), ("set", "fetch")),
        faults=("lost reply",),
        fault_count=1,
        ticks=0,
        beats=0,
    ),
    "the replica is promoted": Bounds(
        calls=(1, 1), kinds=(("fetch",), ("clear",)), faults=("promote",), fault_count=1
    ),
    "a read meets a promotion": Bounds(
        calls=(1, 1),
        kinds=(("fetch",), ("clear",)),
        faults=("promote",),
        fault_count=1,
        beats=0,
        here=False,
    ),
    "a write goes to the old primary": Bounds(
        calls=(2, 1),
        kinds=(("fetch",), ("clear",)),
        after_promotion=((NEW, NEW), (OLD, OLD)),
    ),
    "a read goes to the old primary": Bounds(
        calls=(2, 1),
        kinds=(("fetch",), ("clear",)),
        after_promotion=((NEW, OLD), (OLD, NEW)),
        here=False,
    ),
    "the server comes back from a dump": Bounds(
        calls=(2,),
        threads=(1,),
        kinds=(("fetch", "clear"),),
        faults=("old dump",),
        fault_count=1,
        ticks=0,
        beats=1,
    ),
    "the bus is cut": Bounds(
        calls=(1, 1), kinds=(("fetch",), ("clear",)), faults=("cut",), fault_count=1
    ),
    "the bus was cut": Bounds(
        calls=(1, 1),
        kinds=(("fetch",), ("clear",)),
        gap=("cut",),
        faults=("other message",),
        fault_count=1,
    ),
    "the log is lost": Bounds(
        calls=(1, 1),
        kinds=(("fetch",), ("clear",)),
        gap=("cut",),
        faults=("lose log",),
        fault_count=1,
    ),
    "a read meets a gap": Bounds(
        calls=(2, 1), kinds=(("fetch",), ("clear",)), gap=("cut", "log lost"), here=False
    ),
    "the whole fleet": Bounds(calls=(1, 1), faults=("lose members",), fault_count=1, **FLEET),
    "the list of members comes back from a dump": Bounds(
        calls=(1, 1), faults=("old dump",), fault_count=1, late=(0,), **FLEET
    ),
    "the list of members does not come back": Bounds(
        calls=(1, 1), faults=("no dump",), fault_count=1, **FLEET
    ),
    "a member is not heard": Bounds(
        calls=(1, 3),
        faults=("lost acknowledgement",),
        fault_count=1,
        ticks=2,
        beats=2,
        **FLEET,
    ),
    "two processes do not hear a member": Bounds(
        calls=(1, 2, 1),
        threads=(1, 1, 1),
        kinds=(("fetch",), ("fleet",), ("fleet",)),
        at_once=True,
    ),
    "an invalidation is queued": Bounds(
        calls=(2, 1),
        kinds=(("fetch", "clear"), ("fetch",)),
        faults=("lost request",),
        fault_count=1,
        queues=True,
        ticks=0,
        beats=0,
    ),
    "two invalidations are queued": Bounds(
        calls=(3, 1),
        kinds=(("fetch", "clear"), ("fetch",)),
        faults=("lost request",),
        fault_count=2,
        queues=True,
        ticks=0,
        beats=0,
        here=False,
    ),
    "a queue meets a promotion": Bounds(
        calls=(2,),
        threads=(1,),
        kinds=(("fetch", "clear"),),
        faults=("promote",),
        fault_count=1,
        queues=True,
    ),
    "a queue waits before writes": Bounds(
        calls=(2,),
        threads=(2,),
        kinds=(("fetch", "clear", "set", "add", "incr"),),
        faults=("lost request",),
        fault_count=1,
        queues=True,
        ticks=0,
        beats=0,
    ),
    "a write finds the new primary first": Bounds(
        calls=(2,),
        threads=(1,),
        kinds=(("fetch", "clear"),),
        after_promotion=((OLD, NEW),),
        faults=("other connection",),
        fault_count=1,
    ),
    "a server that was left is told of again": Bounds(
        calls=(1, 1),
        kinds=(("fetch",), ("clear",)),
        after_promotion=((NEW, NEW), (NEW, NEW)),
        faults=("old view", "other connection"),
        fault_count=2,
        replicas=False,
        epochs=(2, 2),
        here=False,
    ),
    "a slot moves": Bounds(
        calls=(1, 1),
        kinds=(("fetch",), ("clear",)),
        faults=("slot moves",),
        fault_count=1,
        nodes=True,
    ),
    "a slot moves and comes back": Bounds(
        calls=(2,),
        threads=(1,),
        kinds=(("fetch", "clear"),),
        faults=("slot moves",),
        fault_count=2,
        nodes=True,
    ),
    "a load meets a slot that moves": Bounds(
        calls=(1, 1),
        threads=(1, 1),
        kinds=(("fetch",), ("delete",)),
        faults=("slot moves",),
        fault_count=2,
        nodes=True,
        **LOADS,
    ),
    "an add loses its answer": Bounds(
        calls=(1, 2),
        kinds=(("add",), ("delete", "fetch")),
        faults=("lost reply",),
        fault_count=1,
        **LOADS,
    ),
    "two processes add and count": Bounds(
        calls=(2, 1), kinds=(("fetch", "add", "incr"), ("clear", "add")), ticks=0, beats=0
    ),
    "a counter is invalidated": Bounds(
        calls=(3,), threads=(2,), kinds=(("fetch", "clear", "incr", "touch"),), ticks=0, beats=0
    ),
    "a prefix is invalidated": Bounds(
        calls=(3,),
        threads=(2,),
        kinds=(("fetch", "prefix", "other prefix"),),
        ticks=0,
        beats=0,
    ),
    "a value ends": Bounds(
        calls=(3,), threads=(1,), kinds=(("fetch",),), ticks=2, beats=2, ttl=1, here=False
    ),
    "a value is stale for a while": Bounds(
        calls=(2,), threads=(1,), kinds=(("fetch", "clear"),), ticks=2, beats=2, ttl=1, window=1
    ),
    "a value is expired": Bounds(
        calls=(1, 1), kinds=(("fetch",), ("expire",)), ticks=1, beats=2, ttl=3, window=2
    ),
    "an expiry meets a read": Bounds(
        calls=(3,),
        threads=(2,),
        kinds=(("fetch", "expire"),),
        ticks=0,
        beats=0,
        ttl=2,
        window=1,
        here=False,
    ),
    "a value is lost and loaded while it is read": Bounds(
        calls=(2,),
        threads=(2,),
        kinds=(("fetch",),),
        faults=("evict value",),
        fault_count=1,
        ticks=2,
        beats=1,
        ttl=2,
        here=False,
    ),
}
"""The scenarios of the suite, by name."""

EVERY = ("cut", "flush", "evict record", "evict value", "trim", "lease runs out")

LARGER = {
    "three processes": Bounds(
        calls=(1, 1, 1), threads=(1, 1, 1), kinds=(("fetch", "clear", "set"),) * 3, beats=2
    ),
    "two threads in each of two": Bounds(
        calls=(2, 2), threads=(2, 2), kinds=(("fetch", "clear", "set"), ("fetch", "clear"))
    ),
    "a promotion and a cut": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear"), ("fetch", "clear")),
        faults=("promote", "cut", "evict record"),
        fault_count=2,
        beats=2,
    ),
    "all faults of one server": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear", "set"), ("fetch", "delete")),
        faults=EVERY,
        fault_count=2,
        beats=2,
    ),
    "two leases of the fleet": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear"), ("fleet", "fetch")),
        faults=("lose members", "cut"),
        fault_count=2,
        ticks=2,
        beats=2,
    ),
    "two members of the fleet": Bounds(
        calls=(1, 1, 2),
        threads=(1, 1, 1),
        kinds=(("fetch",), ("fetch",), ("fleet",)),
        at_once=True,
        ticks=2,
        beats=2,
    ),
    "members that wait for each other": Bounds(
        calls=(2, 1), kinds=(("fetch", "fleet"),) * 2, at_once=True, beats=2
    ),
    "two calls strike, one of them late": Bounds(
        calls=(1, 3),
        threads=(1, 2),
        faults=("late request",),
        fault_count=1,
        ticks=2,
        beats=2,
        **FLEET,
    ),
    "a suspect, and a cut": Bounds(
        calls=(1, 2),
        faults=("lost acknowledgement", "lose members", "cut"),
        fault_count=2,
        ticks=2,
        beats=3,
        **FLEET,
    ),
    "a suspect, and a promotion": Bounds(
        calls=(1, 2),
        faults=("lost acknowledgement", "promote"),
        fault_count=2,
        ticks=2,
        beats=3,
        **FLEET,
    ),
    "a suspect, and restarts": Bounds(
        calls=(1, 2),
        faults=("lost acknowledgement", "lose members", "old dump", "no dump"),
        fault_count=2,
        ticks=2,
        beats=2,
        late=(0,),
        **FLEET,
    ),
    "a list that moves with its slot": Bounds(
        calls=(1, 2),
        faults=("slot moves",),
        fault_count=2,
        nodes=True,
        ticks=2,
        beats=2,
        **FLEET,
    ),
    "slots move, and a bus is cut": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear"), ("fetch", "delete")),
        faults=("slot moves", "cut"),
        fault_count=3,
        nodes=True,
        beats=2,
    ),
    "queued invalidations of two": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear", "incr"), ("fetch", "delete", "add")),
        faults=("lost request", "lost reply", "promote"),
        fault_count=2,
        queues=True,
    ),
    "values that end, and expiries": Bounds(
        calls=(2, 2),
        kinds=(("fetch", "clear", "expire"), ("fetch", "expire", "touch")),
        ticks=3,
        beats=3,
        ttl=1,
        window=1,
    ),
}
"""The scenarios of the command, by name; some take hours."""
