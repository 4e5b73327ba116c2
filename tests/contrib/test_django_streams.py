"""The code that makes a stream ends for the stream's tenant, whenever and wherever it ends.

A client that goes away leaves a stream half read. Its generator, with its `finally`, would end for
the tenant whose request the thread serves by then.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.test import override_settings

from contrib.django_project import caches_of
from flowcache.contrib.django import TenantMiddleware
from flowcache.tenancy import current_tenant, tenant
from harness.loading_support import until

ends: list[str | None] = []


def parts() -> Iterator[str]:
    try:
        for _ in range(3):
            yield current_tenant.get("none")
    finally:
        ends.append(current_tenant.get(None))


async def parts_async() -> AsyncIterator[str]:
    try:
        for _ in range(3):
            yield current_tenant.get("none")
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        ends.append(current_tenant.get(None))


class Closed:
    """Parts that have to be closed, once."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return current_tenant.get("none")

    def close(self) -> None:
        ends.append(current_tenant.get(None))


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    ends.clear()
    with caches_of(), override_settings(FLOWCACHE_TENANT={"header": "X-Tenant-ID"}):
        yield


def request() -> HttpRequest:
    made = HttpRequest()
    made.method = "GET"
    made.META["HTTP_X_TENANT_ID"] = "acme"
    return made


def respond(stream: Any) -> Any:
    return TenantMiddleware(lambda _: StreamingHttpResponse(stream))(request())


def read_one(stream: Any) -> Any:
    response = respond(stream)
    assert next(iter(response)) == b"acme"
    return response


@pytest.mark.parametrize("made", [parts, Closed])
def test_a_response_that_is_closed(made: Callable[[], Any]) -> None:
    response = read_one(made())
    with tenant("beta"):
        response.close()
    del response
    assert ends == ["acme"]


def test_a_response_that_is_dropped() -> None:
    with tenant("beta"):
        read_one(parts())
        gc.collect()
    assert ends == ["acme"]


def test_a_stream_that_is_read_to_its_end() -> None:
    response = respond(parts())
    with tenant("beta"):
        assert list(response) == [b"acme"] * 3
        response.close()
    assert ends == ["acme"]


def test_a_stream_that_was_not_read_runs_no_code() -> None:
    with tenant("beta"):
        respond(parts())
        gc.collect()
    assert ends == []


def test_a_file_is_sent_and_closed(tmp_path: Any) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"contents")
    file = place.open("rb")
    response = TenantMiddleware(lambda _: FileResponse(file))(request())
    assert b"".join(response) == b"contents"
    response.close()
    assert file.closed


@pytest.mark.parametrize("how", ["closed", "dropped", "read"])
def test_an_async_stream(how: str) -> None:
    async def view(_: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(parts_async())

    async def run() -> None:
        response: Any = await TenantMiddleware(view)(request())
        stream: Any = aiter(response)
        with tenant("beta"):
            assert await anext(stream) == b"acme"
            if how == "read":
                assert [part async for part in stream] == [b"acme"] * 2
            if how == "closed":
                await stream.aclose()
                response.close()
            del stream, response
            gc.collect()
            await until(lambda: ends)  # It ends in a task of the loop.

    asyncio.run(run())
    assert ends == ["acme"]
