"""Guests: what a cache is given in tests, and the code that it runs of them.

Each guest belongs to a house, which is told of every visit: whenever the cache runs a guest's code.
The roll of a house has the guests that are alive, so that a leak shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any


class BoomError(Exception):
    """What a guest raises."""


class Roll:
    """The guests that are alive: by identity, for a set would hash and compare them."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Any]] = {}

    def add(self, guest: Any) -> None:
        key, refs = id(guest), self._refs
        refs[key] = weakref.ref(guest, lambda _: refs.pop(key, None))

    def __len__(self) -> int:
        return len(self._refs)


class Key:
    """Equal by its label; of a few hashes, so that many meet."""

    def __init__(self, house: House, label: Any, hashed: int = 7) -> None:
        self.house = house
        self.label = label
        self.hashed = hashed
        house.alive.add(self)

    def __hash__(self) -> int:
        self.house.visit("hash")
        return self.hashed

    def __eq__(self, other: object) -> bool:
        self.house.visit("eq")
        return isinstance(other, Key) and self.label == other.label

    def __del__(self) -> None:
        self.house.visit("del")


class Value:
    """Refers to other objects, also to its cache: then it goes with the collector alone."""

    def __init__(self, house: House, refers: Any = None) -> None:
        self.house = house
        self.refers = refers
        house.alive.add(self)

    def __del__(self) -> None:
        self.house.visit("del")


class House:
    """What harnesses with guests have in common: see `calls.Guests`. By itself it is harmless."""

    cache: Any = None
    alive: Roll

    def __init__(self) -> None:
        self.alive = Roll()

    def visit(self, place: str) -> None:
        """Take note that a guest's code runs, and perhaps do something there."""

    def held(self) -> Any:
        return Key(self, "held")

    def new(self) -> Any:
        return Key(self, "new")

    def number(self) -> Any:
        return "key:number"

    def value(self) -> Any:
        return Value(self)

    def ttl(self) -> Any:
        return 5

    def tags(self) -> Any:
        return self.several("red", "green")

    def several(self, *items: Any) -> Iterator[Any]:
        for item in items:
            self.visit("iterable")
            yield item

    def load(self) -> Any:
        self.visit("loader")
        return self.value()

    async def load_async(self) -> Any:
        self.visit("loader")
        await asyncio.sleep(0)
        self.visit("loader")
        return self.value()

    def load_many(self, keys: list[Any]) -> dict[Any, Any]:
        self.visit("loader")
        return {key: self.value() for key in keys}

    def fail(self) -> Any:
        self.visit("loader")
        raise BoomError

    def falls_back(self, error: Exception) -> bool:
        self.visit("fallback_on")
        return True

    def lasts(self, value: Any) -> Any:
        self.visit("ttl")
        return 5

    def leads_to(self, tenant: str) -> Any:
        self.visit("path")
        return self.several(tenant)

    @contextlib.contextmanager
    def around(self, path: tuple[str, ...], key: Any) -> Iterator[None]:
        self.visit("around_load")
        yield
        self.visit("around_load")

    def store_if(self, value: Any) -> bool:
        self.visit("store_if")
        return True

    def matches(self, key: Any, value: Any) -> bool:
        self.visit("predicate")
        return True

    def listen(self, event: Any) -> None:
        self.visit("listener")

    def patience(self) -> dict[str, Any]:
        return {}
