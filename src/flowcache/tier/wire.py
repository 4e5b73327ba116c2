"""Connections to servers: how they are opened, and the facts about the server at the other end.

A client library opens each connection, for it knows TLS, users, credentials and Sentinel. Then its
socket is taken over. Batches of packed commands and a reader of replies cost less than the
library's own, and the push messages of RESP3 arrive in order.
"""

from __future__ import annotations

import importlib
import select
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from flowcache._core import lease_time as monotonic
from flowcache.errors import ConfigurationError

from .errors import LateError, ServerError, SlowError, UnreachableError
from .forking import forks
from .resp import ProtocolError, Replies, ReplyError, pack

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Address", "Dialer", "Wire", "epoch_in"]

Address = tuple[str, int]

OLDEST: Final = (7, 0)
"""The oldest server: functions with flags, sharded channels, `PEXPIRE GT`."""
CHUNK: Final = 1 << 18
SHORTEST: Final = 0.001
"""Seconds that a read waits at least: 0 would be a socket that does not wait at all."""
NEAR: Final = 0.005
"""Seconds by which a read may wait too long, so that most find the time-out that they need."""


class Wire:
    """One open connection. Not for two threads at once: its users take turns.

    `replid` is the history that the server wrote when the connection was opened.
    """

    __slots__ = (
        "_connection",
        "_forks",
        "_timeout",
        "address",
        "is_open",
        "mode",
        "replicas",
        "replid",
        "replies",
        "role",
        "sock",
        "version",
    )

    def __init__(self, connection: Any, address: Address | None) -> None:
        self._connection = connection  # Owns the socket, and closes it.
        self._forks = forks()
        self.sock: socket.socket = connection._sock
        self._timeout = self.sock.gettimeout()
        """The socket's time-out as it was set last: to set it is a call of the system."""
        self.address = address
        self.replies = Replies()
        self.is_open = True
        self.mode = self.role = self.version = ""
        self.replid = b""
        self.replicas = 0

    def send(self, data: bytes, patience: float) -> None:
        """Send bytes; `UnreachableError` if that cannot be done, and then nothing else can.

        It takes twice `patience` at most, for the time-out of an earlier call may be spent first.
        """
        try:
            if self._timeout is None or self._timeout > patience + NEAR:
                self._set_timeout(patience)
            try:
                sent = self.sock.send(data)
            except TimeoutError:
                sent = 0
            if sent < len(data):
                self._set_timeout(patience)
                self.sock.sendall(data[sent:])
        except OSError as error:
            self.close()
            raise UnreachableError(f"the connection ended: {error}") from error

    def receive(self, until: float) -> Any:
        """Return the next reply; `SlowError` if none comes in time."""
        replies = self.replies
        while True:
            try:
                reply = replies.next()
            except ProtocolError as error:
                self.close()
                raise UnreachableError(f"the connection ended: {error}") from error
            if reply is not Replies.NONE:
                return reply
            self.fill(until)

    def fill(self, until: float) -> None:
        """Wait for bytes and take them; `SlowError` if none come in time."""
        left = until - monotonic()
        if self._timeout is None or not left <= self._timeout <= left + NEAR:
            self._set_timeout(max(left, SHORTEST))
        try:
            data = self.sock.recv(CHUNK)
        except TimeoutError:
            raise SlowError("no answer in time") from None
        except OSError as error:
            self.close()
            raise UnreachableError(f"the connection ended: {error}") from error
        if not data:
            self.close()
            raise UnreachableError("the server closed the connection")
        self.replies.feed(data)

    def _set_timeout(self, timeout: float) -> None:
        self._timeout = timeout
        self.sock.settimeout(timeout)

    def has_read_ahead(self) -> bool:
        """Tell if TLS holds bytes that the socket has given already."""
        pending = getattr(self.sock, "pending", None)
        return pending is not None and pending() > 0

    def is_quiet(self) -> bool:
        """Tell if nothing has come. On a connection that owes no reply that is an end, or worse."""
        try:
            poll = select.poll()
        except AttributeError:
            return not select.select([self.sock], [], [], 0)[0]
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def ask(self, *commands: bytes, patience: float) -> list[Any]:
        """Send commands and return their replies, pushed messages left out."""
        self.send(b"".join(commands), patience)
        until = monotonic() + patience
        return [self.receive(until) for _ in commands]

    def close(self) -> None:
        """End the connection; a forked child lets go of it and leaves the parent's alone."""
        if not self.is_open:
            return
        self.is_open = False
        if self._forks == forks():
            self._connection.disconnect()
        else:
            self.sock.close()

    def __repr__(self) -> str:
        return f"<Wire to {self.address or 'the server'}{'' if self.is_open else ', closed'}>"


