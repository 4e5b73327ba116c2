"""The WSGI middleware: each request is served for its own tenant, or refused before that."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from flask import Flask, Response, jsonify, stream_with_context

from flowcache.contrib.wsgi import TenantMiddleware
from flowcache.tenancy import current_tenant, tenant
from harness.support import new_cache


def echo(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps({"tenant": current_tenant.get()}).encode()]


def ask(application: Any, **environ: str) -> tuple[int, dict[str, Any]]:
    """Put one request to a WSGI application, with wsgiref watching both sides."""
    started: list[Any] = []
    request: dict[str, Any] = {}
    setup_testing_defaults(request)
    request.update({"QUERY_STRING": "", **environ})

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append(status)
        return lambda data: None

    parts = validator(application)(request, start_response)
    try:
        body = b"".join(parts)
    finally:
        parts.close()
    assert current_tenant.get(None) is None
    return int(started[0][:3]), json.loads(body)


def test_the_tenant_of_the_header_is_current_while_the_application_runs() -> None:
    guarded = TenantMiddleware(echo, header="X-Tenant-ID")
    assert ask(guarded, HTTP_X_TENANT_ID="acme") == (200, {"tenant": "acme"})
    as_wsgi_says_it = "café".encode().decode("latin-1")
    assert ask(guarded, HTTP_X_TENANT_ID=as_wsgi_says_it) == (200, {"tenant": "café"})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "tenant_missing"),
        ("", "tenant_missing"),
        (" acme", "tenant_malformed"),
        ("a" * 257, "tenant_malformed"),
        ("acme,beta", "tenant_malformed"),
        ("\xff\xfe", "tenant_malformed"),
    ],
)
def test_a_header_that_names_no_tenant_is_answered_with_400(value: str | None, error: str) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        pytest.fail("the application ran")

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    status, body = ask(guarded, **({} if value is None else {"HTTP_X_TENANT_ID": value}))
    assert (status, body["error"]) == (400, error)


def test_a_subdomain_or_a_part_of_the_path_or_a_callable_names_the_tenant() -> None:
    by_host = TenantMiddleware(echo, subdomain_of="example.com")
    assert ask(by_host, HTTP_HOST="Acme.example.com:80") == (200, {"tenant": "acme"})
    assert ask(by_host, HTTP_HOST="example.com")[0] == 400
    by_path = TenantMiddleware(echo, path_part=1)
    assert ask(by_path, PATH_INFO="/t/acme/x") == (200, {"tenant": "acme"})
    assert ask(by_path, PATH_INFO="/t/\xff/x")[1]["error"] == "tenant_malformed"
    by_user = TenantMiddleware(echo, tenant_of=lambda environ: environ.get("REMOTE_USER"))
    assert ask(by_user, REMOTE_USER="acme") == (200, {"tenant": "acme"})
    assert ask(by_user)[0] == 400


def test_made_up_tenants_get_404_and_never_a_namespace() -> None:
    cache, _ = new_cache()
    mine = cache.for_current_tenant()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        mine.set("seen", True)
        return echo(environ, start_response)

    guarded = TenantMiddleware(application, header="X-Tenant-ID", is_known={"acme"}.__contains__)
    for number in range(20):
        assert ask(guarded, HTTP_X_TENANT_ID=f"made-up-{number}")[0] == 404
    assert ask(guarded, HTTP_X_TENANT_ID="acme")[0] == 200
    assert list(cache.namespaces()) == ["tenant:acme"]


async def awaits(given: Any) -> Any:
    return "acme"


def yields(given: Any) -> Iterator[str]:
    yield "acme"


@pytest.mark.parametrize("argument", ["tenant_of", "is_known", "path"])
def test_a_function_that_cannot_answer_is_refused_at_once(argument: str) -> None:
    def middleware(function: Any) -> Any:
        header = {} if argument == "tenant_of" else {"header": "X-Tenant-ID"}
        return TenantMiddleware(echo, **header, **{argument: function})

    with pytest.raises(TypeError, match=rf"^{argument}: must be a plain function, got a coroutine"):
        middleware(awaits)
    with pytest.raises(TypeError, match=rf"^{argument}: must be callable( or None)?, got str"):
        middleware("acme")
    if argument != "path":  # the names of a path may be generated
        with pytest.raises(TypeError, match=rf"^{argument}: must be .*got a generator function"):
            middleware(yields)
    hidden = middleware(lambda given, function=awaits: function(given))
    with pytest.raises(TypeError, match=rf"^{argument}: .*return(ed)? (an awaitable|coroutine)"):
        ask(hidden, HTTP_X_TENANT_ID="acme")


@pytest.mark.parametrize(
    ("mount", "path", "expected"),
    [
        ("/api", "/acme/plan", "acme"),
        ("/api/v1", "/acme", "acme"),
        ("/acme", "/beta", "beta"),
        ("/acme", "", "tenant_missing"),
        ("/acme", "/", "tenant_missing"),
        ("/acme/beta", "", "tenant_missing"),
    ],
)
def test_a_part_of_the_path_counts_below_the_mount(mount: str, path: str, expected: str) -> None:
    guarded = TenantMiddleware(echo, path_part=0)
    status, body = ask(guarded, SCRIPT_NAME=mount, PATH_INFO=path)
    assert body.get("tenant", body.get("error")) == expected
    assert status == (200 if "tenant" in body else 400)


@pytest.mark.parametrize("length", [249, 250, 256, 257])
def test_an_id_is_checked_as_the_name_that_it_will_be(length: int) -> None:
    mine = new_cache()[0].for_current_tenant()

    def application(environ: Any, start_response: Any) -> Any:
        mine.set("seen", True)
        return echo(environ, start_response)

    status, body = ask(
        TenantMiddleware(application, header="X-Tenant-ID"), HTTP_X_TENANT_ID="a" * length
    )
    assert status == (200 if length <= 249 else 400)
    assert body.get("error") == (None if length <= 249 else "tenant_malformed")


def test_exempt_requests_run_without_a_tenant() -> None:
    seen: list[Any] = []

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("content-type", "application/json")])
        seen.append(current_tenant.get(None))
        yield json.dumps({"tenant": current_tenant.get(None)}).encode()

    guarded = TenantMiddleware(
        application, header="X-Tenant-ID", exempt=["/health", "/static/*", "OPTIONS"]
    )
    with tenant("ambient"):
        for request in (
            {"PATH_INFO": "/health"},
            {"PATH_INFO": "/static/a/b.css"},
            {"SCRIPT_NAME": "/api", "PATH_INFO": "/health", "HTTP_X_TENANT_ID": "acme"},
            {"PATH_INFO": "/contacts", "REQUEST_METHOD": "OPTIONS"},
        ):
            environ: dict[str, Any] = {}
            setup_testing_defaults(environ)
            assert list(guarded(environ | request, lambda *_: None)) == [b'{"tenant": null}']
            assert current_tenant.get() == "ambient"
    for path in ("/", "/health/", "/healthy", "/static", "/api/health"):
        assert ask(guarded, PATH_INFO=path)[0] == 400
    assert ask(guarded, SCRIPT_NAME="/health", PATH_INFO="")[0] == 400


def test_a_response_is_iterated_and_closed_for_its_tenant() -> None:
    seen: list[tuple[str, str]] = []

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            seen.append(("iter", current_tenant.get()))
            for part in (b'{"a"', b": 1}"):
                seen.append(("part", current_tenant.get()))
                yield part

        def close(self) -> None:
            seen.append(("close", current_tenant.get()))

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-type", "application/json")])
        return Parts()

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    assert ask(guarded, HTTP_X_TENANT_ID="acme") == (200, {"a": 1})
    assert seen == [("iter", "acme"), ("part", "acme"), ("part", "acme"), ("close", "acme")]


def test_a_response_that_cannot_be_closed_need_not_be() -> None:
    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-type", "application/json")])
        return iter([b'{"a": 1}'])

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    assert ask(guarded, HTTP_X_TENANT_ID="acme") == (200, {"a": 1})


class Parts:
    """A response that records the current tenant at each of its steps."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def __iter__(self) -> Iterator[bytes]:
        try:
            for _ in range(3):
                self.seen.append(current_tenant.get(None))
                yield b"part"
        finally:
            self.seen.append(("finally", current_tenant.get(None)))

    def close(self) -> None:
        self.seen.append(("close", current_tenant.get(None)))


