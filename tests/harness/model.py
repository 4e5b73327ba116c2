"""The public contract of the core in plain Python, for reading and not for speed.

Entries live in plain dicts, and `ordering` keeps their order. An entry past its TTL and its stale
window is removed at the start of the next call. Namespaces are never forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from flowcache import ConfigurationError, EntryTooHeavyError, Limits
from harness.model_nodes import (
    NEVER,
    OMITTED,
    Entry,
    HashOf,
    Node,
    assign,
    forget_counts,
    settings_of,
)
from harness.ordering import Policy
from harness.sharing import Ledger


class ModelCache:
    """The tree, the clock and the rule that chooses the victim."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        default_ttl: float | None = 300.0,
        max_entries: int | None = 10_000,
        max_weight: int | None = None,
        weigher: Callable[[Any, Any], int] | None = None,
        child_limits: Limits | None = None,
        eviction: Policy = "lru",
        hash_of: HashOf = lambda path, key: 0,
        sharing: Literal["fair", "utility"] = "fair",
        max_loss: float = 0.05,
    ) -> None:
        self.clock = clock
        self.weigher = weigher
        self.hash_of = hash_of
        self.root = Node("", None, hash_of)
        self.root.eviction = eviction
        self.root.follow_policy()
        self.root.default_ttl = default_ttl
        self.root.max_entries = max_entries
        self.root.max_weight = max_weight
        self.root.child_limits = child_limits
        self.newcomer = (
            False  # the entry being stored replaces none, so no listener has seen it yet
        )
        self.storing: Node | None = None  # the namespace that counts a newcomer already
        self.ledger = None
        if sharing == "utility":
            self.ledger = Ledger(self.root, max_loss, lambda: self.storing)
        self.removed: list[
            tuple[tuple[str, ...], Any, str]
        ] = []  # path, key and cause of each removal, in order

    def namespace(self, *names: str, **settings: Any) -> ModelNamespace:
        return ModelNamespace(self, self.root).namespace(*names, **settings)

    def weigh(self, key: Hashable, value: Any) -> int:
        return 0 if self.weigher is None else self.weigher(key, value)

    def sweep(self) -> int:
        """Drop entries past their TTL and their stale window."""
        now = self.clock()
        due = [
            (node, key)
            for node in self.root.tree()
            for key, entry in node.entries.items()
            if entry.gone <= now
        ]
        for node, key in due:
            self.drop(node, key, "expired")
        return len(due)

    def drop(self, node: Node, key: Hashable, cause: str) -> Entry:
        entry = node.entries.pop(key)
        # A value that replaces another comes into its place; what is refused had none yet.
        if cause not in ("replaced", "refused"):
            node.order.remove(key)
        if cause != "refused":
            self.removed.append((node.path, key, cause))
        counter = COUNTED_AS.get(cause)
        if counter is not None:
            node.tally(counter)
        return entry

    def make_room(self, top: Node, storing: Node | None) -> None:
        """Evict at or below a namespace until it is within its limits.

        `storing` holds the new entry, as its most recent, which goes only when nothing else may.
        """
        while top.max_entries is not None and top.count() > top.max_entries:
            self.evict(top, storing, Node.count, len)
        while top.max_weight is not None and top.weight() > top.max_weight:
            self.evict(top, storing, Node.weight, own_weight)

    def evict(
        self, top: Node, storing: Node | None, measure: Measure, measure_own: OwnMeasure
    ) -> None:
        node = victim_namespace(top, storing, measure, measure_own)
        shares = self.ledger is not None and top is self.root and measure is Node.count
        if shares and node is not None:
            node = self.lender(storing, node)
        if storing is None:
            # A limit that shrinks on weight does not spare what is reserved in entries.
            node = node or victim_namespace(top, None, measure, measure_own, spare_reserved=False)
            if shares:
                self.note_eviction(node)
            self.drop(node, self.chosen(node), "over_limit")
            return
        if shares and node is not None:
            self.note_eviction(node)
        if node is None and self.newcomer:
            self.drop(storing, next(iter(storing.entries)), "refused")
        else:
            node = node or storing
            self.drop(node, self.chosen(node), "evicted")
        storing.tally("evictions_caused")

    def lender(self, storing: Node | None, fair: Node) -> Node:
        """The namespace that gives way by utility, where `fair` would by fair shares."""
        assert self.ledger is not None
        return self.ledger.victim(
            storing, fair, lambda child, new: victim_namespace(child, new, Node.count, len)
        )

    def note_eviction(self, node: Node) -> None:
        assert self.ledger is not None
        key = next(iter(node.order.listed()))
        hashed = self.hash_of(node.path, key)
        self.ledger.evict(node, hashed, node.entries[key].deadline, self.clock())

    def chosen(self, node: Node) -> Hashable:
        """The key of the entry of a namespace that gives way."""
        rejections = node.order.rejections
        key = node.order.victim()
        node.tally("rejections", node.order.rejections - rejections)
        return key


