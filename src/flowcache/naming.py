"""The names of cached functions and of their calls.

A label is a function's qualified name. If two different functions bear one name (closures of one
factory, cells of a notebook), each has a label of its own. The key of a call begins with the label.
"""

from __future__ import annotations

import functools
import itertools
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, MutableMapping

    Arguments = tuple[Any, ...]
    Keywords = dict[str, Any]

__all__ = [
    "GAP",
    "KEYWORDS",
    "TYPES",
    "is_shared",
    "label_of",
    "label_with_tags",
    "make_key",
    "own_tag_of",
    "unfold",
]


class Mark:
    """Separates the parts of a key: it equals only itself, and no caller can pass it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


KEYWORDS = Mark("keywords")
TYPES = Mark("types")
GAP: Any = getattr(functools, "Placeholder", KEYWORDS)
"""The placeholder of a `partial` for a later positional argument; new in 3.14."""


def make_key(label: str, args: Arguments, kwargs: Keywords, typed: bool) -> tuple[Hashable, ...]:
    """Return the key of a call.

    `f(1)`, `f(x=1)` and, if `typed`, `f(True)` and `f(1.0)` have four different ones. The order in
    which keywords are given makes no difference.
    """
    if not kwargs and not typed:
        return (label, *args)
    key: tuple[Any, ...] = (label, *args)
    named = sorted(kwargs.items())
    if named:
        key += (KEYWORDS, *(part for item in named for part in item))
    if typed:
        key += (TYPES, *map(type, args), *(type(value) for _, value in named))
    return key


_labels: weakref.WeakKeyDictionary[Callable[..., Any], str] = weakref.WeakKeyDictionary()
_bearers: dict[str, itertools.count[int]] = {}
_shared: set[str] = set()
"""Labels that are not their bearers' alone, as other processes cannot tell them apart."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the module and the qualified name, which other functions may bear as well."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    # A doubled "#" is part of the name, so that a number after a single one cannot be.
    return f"{getattr(function, '__module__', None)}.{name}".replace("#", "##")


def label_of(function: Callable[..., Any]) -> str:
    """Return the function's label: always the same one, and no other function's."""
    # A function with an `__eq__` of its own could equal another. One without weak references is not
    # remembered. Each wrapper of these has its own label.
    equals: Any = type(function).__eq__
    labels: MutableMapping[Callable[..., Any], str] = _labels if equals is object.__eq__ else {}
    try:
        known = labels.get(function)
    except TypeError:
        known, labels = None, {}
    if known is not None:
        return known
    label = name_of(function)
    nth = next(_bearers.setdefault(label, itertools.count(1)))
    if nth > 1:
        _shared.add(label)
        label = f"{label}#{nth}"
    return labels.setdefault(function, label) if labels is _labels else label


def is_numbered(label: str) -> bool:
    """Return whether other functions had the name before."""
    return "#" in label.replace("##", "")


def is_shared(name: str, label: str) -> bool:
    """Return whether other processes cannot tell which function is meant by its name and its label.

    A closure's label, and that of one of several functions of one name, is numbered in the order in
    which they were made.
    """
    return "<" in name or name in _shared or label in _shared or "#tags:" in label


_taggers: dict[str, str] = {}
"""The functions that make the tags, by the label that a wrapper has with the first of a name."""


def label_with_tags(label: str, tags: tuple[str, ...] | Callable[..., Any]) -> str:
    """Return the label of a wrapper: another one for other tags.

    A result of one wrapper lacks the tags of the other, and would outlive their invalidation.
    """
    if not tags:
        return label
    # No name has a single "#" that no number follows.
    text = f"{label}#tags={name_of(tags) if callable(tags) else tuple(sorted(set(tags)))}"
    if callable(tags):
        # The number of a lambda follows the order of imports, which differs between processes.
        known = label_of(tags)
        is_first = not is_numbered(label) and _taggers.setdefault(text, known) == known
        if not is_first:
            if text in _taggers:
                _shared.add(text)
            text = f"{label}#tags:{known}"
    # Interned, because compiled code compares labels by identity.
    return sys.intern(text)


def own_tag_of(label: str) -> str:
    """Return the tag of a function's results: the same in every process."""
    if len(label) > 200:
        from hashlib import blake2b

        digest = blake2b(label.encode("utf-8", "surrogatepass"), digest_size=15).hexdigest()
        label = f"{digest}:{label[-150:]}"
    return f"flowcache.function:{label}"


def unfold(function: Callable[..., Any]) -> tuple[Callable[..., Any], Arguments, Keywords]:
    """Return what a bound method or a `partial` calls, and the arguments that it brings.

    Both are made anew at each use, and the function that they call is the same. A `partial` with
    gaps between its arguments is left as it is.
    """
    args: Arguments = ()
    kwargs: Keywords = {}
    while True:
        if type(function) is functools.partial and all(arg is not GAP for arg in function.args):
            args = (*function.args, *args)
            kwargs = {**function.keywords, **kwargs}
            function = function.func
        elif type(function) is types.MethodType:
            args = (function.__self__, *args)
            function = function.__func__
        else:
            return function, args, kwargs
