"""The ASGI middleware: every request is served for its own tenant, or refused before it is served.

The same table of requests is put to the WSGI middleware in test_middleware_wsgi.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flowcache.contrib.asgi import TenantMiddleware
from flowcache.tenancy import current_tenant
from harness.support import new_cache

try:
    from fastapi import BackgroundTasks, FastAPI
    from fastapi.responses import StreamingResponse as FastAPIStreamingResponse
except ImportError:  # it has compiled parts, and these no wheels for every build without the GIL
    FastAPI = None

Answer = tuple[int, dict[str, Any]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the current tenant."""
    body = json.dumps({"tenant": current_tenant.get()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def ask(
    application: Any, *headers: tuple[str, bytes], path: str = "/", extra: Any = ()
) -> Answer:
    """Put one raw request to an ASGI application."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [(name.lower().encode(), value) for name, value in headers],
        **dict(extra),
    }
    await application(scope, receive, send)
    assert current_tenant.get(None) is None
    body = b"".join(message["body"] for message in sent[1:])
    lengths = [value for name, value in sent[0]["headers"] if name == b"content-length"]
    assert lengths in ([], [str(len(body)).encode()])
    return sent[0]["status"], json.loads(body)


def test_the_tenant_of_the_header_is_current_while_the_application_runs() -> None:
    guarded = TenantMiddleware(echo, header="X-Tenant-ID")
    answer = asyncio.run(ask(guarded, ("x-tenant-id", b"acme")))
    assert answer == (200, {"tenant": "acme"})
    assert asyncio.run(ask(guarded, ("X-TENANT-ID", "café".encode())))[1] == {"tenant": "café"}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([], "tenant_missing"),
        ([b""], "tenant_missing"),
        ([b" acme"], "tenant_malformed"),
        ([b"acme "], "tenant_malformed"),
        ([b"a" * 257], "tenant_malformed"),
        ([b"acme, beta"], "tenant_malformed"),
        ([b"acme", b"beta"], "tenant_malformed"),
        ([b"acme", b"acme"], "tenant_malformed"),
        ([b"\xff\xfe"], "tenant_malformed"),
    ],
)
def test_a_header_that_names_no_tenant_is_answered_with_400(
    values: list[bytes], error: str
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the application ran")

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    status, body = asyncio.run(ask(guarded, *(("X-Tenant-ID", value) for value in values)))
    assert (status, body["error"]) == (400, error)
    assert set(body) == {"error", "detail"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"acme.example.com", "acme"),
        (b"ACME.Example.COM:8443", "acme"),
        (b"acme.example.com.", "acme"),
        (b"example.com", "tenant_missing"),
        (b"example.com:80", "tenant_missing"),
        (b".example.com", "tenant_missing"),
        (b"a.b.example.com", "tenant_malformed"),
        (b"acme.example.org", "tenant_malformed"),
        (b"evilexample.com", "tenant_malformed"),
        (b"[::1]:80", "tenant_malformed"),
    ],
)
def test_a_subdomain_names_the_tenant(host: bytes, expected: str) -> None:
    guarded = TenantMiddleware(echo, subdomain_of="example.com")
    status, body = asyncio.run(ask(guarded, ("host", host)))
    assert body.get("tenant", body.get("error")) == expected
    assert status == (200 if "tenant" in body else 400)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/t/acme/contacts", "acme"),
        ("/t/acme", "acme"),
        ("/t/a:b/x", "a:b"),
        ("/t", "tenant_missing"),
        ("/t//acme", "tenant_missing"),
        ("/t/ acme/x", "tenant_malformed"),
        ("/t/\ufffd/x", "tenant_malformed"),
    ],
)
def test_a_part_of_the_path_names_the_tenant(path: str, expected: str) -> None:
    guarded = TenantMiddleware(echo, path_part=1)
    body = asyncio.run(ask(guarded, path=path))[1]
    assert body.get("tenant", body.get("error")) == expected


def test_a_callable_names_the_tenant_sync_or_async() -> None:
    async def later(scope: Any) -> str | None:
        await asyncio.sleep(0)
        name: str | None = scope.get("user")
        return name

    for tenant_of in (lambda scope: scope.get("user"), later):
        guarded = TenantMiddleware(echo, tenant_of=tenant_of)
        assert asyncio.run(ask(guarded, extra={"user": "acme"})) == (200, {"tenant": "acme"})
        assert asyncio.run(ask(guarded))[0] == 400
        assert asyncio.run(ask(guarded, extra={"user": " x"}))[1]["error"] == "tenant_malformed"


def test_made_up_tenants_get_404_and_never_a_namespace() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        mine.set("seen", True)
        await echo(scope, receive, send)

    async def known_later(name: str) -> bool:
        await asyncio.sleep(0)
        return name == "acme"

    for is_known in (lambda name: name == "acme", known_later):
        guarded = TenantMiddleware(application, header="X-Tenant-ID", is_known=is_known)
        for number in range(20):
            made_up = f"made-up-{number}".encode()
            status, body = asyncio.run(ask(guarded, ("X-Tenant-ID", made_up)))
            assert (status, body["error"]) == (404, "tenant_unknown")
        assert asyncio.run(ask(guarded, ("X-Tenant-ID", b"acme")))[0] == 200
    assert list(cache.namespaces()) == ["tenant:acme"]


def test_a_check_that_fails_is_raised_and_the_application_does_not_run() -> None:
    ran: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        ran.append("application")

    def broken(name: str) -> bool:
        raise ConnectionError("no database")

    guarded = TenantMiddleware(application, header="X-Tenant-ID", is_known=broken)
    with pytest.raises(ConnectionError):
        asyncio.run(ask(guarded, ("X-Tenant-ID", b"acme")))
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "exactly one of .*, got 0"),
        ({"header": "A", "path_part": 0}, TypeError, "exactly one of .*, got 2"),
        ({"header": 7}, TypeError, "^header: must be a str, got int"),
        ({"header": ""}, ValueError, "^header: "),
        ({"header": "X Tenant"}, ValueError, "^header: "),
        ({"subdomain_of": "exämple.com"}, ValueError, "^subdomain_of: "),
        ({"path_part": -1}, ValueError, "^path_part: must be at least 0"),
        ({"path_part": True}, TypeError, "^path_part: must be an int, got bool"),
        ({"tenant_of": "acme"}, TypeError, "^tenant_of: must be callable, got str"),
        ({"header": "A", "is_known": {"acme"}}, TypeError, "^is_known: must be callable, got set"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TenantMiddleware(echo, **arguments)


def test_lifespan_passes_without_a_tenant() -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert current_tenant.get(None) is None
        seen.append(scope["type"])

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    asyncio.run(guarded({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


# Real frameworks


@pytest.fixture
def served() -> list[str]:
    """What background tasks saw."""
    return []


def starlette_application(served: list[str]) -> Any:
    async def stream() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield current_tenant.get() + "\n"

    async def page(request: Request) -> JSONResponse:
        await asyncio.sleep(0)
        task = BackgroundTask(lambda: served.append(current_tenant.get()))
        return JSONResponse({"tenant": current_tenant.get()}, background=task)

    def in_a_thread(request: Request) -> JSONResponse:
        return JSONResponse({"tenant": current_tenant.get()})

    async def streamed(request: Request) -> StreamingResponse:
        return StreamingResponse(stream())

    routes = [Route("/page", page), Route("/thread", in_a_thread), Route("/stream", streamed)]
    return TenantMiddleware(Starlette(routes=routes), header="X-Tenant-ID")


def fastapi_application(served: list[str]) -> Any:
    app = FastAPI()
    app.add_middleware(TenantMiddleware, header="X-Tenant-ID")

    @app.get("/page")
    async def page(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(lambda: served.append(current_tenant.get()))
        return {"tenant": current_tenant.get()}

    @app.get("/thread")
    def in_a_thread() -> dict[str, str]:
        return {"tenant": current_tenant.get()}

    @app.get("/stream")
    async def streamed() -> FastAPIStreamingResponse:
        def lines() -> Iterator[str]:  # a sync generator, run in the framework's threads
            for _ in range(3):
                yield current_tenant.get() + "\n"

        return FastAPIStreamingResponse(lines())

    return app


@pytest.mark.parametrize(
    "make",
    [
        starlette_application,
        pytest.param(
            fastapi_application,
            marks=pytest.mark.skipif(FastAPI is None, reason="FastAPI cannot be installed here"),
        ),
    ],
)
def test_parallel_requests_of_real_applications_keep_their_tenants(
    make: Any, served: list[str]
) -> None:
    names = [f"tenant-{number % 5}" for number in range(60)]

    async def main() -> None:
        transport = httpx.ASGITransport(app=make(served))
        async with httpx.AsyncClient(transport=transport, base_url="http://crm") as client:

            async def visit(name: str, path: str) -> httpx.Response:
                return await client.get(path, headers={"X-Tenant-ID": name})

            for path in ("/page", "/thread"):
                answers = await asyncio.gather(*(visit(name, path) for name in names))
                assert [answer.json()["tenant"] for answer in answers] == names
            answers = await asyncio.gather(*(visit(name, "/stream") for name in names))
            assert [answer.text.split() for answer in answers] == [[name] * 3 for name in names]
            assert (await client.get("/page")).status_code == 400

    asyncio.run(main())
    assert sorted(served) == sorted(names)


async def connect(application: Any, *headers: tuple[bytes, bytes], extensions: Any) -> list[Any]:
    """Open a WebSocket of an ASGI application; return what it sent."""
    sent: list[Any] = []
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return incoming.pop(0)

    scope = {
        "type": "websocket",
        "path": "/talk",
        "headers": list(headers),
        "subprotocols": [],
        "extensions": extensions,
    }
    await application(scope, receive, send)
    return sent


def test_a_websocket_has_a_tenant_or_is_refused_before_it_is_accepted() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(current_tenant.get())
        await websocket.close()

    app = TenantMiddleware(
        Starlette(routes=[WebSocketRoute("/talk", talk)]),
        header="X-Tenant-ID",
        is_known=lambda name: name == "acme",
    )
    acme, made_up = (b"x-tenant-id", b"acme"), (b"x-tenant-id", b"made-up")

    sent = asyncio.run(connect(app, acme, extensions={}))
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == "acme"

    for headers, status in (((), 400), ((made_up,), 404)):
        assert asyncio.run(connect(app, *headers, extensions={})) == [
            {"type": "websocket.close", "code": 1008}
        ]
        # A server that can answer a refused WebSocket with a response is given the whole answer.
        start, body = asyncio.run(
            connect(app, *headers, extensions={"websocket.http.response": {}})
        )
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
        assert json.loads(body["body"])["error"].startswith("tenant_")
