"""The ASGI middleware: every request is served for its own tenant, or refused before that.

test_middleware_wsgi puts the same table of requests to the WSGI middleware.
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
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from flowcache import TenantNotSetError
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
        # Letters that lower() would make an ASCII letter, or leave as one that looks like it.
        ("\N{KELVIN SIGN}iosk.example.com".encode(), "tenant_malformed"),
        ("acm\N{CYRILLIC SMALL LETTER IE}.example.com".encode(), "tenant_malformed"),
        ("acme.ex\N{LATIN SMALL LETTER A WITH DIAERESIS}mple.com".encode(), "tenant_malformed"),
        (b"acm\xe9.example.com", "tenant_malformed"),
        (b"acme.example.com:80:80", "tenant_malformed"),
        (b"acme.example.com:http", "tenant_malformed"),
        (b"user@acme.example.com", "tenant_malformed"),
        (b"ac me.example.com", "tenant_malformed"),
        (b"acme.example.com..", "tenant_malformed"),
        (b"xn--caf-dma.example.com", "xn--caf-dma"),
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


@pytest.mark.parametrize(
    ("mount", "path", "expected"),
    [
        ("/api", "/api/acme/plan", "acme"),
        ("/api/", "/api/acme/plan", "acme"),
        ("/api/v1", "/api/v1/acme", "acme"),
        ("/acme", "/acme/beta", "beta"),
        ("", "/acme/beta", "acme"),
        ("/api", "/acme/plan", "acme"),  # a server that has removed the mount
        ("/api", "/apis/acme", "apis"),
        ("/acme", "/acme", "tenant_missing"),
        ("/acme", "/acme/", "tenant_missing"),
        ("/acme", "/acme//beta", "tenant_missing"),
    ],
)
def test_a_part_of_the_path_counts_below_the_mount(mount: str, path: str, expected: str) -> None:
    guarded = TenantMiddleware(echo, path_part=0)
    status, body = asyncio.run(ask(guarded, path=path, extra={"root_path": mount}))
    assert body.get("tenant", body.get("error")) == expected
    assert status == (200 if "tenant" in body else 400)


@pytest.mark.parametrize(
    ("path", "longest"),
    [
        (None, 249),
        (lambda name: f"organisation:{name}", 243),
        (lambda name: ("tenant", name), 256),
        (lambda name: (part for part in ["a" + name, "b"]), 255),
    ],
)
def test_an_id_is_checked_as_the_name_that_it_will_be(path: Any, longest: int) -> None:
    mine = new_cache()[0].for_current_tenant(path)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        mine.set("seen", True)
        await echo(scope, receive, send)

    guarded = TenantMiddleware(application, header="X-Tenant-ID", path=path)
    assert asyncio.run(ask(guarded, ("x-tenant-id", b"a" * longest)))[0] == 200
    status, body = asyncio.run(ask(guarded, ("x-tenant-id", b"a" * (longest + 1))))
    assert (status, body["error"]) == (400, "tenant_malformed")
    assert "256" in body["detail"]


def test_an_id_whose_path_is_too_deep_is_refused() -> None:
    path: Any = lambda name: name.split("/")  # noqa: E731
    guarded = TenantMiddleware(echo, header="X-Tenant-ID", path=path)
    new_cache()[0].namespace(*["a"] * 64)
    assert asyncio.run(ask(guarded, ("x-tenant-id", b"/".join([b"a"] * 64))))[0] == 200
    assert asyncio.run(ask(guarded, ("x-tenant-id", b"/".join([b"a"] * 65))))[0] == 400
    assert asyncio.run(ask(guarded, ("x-tenant-id", b"a//b")))[0] == 400


def test_exempt_requests_run_without_a_tenant() -> None:
    mine = new_cache()[0].for_current_tenant()
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_tenant.get(None))
        with pytest.raises(TenantNotSetError):
            mine.get("k")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    guarded = TenantMiddleware(
        application, header="X-Tenant-ID", exempt=("/health", "/static/*", "OPTIONS")
    )
    acme = ("x-tenant-id", b"acme")

    async def ask_within(path: str, **extra: Any) -> Answer:
        return await ask(guarded, acme, path=path, extra=extra)

    for path, extra in (
        ("/health", {}),
        ("/static/a.css", {}),
        ("/api/health", {"root_path": "/api"}),
        ("/contacts", {"method": "OPTIONS"}),
    ):
        assert asyncio.run(ask_within(path, **extra)) == (200, {})
    assert seen == [None] * 4
    for path, extra in (
        ("/health/", {}),
        ("/HEALTH", {}),
        ("/static", {}),
        ("/x/health", {}),
        ("/health", {"root_path": "/health"}),
        ("/contacts", {"method": "options"}),
    ):
        assert asyncio.run(ask(guarded, path=path, extra=extra))[0] == 400
    only_health = TenantMiddleware(application, header="X-Tenant-ID", exempt="/health")
    assert asyncio.run(ask(only_health, path="/health"))[0] == 200


def test_an_exempt_request_within_another_tenant_has_none() -> None:
    async def main() -> None:
        guarded = TenantMiddleware(echo_or_none, header="X-Tenant-ID", exempt="/health")
        outer = TenantMiddleware(guarded, tenant_of=lambda scope: "outer")
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await outer({"type": "http", "path": "/health", "headers": []}, None, send)
        assert sent == [None]

    async def echo_or_none(scope: Any, receive: Any, send: Any) -> None:
        await send(current_tenant.get(None))

    asyncio.run(main())


def test_mounts_within_mounts_of_a_real_application() -> None:
    async def plan(request: Request) -> JSONResponse:
        return JSONResponse([request.path_params["who"], current_tenant.get()])

    inner = TenantMiddleware(Starlette(routes=[Route("/{who}/plan", plan)]), path_part=0)
    routes = [
        Mount("/direct", app=inner),
        Mount("/outer", routes=[Mount("/inner", app=inner)]),
        Mount("/{region}/far", app=Starlette(routes=[Mount("/near", app=inner)])),
    ]

    async def main() -> None:
        transport = httpx.ASGITransport(app=Starlette(routes=routes), root_path="/proxy")
        async with httpx.AsyncClient(transport=transport, base_url="http://crm") as client:
            for mount in ("/direct", "/outer/inner", "/eu/far/near"):
                for name in ("acme", "beta"):
                    answer = await client.get(f"/proxy{mount}/{name}/plan")
                    assert answer.json() == [name, name]
                assert (await client.get(f"/proxy{mount}/")).status_code == 400

    asyncio.run(main())


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


def yields(name: str) -> Iterator[bool]:
    yield False


async def agenerates(scope: Any) -> AsyncIterator[str]:
    yield "acme"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "exactly one of .*, got 0"),
        ({"header": "A", "path_part": 0}, TypeError, "exactly one of .*, got 2"),
        ({"header": 7}, TypeError, "^header: must be a str, got int"),
        ({"header": ""}, ValueError, "^header: "),
        ({"header": "X Tenant"}, ValueError, "^header: "),
        ({"header": "X:Tenant"}, ValueError, "^header: "),
        ({"header": "X-Tenänt"}, ValueError, "^header: "),
        ({"subdomain_of": "exämple.com"}, ValueError, "^subdomain_of: "),
        ({"subdomain_of": "example.com:8000"}, ValueError, "^subdomain_of: .*without a port"),
        ({"subdomain_of": "."}, ValueError, "^subdomain_of: "),
        ({"subdomain_of": ""}, ValueError, "^subdomain_of: "),
        ({"path_part": -1}, ValueError, "^path_part: must be at least 0"),
        ({"path_part": True}, TypeError, "^path_part: must be an int, got bool"),
        ({"tenant_of": "acme"}, TypeError, "^tenant_of: must be callable, got str"),
        ({"header": "A", "is_known": {"acme"}}, TypeError, "^is_known: must be callable, got set"),
        ({"header": "A", "path": "tenant"}, TypeError, "^path: must be callable or None, got str"),
        ({"header": "A", "path": echo}, TypeError, "^path: must be a plain function, got a coro"),
        ({"header": "A", "is_known": yields}, TypeError, "^is_known: .*got a generator function"),
        ({"tenant_of": agenerates}, TypeError, "^tenant_of: .*got a generator function"),
        ({"header": "A", "exempt": 7}, TypeError, "^exempt: must be a str or an iterable"),
        ({"header": "A", "exempt": b"/"}, TypeError, "^exempt: must be a str or an iterable"),
        ({"header": "A", "exempt": [None]}, TypeError, "^exempt: each must be a str, got NoneType"),
        ({"header": "A", "exempt": ["health"]}, ValueError, "^exempt: .*got 'health'"),
        ({"header": "A", "exempt": ["options"]}, ValueError, "^exempt: .*got 'options'"),
        ({"header": "A", "exempt": ["/a/*/b"]}, ValueError, "^exempt: "),
        ({"header": "A", "exempt": ["/a*"]}, ValueError, "^exempt: "),
        ({"header": "A", "exempt": [""]}, ValueError, "^exempt: "),
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
    """The tenants that background tasks saw."""
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
