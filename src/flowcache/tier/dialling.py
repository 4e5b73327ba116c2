"""Opening the bus's connection to a primary, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from flowcache.errors import ConfigurationError

from .errors import ServerError, UnreachableError
from .servers import check_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from .following import Line
    from .servers import Servers
    from .wire import Wire

__all__ = ["begin_to_dial"]

logger = logging.getLogger("flowcache")


def begin_to_dial(
    line: Line,
    servers: Servers,
    name: bytes,
    shape: bytes,
    taker: Callable[[], Callable[[Line, Wire | None, Exception | None], bool] | None],
) -> None:
    """Start a thread that opens a line's connection, and hands it on, or why there is none.

    `taker` is a weak reference: a bus that is gone takes nothing, and one that returns False has no
    use for the connection. A line to no server in particular finds out which servers there are. The
    settings of the fleet, which lie under `name`, have to be `shape`. Raises `RuntimeError` if no
    thread can be started.
    """
    server = line.server
    discovers = server is None or (line.has_failed and servers.is_cluster)

    def dial() -> None:
        wire: Wire | None = None
        trouble: Exception | None = None
        try:
            if discovers:
                servers.discover()
            if server is not None:
                wire = server.dial()
                check_shape(wire, name, shape)
                wire.sock.setblocking(False)
        except (ServerError, ConfigurationError) as error:
            trouble = error
        except Exception as error:  # Else the line would wait for its connection for ever.
            logger.exception("the tier: a connection could not be opened")
            trouble = UnreachableError(f"{type(error).__name__}: {error}")
        if trouble is not None and wire is not None:
            wire.close()
            wire = None
        take = taker()
        is_taken = take is not None and take(line, wire, trouble)
        if wire is not None and not is_taken:
            wire.close()

    threading.Thread(target=dial, name="flowcache-dial", daemon=True).start()