def start(application: Any, name: str = "acme") -> Any:
    """Put a request of a tenant to a guarded application, and take the first part."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["HTTP_X_TENANT_ID"] = name
    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    response = guarded(environ, lambda *_: None)
    assert next(iter(response)) == b"part"
    return response


def generating(seen: list[Any]) -> Any:
    return lambda environ, start_response: iter(Parts(seen))


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_response_that_is_not_closed_ends_for_its_own_tenant(in_a_cycle: bool) -> None:
    seen: list[Any] = []
    response = start(generating(seen))
    if in_a_cycle:
        loop: list[Any] = [response]
        loop.append(loop)
        del loop
    with tenant("beta"):
        del response
        gc.collect()
        assert current_tenant.get() == "beta"
    assert seen == ["acme", ("finally", "acme")]


def test_a_response_that_is_not_closed_is_closed_once() -> None:
    seen: list[Any] = []
    response = start(lambda environ, start_response: Parts(seen))
    with tenant("beta"):
        response.close()
        response.close()
        del response
        gc.collect()
    assert seen == ["acme", ("close", "acme"), ("finally", "acme")]


def test_a_response_may_be_iterated_and_closed_in_different_threads() -> None:
    seen: list[Any] = []
    response = start(generating(seen))
    with ThreadPoolExecutor(1) as pool, tenant("beta"):
        assert pool.submit(next, response).result(60) == b"part"
        assert next(response) == b"part"
        pool.submit(response.close).result(60)
    assert seen == ["acme"] * 3 + [("finally", "acme")]


def test_a_response_that_is_closed_leaves_nothing_behind() -> None:
    made: list[Any] = []

    def application(environ: Any, start_response: Any) -> Any:
        parts = Parts([])
        made.append(weakref.ref(parts))
        return parts

    response = start(application)
    response.close()
    assert made[0]() is None
    assert list(response) == []


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_a_response_holds_is_dropped_for_its_tenant(is_closed: bool) -> None:
    seen: list[Any] = []

    class Connection:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            return b"part"

        def __del__(self) -> None:
            seen.append(current_tenant.get(None))

    with tenant("beta"):
        response = start(lambda environ, start_response: Connection())
        if is_closed:
            response.close()
            assert seen == ["acme"]
        del response
        assert seen == ["acme"]


def test_a_block_within_a_response_ends_in_order() -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        with tenant("inner"):
            yield b"part"
            assert current_tenant.get() == "inner"
            yield b"part"
        assert current_tenant.get() == "acme"
        yield b"part"

    with tenant("beta"):
        assert list(start(application)) == [b"part"] * 2
        response = start(application)
        del response
        gc.collect()
        assert current_tenant.get() == "beta"


def test_a_future_for_an_answer_is_refused_too() -> None:
    class Later:
        def __await__(self) -> Iterator[None]:
            yield

    guarded = TenantMiddleware(echo, tenant_of=lambda environ: Later())
    with pytest.raises(TypeError, match="tenant_of: returned an awaitable"):
        ask(guarded)


def test_a_request_inside_another_s_context_leaves_it_alone() -> None:
    guarded = TenantMiddleware(echo, header="X-Tenant-ID")
    with tenant("outer"):
        request: dict[str, Any] = {}
        setup_testing_defaults(request)
        request["HTTP_X_TENANT_ID"] = "inner"
        assert guarded(request, lambda *_: None) == [b'{"tenant": "inner"}']
        assert current_tenant.get() == "outer"


def test_a_flask_application_serves_parallel_requests_for_their_tenants() -> None:
    app = Flask(__name__)
    both = threading.Barrier(4)

    @app.get("/page")
    def page() -> Response:
        before = current_tenant.get()
        both.wait(30)  # four requests are under way at once
        assert current_tenant.get() == before
        return jsonify(tenant=before)

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield '{"tenant": '
            yield json.dumps(current_tenant.get()) + "}"

        return Response(stream_with_context(parts()), mimetype="application/json")

    guarded = TenantMiddleware(app, header="X-Tenant-ID")
    names = [f"tenant-{number % 5}" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for path in ("/page", "/stream"):
            answers = pool.map(
                lambda name, path=path: ask(guarded, HTTP_X_TENANT_ID=name, PATH_INFO=path), names
            )
            assert list(answers) == [(200, {"tenant": name}) for name in names]
