"""What goes wrong where nobody can be told by a raise: it is logged."""

from __future__ import annotations

import sys

__all__ = ["report"]


def report(level: str, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log to the logger `flowcache`; the first who has something to say imports `logging`."""
    try:
        import logging
    except ImportError:
        # The interpreter is on its way out, and nobody has imported it: nobody configured it.
        print("flowcache:", message % args, "" if error is None else repr(error), file=sys.stderr)
        return
    logger = logging.getLogger("flowcache")
    logger.log(getattr(logging, level), message, *args, exc_info=error, stacklevel=2)
