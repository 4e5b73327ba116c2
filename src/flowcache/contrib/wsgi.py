"""Middleware for WSGI: the tenant of each request, checked, and current while it is served."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from flowcache.tenancy import Path, no_tenant, tenant

from ._request import Exempt, Refusal, Source, latin_1, unknown

__all__ = ["TenantMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class TenantMiddleware:
    """Serves each request for the tenant that it names, or refuses it before the application runs.

    Exactly one of these names the place of the tenant in a request:

    - ``header``: a header's name. A value with a comma is malformed, since servers join a header
      that came twice with a comma.
    - ``subdomain_of``: a domain; the tenant is the one label before it, in lower case.
    - ``path_part``: the number of a part of the path, from 0, counted below the mount
      (``SCRIPT_NAME``). The path itself is not changed.
    - ``tenant_of``: ``tenant_of(environ) -> str | None``.

    The answer is 400 for a request without a tenant, or with one that cannot name a namespace. It
    is 404 if ``is_known(tenant)`` is false. Both have a JSON body of ``error`` and ``detail``. Give
    the same ``path`` as to ``for_current_tenant``, so that the middleware checks the names that the
    tenant becomes.

    ``exempt`` lists paths below the mount (``"/health"``; ``"/static/*"``: all below it) and
    methods (``"OPTIONS"``) that are served without a tenant. Calls that need one raise there.

    Each request has a context of its own, in which ``current_tenant`` is set. The application runs
    in it, and so do the iteration and the close of its response, in whichever thread they are
    called. A response that the server does not close is closed there when it is collected. An
    exception of ``tenant_of`` or ``is_known`` goes to the server, and the application does not run.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """

    def __init__(
        self,
        app: Application,
        *,
        header: str | None = None,
        subdomain_of: str | None = None,
        path_part: int | None = None,
        tenant_of: Callable[[Environ], str | None] | None = None,
        is_known: Callable[[str], bool] | None = None,
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
            awaits=False,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        try:
            if self._exempt.covers(environ.get("REQUEST_METHOD"), path_of(environ)):
                block: Any = no_tenant()
            else:
                block = tenant(self._tenant(environ))
        except Refusal as refusal:
            status = f"{refusal.status.value} {refusal.status.phrase}"
            start_response(status, refusal.headers)
            return [refusal.body]
        # The block ends with its context only, which the response may keep alive.
        context = copy_context()
        context.run(block.__enter__)
        response = context.run(self.app, environ, start_response)
        # No code of these is left to run, and servers use the number of parts.
        if type(response) in (list, tuple):
            return response
        return Response(context, response)

    def _tenant(self, environ: Environ) -> str:
        source = self._source
        if source.tenant_of is None:
            given = source.read(lambda name: header_values(environ, name), path_of(environ))
        else:
            given = refuse_awaitable(source.tenant_of(environ), "tenant_of")
        name = source.check(given)
        if source.is_known is not None and not refuse_awaitable(source.is_known(name), "is_known"):
            raise unknown()
        return name


class Response:
    """An application's response, each part of it made in the request's context."""

    def __init__(self, context: Context, response: Iterable[bytes]) -> None:
        self._context = context
        self._body = Body(response)
        # This holds the body until the response is gone. Application objects that the collector
        # took first would end in the context in which the collector runs.
        self._finalizer = weakref.finalize(self, context.run, self._body.close)
        self._finalizer.atexit = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(self._body.next)

    def close(self) -> None:
        """Close the application's response, as a server must."""
        self._finalizer()


class Body:
    """The application's result. Its code runs in its context only, at the last release as well.

    A class that the application never sees, so none of its objects can refer to an instance.
    """

    __slots__ = ("_parts", "_response")

    def __init__(self, response: Iterable[bytes]) -> None:
        self._response: Iterable[bytes] | None = response
        self._parts: Iterator[bytes] | None = None

    def next(self) -> bytes:
        if self._response is None:
            raise StopIteration
        if self._parts is None:
            self._parts = iter(self._response)
        return next(self._parts)

    def close(self) -> None:
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                close()
        finally:
            self._response = self._parts = None


def header_values(environ: Environ, name: str) -> list[bytes]:
    value = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return [] if value is None else [latin_1(value)]


def path_of(environ: Environ) -> str:
    raw: str = environ.get("PATH_INFO", "")
    return latin_1(raw).decode("utf-8", "replace")


def refuse_awaitable(answer: Any, argument: str) -> Any:
    """Return the answer; an awaitable would count as true, so it is refused."""
    if not inspect.isawaitable(answer):
        return answer
    if isinstance(answer, Coroutine):
        answer.close()
    raise TypeError(f"{argument}: returned an awaitable; WSGI has no event loop to await it on")
