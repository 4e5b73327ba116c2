"""What an integration cannot work with is refused by name: arguments at once, requests with 400."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from dogpile.cache import make_region
from flask import Flask
from flask_caching import Cache as FlaskCache

from flowcache import create_cache
from flowcache.contrib.cachelib import FlowCache
from flowcache.contrib.fastapi import tenant_cache


def dogpile(**arguments: Any) -> Any:
    return make_region().configure("flowcache", arguments=arguments)


def litestar(**arguments: Any) -> Any:
    pytest.importorskip("litestar", reason="Litestar's compiled parts have no wheel here")
    from flowcache.contrib.litestar import FlowStore

    return FlowStore(**arguments)


def fastapi(cache: Any) -> Any:
    return tenant_cache(cache)


def flask(**settings: Any) -> Any:
    app = Flask(__name__)
    app.config.from_mapping(CACHE_TYPE="flowcache.contrib.flask_caching.FlowCache", **settings)
    return FlaskCache(app)


def collector(cache: Any = None, **arguments: Any) -> Any:
    from flowcache.contrib.prometheus import FlowcacheCollector

    return FlowcacheCollector(create_cache() if cache is None else cache, **arguments)


def instrumented(cache: Any = None, **arguments: Any) -> Any:
    from flowcache.contrib.opentelemetry import instrument

    return instrument(create_cache() if cache is None else cache, **arguments)


TAKE_A_CACHE = [dogpile, FlowCache, litestar, fastapi]
METRICS = [collector, instrumented]


@pytest.mark.parametrize("make", TAKE_A_CACHE)
@pytest.mark.parametrize("wrong", [5, "crm", {}])
def test_a_cache_that_is_none(make: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"^cache: .* got {type(wrong).__name__}"):
        make(cache=wrong)


@pytest.mark.parametrize("make", TAKE_A_CACHE)
def test_the_namespace_of_the_current_tenant_has_no_tenants_below(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^cache: .* that of the current tenant"):
        make(cache=create_cache().for_current_tenant())


@pytest.mark.parametrize("make", [dogpile, FlowCache, litestar])
def test_a_callable_that_returns_an_awaitable(make: Callable[..., Any]) -> None:
    async def of_request() -> str:
        return "acme"

    def of_call() -> Any:
        return of_request()

    made = make(tenant=of_call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # A coroutine that is never awaited would warn.
        with pytest.raises(TypeError, match=r"^tenant: must not return an awaitable"):
            made.set("k", "v").send(None) if make is litestar else made.set("k", "v")


def test_the_setting_of_flask_caching() -> None:
    for wrong, kind in ((0, ValueError), ("500", TypeError)):
        with pytest.raises(kind, match=r"^CACHE_THRESHOLD: must be an int of at least 1"):
            flask(CACHE_THRESHOLD=wrong)
    with pytest.raises(ValueError, match=r"^max_entries: "):
        flask(CACHE_OPTIONS={"max_entries": 0})


def test_a_timeout_of_a_store_by_another_name() -> None:
    with pytest.raises(TypeError, match=r"^default_ttl: is not taken"):
        FlowCache(default_ttl=60)


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("wrong", [5, b"acme"])
def test_pinned_tenants(make: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^pinned: must be a str or an iterable of them"):
        make(pinned=wrong)


@pytest.mark.parametrize("make", METRICS)
def test_a_name_that_no_exporter_can_write(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"^cache: its name must be UTF-8"):
        make(create_cache(name="half a pair: \ud800"))


def test_an_add_that_has_expired_already_says_whether_the_key_was_absent() -> None:
    made = FlowCache()
    assert made.add("k", 1, timeout=-1) is True
    assert not made.has("k")
    made.set("k", 1)
    assert made.add("k", 2, timeout=-1) is False
    assert made.get("k") == 1


@pytest.mark.parametrize("name", ["REQUEST_METHOD", "PATH_INFO"])
def test_text_that_no_server_sends_is_answered_with_400(name: str) -> None:
    from flowcache.contrib.wsgi import TenantMiddleware

    def application(environ: Any, start_response: Any) -> list[bytes]:
        pytest.fail("the application ran")

    guarded = TenantMiddleware(application, header="X-Tenant-ID", exempt="/health")
    started: list[str] = []
    environ = {"HTTP_X_TENANT_ID": "\u6771\u4eac", name: "\u6771"}
    answer = guarded(environ, lambda status, headers: started.append(status))
    assert started == ["400 Bad Request"]
    assert b"tenant_malformed" in b"".join(answer)


def test_django_answers_it_with_400() -> None:
    from django.http import HttpRequest
    from django.test import override_settings

    from contrib.django_project import caches_of
    from flowcache.contrib.django import TenantMiddleware

    request = HttpRequest()
    request.META["HTTP_X_TENANT_ID"] = "\u6771\u4eac"
    with caches_of(), override_settings(FLOWCACHE_TENANT={"header": "X-Tenant-ID"}):
        answer = TenantMiddleware(lambda request: pytest.fail("the view ran"))(request)
    assert answer.status_code == 400
