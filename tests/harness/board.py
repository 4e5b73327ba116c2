"""Numbers that processes share, in a file that all of them map."""

from __future__ import annotations

import mmap

__all__ = ["SIZE", "Board"]

SIZE = 1 << 16
"""Bytes of the file."""


class Board:
    """Integers of 64 bits, by index. Each is read and written at once.

    `struct.pack_into` would clear the bytes before it writes them, and another process would read
    0 in between.
    """

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("q")

    def get(self, at: int) -> int:
        """Return a number."""
        return int(self._numbers[at])

    def put(self, at: int, number: int) -> None:
        """Write a number."""
        self._numbers[at] = number
