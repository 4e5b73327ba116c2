"""Middleware for Django: the tenant of each request, checked, and current while it is served."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

from flowcache.contrib._request import Exempt, Refusal, Source, latin_1, unknown
from flowcache.contrib.wsgi import refuse_awaitable
from flowcache.reports import shown
from flowcache.tenancy import no_tenant, tenant

__all__ = ["TenantMiddleware"]

SETTING = "FLOWCACHE_TENANT"
SOURCES = ("header", "subdomain_of", "path_part", "tenant_of", "is_known")
ACCEPTED = (*SOURCES, "exempt")
CALLABLES = ("tenant_of", "is_known")

Block = Callable[[], AbstractContextManager[Any]]
"""Makes the block in which a request is served: with its tenant, or with none."""


class TenantMiddleware:
    """Serves each request for the tenant that it names, or answers it before the view runs.

    The setting ``FLOWCACHE_TENANT`` is a dict with exactly one of ``header``, ``subdomain_of``,
    ``path_part`` and ``tenant_of``, which name the place of the tenant in a request. ``is_known``
    and ``exempt`` are optional. All are those of ``flowcache.contrib.wsgi.TenantMiddleware``, but
    ``tenant_of(request)`` takes Django's request. ``tenant_of`` and ``is_known`` are callables or
    their dotted paths; under ASGI they may be async. A request without a tenant, or with an invalid
    one, is answered with 400, a request for an unknown tenant with 404.

    It must stand before every middleware that uses a cache. The tenant is current for the view, and
    for a streamed response's parts and its end. Raises ``ImproperlyConfigured`` that names the
    setting.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        self._source, self._exempt = read_setting(is_async=self._is_async)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request."""
        if self._is_async:
            return self._serve_async(request)
        try:
            block = no_tenant if self._is_exempt(request) else partial(tenant, self._name(request))
        except Refusal as refusal:
            return answer(refusal)
        with block():
            return within(block, self.get_response(request))

    async def _serve_async(self, request: HttpRequest) -> HttpResponse:
        try:
            if self._is_exempt(request):
                block: Block = no_tenant
            else:
                block = partial(tenant, await self._name_async(request))
        except Refusal as refusal:
            return answer(refusal)
        with block():
            return within(block, await self.get_response(request))

    def _is_exempt(self, request: HttpRequest) -> bool:
        return self._exempt.covers(request.method, request.path_info)

    def _name(self, request: HttpRequest) -> str:
        source = self._source
        name = source.check(refuse_awaitable(self._given(request), "tenant_of"))
        if source.is_known is not None and not refuse_awaitable(source.is_known(name), "is_known"):
            raise unknown()
        return name

    async def _name_async(self, request: HttpRequest) -> str:
        source = self._source
        given = self._given(request)
        name = source.check(await given if inspect.isawaitable(given) else given)
        if source.is_known is not None:
            known = source.is_known(name)
            if not (await known if inspect.isawaitable(known) else known):
                raise unknown()
        return name

    def _given(self, request: HttpRequest) -> Any:
        """Return the tenant that the request names, unchecked; an awaitable under ASGI, perhaps."""
        source = self._source
        if source.tenant_of is not None:
            return source.tenant_of(request)
        return source.read(lambda name: header_values(request, name), request.path_info)


def read_setting(*, is_async: bool) -> tuple[Source, Exempt]:
    """Return the place of the tenant in requests, and the exempt requests, as the setting says."""
    given = getattr(settings, SETTING, None)
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{SETTING}: must be a dict with one of header, subdomain_of, path_part and tenant_of, "
            f"got {shown(given)}"
        )
    for name in given:
        if name not in ACCEPTED:
            raise ImproperlyConfigured(
                f"{SETTING}[{shown(name)}]: unknown; accepted: {', '.join(ACCEPTED)}"
            )
    options = {name: given.get(name) for name in SOURCES}
    for name in CALLABLES:
        if isinstance(options[name], str):
            try:
                options[name] = import_string(options[name])
            except ImportError as error:
                raise ImproperlyConfigured(f"{SETTING}[{name!r}]: {error}") from error
    try:
        source = Source(**options, path=None, awaits=is_async)
        return source, Exempt(given.get("exempt", ()))
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{SETTING}: {error}") from error


def header_values(request: HttpRequest, name: str) -> list[bytes]:
    """Return the values of a header; repeated headers arrive joined with commas."""
    value = request.META.get("HTTP_" + name.upper().replace("-", "_"))
    # Django decodes bytes as latin-1, as WSGI does.
    return [] if value is None else [latin_1(part) for part in value.split(",")]


def answer(refusal: Refusal) -> HttpResponse:
    """Return the response to a request that reaches no view."""
    return HttpResponse(refusal.body, status=refusal.status.value, content_type="application/json")


def within(block: Block, response: Any) -> Any:
    """Return a response whose parts, if it is streamed, are made in such a block too.

    So is the end of the code that makes them, if the stream is closed or dropped early: it would
    run for the tenant that is current then.
    """
    if getattr(response, "streaming", False):
        # Not `streaming_content`, which refers to the response: the collector, which ends the
        # objects of a cycle in any order, would have to end both.
        source = response._iterator
        closers = response._resource_closers
        closers[:] = [partial(close_within, block, closer) for closer in closers]
        wrap = parts_within_async if response.is_async else parts_within
        response.streaming_content = wrap(block, source)
    return response


def close_within(block: Block, closer: Callable[[], object]) -> None:
    with block():
        closer()


def parts_within(block: Block, source: Iterator[Any]) -> Iterator[Any]:
    try:
        while True:
            with block():
                try:
                    part = next(source)
                except StopIteration:
                    return
            yield part
    finally:
        # The response closes all others, some of which can be closed only once.
        if isinstance(source, GeneratorType):
            close_within(block, source.close)


async def parts_within_async(block: Block, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        while True:
            with block():
                try:
                    part = await anext(source)
                except StopAsyncIteration:
                    return
            yield part
    finally:
        if isinstance(source, AsyncGeneratorType):
            with block():
                await source.aclose()
