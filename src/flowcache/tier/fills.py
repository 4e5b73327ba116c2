"""What a process holds of its tier: keys that travel, values that stay, and fills from there.

What fills the process's own half is registered as a fill before its first request, and stores only
if nothing has fenced it (rule 1).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Hashable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flowcache import _core
from flowcache._core import lease_time as monotonic
from flowcache.errors import CacheClosedError, EntryTooHeavyError, TierUnavailableError

from .codec import UnencodableError
from .engine import seal
from .forking import renew_after_forks
from .held import Held
from .layout import Layout, equal_key

if TYPE_CHECKING:
    from .items import Found, Item
    from .layout import Place
    from .settings import ValkeyTier
    from .steps import Steps

__all__ = ["Fills"]

logger = logging.getLogger("flowcache")

Space = _core.Namespace[Any]
MOST_HINTS: Final = 10_000


class Fills:
    """What the processes of a fleet have in the tier, and what of it this one holds."""

    def __init__(self, root: Space, settings: ValkeyTier, name: str, tenant_depth: int) -> None:
        store = root._store()
        self.layout = Layout(
            name, buckets=settings.buckets, tenant_depth=tenant_depth, prefix=settings.prefix
        )
        self.settings = settings
        self._held = Held(store, self.layout, settings.stale_for)
        self.engine = settings.engine(self.layout, self._held)
        self._local_ttl = math.inf if settings.local_ttl is None else settings.local_ttl
        self._hints: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._unknown: set[type] = set()
        self._errors = 0
        self.renew()
        renew_after_forks(self)

    def renew(self) -> None:
        """Begin with a lock that no thread holds."""
        self._counting = threading.Lock()

    def item(self, namespace: Space, key: Hashable) -> Item | None:
        """Return a key's names in the tier; None for a key that stays in the process.

        Invalidations reach that one as well, so its bucket is followed. What is held of it until
        that is live is void then.
        """
        item = self.engine.items.item(namespace.path, key)
        if item is None:
            bus, bucket = self.engine.bus, self.layout.place(namespace.path).bucket
            if not bus.is_live(bucket):
                bus.follow(bucket)
                bus.count_in(bucket)
        return item

    def equal_item(self, namespace: Space, key: Hashable) -> Item | None:
        """Return the names in the tier of a key that is one with a key that stays here."""
        equal = equal_key(key)
        return None if equal is None else self.item(namespace, equal)

    def read_item(self, namespace: Space, key: Hashable) -> Item | None:
        """Return the same, to read with; None too where nothing is held, as it is switched off."""
        return None if _core._is_off(namespace) else self.item(namespace, key)

    def sealed(
        self, namespace: Space, item: Item, value: object, tags: tuple[str, ...]
    ) -> bytes | None:
        """Return a value's bytes; None, counted and logged once a type, if it has to stay here."""
        sealed = seal(self.engine.items, item, value, tags)
        if not isinstance(sealed, UnencodableError):
            return sealed
        _core._tally(namespace, "untiered")
        if sealed.kind not in self._unknown:
            self._unknown.add(sealed.kind)
            logger.warning("values of a type stay in the process: %s", sealed)
        return None

    def note_errors(self, namespace: Space) -> None:
        """Count what the tier did not do since the last time, once."""
        # Not waited for: the next call counts them too.
        if self.engine.errors == self._errors or not self._counting.acquire(blocking=False):
            return
        errors, self._errors = self.engine.errors - self._errors, self.engine.errors
        self._counting.release()
        with suppress(CacheClosedError):
            _core._tally(namespace, "errors", errors)

    def keep(self, namespace: Space, fill: _core.Load, found: Found) -> None:
        """Hold here what was read there, unless the fill was fenced."""
        until, grace = math.inf, 0.0
        if found.until is not None:
            until = found.until
            if found.last is not None and found.last > until:
                grace = found.last - until
        self.store(
            namespace, fill, found.value, found.ttl, until, grace, found.tags, stale_ok=False
        )

    def store(
        self,
        namespace: Space,
        fill: _core.Load,
        value: object,
        ttl: float | None,
        until: float,
        grace: float,
        tags: tuple[str, ...],
        *,
        stale_ok: bool,
    ) -> None:
        """Hold a value here, unless the fill was fenced; one that is too heavy is not held."""
        if self._local_ttl != math.inf:
            until, grace = self.ends(until, grace)
        seconds = math.inf if ttl is None else ttl
        try:
            _core._fill_store(namespace, fill, value, seconds, until, grace, stale_ok, tags)
        except (CacheClosedError, EntryTooHeavyError):
            return

    def ends(self, until: float, grace: float) -> tuple[float, float]:
        """Return when a value ends here, and for how long it is held past that: `local_ttl=`."""
        local = monotonic() + self._local_ttl
        return (local, 0.0) if local < until else (until, grace)

    def found(
        self, namespace: Space, key: Hashable, item: Item, tags: tuple[str, ...] = ()
    ) -> Steps[Found | None]:
        """Read a key there, and hold it here; None if there is nothing, or no server answers."""
        hint = tags or self._hints.get(item.place.path, ())
        fill = _core._fill(namespace, key)  # Rule 1.
        try:
            found = yield from self.engine.read(item, hint)
            if found is None:
                _core._tally(namespace, "absent")
                self.refuse_partition(item.place)
                return None
            self._note(namespace, found, hint)
            self.keep(namespace, fill, found)
            return found
        finally:
            _core._fill_end(fill)
            if self.engine.caller.errors != self._errors:
                self.note_errors(namespace)

    def _note(self, namespace: Space, found: Found, hint: tuple[str, ...]) -> None:
        if found.tags and found.tags != hint and len(found.tags) <= 8:
            if len(self._hints) >= MOST_HINTS:
                self._hints.clear()
            self._hints[namespace.path] = found.tags
        fresh = found.until is None or monotonic() < found.until
        _core._tally(namespace, "hits" if fresh else "absent")

    def refuse_partition(self, place: Place) -> None:
        """Raise `TierUnavailableError` without a lease, if that is what `on_partition=` asks."""
        if self.settings.is_strict and not self.engine.bus.is_live(place.bucket):
            raise TierUnavailableError("the tier cannot be reached, and what is held may be old")

    def found_many(
        self, namespace: Space, keys: Iterable[Hashable], tags: tuple[str, ...] = ()
    ) -> Steps[dict[Hashable, Found]]:
        """Read keys there that are not held here, and hold them."""
        items: dict[Hashable, Item] = {}
        for key in keys:
            item = self.read_item(namespace, key)
            if item is not None:
                items[key] = item
        if not items:
            return {}
        fills = {key: _core._fill(namespace, key) for key in items}
        hint = tags or self._hints.get(namespace.path, ())
        try:
            by_item = yield from self.engine.read_many(list(items.values()), hint)
            found: dict[Hashable, Found] = {}
            for key, item in items.items():
                one = by_item.get(item)
                if one is None:
                    _core._tally(namespace, "absent")
                    self.refuse_partition(item.place)
                    continue
                found[key] = one
                self._note(namespace, one, hint)
                self.keep(namespace, fills[key], one)
            return found
        finally:
            for fill in fills.values():
                _core._fill_end(fill)
            self.note_errors(namespace)

    def stays_here(self, item: Item, value: object) -> bool:
        """Tell if a value cannot be in the tier, and so is nowhere but here."""
        return isinstance(seal(self.engine.items, item, value, ()), UnencodableError)
