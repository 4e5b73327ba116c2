"""Middleware for ASGI: the tenant of each request, checked, and current while it is served."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from flowcache.tenancy import Path, no_tenant, tenant

from ._request import Exempt, Refusal, Source, unknown

__all__ = ["TenantMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008
"""The code with which a WebSocket is refused (RFC 6455, section 7.4.1)."""


class TenantMiddleware:
    """Serves each request for the tenant that it names, or refuses it before the application runs.

    Exactly one of these names the place of the tenant in a request:

    - ``header``: a header's name. A header that comes twice, or has a comma, is malformed.
    - ``subdomain_of``: a domain; the tenant is the one label before it, in lower case.
    - ``path_part``: the number of a part of the path, from 0, counted below the mount
      (``root_path``). The path itself is not changed.
    - ``tenant_of``: ``tenant_of(scope) -> str | None``, sync or async.

    The answer is 400 for a request without a tenant, or with one that cannot name a namespace. It
    is 404 if ``is_known(tenant)``, sync or async, is false. Both have a JSON body of ``error`` and
    ``detail``; a WebSocket is closed before it is accepted. Give the same ``path`` as to
    ``for_current_tenant``, so that the middleware checks the names that the tenant becomes.

    ``exempt`` lists paths below the mount (``"/health"``; ``"/static/*"``: all below it) and
    methods (``"OPTIONS"``) that are served without a tenant. Calls that need one raise there.

    ``current_tenant`` is set until the application has ended, background tasks and streamed
    responses included. A generator that the application leaves half read, as its client has gone,
    ends for whichever tenant is current where it is collected: call ``resolve()`` at its beginning,
    and use that namespace at its end. Other scopes (``lifespan``) pass untouched. An exception of
    ``tenant_of`` or ``is_known`` goes to the server, and the application does not run.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """

    def __init__(
        self,
        app: Application,
        *,
        header: str | None = None,
        subdomain_of: str | None = None,
        path_part: int | None = None,
        tenant_of: Callable[[Scope], Awaitable[str | None] | str | None] | None = None,
        is_known: Callable[[str], Awaitable[bool] | bool] | None = None,
        path: Path | None = None,
        exempt: str | Iterable[str] = (),
    ) -> None:
        self.app = app
        self._exempt = Exempt(exempt)
        self._source = Source(
            header=header,
            subdomain_of=subdomain_of,
            path_part=path_part,
            tenant_of=tenant_of,
            is_known=is_known,
            path=path,
            awaits=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self._exempt.covers(scope.get("method"), path_of(scope)):
            with no_tenant():
                await self.app(scope, receive, send)
            return
        try:
            name = await self._tenant(scope)
        except Refusal as refusal:
            await refuse(refusal, scope, receive, send)
            return
        with tenant(name):
            await self.app(scope, receive, send)

    async def _tenant(self, scope: Scope) -> str:
        source = self._source
        if source.tenant_of is None:
            given = source.read(lambda name: header_values(scope, name), path_of(scope))
        else:
            given = source.tenant_of(scope)
            if inspect.isawaitable(given):
                given = await given
        name = source.check(given)
        if source.is_known is not None:
            known = source.is_known(name)
            if inspect.isawaitable(known):
                known = await known
            if not known:
                raise unknown()
        return name


def header_values(scope: Scope, name: str) -> list[bytes]:
    wanted = name.lower().encode()
    return [value for key, value in scope["headers"] if key.lower() == wanted]


def path_of(scope: Scope) -> str:
    """Return the path below the mount. Some servers leave the mount out of ``path`` themselves."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "").rstrip("/")
    return path[len(mount) :] if path == mount or path.startswith(mount + "/") else path


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in the application's place."""
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # The client's connect event, which comes before any answer.
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        prefix = "websocket."
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers]
    await send(
        {"type": f"{prefix}http.response.start", "status": refusal.status.value, "headers": headers}
    )
    await send({"type": f"{prefix}http.response.body", "body": refusal.body})
