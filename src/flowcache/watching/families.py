"""Keys as a page shows them: in families by patterns, and masked unless they may be read."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Hashable, Iterable
from typing import Any

from flowcache.reports import shown

__all__ = ["Keys", "checked_groups"]

REST = "(other keys)"


def checked_groups(groups: Any) -> tuple[re.Pattern[str], ...]:
    """Return the patterns of families; `TypeError` or `ValueError` for what is none."""
    given = (groups,) if isinstance(groups, (str, re.Pattern)) else groups
    if not isinstance(given, Iterable) or isinstance(given, (bytes, bytearray)):
        raise TypeError(f"groups: must be patterns, got {type(groups).__name__}")
    patterns = []
    for one in given:
        if isinstance(one, str):
            try:
                patterns.append(re.compile(one))
            except re.error as error:
                raise ValueError(f"groups: {shown(one)} is no pattern: {error}") from None
        elif isinstance(one, re.Pattern) and isinstance(one.pattern, str):
            patterns.append(one)
        else:
            raise TypeError(f"groups: each must be a str or a pattern, got {type(one).__name__}")
    return tuple(patterns)


class Keys:
    """Turns keys into text. A masked key is its type and a number that differs by process."""

    def __init__(self, groups: Iterable[re.Pattern[str]] = (), *, reveal: bool = False) -> None:
        self._groups = tuple(groups)
        self._secret = secrets.token_bytes(16)
        self.revealed = reveal

    def text(self, key: Hashable) -> str:
        """Return a key as it may be shown."""
        if self.revealed:
            return shown(key)
        told = shown(key).encode("utf-8", "backslashreplace")
        digest = hashlib.blake2b(told, digest_size=4, key=self._secret).hexdigest()
        return f"{type(key).__name__} #{digest}"

    def family(self, key: Hashable) -> str:
        """Return the family of a key: the first pattern that matches all of it."""
        text = key if isinstance(key, str) else shown(key)
        for pattern in self._groups:
            if pattern.fullmatch(text):
                return pattern.pattern
        return REST

    @property
    def has_families(self) -> bool:
        """Whether there are patterns."""
        return bool(self._groups)