Measure = Callable[[Node], int]
OwnMeasure = Callable[[Mapping[Hashable, Entry]], int]

COUNTED_AS = {
    "expired": "expirations",
    "evicted": "evictions",
    "refused": "evictions",
    "over_limit": "evictions",
    "deleted": "invalidations",
    "cleared": "invalidations",
    "tag": "invalidations",
    "prefix": "invalidations",
}


def own_weight(entries: Mapping[Hashable, Entry]) -> int:
    return sum(entry.weight for entry in entries.values())


def victim_namespace(
    top: Node,
    storing: Node | None,
    measure: Measure,
    measure_own: OwnMeasure,
    *,
    spare_reserved: bool = True,
) -> Node | None:
    """The namespace at or below `top` whose least recent entry gives way; None: nothing may.

    Level by level the fullest for its share, the new entry counted. Ties fall to the storing
    namespace, then to a namespace's own entries, then to the child created first.
    """
    path = [] if storing is None else list(storing.line())

    def own_may_give(node: Node) -> bool:
        return len(node.entries) > (1 if node is storing else 0) and measure_own(node.entries) > 0

    def may_give(node: Node) -> bool:
        if spare_reserved and node not in path and node.count() <= node.reserved:
            return False
        return own_may_give(node) or any(may_give(child) for child in node.children.values())

    node = top
    while True:
        candidates = []
        if own_may_give(node):
            candidates.append((measure_own(node.entries) / 1.0, node is storing, True, 0, node))
        for order, child in enumerate(node.children.values()):
            if may_give(child):
                candidates.append(
                    (measure(child) / child.share, child in path, False, -order, child)
                )
        if not candidates:
            return None
        fullest = max(candidates, key=lambda candidate: candidate[:4])[4]
        if fullest is node:
            return node
        node = fullest