class Dialer:
    """Opens connections, by a URL or as a client of the user's own does.

    Nothing is opened, and no client library is imported, before the first call of `dial`.
    """

    def __init__(self, target: Any, *, connect_patience: float = 1.0) -> None:
        if not isinstance(target, str):
            _pool_of(target)
        elif target.partition("://")[0] not in ("valkey", "valkeys", "redis", "rediss", "unix"):
            raise ConfigurationError(
                "url_or_client: must begin with valkey://, valkeys://, redis://, rediss:// or "
                f"unix://, got {_without_secret(target)!r}"
            )
        else:
            try:
                _ = urlsplit(target).port  # No client library is imported yet.
            except ValueError as error:
                raise ConfigurationError(
                    f"url_or_client: {_without_secret(target)!r} is no URL: {error}"
                ) from None
        self._target = target
        self._connect_patience = connect_patience
        self._make: Callable[[Address | None], Any] | None = None
        self._errors: tuple[type[BaseException], ...] = (OSError,)
        self._seeds: list[Address | None] = [None]

    def dial(self, address: Address | None = None, patience: float | None = None) -> Wire:
        """Return an open connection, to another address of the same cluster if one is given.

        `patience` bounds the connect, and what the server is asked then, in seconds each. Raises
        `UnreachableError`, or `ConfigurationError` for a server that can never do.
        """
        if self._make is None:
            self._prepare()
        patience = self._connect_patience if patience is None else patience
        if address is not None:
            return self._dial(address, patience)
        for seed in self._seeds[:-1]:
            try:
                return self._dial(seed, patience)
            except UnreachableError:
                continue
        return self._dial(self._seeds[-1], patience)

    def _dial(self, address: Address | None, patience: float) -> Wire:
        assert self._make is not None
        try:
            connection = self._make(address)
        except (TypeError, ValueError) as error:
            raise self._unsound(error) from error
        for name in ("socket_connect_timeout", "socket_timeout"):
            setattr(connection, name, min(patience, getattr(connection, name, None) or patience))
        try:
            connection.connect()
        except self._errors as error:
            # That of the library is no builtin TimeoutError.
            kind = LateError if type(error).__name__ == "TimeoutError" else UnreachableError
            raise kind(f"{self._where(address)}: {error}") from error
        except UnicodeError as error:  # The host's name is none.
            raise self._unsound(error) from error
        except Exception as error:  # A user's own provider of credentials, say.
            named = f"{type(error).__name__}: {error}"
            raise UnreachableError(f"{self._where(address)}: {named}") from error
        if not isinstance(getattr(connection, "_sock", None), socket.socket):
            raise ConfigurationError(
                f"url_or_client: connections of {type(self._target).__name__} have no socket; give "
                "a client of valkey-py or redis-py itself, or a URL"
            )
        wire = Wire(connection, address)
        try:
            self._greet(wire, patience)
        except ServerError as error:
            wire.close()
            kind = LateError if isinstance(error, SlowError) else UnreachableError
            raise kind(f"{self._where(address)}: {error}") from error
        except BaseException:
            wire.close()
            raise
        return wire

    def _greet(self, wire: Wire, patience: float) -> None:
        """Speak RESP3 and learn which server this is."""
        hello, info = wire.ask(
            pack(b"HELLO", b"3"), pack(b"INFO", b"replication"), patience=patience
        )
        if isinstance(hello, ReplyError) or isinstance(info, ReplyError):
            refused = hello if isinstance(hello, ReplyError) else info
            if refused.kind in ("NOAUTH", "WRONGPASS", "LOADING", "MASTERDOWN"):
                raise UnreachableError(str(refused))
            raise ConfigurationError(
                f"tier: {self._where(wire.address)} must be Valkey or Redis 7.0 or newer, and let "
                f"this user call HELLO and INFO: {refused}"
            )
        if not isinstance(hello, dict) or not isinstance(info, bytes):
            raise UnreachableError("it answers as no Valkey and no Redis does")
        told = {key.decode(): value for key, value in hello.items()}
        wire.version = told["version"].decode()
        wire.mode = told["mode"].decode()
        if tuple(map(int, wire.version.split(".")[:2])) < OLDEST:
            raise ConfigurationError(
                f"tier: {self._where(wire.address)} is version {wire.version}; 7.0 is the oldest "
                "that can do"
            )
        if wire.mode == "sentinel":
            raise ConfigurationError(
                f"tier: {self._where(wire.address)} is a Sentinel; give Sentinel(...).master_for()"
            )
        lines = _told(info)
        wire.role = lines.get(b"role", b"").decode()
        wire.replid = lines.get(b"master_replid", b"")
        wire.replicas = int(lines.get(b"connected_slaves", b"0"))
        if not wire.replid:
            raise ConfigurationError(
                f"tier: {self._where(wire.address)} hides its master_replid, without which values "
                "from before a fail-over cannot be told"
            )

    def _prepare(self) -> None:
        """Find out how connections are made, from the library that the target is of."""
        if isinstance(self._target, str):
            try:
                library = importlib.import_module("valkey")
            except ImportError as error:
                raise ConfigurationError(
                    "tier: the package valkey is missing; install flowcache[valkey]"
                ) from error
            url = self._target
            scheme, rest = url.split("://", 1)
            url = {"redis": "valkey", "rediss": "valkeys"}.get(scheme, scheme) + "://" + rest
            try:
                pool = library.ConnectionPool.from_url(url)
            except ValueError as error:
                raise self._unsound(error) from error
        else:
            pool = _pool_of(self._target)
            library = importlib.import_module(_library_of(self._target))
        base = getattr(library.exceptions, "ValkeyError", None) or library.exceptions.RedisError
        self._errors = (OSError, base)
        settings: dict[str, Any] = dict(getattr(pool, "connection_kwargs", None) or {})
        kind = getattr(pool, "connection_class", library.Connection)
        # The library's own decoding, retries and health checks end where its socket is taken over.
        for name in ("retry", "retry_on_error", "retry_on_timeout", "health_check_interval"):
            settings.pop(name, None)
        settings.pop("protocol", None)
        settings.setdefault("socket_connect_timeout", self._connect_patience)
        settings["socket_timeout"] = self._connect_patience
        in_cluster = {key: value for key, value in settings.items() if key not in ("db", "path")}
        nodes = getattr(pool, "startup_nodes", {}).values()
        self._seeds = [(node.host, node.port) for node in nodes] or [None]

        def make(address: Address | None) -> Any:
            if address is None:
                return kind(**settings)
            return kind(**in_cluster | {"host": address[0], "port": address[1]})

        self._make = make

    def _unsound(self, error: Exception) -> ConfigurationError:
        """Return the error of a target of which no connection can be made."""
        return ConfigurationError(f"url_or_client: {self._where(None)}: {error}")

    def _where(self, address: Address | None) -> str:
        if address is not None:
            return f"{address[0]}:{address[1]}"
        if isinstance(self._target, str):
            return _without_secret(self._target)
        return f"the server of {type(self._target).__name__}"

    def __repr__(self) -> str:
        return f"<Dialer to {self._where(None)}>"


