"""Patterns of keys, as Redis has them: ``*``, ``?``, ``[abc]``, ``[^a-z]``, and a backslash."""

from __future__ import annotations

import re

__all__ = ["escape", "prefix_of", "regex_of"]

SPECIAL = frozenset("*?[]\\")


def escape(text: str) -> str:
    """Return the pattern that matches this text and no other."""
    return "".join("\\" + one if one in SPECIAL else one for one in text)


def prefix_of(pattern: str) -> str | None:
    """Return the prefix if the pattern is a prefix and a star, else ``None``."""
    if not pattern.endswith("*"):
        return None
    literal: list[str] = []
    characters = iter(pattern[:-1])
    for one in characters:
        if one == "\\":
            following = next(characters, None)
            if following is None:  # The star itself is escaped.
                return None
            literal.append(following)
        elif one in SPECIAL - {"]"}:
            return None
        else:
            literal.append(one)
    return "".join(literal)


def regex_of(pattern: str) -> re.Pattern[str]:
    """Return the expression whose ``fullmatch`` is a match of the pattern."""
    segments = [""]
    position = 0
    while position < len(pattern):
        one = pattern[position]
        position += 1
        if one == "*":
            segments.append("")
        elif one == "?":
            segments[-1] += "."
        elif one == "\\" and position < len(pattern):
            segments[-1] += re.escape(pattern[position])
            position += 1
        elif one == "[":
            part, position = class_of(pattern, position)
            segments[-1] += part
        else:
            segments[-1] += re.escape(one)
    first, *rest = segments
    if not rest:
        return re.compile(first, re.DOTALL)
    # Each part of a segment matches one character, so its first place after a star is as good as
    # any other. The atomic groups prevent backtracking over many stars.
    *middle, last = rest
    groups = "".join(f"(?>.*?{segment})" for segment in middle)
    return re.compile(f"{first}{groups}.*{last}", re.DOTALL)


def class_of(pattern: str, position: int) -> tuple[str, int]:
    """Return the expression of the class that begins there, and the position after it.

    A class without its closing bracket goes to the end of the pattern, as in Redis.
    """
    negated = pattern[position : position + 1] == "^"
    position += negated
    members: list[str] = []
    while position < len(pattern) and pattern[position] != "]":
        escaped = pattern[position] == "\\" and position + 1 < len(pattern)
        first = pattern[position + escaped]
        position += 1 + escaped
        # An escaped character begins no range.
        if not escaped and pattern[position : position + 1] == "-" and position + 1 < len(pattern):
            last = pattern[position + 1]
            position += 2
            low, high = sorted((first, last))
            members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(first))
    position += 1
    if not members:
        return ("." if negated else "(?!)"), position
    return f"[{'^' if negated else ''}{''.join(members)}]", position
