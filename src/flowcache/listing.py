"""What ``values()`` and ``items()`` return: views of a namespace's fresh entries as a mapping.

For ``keys()`` the standard ``KeysView`` will do. The standard views of values and items would look
each key up, which counts, and fails when another thread has removed it.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, TypeVar

from . import _core

__all__ = ["Items", "KeysView", "Values"]

V = TypeVar("V")


class Values(ValuesView[V]):
    """The fresh values, least recent first, as they are when an iteration begins."""

    __slots__ = ()
    _mapping: _core.Namespace[V]

    def __contains__(self, value: object) -> bool:
        """Tell whether a fresh entry has this value. O(n)."""
        return any(held is value or held == value for held in self)

    def __iter__(self) -> Iterator[V]:
        """Iterate over the values of this moment."""
        return iter(self._mapping._listed()[1])


class Items(ItemsView[Any, V]):
    """The fresh keys and values, least recent first, as they are when an iteration begins."""

    __slots__ = ()
    _mapping: _core.Namespace[V]

    def __contains__(self, item: object) -> bool:
        """Tell whether the key has this fresh value. O(1); does not count as a look-up."""
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        key, value = item
        held: object = self._mapping.peek(key, ABSENT)
        return held is not ABSENT and (held is value or held == value)

    def __iter__(self) -> Iterator[tuple[Any, V]]:
        """Iterate over the pairs of this moment."""
        return zip(*self._mapping._listed(), strict=True)


ABSENT = object()
