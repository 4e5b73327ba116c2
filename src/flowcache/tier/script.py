"""The scripts that run in the server: their text, and the commands that call them."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Final

from .resp import pack

__all__ = ["Script", "script"]

COMMON: Final = "_common.lua"


class Script:
    """One script. A server that does not know it yet is sent its text, once."""

    __slots__ = ("_digest", "_text", "name")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text.encode()
        self._digest = sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: tuple[bytes, ...], *arguments: bytes | int) -> bytes:
        """Return the command that runs it by its digest."""
        return pack(b"EVALSHA", self._digest, len(keys), *keys, *arguments)

    def call_in_full(self, keys: tuple[bytes, ...], *arguments: bytes | int) -> bytes:
        """Return the command that runs it and makes the server know it, after a `NOSCRIPT`."""
        return pack(b"EVAL", self._text, len(keys), *keys, *arguments)

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


@cache
def script(name: str) -> Script:
    """Return a script of this package by its name, read at the first call."""
    folder = files(__package__).joinpath("scripts")
    common = folder.joinpath(COMMON).read_text("utf-8")
    first, _, rest = folder.joinpath(f"{name}.lua").read_text("utf-8").partition("\n")
    # The server reads the flags from the first line, which has to stay the first.
    return Script(name, f"{first}\n{common}\n{rest}")
