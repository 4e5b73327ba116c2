"""The page's requests: who asks, what they may see, and the answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote

from flowcache import Namespace, _core
from flowcache.contrib.asgi import path_of
from flowcache.contrib.wsgi import path_of as wsgi_path_of
from flowcache.contrib.wsgi import refuse_awaitable
from flowcache.tenancy import checked_path, names_of
from flowcache.watching import sockets
from flowcache.watching.families import Keys, checked_groups
from flowcache.watching.history import COLUMNS, History
from flowcache.watching.merging import Answer, merge, merged
from flowcache.watching.snapshot import SCOPES, Ask, Watcher

__all__ = ["ADMIN", "CachePage", "Request", "show"]


class Admin:
    """The type of `ADMIN`."""

    def __repr__(self) -> str:
        return "ADMIN"


ADMIN: Final = Admin()
"""What ``authorize`` returns for a reader that may see every tenant."""

ASSETS = Path(__file__).with_name("assets")
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    ("cache-control", "no-store"),
    ("content-security-policy", POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
]
OWN_HEADER = "x-flowcache"
"""A header that a page of another origin cannot send: what begins a recording must bear it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What ``authorize`` is asked about."""

    method: str
    path: str
    """Below the mount."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """By names in lower case; of a header that comes twice, the values with a comma between."""
    scope: MutableMapping[str, Any] = field(repr=False)
    """The ASGI scope, or the WSGI environ: with the session or the user of the framework."""


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    kind: str
    body: bytes
    more: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        length = ("content-length", str(len(self.body)))
        return [("content-type", self.kind), length, *HEADERS, *self.more]


def plain(status: HTTPStatus, *more: tuple[str, str]) -> Response:
    """Return an answer that says its status and nothing else."""
    return Response(status, "text/plain; charset=utf-8", status.phrase.encode(), more)


Authority = Admin | str | None


class CachePage:
    """A read-only page of a running cache: an ASGI application, and by ``.wsgi`` a WSGI one.

    ``authorize(request) -> None | ADMIN | tenant``, sync or for ASGI also async, decides for each
    request: nothing but 403, all tenants, or the page of one tenant. That page is made from the
    tenant's own namespace, ``path(tenant)`` below ``cache``, by default ``f"tenant:{tenant}"``.
    ``request`` is a :class:`Request`.

    The page never shows a value, and no key without ``reveal_keys``: a masked key is its type and
    a number. ``groups``: patterns; the keys that match one count as one family. ``workers``: the
    folder in which processes show themselves by :func:`show`; their figures are added up.

    Nothing runs while no page is open, and nothing is added to a look-up, but for the ten seconds
    for which a reader samples the hot keys.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """

    def __init__(
        self,
        cache: Namespace[Any],
        *,
        authorize: Callable[[Request], Authority | Awaitable[Authority]],
        reveal_keys: bool = False,
        groups: str | Iterable[Any] = (),
        path: Callable[[str], str | Iterable[str]] | None = None,
        workers: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(cache, Namespace):
            raise TypeError(f"cache: must be a cache or a namespace, got {type(cache).__name__}")
        if not callable(authorize):
            raise TypeError(f"authorize: must be callable, got {type(authorize).__name__}")
        self._watcher = Watcher(cache, checked_keys(reveal_keys, groups))
        self._authorize = authorize
        self._path = checked_path(path)
        self._workers = None if workers is None else Path(workers)
        self._files = {
            name: Response(HTTPStatus.OK, kind, (ASSETS / file).read_bytes())
            for name, (file, kind) in FILES.items()
        }
        self._lock = threading.Lock()
        self._histories: OrderedDict[tuple[str, ...], History] = OrderedDict()

    # ------------------------------------------------------------------ servers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan":
            await serve_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            add_header(headers, name.decode("latin-1"), value.decode("latin-1"))
        query = scope.get("query_string", b"").decode("latin-1")
        request = request_of(scope["method"], path_of(scope), query, headers, scope)
        if request is None:
            response = plain(HTTPStatus.BAD_REQUEST)
        else:
            who = self._authorize(request)
            if inspect.isawaitable(who):
                who = await who
            who = checked_authority(who)
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                response = self._respond(request, who)
            else:
                # Other processes are asked, and a walk over many tenants takes milliseconds.
                response = await asyncio.to_thread(self._respond, request, who)
        named = [(name.encode(), value.encode("latin-1")) for name, value in response.headers]
        await send(
            {"type": "http.response.start", "status": response.status.value, "headers": named}
        )
        body = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request of WSGI."""
        headers: dict[str, str] = {}
        for name, value in environ.items():
            if name.startswith("HTTP_"):
                add_header(headers, name[5:].replace("_", "-"), value)
        request = request_of(
            environ["REQUEST_METHOD"],
            wsgi_path_of(environ),
            environ.get("QUERY_STRING", ""),
            headers,
            environ,
        )
        if request is None:
            response = plain(HTTPStatus.BAD_REQUEST)
        else:
            who = checked_authority(refuse_awaitable(self._authorize(request), "authorize"))
            response = self._respond(request, who)
        start_response(f"{response.status.value} {response.status.phrase}", response.headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else response.body]

    # ------------------------------------------------------------------ answers

    def _respond(self, request: Request, who: Authority) -> Response:
        if who is None:
            return plain(HTTPStatus.FORBIDDEN)
        if not request.path:
            # Without the slash, the page's own addresses would begin one level above.
            mount = str(request.scope.get("root_path") or request.scope.get("SCRIPT_NAME") or "")
            place = quote(mount.rstrip("/").rpartition("/")[2]) + "/"
            return plain(HTTPStatus.TEMPORARY_REDIRECT, ("location", f"./{place}"))
        name = request.path.removeprefix("/")
        if name == "record":
            if request.method != "POST" or OWN_HEADER not in request.headers:
                return plain(HTTPStatus.METHOD_NOT_ALLOWED, ("allow", "POST"))
            return self._data(request, who, record=True)
        if request.method not in ("GET", "HEAD"):
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, ("allow", "GET, HEAD"))
        if name == "data":
            return self._data(request, who)
        return self._files.get(name) or plain(HTTPStatus.NOT_FOUND)

    def _data(self, request: Request, who: Admin | str, *, record: bool = False) -> Response:
        base = () if isinstance(who, Admin) else tuple(names_of(self._path, who))
        below = tuple(request.query.get("at", ()))
        last = {name: values[-1] for name, values in request.query.items()}
        try:
            since = float(last.get("since", 0))
            ask = Ask.of(
                {
                    "path": [*base, *below],
                    "by": last.get("by", "entries"),
                    "search": last.get("search", ""),
                    "record": record,
                }
            )
        except ValueError:
            return plain(HTTPStatus.BAD_REQUEST)
        told = self._look(ask)
        history = self._history(ask.path)
        if told["state"] == "live":
            history.add(told["at"], told["stats"])
        told["path"] = list(below)
        told["role"] = "admin" if isinstance(who, Admin) else "tenant"
        told["tenant"] = None if isinstance(who, Admin) else who
        if not isinstance(who, Admin):
            # Figures of processes are not a tenant's own.
            for name in ("pid", "workers"):
                told.pop(name, None)
            for load in told["loads"]:
                load.pop("pid", None)
        told["history"] = {
            "columns": COLUMNS,
            "points": history.since(since),
            "reset_at": history.reset_at,
        }
        body = json.dumps(told, allow_nan=False).encode()
        return Response(HTTPStatus.OK, "application/json", body)

    def _look(self, ask: Ask) -> Answer:
        own = os.getpid()
        if self._workers is None:
            return merge(ask, [self._watcher.look(ask)])
        try:
            paths = sockets.sockets_of(self._workers)
        except sockets.SocketError:
            paths = []
        others = [path for path in paths if sockets.pid_of(path) != own]

        def answers_of(ask: Ask) -> list[Answer]:
            told = [self._watcher.look(ask), *sockets.answers(others, ask)]
            name = told[0]["cache"]
            return [one for one in told if one["state"] == "gone" or one["cache"] == name]

        return merged(ask, answers_of)

    def _history(self, path: tuple[str, ...]) -> History:
        with self._lock:
            history = self._histories.pop(path, None) or History()
            self._histories[path] = history
            if len(self._histories) > SCOPES:
                self._histories.popitem(last=False)
            return history


