"""Diagnostics: keys and values in messages, and log records."""

from __future__ import annotations

import sys

__all__ = ["report", "shown"]

LONGEST = 200
"""Characters of a key or value that a message shows."""


def shown(value: object) -> str:
    """Return a value as a message shows it: escaped, of at most 200 characters. Never raises.

    A `repr` that fails does not replace the error that the message is for.
    """
    try:
        if isinstance(value, (str, bytes)) and len(value) > LONGEST:
            value = value[: LONGEST + 1]  # A copy of a megabyte would gain nothing.
        text = "".join(
            character if character.isprintable() else ascii(character)[1:-1]
            for character in repr(value)[: LONGEST + 1]
        )
    except Exception:  # noqa: BLE001  the caller's own `__repr__` may raise anything
        return f"<{type(value).__name__} object, whose repr failed>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def report(
    level: str,
    message: str,
    *args: object,
    event: str,
    error: BaseException | None = None,
    cache: str | None = None,
    path: tuple[str, ...] | None = None,
    **debug: object,
) -> None:
    """Log to the logger `flowcache`; the first call imports `logging`.

    The record has the fields `flowcache_event`, and where they are known `flowcache_cache`,
    `flowcache_namespace`, `flowcache_tenant` and `flowcache_error`. `debug`: values that may be
    private, such as keys. They are part of the line, and fields, only where the logger is enabled
    for DEBUG.
    """
    try:
        import logging
    except ImportError:
        # The interpreter is at its end: no module can be imported, and none works reliably.
        print("flowcache:", message % args, "" if error is None else shown(error), file=sys.stderr)
        return
    logger = logging.getLogger("flowcache")
    fields: dict[str, object] = {"flowcache_event": event}
    if cache is not None:
        fields["flowcache_cache"] = cache
    if path is not None:
        fields["flowcache_namespace"] = list(path)
        fields["flowcache_tenant"] = path[0] if path else None
    if error is not None:
        fields["flowcache_error"] = type(error).__qualname__
    if debug and logger.isEnabledFor(logging.DEBUG):
        message += "".join(f" {name}=%s" for name in debug)
        args += tuple(map(shown, debug.values()))
        fields.update((f"flowcache_{name}", shown(value)) for name, value in debug.items())
    logger.log(getattr(logging, level), message, *args, exc_info=error, extra=fields, stacklevel=2)
