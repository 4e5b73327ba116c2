"""The tier's calls for a cache: each as steps, which a thread or a task carries out.

A call is a generator of steps; `run` carries them out on a thread, `arun` in a task. The part of
the process itself, drops before and after, fences and stores, is the caller's: rules 1, 3 and 6.

    reads     never raise for the tier: None stands for a miss, whatever its reason
    loads     lease, store and release never raise for the tier either
    writes    raise `TierUnavailableError` for what the tier has not confirmed
"""

from __future__ import annotations

import asyncio
import random
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flowcache._core import lease_time as monotonic
from flowcache.errors import ConfigurationError, TierUnavailableError

from .answers import Added, Grant, Stored, milliseconds, stored_of
from .awaited import Sending
from .bell import Bell
from .breaker import Announced, Breaker
from .bus import LATE, LEASE, Bus, new_token
from .codec import UndecodableError, UnencodableError
from .envelope import tag_mark
from .errors import ServerError, UnreachableError
from .items import Found, Item, Items, all_tags_item, prefix_item
from .link import Ask
from .message import Kind, Message
from .queue import Queue
from .resp import ReplyError
from .script import script
from .servers import Servers
from .steps import Caller, Exchange, Pause

if TYPE_CHECKING:
    from .awaited import Acknowledgements
    from .envelope import Envelope
    from .following import Follower
    from .layout import Bucket, Layout, Place
    from .steps import Steps
    from .wire import Address, Dialer

__all__ = ["Engine", "seal"]

T = TypeVar("T")

MOST_MARKERS: Final = 4096
"""The most markers of a record; beyond them the older half is dropped and the floor rises."""
MOST_ITEMS: Final = 64
"""Prefixes and sets of tags that a record lists; beyond them they become clears."""
SOONEST: Final = 0.005
LATEST: Final = 0.1
"""Seconds between two looks at a lease that another process holds."""


