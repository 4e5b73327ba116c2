"""Tenants through real frameworks and loops: mounts, dependencies, streams, sockets, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import httpx
import pytest
from flask import Flask, Response, stream_with_context
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from flowcache import TenantNotSetError, TenantScopeWarning
from flowcache.contrib.asgi import TenantMiddleware
from flowcache.contrib.wsgi import TenantMiddleware as WSGITenantMiddleware
from flowcache.tenancy import current_tenant, no_tenant, tenant
from harness.support import new_cache, run_isolated
from harness.tenant_support import now

try:
    from fastapi import Depends, FastAPI
except ImportError:  # its compiled parts have no wheels for every build without the GIL
    FastAPI = None

needs_fastapi = pytest.mark.skipif(FastAPI is None, reason="FastAPI cannot be installed here")


def ask(app: Any, *paths: str, root_path: str = "", **headers: str) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://crm") as client:
            return list(
                await asyncio.gather(*(client.get(path, headers=headers) for path in paths))
            )

    return asyncio.run(main())


# ASGI: mounts


async def show(request: Request) -> JSONResponse:
    await asyncio.sleep(0)
    return JSONResponse({"asked": request.path_params.get("who"), "tenant": now()})


@needs_fastapi
def test_fastapi_mounted_in_starlette_and_in_fastapi_counts_below_both_mounts() -> None:
    inner = FastAPI()
    inner.add_middleware(TenantMiddleware, path_part=1)

    @inner.get("/t/{who}/plan")
    async def plan(who: str) -> dict[str, Any]:
        return {"asked": who, "tenant": now()}

    middle = FastAPI()
    middle.mount("/v1", inner)
    for app in (middle, Starlette(routes=[Mount("/api", app=middle)])):
        prefix = "/v1" if app is middle else "/api/v1"
        answers = ask(app, *(f"{prefix}/t/{who}/plan" for who in ("acme", "beta")))
        assert [one.json() for one in answers] == [
            {"asked": who, "tenant": who} for who in ("acme", "beta")
        ]
        assert ask(app, f"{prefix}/t")[0].status_code == 400


@needs_fastapi
@pytest.mark.parametrize("root_path", ["/proxy", ""])
def test_a_proxy_s_prefix_is_no_part_of_the_path(root_path: str) -> None:
    app = FastAPI()

    @app.get("/{who}/plan")
    async def plan(who: str) -> dict[str, Any]:
        return {"asked": who, "tenant": now()}

    guarded = TenantMiddleware(app, path_part=0)
    for who in ("acme", "beta"):
        (answer,) = ask(guarded, f"{root_path}/{who}/plan", root_path=root_path)
        assert answer.json() == {"asked": who, "tenant": who}


async def talk_to(app: Any, path: str, *texts: str) -> list[Any]:
    """Open a WebSocket, send messages one at a time, and return the replies."""
    incoming: list[Any] = [{"type": "websocket.connect"}]
    incoming += [{"type": "websocket.receive", "text": text} for text in texts]
    incoming.append({"type": "websocket.disconnect", "code": 1000})
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return incoming.pop(0)

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return [message.get("text", message["type"]) for message in sent]


def test_a_websocket_below_mounts_has_the_tenant_of_its_own_path() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{text} of {now()}")

    inner = TenantMiddleware(
        Starlette(routes=[WebSocketRoute("/{who}/talk", talk)]),
        path_part=0,
        is_known=lambda name: name in ("acme", "beta"),
    )
    app = Starlette(routes=[Mount("/a", routes=[Mount("/b", app=inner)])])

    async def main() -> None:
        answers = await asyncio.gather(
            *(talk_to(app, f"/a/b/{name}/talk", "0", "1") for name in ("acme", "beta", "a"))
        )
        assert answers == [
            ["websocket.accept", "0 of acme", "1 of acme"],
            ["websocket.accept", "0 of beta", "1 of beta"],
            ["websocket.close"],
        ]
        assert await talk_to(app, "/a/b/") == ["websocket.close"]

    asyncio.run(main())


def test_one_middleware_within_another_has_the_inner_tenant_inside_and_the_outer_after() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(now())

    class Between:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(now())
            await self.app(scope, receive, send)
            seen.append(now())

    inner = TenantMiddleware(application, tenant_of=lambda scope: "inner")
    outer = TenantMiddleware(Between(inner), tenant_of=lambda scope: "outer")
    asyncio.run(outer({"type": "http", "path": "/", "headers": []}, None, None))  # type: ignore[arg-type]
    assert seen == ["outer", "inner", "outer"]


def test_a_client_that_goes_away_from_a_stream_leaves_the_next_request_alone() -> None:
    mine = new_cache()[0].for_current_tenant()
    ended: list[Any] = []

    async def rows() -> AsyncIterator[str]:
        try:
            while True:
                yield f"{current_tenant.get()}\n"
                await asyncio.sleep(0)
        finally:
            ended.append(now())

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(rows())

    async def plan(request: Request) -> JSONResponse:
        return JSONResponse(await mine.afetch("plan", current_tenant.get))

    app = TenantMiddleware(
        Starlette(routes=[Route("/stream", stream), Route("/plan", plan)]), header="X-Tenant-ID"
    )

    async def request(path: str, name: bytes, parts: int) -> list[bytes]:
        got: list[bytes] = []
        gone = asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                got.append(message["body"])
                if len(got) >= parts:
                    gone.set()

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"x-tenant-id", name)],
        }
        await app(scope, receive, send)
        return got

    async def main() -> None:
        for _ in range(3):
            got, plan, _ = await asyncio.gather(
                request("/stream", b"acme", 2), request("/plan", b"beta", 1), asyncio.sleep(0)
            )
            assert set(got[:2]) == {b"acme\n"}
            assert plan[0] == b'"beta"'
            gc.collect()
            await asyncio.sleep(0)
            assert now() is None

    asyncio.run(main())
    assert set(ended) <= {"acme", None}


# FastAPI: dependencies that yield


@needs_fastapi
def test_dependencies_that_yield_within_a_block() -> None:
    app = FastAPI()

    async def of_the_task() -> AsyncIterator[None]:
        with tenant("from async"):
            yield

    def of_a_thread() -> Iterator[None]:
        with tenant("from sync"):
            yield

    @app.get("/async", dependencies=[Depends(of_the_task)])
    async def in_async() -> Any:
        return now()

    @app.get("/sync", dependencies=[Depends(of_a_thread)])
    async def in_sync() -> Any:
        return now()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TenantScopeWarning)
        # Entered in a copy of the context, in a thread: it does not reach the function.
        assert [one.json() for one in ask(app, "/async", "/sync")] == ["from async", None]
        guarded = TenantMiddleware(app, header="X-Tenant-ID")
        answers = ask(guarded, "/async", "/sync", "/sync", **{"X-Tenant-ID": "acme"})
        assert [one.json() for one in answers] == ["from async", "acme", "acme"]


# WSGI


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"], now()]).encode()]


def test_mounts_of_werkzeug_count_below_the_mount() -> None:
    inner = WSGITenantMiddleware(application, path_part=0)
    nested = DispatcherMiddleware(application, {"/b": inner})
    client = Client(DispatcherMiddleware(application, {"/api": inner, "/a": nested}))
    for mount in ("/api", "/a/b"):
        for name in ("acme", "beta", "api"):
            assert client.get(f"{mount}/{name}/x").json == [mount, f"/{name}/x", name]
        assert client.get(mount).status_code == 400
        assert client.get(f"{mount}/").status_code == 400


def test_a_prefix_that_a_proxy_tells_is_no_part_of_the_path() -> None:
    client = Client(ProxyFix(WSGITenantMiddleware(application, path_part=0), x_prefix=1))
    answer = client.get("/acme/x", headers={"X-Forwarded-Prefix": "/api"})
    assert answer.json == ["/api", "/acme/x", "acme"]


def test_a_flask_stream_that_is_not_closed_is_torn_down_for_its_tenant() -> None:
    seen: list[Any] = []
    app = Flask(__name__)

    @app.teardown_request
    def teardown(error: object) -> None:
        seen.append(("teardown", now()))

    @app.get("/")
    def stream() -> Response:
        def rows() -> Iterator[str]:
            try:
                for _ in range(5):
                    seen.append(now())
                    yield "row"
            finally:
                seen.append(("finally", now()))

        return Response(stream_with_context(rows()))

    guarded = WSGITenantMiddleware(app, header="X-Tenant-ID")
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["HTTP_X_TENANT_ID"] = "acme"
    response: Any = guarded(environ, lambda *_: None)
    assert next(iter(response)) == b"row"
    with tenant("beta"):
        del response
        gc.collect()
        assert now() == "beta"
    assert {one for one in seen if isinstance(one, str)} == {"acme"}
    assert ("finally", "acme") in seen
    assert all(one[1] == "acme" for one in seen if isinstance(one, tuple))


# Loops, threads and processes


def uvloop_policy() -> Callable[[], asyncio.AbstractEventLoop]:
    uvloop = pytest.importorskip("uvloop", reason="uvloop cannot be installed here")
    return uvloop.new_event_loop  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop", "eager"])
def test_task_groups_timeouts_and_eager_tasks_keep_their_tenants(kind: str) -> None:
    if kind == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    mine = new_cache()[0].for_current_tenant()

    @mine.cached()
    async def who(number: int) -> str:
        await asyncio.sleep(0)
        return current_tenant.get()

    async def serve(name: str) -> None:
        with tenant(name):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(who_of(number)) for number in range(3)]
            assert [task.result() for task in tasks] == [name] * 3
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    with tenant("timed out"):
                        await asyncio.Event().wait()
            assert now() == name
            shielded = asyncio.shield(asyncio.ensure_future(who_of(9)))
            with no_tenant():
                assert await shielded == name

    async def who_of(number: int) -> str:
        return await who(number)

    async def main() -> None:
        if kind == "eager":
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        await asyncio.gather(*(serve(f"t{number}") for number in range(5)))
        assert now() is None

    factory = uvloop_policy() if kind == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_generators_side_by_side_as_zip_runs_them() -> None:
    def rows(name: str) -> Iterator[str]:
        with tenant(name):
            yield current_tenant.get()
        yield "after"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TenantScopeWarning)
        with tenant("own"):
            assert list(zip(rows("acme"), rows("beta"), strict=True)) == [
                ("acme", "beta"),
                ("after", "after"),
            ]
            assert now() == "own"


def test_an_error_thrown_into_a_suspended_block_ends_it() -> None:
    def rows() -> Iterator[Any]:
        with contextlib.suppress(ZeroDivisionError), tenant("acme"):
            yield now()
        yield now()

    with tenant("own"):
        made = rows()
        assert next(made) == "acme"
        assert made.throw(ZeroDivisionError) == "own"  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_async", [False, True])
def test_context_managers_that_hold_a_block(is_async: bool) -> None:
    @contextlib.contextmanager
    def working_for(name: str) -> Iterator[None]:
        with tenant(name):
            yield

    @contextlib.asynccontextmanager
    async def working_async_for(name: str) -> AsyncIterator[None]:
        with tenant(name):
            await asyncio.sleep(0)
            yield

    async def main() -> None:
        for name in ("acme", "beta"):
            if is_async:
                async with working_async_for(name), working_async_for("inner"):
                    assert now() == "inner"
            else:
                with working_for(name), working_for("inner"):
                    assert now() == "inner"
            assert now() is None

    asyncio.run(main())


def test_a_generator_that_dies_with_its_thread() -> None:
    local = threading.local()

    def rows() -> Iterator[None]:
        with tenant("acme"):
            yield

    def work() -> None:
        local.rows = rows()
        next(local.rows)

    with tenant("own"), warnings.catch_warnings():
        warnings.simplefilter("ignore", TenantScopeWarning)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        gc.collect()
        assert now() == "own"


def test_the_exit_of_the_interpreter_within_blocks_is_quiet() -> None:
    out = run_isolated(
        """
        from flowcache.tenancy import current_tenant, tenant

        def rows():
            with tenant("acme"):
                yield

        block = tenant("beta")
        block.__enter__()
        suspended = rows()
        next(suspended)
        print(current_tenant.get())
        """
    )
    assert out.strip() == "acme"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_goes_on_in_the_block() -> None:
    out = run_isolated(
        """
        import os
        from flowcache import create_cache
        from flowcache.tenancy import current_tenant, tenant

        mine = create_cache().for_current_tenant()
        with tenant("acme"):
            mine.set("k", "acme's")
            child = os.fork()
            assert mine.get("k") == "acme's"
            with tenant("beta"):
                assert mine.get("k") is None
        assert current_tenant.get(None) is None
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("both")
        else:
            os._exit(0)
        """
    )
    assert out.strip() == "both"


def test_a_view_of_no_tenant_is_never_made() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()
    with no_tenant(), pytest.raises(TenantNotSetError):
        mine.namespace("below")
    token = current_tenant.set(None)  # type: ignore[arg-type]
    with pytest.raises(TenantNotSetError):
        mine.get("k")
    current_tenant.reset(token)
    assert list(cache.namespaces()) == []