class ModelNamespace:
    """The calls of a namespace, by the names that the cache gives them."""

    def __init__(self, cache: ModelCache, node: Node) -> None:
        self.cache = cache
        self.node = node

    @property
    def path(self) -> tuple[str, ...]:
        return self.node.path

    def namespace(self, *names: str, **settings: Any) -> ModelNamespace:
        node = self.node
        first_made: Node | None = None
        try:
            for name in names:
                if name not in node.children:
                    child = node.children[name] = Node(name, node, self.cache.hash_of)
                    first_made = first_made or child
                    if node.child_limits is not None:
                        assign(child, settings_of(node.child_limits))
                        child.check_reservations()
                        child.give(settings_of(node.child_limits))
                        child.follow_policy()
                node = node.children[name]
            found = ModelNamespace(self.cache, node)
            if settings:
                found.change(settings, from_above=True)
        except ConfigurationError:
            if first_made is not None and first_made.parent is not None:
                del first_made.parent.children[first_made.name]
            raise
        return found

    def namespaces(self) -> set[str]:
        """Names of the children that hold entries, here or below."""
        self.cache.sweep()
        return {name for name, child in self.node.children.items() if child.count()}

    def configure(self, **settings: Any) -> None:
        self.change(settings, from_above=self.node.parent is None)

    def change(self, settings: Mapping[str, Any], *, from_above: bool) -> None:
        self.cache.sweep()
        before = vars(self.node).copy()
        assign(self.node, settings)
        try:
            if not from_above:
                self.node.check_given()
            self.node.check_reservations()
        except ConfigurationError:
            vars(self.node).update(before)
            raise
        if from_above:
            self.node.give(settings)
        self.node.follow_policy()
        self.cache.make_room(self.node, None)

    def enable(self, enabled: bool) -> bool:
        """Switch the namespace on or off; tell whether it is on."""
        self.node.enabled = enabled
        if self.node.is_off():
            self.clear()
        return not self.node.is_off()

    # Look-ups

    def fresh(self, key: Hashable) -> Entry | None:
        self.cache.sweep()
        entry = self.node.entries.get(key)
        return entry if entry is not None and self.cache.clock() < entry.deadline else None

    def use(self, key: Hashable) -> Entry | None:
        """A look-up that counts, and makes what it finds the most recent."""
        entry = self.fresh(key)
        self.node.tally("misses" if entry is None else "hits")
        ledger = self.cache.ledger
        if entry is None and ledger is not None:
            hashed = self.cache.hash_of(self.path, key)
            if ledger.miss(self.node, hashed, self.cache.clock()):
                ledger.tenant(self.node).node.tally("lost_hits")
        if entry is not None:
            self.node.entries[key] = entry.renewed(self.cache.clock())
            self.node.order.touch(key)
        return entry

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self.use(key)
        return default if entry is None else entry.value

    def peek(self, key: Hashable, default: Any = None) -> Any:
        entry = self.fresh(key)
        return default if entry is None else entry.value

    def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, Any]:
        found = {}
        for key in keys:
            entry = self.use(key)
            if entry is not None:
                found[key] = entry.value
        return found

    def ttl(self, key: Hashable) -> float | None:
        entry = self.fresh(key)
        if entry is None:
            raise KeyError(key)
        return None if entry.deadline == NEVER else entry.deadline - self.cache.clock()

    def contents(self) -> list[tuple[Hashable, Any]]:
        """Fresh entries in their order: by LRU, least recent first."""
        self.cache.sweep()
        now = self.cache.clock()
        entries = [(key, self.node.entries[key]) for key in self.node.order.listed()]
        return [(key, entry.value) for key, entry in entries if now < entry.deadline]

    def __getitem__(self, key: Hashable) -> Any:
        entry = self.use(key)
        if entry is None:
            raise KeyError(key)
        return entry.value

    def __contains__(self, key: Hashable) -> bool:
        return self.fresh(key) is not None

    def __len__(self) -> int:
        return len(self.contents())

    def inspect(self, key: Hashable) -> tuple[Any, ...] | None:
        """Whether it is fresh, its TTL, window, tags, weight, and for how long a hit renews it."""
        self.cache.sweep()
        entry = self.node.entries.get(key)
        if entry is None:
            return None
        left = entry.deadline - self.cache.clock()
        ttl = None if left == NEVER else max(left, 0)
        return left > 0, ttl, entry.window, entry.tags, entry.weight, entry.sliding

    # Stores

    def default_ttl(self) -> float | None:
        return next(
            node.default_ttl for node in self.node.line() if node.default_ttl is not OMITTED
        )

    def set(
        self,
        key: Hashable,
        value: Any,
        *,
        ttl: Any = OMITTED,
        tags: Any = (),
        stale: float | bool | None = None,
        sliding: float | None = None,
    ) -> None:
        self.cache.sweep()
        weight = self.cache.weigh(key, value)
        if any(
            node.max_weight is not None and weight > node.max_weight for node in self.node.line()
        ):
            raise EntryTooHeavyError
        window = NEVER if stale is True else (stale or 0.0)
        bears = frozenset((tags,) if isinstance(tags, str) else tags)
        self.place(key, self.timed(Entry(value, weight, 0, window, bears, sliding=sliding), ttl))

    def timed(self, entry: Entry, ttl: Any) -> Entry:
        """The entry with a TTL from now, and as far as a hit of now would take it."""
        limit = self.deadline(ttl)
        if entry.sliding is None:
            return replace(entry, deadline=limit, limit=limit)
        deadline = min(limit, self.cache.clock() + entry.sliding)
        return replace(entry, deadline=deadline, limit=limit)

    def deadline(self, ttl: Any) -> float:
        seconds = self.default_ttl() if ttl is OMITTED else ttl
        return NEVER if seconds is None else self.cache.clock() + seconds

    def place(self, key: Hashable, entry: Entry) -> None:
        old = self.node.entries.get(key)
        order = self.node.order
        self.cache.newcomer = old is None
        if old is not None:
            self.cache.drop(self.node, key, "replaced")
        if entry.deadline <= self.cache.clock() or self.node.is_off():
            if old is not None:
                order.remove(key)
            return  # a TTL of 0 stores nothing
        self.node.tally("sets")
        self.node.entries[key] = entry
        if old is not None:
            order.touch(key)
            if entry.weight > old.weight:
                order.renew(key)
        self.cache.storing = self.node if old is None else None
        for above in self.node.line():
            self.cache.make_room(above, self.node)
        self.cache.storing = None
        if old is None and key in self.node.entries:
            order.enter(key)

    def __setitem__(self, key: Hashable, value: Any) -> None:
        self.set(key, value)

    def set_many(self, mapping: Mapping[Hashable, Any], **options: Any) -> None:
        for key, value in mapping.items():
            self.set(key, value, **options)

    def add(self, key: Hashable, value: Any, **options: Any) -> bool:
        if self.fresh(key) is not None:
            return False
        if self.node.is_off():
            return True
        if options.get("ttl") == 0:
            return False
        self.set(key, value, **options)
        return key in self.node.entries

    def setdefault(self, key: Hashable, default: Any = None) -> Any:
        entry = self.use(key)
        if entry is not None:
            return entry.value
        self.set(key, default)
        return default

    def incr(self, key: Hashable, delta: int = 1, *, default: int = 0, ttl: Any = OMITTED) -> int:
        """A present entry keeps its TTL, tags and weight: `ttl` is for a new counter."""
        entry = self.fresh(key)
        if entry is None:
            self.add(key, default + delta, ttl=ttl)
            return default + delta
        if type(entry.value) is not int:
            raise TypeError(key)
        total = entry.value + delta
        self.place(key, replace(entry.renewed(self.cache.clock()), value=total))
        return total

    def touch(self, key: Hashable, ttl: Any = OMITTED) -> bool:
        entry = self.fresh(key)
        if entry is None:
            return False
        if self.deadline(ttl) <= self.cache.clock():
            self.cache.drop(self.node, key, "expired")
        else:
            self.node.entries[key] = self.timed(entry, ttl)
        return True

    # Removals

    def take(self, key: Hashable) -> Entry | None:
        """Remove what is held, stale or not, and tell what was fresh."""
        entry = self.fresh(key)
        if key in self.node.entries:
            self.cache.drop(self.node, key, "deleted")
        return entry

    def delete(self, key: Hashable) -> bool:
        return self.take(key) is not None

    def delete_many(self, keys: Iterable[Hashable]) -> int:
        return sum(self.delete(key) for key in keys)

    def __delitem__(self, key: Hashable) -> None:
        if self.take(key) is None:
            raise KeyError(key)

    def pop(self, key: Hashable, default: Any = OMITTED) -> Any:
        entry = self.take(key)
        if entry is not None:
            return entry.value
        if default is OMITTED:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Hashable, Any]:
        fresh = self.contents()
        if not fresh:
            raise KeyError("empty")
        key, value = fresh[0]
        self.cache.drop(self.node, key, "deleted")
        return key, value

    def remove_where(
        self, nodes: Iterable[Node], cause: str, covers: Callable[[Hashable, Entry], bool]
    ) -> int:
        self.cache.sweep()
        covered = [
            (node, key)
            for node in nodes
            for key, entry in node.entries.items()
            if covers(key, entry)
        ]
        for node, key in covered:
            self.cache.drop(node, key, cause)
        return len(covered)

    def clear(self) -> int:
        self.cache.sweep()
        forget_counts(self.node)
        if self.cache.ledger is not None:
            for child in self.cache.root.children.values():
                if child is self.node or (self.node is self.cache.root and child.count()):
                    self.cache.ledger.clear(child)
        return self.remove_where(self.node.tree(), "cleared", lambda key, entry: True)

    def invalidate_tag(self, tag: str) -> int:
        return self.invalidate_tags((tag,))

    def invalidate_tags(self, tags: Any, *, match: str = "any") -> int:
        wanted = frozenset((tags,) if isinstance(tags, str) else tags)

        def covers(key: Hashable, entry: Entry) -> bool:
            return (
                bool(wanted & entry.tags)
                if match == "any"
                else bool(wanted) and wanted <= entry.tags
            )

        return self.remove_where(self.node.tree(), "tag", covers)

    def invalidate_where(self, predicate: Callable[[Hashable, Any], bool]) -> int:
        return self.remove_where(
            self.node.tree(), "deleted", lambda key, entry: predicate(key, entry.value)
        )

    def end(self, node: Node, key: Hashable) -> bool:
        """Let the TTL of an entry end now; tell whether it was fresh."""
        entry, now = node.entries[key], self.cache.clock()
        if entry.deadline <= now:
            return False
        if entry.window:
            node.entries[key] = replace(entry, deadline=now, limit=now, sliding=None)
        else:
            self.cache.drop(node, key, "expired")
        return True

    def expire(self, key: Hashable) -> bool:
        self.cache.sweep()
        return key in self.node.entries and self.end(self.node, key)

    def expire_tag(self, tag: str) -> int:
        self.cache.sweep()
        return sum(
            self.end(node, key)
            for node in self.node.tree()
            for key, entry in list(node.entries.items())
            if tag in entry.tags
        )

    def tags(self) -> dict[str, int]:
        self.cache.sweep()
        return dict(
            Counter(
                tag
                for node in self.node.tree()
                for entry in node.entries.values()
                for tag in entry.tags
            )
        )

    def invalidate_prefix(self, prefix: str) -> int:
        return self.remove_where(
            [self.node],
            "prefix",
            lambda key, entry: isinstance(key, str) and key.startswith(prefix),
        )

    # Counters

    def counters(self) -> dict[str, int]:
        self.cache.sweep()
        return {**self.node.totals, "entries": self.node.count(), "weight": self.node.weight()}

    def reset_stats(self) -> None:
        self.cache.sweep()
        for node in self.node.tree():
            node.totals.clear()