class Engine:
    """The tier of one cache in one process. Nothing is opened before the first call."""

    def __init__(
        self,
        layout: Layout,
        envelope: Envelope,
        dialer: Dialer,
        follower: Follower,
        *,
        soft: float = 0.050,
        hard: float = 0.250,
        lease: float = 2.0,
        replicas: int | None = None,
        keep_on_change: bool = False,
        queued: int = 0,
        unit_stores: int = 0,
        failures: int = 5,
        period: float = 1.0,
    ) -> None:
        self.layout = layout
        self.items = Items(layout, envelope)
        self._soft = soft
        self._hard = hard
        self._lease = lease
        self._unit_stores = unit_stores

        def make_breaker(address: Address | None) -> Breaker:
            return Breaker(failures=failures, period=period, on_change=Announced(address))

        self.servers = Servers(dialer, make_breaker, hard)
        shape = f"version=1 buckets={layout.buckets} tenant_depth={layout.tenant_depth}"
        self.bus = Bus(
            layout,
            self.servers,
            follower,
            lease=lease,
            replicas=replicas,
            shape=f"{shape} lease={lease:g}".encode(),
        )
        self.caller = Caller(self.servers, self.bus, keep_on_change=keep_on_change)
        self.run = self.caller.run
        self.arun = self.caller.arun
        self.queue = Queue(queued, self.run)

    @property
    def errors(self) -> int:
        """Exchanges that failed, and values that could not be read."""
        return self.caller.errors

    # Reading

    def read(self, item: Item, tags: tuple[str, ...] = ()) -> Steps[Found | None]:
        """Return the valid value of a key, fresh or stale; None without one.

        `tags` are those that the value is expected to bear; others cost a second round trip.
        """
        bucket = item.place.bucket
        if self.queue.blocked and self.queue.blocks(item.place):
            return None
        if not self.bus.is_live(bucket) and not (yield from self.live(bucket)):
            return None
        for _ in range(2):
            read = self.items.read(item, tags)
            try:
                ask = yield Exchange(bucket, Ask(self._soft, reads=(read,)))
            except ServerError:
                self.caller.errors += 1
                return None
            if isinstance(read.data, ReplyError):
                yield from self.caller.look_elsewhere(bucket, read.data, ask.replid)
                return None
            # Rule 8: the connection may be one to a server that the fleet has left.
            if not self.bus.is_live(bucket, ask.replid):
                yield from self.caller.leave(bucket, ask.replid)
                return None
            try:
                found = self.items.judge(item, read, ask.replid, ask.now, ask.sent)
            except UndecodableError:
                self.caller.errors += 1
                yield from self._discard(item, read.data)
                return None
            if not isinstance(found, tuple) or isinstance(found, Found):
                return found
            tags = found
        return None  # It was replaced by one with other tags between the two.

    def read_many(self, items: list[Item], tags: tuple[str, ...] = ()) -> Steps[dict[Item, Found]]:
        """Return the valid values of some keys of one namespace, in one round trip."""
        found: dict[Item, Found] = {}
        if not items or self.queue.blocks(items[0].place):
            return found
        bucket = items[0].place.bucket
        if not self.bus.is_live(bucket) and not (yield from self.live(bucket)):
            return found
        reads = [self.items.read(item, tags) for item in items]
        try:
            ask = yield Exchange(bucket, Ask(self._soft, reads=tuple(reads)))
        except ServerError:
            self.caller.errors += 1
            return found
        if not self.bus.is_live(bucket, ask.replid):
            yield from self.caller.leave(bucket, ask.replid)
            return found
        for item, read in zip(items, reads, strict=True):
            try:
                one = self.items.judge(item, read, ask.replid, ask.now, ask.sent)
            except UndecodableError:
                self.caller.errors += 1
                yield from self._discard(item, read.data)
                continue
            if isinstance(one, Found):
                found[item] = one
            elif one is not None:
                again = yield from self.read(item, one)
                if again is not None:
                    found[item] = again
        return found

    def live(self, bucket: Bucket, patience: float | None = None) -> Steps[bool]:
        """Follow a bucket, and wait a little for that if it is new; True if it is live.

        If it is not, no entry is served until it is: what is stored now may be of this bucket.
        """
        bell = self.bus.follow(bucket)
        if not self.bus.is_live(bucket) and self.bus.trouble_of(bucket) is None:
            yield Pause(bell, self._hard if patience is None else patience)
        trouble = self.bus.trouble_of(bucket)
        if isinstance(trouble, ConfigurationError):
            raise trouble
        if self.bus.is_live(bucket):
            return True
        self.bus.count_in(bucket)
        return False

    def _ready(self, place: Place) -> Steps[None]:
        """Follow a bucket before a write, and send the invalidations that wait for it."""
        yield from self.live(place.bucket)
        if self.queue.blocks(place):
            try:
                yield from self.queue.flush()
            except TierUnavailableError:
                if self.queue.blocks(place):
                    raise

    def _discard(self, item: Item, data: bytes) -> Steps[None]:
        """Remove an unreadable value, if it is still the same. It is a miss in either case."""
        digest = sha1(data, usedforsecurity=False).hexdigest().encode()
        command = script("discard").call_in_full((item.name,), digest)
        try:
            yield Exchange(item.place.bucket, Ask(self._soft, calls=(command,)))
        except ServerError:
            self.caller.errors += 1

    # Loading

    def lead(
        self, item: Item, token: bytes, *, force: bool = False, contend: bool = True
    ) -> Steps[Found | Grant | None]:
        """Look again, and ask for the lease of a load: the value, the grant, or None to wait.

        Asked again with its token, a lease gives the same grant. Raises `ServerError` if the
        tier cannot say: the load then is this process's own affair.
        """
        bucket = item.place.bucket
        if self.queue.blocks(item.place):
            raise UnreachableError("invalidations wait to be sent")
        sent = monotonic()
        reply = yield from self._call(
            "lease",
            item,
            Message(Kind.RELEASED, item.place.path, item.key, self.bus.member, token),
            (token, round(LEASE * 1000), b"1" if force else b"0", b"1" if contend else b"0"),
            patience=self._soft,
            again=token,
        )
        word, replid = reply[:2]
        if word == b"wait":
            return None
        if word == b"lead":
            return Grant(token, reply[2])
        if not self.bus.is_live(bucket, replid):
            # Rule 8: it may not be used, so the key is loaded.
            return (yield from self.lead(item, token, force=True, contend=contend))
        deadline, last, now = float(reply[2]), float(reply[3]), int(reply[4])
        try:
            return self.items.found(item, reply[5], deadline, last, now, sent)
        except UndecodableError:
            self.caller.errors += 1
            yield from self._discard(item, reply[5])
            return (yield from self.lead(item, token, force=True, contend=contend))

    def release(self, item: Item, grant: Grant) -> Steps[None]:
        """Give a lease back whose load came to nothing. One that cannot be reached runs out.

        One that the server has not told of yet it has granted by now, for requests arrive in order.
        """
        message = Message(
            Kind.RELEASED, item.place.path, item.key, self.bus.member, grant.token
        ).encode()
        command = script("release").call_in_full(
            (item.lease,), grant.token, item.place.bucket.bus, message
        )
        try:
            patience = self._hard if grant.terms else self._soft
            yield Exchange(item.place.bucket, Ask(patience, calls=(command,)))
        except ServerError:
            self.caller.errors += 1

    def wait_for_lease(self, item: Item, attempt: int) -> Steps[None]:
        """Wait for another process's load: until it is told of, or a little longer each time."""
        path, key = item.place.path, item.key
        bell = self.bus.awaited.listen(path, key)
        try:
            seconds = min(SOONEST * 2**attempt, LATEST) * random.uniform(0.5, 1.0)
            yield Pause(bell, seconds)
        finally:
            self.bus.awaited.listen_no_more(path, key, bell)

    def store(
        self,
        item: Item,
        grant: Grant,
        sealed: bytes,
        ttl: float | None,
        window: float,
        *,
        drops: bool = False,
    ) -> Steps[Stored | None]:
        """Store what was loaded; None if the tier refused it, or cannot be reached.

        None too if nothing is known: it may have stored and the answer is lost. With `drops` the
        other processes drop the key, for the load replaced a value that was fresh.
        """
        if self.queue.blocks(item.place):
            yield from self.release(item, grant)
            return None
        sent = monotonic()
        path, member, token = item.place.path, self.bus.member, grant.token
        released = Message(Kind.RELEASED, path, item.key, member, token).encode()
        try:
            with Sending(self.bus.awaited, "store", token):
                reply = yield from self._call(
                    "store",
                    item,
                    Message(Kind.DROP, path, item.key, member, token),
                    (
                        token,
                        grant.terms,
                        milliseconds(ttl),
                        milliseconds(window) if window else 0,
                        sealed,
                        b"1" if drops else b"0",
                        released,
                        self._unit_stores,
                    ),
                    patience=self._hard,
                    again=token,
                )
        except TierUnavailableError:
            return None
        return None if reply[0] == b"refused" else stored_of(reply, sent)

    # Writing

    def set(self, item: Item, sealed: bytes, ttl: float | None, window: float) -> Steps[Stored]:
        """Store a value over any other, as `set_many` does."""
        (stored,) = yield from self.set_many([(item, sealed, ttl, window)])
        return stored

    def set_many(
        self, values: list[tuple[Item, bytes, float | None, float]]
    ) -> Steps[list[Stored]]:
        """Store values of one namespace over any others, in one round trip.

        Each is a key, its bytes, seconds of freshness and of staleness after it. None is sent
        twice; their echoes are applied if the answer may have been lost (rule 6).
        """
        if not values:
            return []
        bucket = values[0][0].place.bucket
        operation = new_token()
        requests = [
            self._request(
                item,
                Message(Kind.DROP, item.place.path, item.key, self.bus.member, operation),
                (
                    operation,
                    milliseconds(ttl),
                    milliseconds(window) if window else 0,
                    sealed,
                    self._unit_stores,
                ),
            )
            for item, sealed, ttl, window in values
        ]
        yield from self._ready(values[0][0].place)
        sent = monotonic()
        with Sending(self.bus.awaited, "set", operation):
            replies = yield from self.caller.call_many(bucket, "set", requests, patience=self._hard)
        return [stored_of(reply, sent) for reply in replies]

    def add(self, item: Item, sealed: bytes, ttl: float | None, window: float) -> Steps[Added]:
        """Store a value if none is fresh there. Never sent twice (rule 6)."""
        operation = new_token()
        message = Message(Kind.RELEASED, item.place.path, item.key, self.bus.member, operation)
        yield from self._ready(item.place)
        sent = monotonic()
        with Sending(self.bus.awaited, "add", operation):
            reply = yield from self._call(
                "add",
                item,
                message,
                (
                    operation,
                    milliseconds(ttl),
                    milliseconds(window) if window else 0,
                    sealed,
                    self._unit_stores,
                ),
                patience=self._hard,
                confirms=True,
            )
        if reply[0] == b"bounded":
            raise _bounded("add")
        if reply[0] == b"stored":
            return Added(True, None, stored_of(reply, sent).until)
        deadline, now, last, data = float(reply[2]), int(reply[3]), float(reply[4]), reply[5]
        try:
            held = self.items.found(item, data, deadline, last, now, sent)
        except UndecodableError:
            self.caller.errors += 1
            yield from self._discard(item, data)
            return (yield from self.add(item, sealed, ttl, window))
        return Added(False, held, held.until)

    def incr(
        self, item: Item, delta: int, default: int, ttl: float | None, window: float
    ) -> Steps[int]:
        """Add to a counter and return it. Never sent twice (rule 6).

        Raises `TypeError` for a value that is no `int`, and `OverflowError` beyond 64 bits.
        """
        operation = new_token()
        message = Message(Kind.DROP, item.place.path, item.key, self.bus.member, operation)
        sealed = self.items.envelope.seal(item.place, item.name, item.encoded, 0, ())[:-1]
        yield from self._ready(item.place)
        with Sending(self.bus.awaited, "incr", operation):
            reply = yield from self._call(
                "incr",
                item,
                message,
                (
                    operation,
                    delta,
                    default,
                    milliseconds(ttl),
                    milliseconds(window) if window else 0,
                    sealed,
                    self._unit_stores,
                ),
                patience=self._hard,
                confirms=True,
            )
        if reply[0] == b"bounded":
            raise _bounded("incr")
        if reply[0] == b"other":
            raise TypeError("key: its value is no int of 64 bits, so the tier counts nothing there")
        if reply[0] == b"range":
            raise OverflowError("delta: a counter in the tier has 64 bits")
        return int(reply[2])

    def delete(self, item: Item) -> Steps[bool]:
        """Remove a value; True if it was fresh."""
        (held,) = yield from self.delete_many([item])
        return held

    def delete_many(self, items: list[Item], *, queued: bool = False) -> Steps[list[bool]]:
        """Remove values of one namespace in one round trip; True for each that was fresh.

        Before it go the invalidations that wait, unless it is one of them (`queued`).
        """
        if not items:
            return []
        bucket = items[0].place.bucket
        operation = new_token()
        requests = [
            self._request(
                item,
                Message(Kind.DROP, item.place.path, item.key, self.bus.member, operation),
                (b"0",),
            )
            for item in items
        ]
        yield from (self.live(bucket) if queued else self._ready(items[0].place))
        with Sending(self.bus.awaited, "delete", operation):
            replies = yield from self.caller.call_many(
                bucket, "delete", requests, patience=self._hard, again=operation
            )
        return [reply[0] == b"held" for reply in replies]

    def pop(self, item: Item) -> Steps[tuple[Any] | None]:
        """Remove a value and return it, in a tuple, if it was fresh. Never sent twice (rule 6)."""
        reply = yield from self._write("delete", item, Kind.DROP, (b"1",), again=False)
        if reply[0] != b"held":
            return None
        try:
            return (self.items.value(item, reply[2]),)
        except UndecodableError:
            self.caller.errors += 1
            return None

    def touch(self, item: Item, ttl: float | None) -> Steps[bool]:
        """Give a fresh value another TTL; True if there was one."""
        reply = yield from self._write("touch", item, Kind.DROP, (milliseconds(ttl),))
        return bool(reply[0] == b"held")

    def expire(self, item: Item, *, queued: bool = False) -> Steps[bool]:
        """End a value's freshness now; True if it was fresh."""
        reply = yield from self._write("expire", item, Kind.EXPIRE, (), queued=queued)
        return bool(reply[0] == b"held")

    def _write(
        self,
        name: str,
        item: Item,
        kind: Kind,
        arguments: tuple[bytes | int, ...],
        *,
        again: bool = True,
        queued: bool = False,
    ) -> Steps[list[Any]]:
        operation = new_token()
        message = Message(kind, item.place.path, item.key, self.bus.member, operation)
        yield from (self.live(item.place.bucket) if queued else self._ready(item.place))
        with Sending(self.bus.awaited, name, operation):
            reply = yield from self._call(
                name,
                item,
                message,
                arguments,
                patience=self._hard,
                confirms=True,
                again=operation if again else b"",
            )
        return reply

    def _call(
        self,
        name: str,
        item: Item,
        message: Message,
        arguments: tuple[bytes | int, ...],
        *,
        patience: float,
        confirms: bool = False,
        again: bytes = b"",
    ) -> Steps[list[Any]]:
        keys, given = self._request(item, message, arguments)
        return self.caller.call(
            item.place.bucket,
            name,
            keys,
            given,
            patience=patience,
            confirms=confirms,
            again=again,
        )

    def _request(
        self, item: Item, message: Message, arguments: tuple[bytes | int, ...]
    ) -> tuple[tuple[bytes, ...], tuple[bytes | int, ...]]:
        """Return the names and arguments that a script of a key takes."""
        return item.keys, (item.place.bucket.bus, message.encode(), item.text, *arguments)

    # Invalidating

    def clear(self, place: Place, *, fleet: bool = False) -> Steps[None]:
        """Void all of a namespace and of those below it."""
        fields = (b"c" + place.marks[-1],)
        yield from self._invalidate(place, Kind.CLEAR, None, fields, b"", fleet=fleet)

    def invalidate_tags(
        self, place: Place, tags: tuple[str, ...], *, match: str = "any", fleet: bool = False
    ) -> Steps[None]:
        """Void what bears one of the tags, or all of them."""
        if match == "all" and len(set(tags)) > 1:
            listed = all_tags_item(place, tags)
            yield from self._invalidate(place, Kind.TAGS_ALL, tags, (), listed, fleet=fleet)
            return
        fields = _tag_fields(b"t", place, tags)
        yield from self._invalidate(place, Kind.TAGS_ANY, tags, fields, b"", fleet=fleet)

    def expire_tags(
        self, place: Place, tags: tuple[str, ...], *, fleet: bool = False
    ) -> Steps[None]:
        """Make stale what bears one of the tags."""
        fields = _tag_fields(b"x", place, tags)
        yield from self._invalidate(place, Kind.EXPIRE_TAGS, tags, fields, b"", fleet=fleet)

    def invalidate_prefix(self, place: Place, prefix: str, *, fleet: bool = False) -> Steps[None]:
        """Void the `str` keys of a namespace that begin so."""
        listed = prefix_item(place, prefix)
        yield from self._invalidate(place, Kind.PREFIX, prefix, (), listed, fleet=fleet)

    def drop_in_fleet(self, item: Item) -> Steps[None]:
        """Have each process drop a key, and wait for that; what lies there stays (rule 11)."""
        yield from self._invalidate(item.place, Kind.DROP, item.key, (), b"", fleet=True)

    def _invalidate(
        self,
        place: Place,
        kind: Kind,
        data: object,
        fields: tuple[bytes, ...],
        listed: bytes,
        *,
        fleet: bool,
    ) -> Steps[None]:
        """Write a marker and have it confirmed; sent again after a time-out (rules 6, 7)."""
        operation = new_token()
        message = Message(kind, place.path, data, self.bus.member, operation, fleet)
        # A prefix covers a namespace's own keys alone, and those lie in one bucket.
        spreads = place.is_above and kind not in (Kind.PREFIX, Kind.DROP)
        buckets = self.layout.all if spreads else (place.bucket,)
        acknowledgements = self.bus.awaited.expect(operation) if fleet else None
        known = True
        lists: list[tuple[Bucket, dict[bytes, bytes]]] = []
        try:
            with Sending(self.bus.awaited, kind.name.lower(), operation):
                for bucket in buckets:
                    yield from self.live(bucket)
                    record = bucket.root if spreads else place.record
                    keys = (record, bucket.log, bucket.members)
                    arguments = (
                        b"0" if spreads else b"1",
                        MOST_MARKERS,
                        MOST_ITEMS,
                        listed,
                        b"1" if fleet else b"0",
                        *fields,
                    )
                    reply = yield from self.caller.call(
                        bucket,
                        "invalidate",
                        keys,
                        (bucket.bus, message.encode(), *arguments),
                        patience=self._hard,
                        confirms=True,
                        again=operation,
                    )
                    if fleet:
                        known = known and self.bus.knows_members(bucket, reply[3], reply[1])
                        flat = reply[4]
                        members = dict(zip(flat[::2], flat[1::2], strict=True))
                        members.pop(b"birth", None)
                        members.pop(self.bus.member, None)
                        lists.append((bucket, members))
                if acknowledgements is not None:
                    yield from self._wait_for_fleet(acknowledgements, lists, known=known)
        finally:
            if fleet:
                self.bus.awaited.expect_no_more(operation)

    def _wait_for_fleet(
        self,
        acknowledgements: Acknowledgements,
        lists: list[tuple[Bucket, dict[bytes, bytes]]],
        *,
        known: bool,
    ) -> Steps[None]:
        """Wait until each member has applied a message, or for the whole lease (rule 11)."""
        until = monotonic() + self._lease + LATE
        acknowledgements.expect(
            (bucket.number, member) for bucket, members in lists for member in members
        )
        never = Bell()
        while (left := until - monotonic()) > 0:
            if known and acknowledgements.bell.has_rung:
                return
            yield Pause(acknowledgements.bell if known else never, left)
        missing = acknowledgements.missing
        for bucket, members in lists:
            lost = [
                part
                for member, since in members.items()
                if (bucket.number, member) in missing
                for part in (member, since)
            ]
            # Without a lease here, no acknowledgement may have arrived: no member is at fault.
            if lost and self.bus.is_live(bucket):
                command = script("forget").call_in_full((bucket.members,), *lost)
                try:
                    yield Exchange(bucket, Ask(self._hard, calls=(command,)))
                except ServerError:  # The next one waits for them too.
                    self.caller.errors += 1

    def close(self) -> None:
        """Leave the fleet and end the connections of the bus and of threads."""
        self.queue.close()
        self.bus.close()
        self.servers.close()

    async def aclose(self) -> None:
        """Leave the fleet and end the connections, those of this loop as well."""
        loop = asyncio.get_running_loop()
        self.servers.close_loop(loop)
        await loop.run_in_executor(None, self.close)


def seal(
    items: Items, item: Item, value: object, tags: tuple[str, ...]
) -> bytes | UnencodableError:
    """Return a value's bytes for the tier, or why it has to stay in the process."""
    try:
        return items.envelope.seal(item.place, item.name, item.encoded, value, tags)
    except UnencodableError as error:
        return error


def _tag_fields(kind: bytes, place: Place, tags: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(kind + place.marks[-1] + tag_mark(tag) for tag in tags)


def _bounded(call: str) -> TierUnavailableError:
    return TierUnavailableError(
        f"{call}: the tenant has stored as many values in this second as unit_stores= allows"
    )
