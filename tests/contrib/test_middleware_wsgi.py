"""The WSGI middleware: each request is served for its own tenant, or refused before that."""

from __future__ import annotations

import json
import threading
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
    assert ask(by_path, SCRIPT_NAME="/t", PATH_INFO="/acme/x") == (200, {"tenant": "acme"})
    assert ask(by_path, SCRIPT_NAME="/t", PATH_INFO="/\xff/x")[1]["error"] == "tenant_malformed"
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


def test_an_async_check_is_an_error_and_not_a_yes() -> None:
    async def is_known(name: str) -> bool:
        return False

    guarded = TenantMiddleware(echo, header="X-Tenant-ID", is_known=is_known)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is_known: returned an awaitable"):
        ask(guarded, HTTP_X_TENANT_ID="acme")


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
