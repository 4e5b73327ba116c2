"""The server's protocol: commands as bytes, and replies out of a stream of bytes.

Both RESP2 and RESP3 are read. A command is packed once and sent often: the tier mostly sends the
same few commands with other names.
"""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["ProtocolError", "Push", "Replies", "ReplyError", "pack"]

DEEPEST: Final = 8
"""Arrays within arrays that a reply may have."""
_TIME: Final = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n\$(\d)\r\n(\d+)\r\n")


class ReplyError(Exception):
    """A server's refusal. `kind` is its first word: `NOSCRIPT`, `MOVED`, `OOM`."""

    @property
    def kind(self) -> str:
        """The first word of the refusal."""
        return str(self.args[0]).partition(" ")[0]


class Push(list[Any]):
    """A push of the server: a message, or a confirmation of a subscription."""

    __slots__ = ()


class ProtocolError(Exception):
    """Bytes that are no reply; the connection that they came from is of no more use."""


def pack(*arguments: bytes | int) -> bytes:
    """Return a command as the server reads it."""
    pieces = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = b"%d" % argument if isinstance(argument, int) else argument
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


class Replies:
    """Replies out of the bytes that arrive, in pieces of any size.

    `next()` returns `Replies.NONE` until a reply is complete. A refusal is returned as a
    `ReplyError`; it is not raised, for it belongs to one command of many.
    """

    __slots__ = ("_data", "at")

    NONE: Final = object()

    def __init__(self) -> None:
        self._data = b""
        self.at = 0
        """The position of the next reply in the bytes that have arrived."""

    def feed(self, data: bytes) -> None:
        """Take the bytes that have arrived."""
        rest = self._data[self.at :] if self.at else self._data
        self._data = rest + data if rest else data
        self.at = 0

    def next_time(self) -> Any:
        """Return the next reply, as `next` does, which most likely is one to TIME."""
        found = _TIME.match(self._data, self.at)
        if found is None:
            return self.next()
        seconds, digits, microseconds = found.groups()
        if len(microseconds) != int(digits):
            return self.next()
        self.at = found.end()
        return [seconds, microseconds]

    def skip(self, known: bytes) -> bool:
        """Pass by whole replies if these bytes come next; return whether they did."""
        if self._data.startswith(known, self.at):
            self.at += len(known)
            return True
        return False

    def since(self, at: int) -> bytes:
        """Return the bytes that were read since a position; nothing was fed meanwhile."""
        return self._data[at : self.at]

    @property
    def is_empty(self) -> bool:
        """True if no part of a reply waits for its end."""
        return self.at == len(self._data)

    def next(self) -> Any:
        """Return the next reply, or `NONE`; `ProtocolError` if the bytes are none."""
        data, at = self._data, self.at
        try:
            # A value that was asked for, which most replies are, is read at once.
            if data[at : at + 1] == b"$" and (line := data.find(b"\r\n", at)) > 0:
                start = line + 2
                end = start + int(data[at + 1 : line])
                if start <= end <= len(data) - 2:
                    self.at = end + 2
                    return data[start:end]
            parsed = _parse(data, at, DEEPEST)
        except ValueError as error:
            raise ProtocolError(f"the server's reply cannot be read: {error}") from None
        if parsed is None:
            return self.NONE
        reply, self.at = parsed
        return reply


def _parse(data: bytes, at: int, depth: int) -> tuple[Any, int] | None:
    """Return the value that begins here and where it ends; None if it is not complete."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind = data[at]
    if kind == 36:  # "$"
        length = int(data[at + 1 : end])
        if length < 0:
            return None, end + 2
        start = end + 2
        end = start + length
        if len(data) < end + 2:
            return None
        return data[start:end], end + 2
    if kind == 42:  # "*"
        return _parse_array(data, at, end, depth, 1)
    text = data[at + 1 : end]
    after = end + 2
    if kind == 58:  # ":"
        return int(text), after
    if kind == 43:  # "+"
        return text, after
    if kind == 45:  # "-"
        return ReplyError(text.decode("utf-8", "replace")), after
    if kind == 95:  # "_"
        return None, after
    if kind == 62:  # ">"
        parsed = _parse_array(data, at, end, depth, 1)
        return None if parsed is None else (Push(parsed[0]), parsed[1])
    if kind == 37:  # "%"
        parsed = _parse_array(data, at, end, depth, 2)
        if parsed is None:
            return None
        flat = parsed[0]
        return dict(zip(flat[::2], flat[1::2], strict=True)), parsed[1]
    if kind == 126:  # "~"
        return _parse_array(data, at, end, depth, 1)
    if kind == 35:  # "#"
        return text == b"t", after
    if kind == 44:  # ","
        return float(text), after
    if kind == 40:  # "("
        return int(text), after
    if kind == 61 or kind == 33:  # "=" and "!"
        start, end = after, after + int(text)
        if len(data) < end + 2:
            return None
        body = data[start:end]
        if kind == 61:
            return body[4:], end + 2
        return ReplyError(body.decode("utf-8", "replace")), end + 2
    raise ValueError(f"{data[at : at + 1]!r} begins no reply")


def _parse_array(data: bytes, at: int, end: int, depth: int, width: int) -> tuple[Any, int] | None:
    count = int(data[at + 1 : end]) * width
    if count < 0:
        return None, end + 2
    if not depth:
        raise ValueError("arrays are nested too deeply")
    items: list[Any] = []
    at = end + 2
    for _ in range(count):
        # Strings and nulls, of which records and messages are made, are read here: a call for each
        # would cost more than all else.
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        kind = data[at]
        if kind == 95:  # "_"
            items.append(None)
            at = end + 2
            continue
        if kind == 36 and (length := int(data[at + 1 : end])) >= 0:  # "$"
            at, end = end + 2, end + 2 + length
            if len(data) < end + 2:
                return None
            items.append(data[at:end])
            at = end + 2
            continue
        parsed = _parse(data, at, depth - 1)
        if parsed is None:
            return None
        items.append(parsed[0])
        at = parsed[1]
    return items, at
