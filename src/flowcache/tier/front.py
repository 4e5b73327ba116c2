"""What a cache does with its tier: each call on a namespace, for threads and tasks alike.

A call is written once, as steps, which a thread or a task carries out. What the process holds
itself is changed by the calls of the plain `Namespace`, which know no tier. Rules are numbered as
in the package's docstring; those on the process's own half are kept here:

- a write drops the key, registers, runs its script, drops and fences again, and stores what it
  wrote only if it was not fenced itself (rule 3);
- an invalidation is done here before and after the tier has it.
"""

from __future__ import annotations

import asyncio
import functools
import math
import operator
from asyncio import _get_running_loop as running_loop  # None without one
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from flowcache import _core
from flowcache._core import lease_time as monotonic
from flowcache.errors import ConfigurationError, TierUnavailableError, WouldBlockError

from .bell import Bell
from .errors import LateError
from .fills import Fills
from .held import clear, drop, drop_prefix, drop_tags, expire, expire_tags
from .steps import Pause

if TYPE_CHECKING:
    from .items import Item
    from .settings import ValkeyTier
    from .steps import Steps

__all__ = ["UNSET", "Front"]

T = TypeVar("T")
Namespace = _core.Namespace
Space = _core.Namespace[Any]
UNSET: Final[Any] = _core.UNSET
MISSING: Final = object()
MOST_TOGETHER: Final = 100
MOST_BYTES: Final = 1 << 20
"""Values that go in one round trip; the server serves no other call meanwhile."""
Setting = tuple[Any, Any, tuple[float, float, bool, tuple[str, ...]]]
"""A key, a value, and how it is held, as the core has checked it."""
CONNECTS_WITHIN: Final = 5.0
"""Seconds for which `connect` waits until the process hears of the fleet."""
LOOKS_AGAIN: Final = 0.05
"""Seconds until it looks again, after an answer that came late."""


