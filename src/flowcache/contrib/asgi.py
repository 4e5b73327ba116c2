"""Middleware for ASGI: the tenant of each request, checked, and current while it is served."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from flowcache.tenancy import tenant

from ._request import Refusal, Source, unknown

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

    Exactly one of these says where the tenant is: ``header`` (a header's name; a header that comes
    twice, or has a comma, is malformed), ``subdomain_of`` (a domain: the one label before it, in
    lower case), ``path_part`` (which part of the path, from 0; the path itself is not changed),
    ``tenant_of`` (``tenant_of(scope) -> str | None``, sync or async).

    A request without a tenant, or with one that could not name a namespace, is answered with 400;
    one for a tenant of which ``is_known(tenant)`` (sync or async) does not say that it is known,
    with 404; both with a JSON body of ``error`` and ``detail``. A WebSocket is closed before it is
    accepted. Else ``current_tenant`` is set until the application has ended, background tasks and
    streamed responses included. Other scopes (``lifespan``) pass untouched. What ``tenant_of`` or
    ``is_known`` raises is the server's to report: the application does not run.

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
    ) -> None:
        self.app = app
        self._source = Source(header, subdomain_of, path_part, tenant_of, is_known)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
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
            given = source.read(lambda name: header_values(scope, name), scope["path"])
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


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in the application's place."""
    prefix = ""
    if scope["type"] == "websocket":
        await receive()  # The request to connect, which comes before any answer.
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        prefix = "websocket."
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers]
    await send(
        {"type": f"{prefix}http.response.start", "status": refusal.status.value, "headers": headers}
    )
    await send({"type": f"{prefix}http.response.body", "body": refusal.body})
