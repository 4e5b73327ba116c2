"""The model's namespaces: their place in the tree, their settings, their entries and totals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flowcache import ConfigurationError, Limits
from harness.ordering import Order, Policy

NEVER = math.inf
OMITTED: Any = object()


@dataclass(frozen=True)
class Entry:
    value: Any
    weight: int
    deadline: float  # fresh before this
    window: float  # seconds past the deadline in which it is served stale
    tags: frozenset[str]
    limit: float = NEVER  # the end of its TTL, beyond which no hit moves the deadline
    sliding: float | None = None  # seconds for which a hit renews it

    def renewed(self, now: float) -> Entry:
        """The same entry after a hit."""
        if self.sliding is None:
            return self
        return replace(self, deadline=max(self.deadline, min(self.limit, now + self.sliding)))

    @property
    def gone(self) -> float:
        return self.deadline + self.window


HashOf = Callable[[tuple[str, ...], Hashable], int]
"""The hash of a key in the namespace of a path, as the core has it."""


class Node:
    """One namespace: its place in the tree, its settings, its entries, its subtree's totals."""

    def __init__(self, name: str, parent: Node | None, hash_of: HashOf) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[str, Node] = {}  # in the order of creation
        self.entries: dict[Hashable, Entry] = {}
        self.totals: Counter[str] = Counter()
        self.default_ttl: Any = OMITTED
        self.max_entries: int | None = None
        self.max_weight: int | None = None
        self.reserved = 0
        self.share = 1.0
        self.guaranteed = 0.5
        self.child_limits: Limits | None = None
        self.given: dict[str, Any] = {
            "max_entries": None,
            "max_weight": None,
            "reserved": 0,
            "share": 1.0,
            "guaranteed": 0.5,
        }
        self.enabled = True
        self.eviction: Any = OMITTED
        self.order = Order(
            "lru" if parent is None else parent.policy(), lambda key: hash_of(self.path, key)
        )

    def policy(self) -> Policy:
        return next(node.eviction for node in self.line() if node.eviction is not OMITTED)

    def follow_policy(self) -> None:
        """Switch the orders here and below to the policies in force."""
        for node in self.tree():
            node.order.switch(node.policy())

    def is_off(self) -> bool:
        return not all(node.enabled for node in self.line())

    @property
    def path(self) -> tuple[str, ...]:
        return () if self.parent is None else (*self.parent.path, self.name)

    def line(self) -> Iterator[Node]:
        """This namespace, then each one above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def tree(self) -> Iterator[Node]:
        """This namespace, then each one below it."""
        yield self
        for child in self.children.values():
            yield from child.tree()

    def count(self) -> int:
        return sum(len(node.entries) for node in self.tree())

    def weight(self) -> int:
        return sum(entry.weight for node in self.tree() for entry in node.entries.values())

    def held_back(self) -> int:
        """Entries that reservations here and below keep."""
        return max(self.reserved, sum(child.held_back() for child in self.children.values()))

    def check_reservations(self) -> None:
        """Refuse what is reserved if it exceeds a limit or a reservation, here or above."""
        for node in self.line():
            if node.parent is not None and node.held_back() > node.reserved:
                raise ConfigurationError
            if node.max_entries is not None and node.held_back() > node.max_entries:
                raise ConfigurationError

    def give(self, settings: Mapping[str, Any]) -> None:
        """Note what was set from above: the namespace's own view sets no more."""
        self.given.update((name, settings[name]) for name in self.given if name in settings)

    def check_given(self) -> None:
        """Refuse what goes beyond what was given."""
        for name, most in self.given.items():
            now = getattr(self, name)
            if most is not None and (now is None or now > most):
                raise ConfigurationError

    def tally(self, counter: str, amount: int = 1) -> None:
        for node in self.line():
            node.totals[counter] += amount


def forget_counts(node: Node) -> None:
    """Forget how often keys were stored, as far as there are entries."""
    node.order.sketch = None
    for child in node.children.values():
        if child.count():
            forget_counts(child)


def settings_of(limits: Limits) -> dict[str, Any]:
    """What `limits` says, without what it leaves out."""
    blank = Limits()
    said = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: value for name, value in said.items() if value is not getattr(blank, name)}


def assign(node: Node, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        setattr(node, name, value)