class Front(Fills):
    """The tier of one cache, as its namespaces call it."""

    def __init__(
        self, root: Space, settings: ValkeyTier, name: str, tenant_depth: int, patience: float
    ) -> None:
        super().__init__(root, settings, name, tenant_depth)
        self.patience = patience
        """Seconds after which a load no longer holds up others: the cache's `max_pending_age`."""
        self._writes: set[asyncio.Task[Any]] = set()

    # Carrying steps out

    def read(self, name: str, steps: Steps[T]) -> T:
        """Carry out a read on this thread; what needs no step may do so on a loop's thread."""
        if running_loop() is None:
            return self.engine.run(steps)
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value
        steps.close()
        raise would_block(name)

    def write(self, name: str, steps: Steps[T]) -> T:
        """Carry out a write on this thread."""
        if running_loop() is not None:
            steps.close()
            raise would_block(name)
        return self.engine.run(steps)

    async def awrite(self, steps: Steps[T]) -> T:
        """Carry out a write in a task of its own, which goes on if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(self.engine.arun(steps))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # Seen: its caller has it, or was cancelled.

    # Reading

    def get(self, namespace: Space, key: Hashable, default: Any) -> Any:
        """Answer a `get` that missed here, and was counted as a miss."""
        return self.read("get", self.steps_get(namespace, key, default))

    def steps_get(self, namespace: Space, key: Hashable, default: Any = None) -> Steps[Any]:
        """Return what is fresh there, else `default`."""
        item = self.read_item(namespace, key)
        if item is not None:
            found = yield from self.found(namespace, key, item)
            if found is not None and found.is_fresh(monotonic()):
                return found.value
        return default

    def steps_ttl(self, namespace: Space, key: Hashable, /) -> Steps[float | None]:
        """Return the seconds that a key stays fresh."""
        with suppress(KeyError):
            return Namespace.ttl(namespace, key)
        item = self.read_item(namespace, key)
        if item is not None:
            found = yield from self.found(namespace, key, item)
            if found is not None and found.is_fresh(monotonic()):
                return None if found.until is None else found.until - monotonic()
        raise KeyError(key)

    def steps_get_many(
        self, namespace: Space, keys: Iterable[Hashable], /
    ) -> Steps[dict[Any, Any]]:
        """Return the keys that are fresh here or there."""
        listed = _core.listed_keys(keys)
        held: dict[Any, Any] = Namespace.get_many(namespace, listed)
        found = yield from self.found_many(namespace, [key for key in listed if key not in held])
        now = monotonic()
        held |= {key: one.value for key, one in found.items() if one.is_fresh(now)}
        return {key: held[key] for key in listed if key in held}

    # Writing

    def steps_set(
        self,
        namespace: Space,
        key: Hashable,
        value: Any,
        /,
        *,
        ttl: Any = UNSET,
        tags: Any = (),
        stale: Any = None,
        sliding: Any = None,
        jitter: Any = None,
        wait: Any = None,
    ) -> Steps[None]:
        """Store a value there and here; the others drop the key (rule 3)."""
        check_wait(wait)
        refuse_sliding(sliding)
        terms = _core._terms(namespace, key, value, ttl, tags, stale, jitter)
        yield from self._set(namespace, [(key, value, terms)])
        if wait is not None:
            yield from self._await_drop(namespace, key)

    def _set(self, namespace: Space, given: list[Setting]) -> Steps[None]:
        """Store values that were checked, as many in one round trip as may go together."""
        together: list[tuple[Item, Setting, bytes | None]] = []
        size = 0
        for setting in given:
            key, value, (seconds, grace, _, tags) = setting
            item = self.item(namespace, key)
            if item is None:
                yield from self._remove_equal(namespace, key)
                Namespace.set(
                    namespace, key, value, ttl=plain(seconds), tags=tags, stale=window(grace)
                )
                continue
            sealed = self.sealed(namespace, item, value, tags) if seconds > 0 else None
            together.append((item, setting, sealed))
            size += 0 if sealed is None else len(sealed)
            if len(together) == MOST_TOGETHER or size > MOST_BYTES:
                yield from self._set_together(namespace, together)
                together, size = [], 0
        if together:
            yield from self._set_together(namespace, together)

    def _set_together(
        self, namespace: Space, together: list[tuple[Item, Setting, bytes | None]]
    ) -> Steps[None]:
        """Store values in one round trip; those without bytes are removed there."""
        for item, _, _ in together:
            drop(namespace, item.key)
        fills: list[_core.Load] = []
        began = monotonic()
        try:
            for item, _, _ in together:  # Within: one that fails leaves no other registered.
                fills.append(_core._fill(namespace, item.key))
            stored = yield from self.engine.set_many(
                [
                    (item, sealed, plain(seconds), grace)
                    for item, (_, _, (seconds, grace, _, _)), sealed in together
                    if sealed is not None
                ]
            )
            there = sum(one.is_there for one in stored)
            _core._tally(namespace, "stores", there)
            _core._tally(namespace, "untiered", len(stored) - there)
            yield from self.engine.delete_many(
                [item for item, _, sealed in together if sealed is None]
            )
            answers = iter(stored)
            for (item, setting, sealed), fill in zip(together, fills, strict=True):
                _, value, (seconds, grace, stale_ok, tags) = setting
                until = began + seconds
                if sealed is not None:
                    answer = next(answers)
                    if answer.is_there:
                        until = math.inf if answer.until is None else answer.until
                _core._fence_key(namespace, item.key, fill)
                Namespace.delete(namespace, item.key)
                if seconds > 0 and self.engine.bus.is_live(item.place.bucket):
                    self.store(
                        namespace, fill, value, seconds, until, grace, tags, stale_ok=stale_ok
                    )
        except BaseException:  # It may be done there: no other value is held here from now on.
            for item, _, _ in together:
                drop(namespace, item.key)
            raise
        finally:
            for fill in fills:
                _core._fill_end(fill)
            self.note_errors(namespace)

    def steps_set_many(
        self,
        namespace: Space,
        mapping: Any,
        /,
        *,
        ttl: Any = UNSET,
        tags: Any = (),
        stale: Any = None,
        sliding: Any = None,
        jitter: Any = None,
    ) -> Steps[None]:
        """Store each item of a mapping; all are checked before any is stored."""
        refuse_sliding(sliding)
        pairs = dict(mapping)
        checked = [
            (key, value, _core._terms(namespace, key, value, ttl, tags, stale, jitter))
            for key, value in pairs.items()
        ]
        yield from self._set(namespace, checked)

    def steps_add(
        self,
        namespace: Space,
        key: Hashable,
        value: Any,
        /,
        *,
        ttl: Any = UNSET,
        tags: Any = (),
        stale: Any = None,
        sliding: Any = None,
        jitter: Any = None,
    ) -> Steps[bool]:
        """Store a value if none is fresh; the tier decides."""
        refuse_sliding(sliding)
        terms = _core._terms(namespace, key, value, ttl, tags, stale, jitter)
        if _core._is_off(namespace):
            return True
        is_stored, _ = yield from self._add(namespace, key, value, terms)
        return is_stored

    def _add(
        self,
        namespace: Space,
        key: Hashable,
        value: Any,
        terms: tuple[float, float, bool, tuple[str, ...]],
    ) -> Steps[tuple[bool, Any]]:
        """Return whether it was stored, and what is held now."""
        seconds, grace, stale_ok, tags = terms
        item = self.item(namespace, key)
        held = Namespace.peek(namespace, key, MISSING)
        if item is not None and held is not MISSING and self.stays_here(item, held):
            return False, held
        sealed = None if item is None else self.sealed(namespace, item, value, tags)
        if item is None or sealed is None or seconds <= 0:
            there = item or self.equal_item(namespace, key)
            if there is not None:
                found = yield from self.found(namespace, there.key, there)
                if found is not None and found.is_fresh(monotonic()):
                    return False, found.value
            is_stored = Namespace.add(
                namespace, key, value, ttl=plain(seconds), tags=tags, stale=window(grace)
            )
            return is_stored, value if is_stored else Namespace.peek(namespace, key, value)
        fill = _core._fill(namespace, key)
        try:
            added = yield from self.engine.add(item, sealed, plain(seconds), grace)
            if added.held is not None:
                self.keep(namespace, fill, added.held)
                return False, added.held.value
            _core._tally(namespace, "stores")
            _core._fence_key(namespace, key, fill)
            Namespace.delete(namespace, key)
            if self.engine.bus.is_live(item.place.bucket):
                until = math.inf if added.until is None else added.until
                self.store(namespace, fill, value, seconds, until, grace, tags, stale_ok=stale_ok)
        except BaseException:  # It may be done there: no other value is held here from now on.
            drop(namespace, key)
            raise
        finally:
            _core._fill_end(fill)
            self.note_errors(namespace)
        return True, value

    def steps_setdefault(
        self, namespace: Space, key: Hashable, /, default: Any = None
    ) -> Steps[Any]:
        """Return what is fresh, or store `default`; the tier decides."""
        held = Namespace.peek(namespace, key, MISSING)
        if held is not MISSING:
            return Namespace.get_many(namespace, [key]).get(key, held)
        _core._tally(namespace, "misses", 1, key)
        terms = _core._terms(namespace, key, default, UNSET, (), None)
        if _core._is_off(namespace):
            return default
        _, value = yield from self._add(namespace, key, default, terms)
        return value

    def steps_incr(
        self,
        namespace: Space,
        key: Hashable,
        /,
        delta: Any = 1,
        *,
        default: Any = 0,
        ttl: Any = UNSET,
    ) -> Steps[int]:
        """Add to a counter, which is held in the tier alone."""
        item = self.item(namespace, key)
        held = Namespace.peek(namespace, key, MISSING)
        if (
            item is None
            or _core._is_off(namespace)
            or (held is not MISSING and self.stays_here(item, held))
        ):
            if item is None:
                yield from self._remove_equal(namespace, key)
            return Namespace.incr(namespace, key, delta, default=default, ttl=ttl)
        for name, number in (("delta", delta), ("default", default)):
            if type(number) is not int:
                raise TypeError(f"{name}: must be an int, got {type(number).__name__}")
        seconds, grace, _, _ = _core._terms(namespace, key, default, ttl, (), None, tells=False)
        drop(namespace, key)
        try:
            total: int = yield from self.engine.incr(item, delta, default, plain(seconds), grace)
        finally:
            drop(namespace, key)
            self.note_errors(namespace)
        return total

    def steps_delete(self, namespace: Space, key: Hashable, /, *, wait: Any = None) -> Steps[bool]:
        """Remove a key here and there; true if it was fresh in either."""
        check_wait(wait)
        item = self.item(namespace, key) or self.equal_item(namespace, key)
        if item is None:
            return Namespace.delete(namespace, key)
        held = yield from self._remove(namespace, [item])
        if wait is not None:
            yield from self._await_drop(namespace, key)
        return bool(held)

    def _remove_equal(self, namespace: Space, key: Hashable) -> Steps[None]:
        """Remove in the tier what a write here is about to replace, under an equal key."""
        item = self.equal_item(namespace, key)
        if item is not None:
            try:
                yield from self.engine.delete_many([item])
            except BaseException:
                drop(namespace, key)
                raise
            _core._fence_key(namespace, key)

    def _remove(self, namespace: Space, items: list[Item]) -> Steps[int]:
        """Remove keys in one round trip; how many of them were fresh, here or there."""
        held = [is_held(namespace, item.key) for item in items]
        for item in items:
            drop(namespace, item.key)
        there = [False] * len(items)
        try:
            there = yield from self.engine.delete_many(items)
        except TierUnavailableError:
            if not self._queue_all("delete", items):
                raise
        finally:
            for item in items:
                drop(namespace, item.key)
            self.note_errors(namespace)
        return sum(map(operator.or_, held, there))

    def _queue_all(self, call: str, items: list[Item]) -> bool:
        """Queue calls on keys that the tier has not confirmed; False if there is no room."""
        queue, engine = self.engine.queue, self.engine
        for item in items:
            steps: functools.partial[Steps[Any]]
            if call == "expire":
                steps = functools.partial(engine.expire, item, queued=True)
            else:
                steps = functools.partial(engine.delete_many, [item], queued=True)
            if not queue.add(item.place, (call, item.name), steps):
                return False
        return True

    def _await_drop(self, namespace: Space, key: Hashable) -> Steps[None]:
        """Wait until each process has dropped a key (rule 11)."""
        item = self.item(namespace, key) or self.equal_item(namespace, key)
        if item is not None:
            yield from self.engine.drop_in_fleet(item)

    def steps_delete_many(self, namespace: Space, keys: Iterable[Hashable], /) -> Steps[int]:
        """Remove keys; how many of them were fresh, here or there."""
        listed = _core.listed_keys(keys)
        for key in listed:
            hash(key)  # All are checked before any is removed.
        removed = 0
        items: list[Item] = []
        for key in dict.fromkeys(listed):
            item = self.item(namespace, key) or self.equal_item(namespace, key)
            if item is None:
                removed += Namespace.delete(namespace, key)
            else:
                items.append(item)
        for first in range(0, len(items), MOST_TOGETHER):
            removed += yield from self._remove(namespace, items[first : first + MOST_TOGETHER])
        return removed

    def steps_pop(self, namespace: Space, key: Hashable, /, default: Any = UNSET) -> Steps[Any]:
        """Remove a key and return its fresh value; the tier decides who gets it."""
        item = self.item(namespace, key)
        held = Namespace.peek(namespace, key, MISSING)
        if item is None:
            if held is not MISSING:
                yield from self._remove_equal(namespace, key)
            return Namespace.pop(namespace, key, *(() if default is UNSET else (default,)))
        drop(namespace, key)
        try:
            popped = yield from self.engine.pop(item)
        finally:
            drop(namespace, key)
            self.note_errors(namespace)
        if popped is not None:
            return popped[0]
        if held is not MISSING and self.stays_here(item, held):
            return held
        if default is UNSET:
            raise KeyError(key)
        return default

    def steps_touch(self, namespace: Space, key: Hashable, /, ttl: Any = UNSET) -> Steps[bool]:
        """Give a fresh value another TTL, here or there."""
        seconds, _, _, _ = _core._terms(namespace, key, None, ttl, (), None, tells=False)
        item = self.item(namespace, key)
        if item is None:
            return Namespace.touch(namespace, key, ttl)
        if seconds <= 0:
            return bool((yield from self._remove(namespace, [item])))
        held = Namespace.peek(namespace, key, MISSING)
        if held is not MISSING and self.stays_here(item, held):
            return Namespace.touch(namespace, key, ttl)
        is_there = False
        try:
            is_there = yield from self.engine.touch(item, plain(seconds))
        except BaseException:
            drop(namespace, key)
            raise
        finally:
            self.note_errors(namespace)
        if not is_there:  # A full server drops values; what is held here is still valid.
            return Namespace.touch(namespace, key, plain(min(seconds, self._local_ttl)))
        drop(namespace, key)
        return True

    # Invalidating

    def steps_clear(self, namespace: Space, /, *, wait: Any = None) -> Steps[int]:
        """Remove all of a namespace and of those below it, in every process."""
        check_wait(wait)
        there = functools.partial(self.engine.clear, self.layout.place(namespace.path))
        return (yield from self._invalidate(namespace, there, lambda: clear(namespace), wait))

    def steps_invalidate_tag(
        self, namespace: Space, tag: str, /, *, wait: Any = None
    ) -> Steps[int]:
        """Remove what bears a tag, in every process."""
        if not isinstance(tag, str):
            raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
        return (yield from self.steps_invalidate_tags(namespace, tag, wait=wait))

    def steps_invalidate_tags(
        self, namespace: Space, tags: Any, /, *, match: Any = "any", wait: Any = None
    ) -> Steps[int]:
        """Remove what bears one of the tags, or all of them, in every process."""
        check_wait(wait)
        if match not in ("any", "all"):
            Namespace.invalidate_tags(namespace, tags, match=match)  # Raises.
        listed = tuple(dict.fromkeys(_core._tags(tags)))
        if not listed:
            return Namespace.invalidate_tags(namespace, listed, match=match)
        place = self.layout.place(namespace.path)
        there = functools.partial(self.engine.invalidate_tags, place, listed, match=match)
        return (
            yield from self._invalidate(
                namespace, there, lambda: drop_tags(namespace, listed, match), wait
            )
        )

    def steps_invalidate_prefix(
        self, namespace: Space, prefix: str, /, *, wait: Any = None
    ) -> Steps[int]:
        """Remove the keys of a namespace that begin so, in every process."""
        check_wait(wait)
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: must be a str, got {type(prefix).__name__}")
        exact = str.__str__(prefix)
        place = self.layout.place(namespace.path)
        there = functools.partial(self.engine.invalidate_prefix, place, exact)
        return (
            yield from self._invalidate(
                namespace, there, lambda: drop_prefix(namespace, exact), wait
            )
        )

    def steps_expire(self, namespace: Space, key: Hashable, /) -> Steps[bool]:
        """End the freshness of a key in every process; true if it was fresh here or there."""
        item = self.item(namespace, key) or self.equal_item(namespace, key)
        if item is None:
            return Namespace.expire(namespace, key)
        held, there = expire(namespace, key), False
        try:
            there = yield from self.engine.expire(item)
        except TierUnavailableError:
            if not self._queue_all("expire", [item]):
                raise
        finally:
            expire(namespace, key)
            self.note_errors(namespace)
        return held or there

    def steps_expire_tag(self, namespace: Space, tag: str, /) -> Steps[int]:
        """End the freshness of what bears a tag, in every process."""
        if not isinstance(tag, str):
            raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
        listed = _core._tags(tag)
        place = self.layout.place(namespace.path)
        there = functools.partial(self.engine.expire_tags, place, listed)
        return (
            yield from self._invalidate(namespace, there, lambda: expire_tags(namespace, listed))
        )

    def _invalidate(
        self,
        namespace: Space,
        there: functools.partial[Steps[None]],
        here: Callable[[], int],
        wait: object = None,
    ) -> Steps[int]:
        """Invalidate here, there, and here again: what was filled meanwhile may be old.

        What the tier does not confirm may be queued, unless the fleet is waited for.
        """
        removed = here()
        try:
            yield from there(fleet=wait is not None)
        except TierUnavailableError:
            what = there.func.__name__, *there.args, *there.keywords.values()
            if wait is not None or not self.engine.queue.add(there.args[0], what, there):
                raise
        finally:
            removed += here()
            self.note_errors(namespace)
        return removed

    # The connections

    def steps_connect(self) -> Steps[None]:
        """Begin to hear of the fleet; raise if that cannot be done."""
        bus, bucket = self.engine.bus, self.layout.all[0]
        until = monotonic() + CONNECTS_WITHIN
        yield from self.engine.live(bucket, CONNECTS_WITHIN)
        while not bus.is_live(bucket):
            trouble = bus.trouble_of(bucket)
            if isinstance(trouble, ConfigurationError):
                raise trouble
            left = until - monotonic()
            # A server that refuses a connection is away; one that is late may still answer.
            if left <= 0 or (trouble is not None and not isinstance(trouble, LateError)):
                raise TierUnavailableError(f"connect: {trouble or 'no answer in time'}")
            yield Pause(Bell(), min(left, LOOKS_AGAIN))

    @property
    def state(self) -> Literal["idle", "live", "apart", "closed"]:
        """How it is: for readiness probes.

        ``"idle"``: nothing was asked of it yet. ``"live"``: this process hears of the fleet.
        ``"apart"``: it does not, and what it holds is served by `on_partition=` alone.
        """
        return self.engine.bus.state

    @property
    def stale_served(self) -> int:
        """How many look-ups were answered after the lease, by ``on_partition=("stale", ...)``."""
        return self._held.stale_served

    @property
    def open_breakers(self) -> int:
        """How many servers are left alone for now, as they failed several times in a row."""
        return sum(one.breaker.state != "closed" for one in self.engine.servers.all)

    @property
    def queued(self) -> int:
        """How many invalidations wait to be sent, by `queue_invalidations=`."""
        return len(self.engine.queue)

    def get_by_name(self, namespace: Space, key: Hashable, /, default: Any = None) -> Any:
        """Answer a `get` whose default was given by name."""
        value = Namespace.get(namespace, key, MISSING)
        return self.get(namespace, key, default) if value is MISSING else value

    def close(self) -> None:
        """Leave the fleet and end the connections."""
        self.engine.close()

    async def finish_writes(self) -> None:
        """Wait for writes of this loop, those too whose callers were cancelled."""
        loop = asyncio.get_running_loop()
        # A task of another loop may not be waited for here: it ends there.
        own = [task for task in self._writes.copy() if task.get_loop() is loop]
        if own:
            await asyncio.wait(own)

    async def aclose(self) -> None:
        """Leave the fleet and end the connections, those of this loop as well."""
        await self.engine.aclose()


def would_block(name: str) -> WouldBlockError:
    """Return the error of a blocking call on the thread of a running event loop."""
    return WouldBlockError(
        f"{name}: the tier would be waited for on the thread of a running event loop; "
        f"await a{name}(...) instead"
    )


def check_wait(wait: object) -> None:
    """Raise `ValueError` unless it is `None` or "fleet"."""
    if wait is not None and wait != "fleet":
        raise ValueError(f'wait: must be None or "fleet", got {wait!r}')


def refuse_sliding(sliding: object) -> None:
    """Raise `ConfigurationError` for `sliding=`: hits here renew nothing in the tier."""
    if sliding is not None:
        raise ConfigurationError(
            "sliding: not in a namespace that lies in a tier, which is told of no hits; call "
            "configure(tiered=False) first"
        )


def is_held(namespace: Space, key: Hashable) -> bool:
    """Tell if a key is fresh here."""
    return Namespace.peek(namespace, key, MISSING) is not MISSING


def plain(seconds: float) -> float | None:
    """Return a TTL as the calls take it."""
    return None if math.isinf(seconds) else seconds


def window(grace: float) -> float | bool | None:
    """Return a stale window as the calls take it."""
    return True if math.isinf(grace) else grace or None