def epoch_in(info: Any) -> int:
    """Return a node's epoch by its answer to CLUSTER INFO; 0 if this user may not ask."""
    return int(_told(info).get(b"cluster_my_epoch", b"0")) if type(info) is bytes else 0


def _told(info: bytes) -> dict[bytes, bytes]:
    """Return the fields of an answer to INFO."""
    return dict(line.partition(b":")[::2] for line in info.split(b"\r\n"))


def _pool_of(client: Any) -> Any:
    """Return the connection factory of a client; `ConfigurationError` for an object without one."""
    if any(".asyncio" in kind.__module__ for kind in type(client).__mro__):
        raise ConfigurationError(
            "url_or_client: give the sync client, or the URL; tasks get connections all the same"
        )
    for name in ("connection_pool", "nodes_manager"):
        pool = getattr(client, name, None)
        if pool is not None and _library_of(client):
            return pool
    raise ConfigurationError(
        "url_or_client: must be a URL, or a client of valkey-py or redis-py, "
        f"got {type(client).__name__}"
    )


def _library_of(client: Any) -> str:
    """Return the package of a client's class, or of the one that it is derived from; or none."""
    packages = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
    return next((one for one in packages if one in ("valkey", "redis")), "")


def _without_secret(url: str) -> str:
    """Return a URL without user and password."""
    scheme, found, rest = url.partition("://") if "://" in url else ("", "", url)
    _, at, host = rest.rpartition("@")
    return f"{scheme}{found}{'...@' if at else ''}{host}"