def show(
    cache: Namespace[Any],
    folder: str | os.PathLike[str],
    *,
    reveal_keys: bool = False,
    groups: str | Iterable[Any] = (),
) -> sockets.Shown:
    """Answer on a Unix socket in ``folder``, for ``flowcache top`` and the pages of other workers.

    The socket is named after the cache and the process, and only the user of the process can open
    it. A missing folder is made, for that user alone. After a fork the child has a socket of its
    own. ``reveal_keys`` and ``groups`` as for :class:`CachePage`. Returns what ``close()`` ends.
    """
    if not isinstance(cache, Namespace):
        raise TypeError(f"cache: must be a cache or a namespace, got {type(cache).__name__}")
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder: must be a path, got {type(folder).__name__}")
    return sockets.Shown(Watcher(cache, checked_keys(reveal_keys, groups)), folder)


def checked_keys(reveal_keys: bool, groups: str | Iterable[Any]) -> Keys:
    """Return how keys are shown; raise for a bad argument."""
    if not isinstance(reveal_keys, bool):
        raise TypeError(f"reveal_keys: must be a bool, got {type(reveal_keys).__name__}")
    return Keys(checked_groups(groups), reveal=reveal_keys)


def checked_authority(who: object) -> Authority:
    """Return what ``authorize`` decided; `TypeError` for what is no decision."""
    if who is None or isinstance(who, Admin):
        return who
    if isinstance(who, str):
        return _core.check_name(who, "authorize")
    raise TypeError(
        f"authorize: must return None, ADMIN or a tenant's name, returned {type(who).__name__}"
    )


def request_of(
    method: str, path: str, query: str, headers: Mapping[str, str], scope: MutableMapping[str, Any]
) -> Request | None:
    """Return the request; None for a query that no page sends."""
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=80, errors="strict")
    except ValueError:
        return None
    return Request(method, path, fields, headers, scope)


def add_header(headers: dict[str, str], name: str, value: str) -> None:
    """Add a header, with a comma after an earlier one of the same name."""
    name = name.lower()
    headers[name] = f"{headers[name]}, {value}" if name in headers else value


async def serve_lifespan(receive: Any, send: Any) -> None:
    """Say that all is ready, and at the end that all is done."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
