"""Mutants of the tier: each breaks one rule, in every process that it is applied to.

`patch(target, name, value)` is `setattr`, or a test's own that undoes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flowcache import _core
from flowcache._core import lease_time
from flowcache.tier import bus, following, items, loads, steps
from flowcache.tier.bus import Bus
from flowcache.tier.front import Front
from flowcache.tier.script import Script, script

__all__ = ["MUTANTS"]

Patch = Callable[[Any, str, Any], None]

KEYED = ("lease", "set", "add", "touch", "incr", "delete", "expire")
"""The scripts of single keys, `store` beside them."""
GRANTED = (
    "local numbers = {tonumber(string.sub(grant, 33, 48)), tonumber(string.sub(grant, 49, 64))}"
)


def change_script(patch: Patch, name: str, old: str, new: str) -> None:
    known = script(name)
    text = known._text.decode()
    assert old in text, name
    changed = Script(name, text.replace(old, new))
    patch(known, "_text", changed._text)
    patch(known, "_digest", changed._digest)


def no_floor(patch: Patch) -> None:
    """Markers that were dropped void nothing any more."""
    judge = items.Items.judge

    def careless(self: Any, item: Any, read: Any, *rest: Any) -> Any:
        for record in (read.unit, read.root):
            if type(record) is list:
                record[2] = b"0"
        return judge(self, item, read, *rest)

    patch(items.Items, "judge", careless)
    for name in (*KEYED, "store"):
        change_script(patch, name, "if number < record.f then", "if false then")


def no_incarnation(patch: Patch) -> None:
    """A lost record begins again as it was."""
    patch(steps, "new_token", lambda: b"0" * 16)
    for name in (*KEYED, "store", "invalidate"):
        change_script(patch, name, "'s', text(now), 'f', '0'", "'s', '1', 'f', '0'")
        change_script(patch, name, "i = fresh, s = now,", "i = fresh, s = 1,")
    change_script(patch, "invalidate", "math.max(record.s + 1, now)", "record.s + 1")


def no_second_drop(patch: Patch) -> None:
    """What was filled while an invalidation was under way stays."""

    def once(self: Any, namespace: Any, there: Any, here: Any, wait: Any = None) -> Any:
        removed = here()
        yield from there(fleet=wait is not None)
        return removed

    patch(Front, "_invalidate", once)


def unfenced_here(patch: Patch) -> None:
    """What was read is held whatever has happened since."""
    keep = Front.keep

    def careless(self: Any, namespace: Any, fill: Any, found: Any) -> None:
        fresh = _core._fill(namespace, fill.key)
        try:
            keep(self, namespace, fresh, found)
        finally:
            _core._fill_end(fresh)

    patch(Front, "keep", careless)


def unfenced_there(patch: Patch) -> None:
    """The tier takes what was loaded before an invalidation."""
    change_script(
        patch, "store", "if void or also or soft > 0 or softened > 0 then", "if false then"
    )
    change_script(patch, "store", GRANTED, "local numbers = {unit.s, root.s}")


def late_tags_unchecked(patch: Patch) -> None:
    """Tags that a loader names are not told to the tier."""
    unpacked = loads.unpacked

    def careless(produced: Any, terms: Any) -> Any:
        value, ttl, _, *rest = unpacked(produced, terms)
        return (value, ttl, terms.tags, *rest)

    patch(loads, "unpacked", careless)


def unfenced_set(patch: Patch) -> None:
    """A `set` keeps its own value, whatever another process has set meanwhile."""
    store = Front.store

    def careless(self: Any, namespace: Any, fill: Any, *rest: Any, **more: Any) -> None:
        fresh = _core._fill(namespace, fill.key)
        try:
            store(self, namespace, fresh, *rest, **more)
        finally:
            _core._fill_end(fresh)

    patch(Front, "store", careless)


def token_alone(patch: Patch) -> None:
    """A lease says whose it is, and not under which records the load began."""
    change_script(patch, "store", GRANTED, "local numbers = {unit.s, root.s}")


def no_wait_on_beats(patch: Patch) -> None:
    """A heart-beat counts without its replicas (rule 7)."""
    beat = Bus._beat

    def alone(self: Any, line: Any) -> None:
        kept, self._replicas = self._replicas, 0
        try:
            beat(self, line)
        finally:
            self._replicas = kept

    patch(Bus, "_beat", alone)


def no_wait_on_writes(patch: Patch) -> None:
    """A write counts without its replicas (rule 7)."""
    beat, replicas_of = Bus._beat, Bus.replicas_of
    beating = threading.local()

    def told(self: Any, bucket: Any) -> int:
        return replicas_of(self, bucket) if getattr(beating, "now", False) else 0

    def beats(self: Any, line: Any) -> None:
        beating.now = True
        try:
            beat(self, line)
        finally:
            beating.now = False

    patch(Bus, "replicas_of", told)
    patch(Bus, "_beat", beats)


def no_replid(patch: Patch) -> None:
    """A record of any history is taken (rules 2 and 4)."""
    judge = items.Items.judge

    def careless(self: Any, item: Any, read: Any, replid: bytes, *rest: Any) -> Any:
        for record in (read.unit, read.root):
            if type(record) is list:
                record[1] = replid
        return judge(self, item, read, replid, *rest)

    patch(items.Items, "judge", careless)
    for name in (*KEYED, "store", "invalidate"):
        change_script(patch, name, "if held[2] == replid or keep == '1' then", "if true then")


def set_sent_again(patch: Patch) -> None:
    """A `set` whose answer was lost is sent again (rule 6)."""
    call_many = steps.Caller.call_many

    def again(self: Any, *arguments: Any, **options: Any) -> Any:
        return call_many(self, *arguments, **options | {"again": 1})

    patch(steps.Caller, "call_many", again)


def left_connection(patch: Patch) -> None:
    """A value is believed whatever history its connection is of (rule 8)."""
    is_live = Bus.is_live
    patch(Bus, "is_live", lambda self, bucket, replid=None: is_live(self, bucket))
    patch(Bus, "has_left", lambda self, bucket, replid: False)
    judge = items.Items.judge

    def careless(self: Any, item: Any, read: Any, replid: bytes, *rest: Any) -> Any:
        return judge(self, item, read, read.unit[1] if read.unit else replid, *rest)

    patch(items.Items, "judge", careless)


def lease_from_the_reply(patch: Patch) -> None:
    """The lease runs from the time at which a heart-beat was answered (rule 9)."""
    beaten = Bus._beaten
    patch(Bus, "_beaten", lambda self, line, sent, *rest: beaten(self, line, lease_time(), *rest))


def replay_from_the_wrong_id(patch: Patch) -> None:
    """The log is replayed from its newest entry (rule 10)."""
    change_script(patch, "attach", "'(' .. ARGV[3], '+')}", "'+', '+')}")


def log_before_subscription(patch: Patch) -> None:
    """The log is read first, and then the subscription is asked for (rule 10)."""
    attached, subscribe = Bus._attached, Bus._subscribe

    def first(self: Any, line: Any, following: Any) -> None:
        bucket, generation = following.bucket, following.generation

        def read(reply: Any) -> None:
            if following.generation == generation:
                attached(self, line, following, reply)
                following.state = "wanted"
                read_already.add(following)
                subscribe(self, line, following)

        if following.take_history(line.wire.replid, 0):
            self._lend()
        following.state = "attaching"
        keys = (bucket.members, bucket.log)
        line.send(
            script("attach").call_in_full(keys, self.member, bus.new_token(), following.last), read
        )

    def again(self: Any, line: Any, following: Any, reply: Any) -> None:
        if following not in read_already:
            attached(self, line, following, reply)
            return
        read_already.discard(following)
        following.state = "attached"
        line.next_beat = 0.0

    read_already: set[Any] = set()
    patch(Bus, "_subscribe", first)
    patch(Bus, "_attached", again)


def renewal_for_ever(patch: Patch) -> None:
    """The lease of a load that hangs is renewed for as long as its process lives."""
    hold = Bus.hold
    patch(Bus, "hold", lambda self, item, token, until: hold(self, item, token, float("inf")))


def struck_at_once(patch: Patch) -> None:
    """A member whose acknowledgement one call has missed is on the list no more (rule 11)."""
    change_script(patch, "forget", "if string.sub(mark, -1) == '?' then", "if true then")


def list_of_another_history(patch: Patch) -> None:
    """A list of members counts as complete although the server came back from a dump (rule 11)."""
    take = following.Following.take_history

    def kept(self: Any, *arguments: Any) -> bool:
        birth = self.birth
        leaves = take(self, *arguments)
        self.birth = birth
        return leaves

    patch(following.Following, "take_history", kept)


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "no floor": no_floor,
    "no incarnation": no_incarnation,
    "no second drop": no_second_drop,
    "unfenced store here": unfenced_here,
    "unfenced store there": unfenced_there,
    "late tags unchecked": late_tags_unchecked,
    "unfenced set": unfenced_set,
    "token alone": token_alone,
    "no WAIT on beats": no_wait_on_beats,
    "no WAIT on writes": no_wait_on_writes,
    "no replid": no_replid,
    "set sent again": set_sent_again,
    "left connection": left_connection,
    "lease from the reply": lease_from_the_reply,
    "replay from the wrong id": replay_from_the_wrong_id,
    "log before subscription": log_before_subscription,
    "renewal for ever": renewal_for_ever,
    "struck at once": struck_at_once,
    "list of another history": list_of_another_history,
}
