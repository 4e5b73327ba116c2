"""Django's middleware and checks: pages, fragments and streams of two tenants, sync and async."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.views.decorators.cache import cache_page

from contrib.django_project import caches_of
from contrib.interleaving import TENANTS, in_step
from flowcache.contrib.django import TenantMiddleware
from flowcache.tenancy import current_tenant

MIDDLEWARE = "flowcache.contrib.django.TenantMiddleware"
UPDATE, FETCH = (
    f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")
)

made: list[tuple[str, str]] = []
"""The pages that were made, each with its tenant, in order."""


def whose(request: HttpRequest) -> HttpResponse:
    return HttpResponse(current_tenant.get())


def exempt_page(request: HttpRequest) -> HttpResponse:
    with pytest.raises(LookupError):
        cache.get("k")
    return HttpResponse(current_tenant.get("no tenant"))


async def whose_async(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(current_tenant.get())


@cache_page(60)
def page(request: HttpRequest) -> HttpResponse:
    made.append(("page", current_tenant.get()))
    return HttpResponse(f"page of {current_tenant.get()}")


def fragment(request: HttpRequest) -> HttpResponse:
    source = "{% load cache %}{% cache 60 sidebar %}sidebar of {{ tenant }}{% endcache %}"
    template = engines["django"].from_string(source)
    return HttpResponse(template.render({"tenant": current_tenant.get()}, request))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for number in range(3):
            kept = cache.get_or_set("p", current_tenant.get)
            yield f"{number}{current_tenant.get()}{kept} "

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            kept = await cache.aget_or_set("p", current_tenant.get)
            yield f"{number}{current_tenant.get()}{kept} "

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("whose/", whose),
    path("whose-async/", whose_async),
    path("page/", page),
    path("exempt/", exempt_page),
    path("fragment/", fragment),
    path("stream/", stream),
    path("stream-async/", stream_async),
    path("t/acme/whose/", whose),
]

CURRENT = {"OPTIONS": {"TENANT": "current"}}


def project(source: Any, **settings: Any) -> override_settings:
    chosen = {"MIDDLEWARE": [MIDDLEWARE], "ROOT_URLCONF": __name__, **settings}
    return override_settings(FLOWCACHE_TENANT=source, **chosen)


@pytest.fixture(autouse=True)
def a_project() -> Iterator[None]:
    made.clear()
    with caches_of(default=CURRENT), project({"header": "X-Tenant-ID"}):
        yield
    assert current_tenant.get(None) is None


def get(where: str, name: str | None = "acme") -> Any:
    return Client().get(where, headers={} if name is None else {"X-Tenant-ID": name})


async def aget(where: str, name: str | None = "acme") -> Any:
    return await AsyncClient().get(where, headers={} if name is None else {"X-Tenant-ID": name})


def ask(where: str, name: str | None = "acme", *, asynchronous: bool) -> Any:
    return asyncio.run(aget(where, name)) if asynchronous else get(where, name)


both_ways = pytest.mark.parametrize("asynchronous", [False, True], ids=["wsgi", "asgi"])


@both_ways
@pytest.mark.parametrize("where", ["/whose/", "/whose-async/"])
def test_the_tenant_of_the_request_is_current_in_the_view(where: str, asynchronous: bool) -> None:
    for name in ("acme", "café"):
        given = name.encode().decode("latin-1")
        answer = ask(where, given, asynchronous=asynchronous)
        assert (answer.status_code, answer.content.decode()) == (200, name)


@both_ways
@pytest.mark.parametrize(
    ("name", "error"),
    [
        (None, "tenant_missing"),
        ("", "tenant_missing"),
        (" acme", "tenant_malformed"),
        ("a" * 257, "tenant_malformed"),
        ("acme,beta", "tenant_malformed"),
    ],
)
def test_a_request_without_a_sound_tenant_is_answered(
    name: str | None, error: str, asynchronous: bool
) -> None:
    answer = ask("/page/", name, asynchronous=asynchronous)
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/json")
    assert json.loads(answer.content)["error"] == error
    assert made == []


@both_ways
def test_an_unknown_tenant_is_answered_with_404(asynchronous: bool) -> None:
    source = {"header": "X-Tenant-ID", "is_known": f"{__name__}.is_acme"}
    with project(source):
        assert ask("/whose/", "acme", asynchronous=asynchronous).status_code == 200
        answer = ask("/whose/", "made up", asynchronous=asynchronous)
    assert (answer.status_code, json.loads(answer.content)["error"]) == (404, "tenant_unknown")


def is_acme(name: str) -> bool:
    return name == "acme"


async def is_acme_later(name: str) -> bool:
    await asyncio.sleep(0)
    return name == "acme"


def of_query(request: HttpRequest) -> Any:
    return request.GET.get("tenant")


async def of_query_later(request: HttpRequest) -> Any:
    await asyncio.sleep(0)
    return request.GET.get("tenant")


@both_ways
@pytest.mark.parametrize(
    ("source", "where", "host"),
    [
        ({"path_part": 1}, "/t/acme/whose/", "testserver"),
        ({"subdomain_of": "example.com"}, "/whose/", "acme.example.com"),
        ({"tenant_of": of_query}, "/whose/?tenant=acme", "testserver"),
        ({"tenant_of": f"{__name__}.of_query"}, "/whose/?tenant=acme", "testserver"),
    ],
)
def test_each_place_where_a_request_names_its_tenant(
    source: dict[str, Any], where: str, host: str, asynchronous: bool
) -> None:
    with project(source):
        if asynchronous:
            # The client adds a Host of its own to the headers of `get`.
            bare, _, query = where.partition("?")
            headers = [(b"host", host.encode())]
            scope = {"path": bare, "query_string": query, "headers": headers}
            answer = asyncio.run(AsyncClient().request(**scope))
        else:
            answer = Client().get(where, headers={"host": host})
    assert (answer.status_code, answer.content) == (200, b"acme")


@both_ways
@pytest.mark.parametrize("source", [{"header": "X-Tenant-ID"}, {"subdomain_of": "example.com"}])
def test_a_header_that_comes_twice_is_malformed(source: dict[str, Any], asynchronous: bool) -> None:
    twice = {"x-tenant-id": ("acme", "acme"), "host": ("beta", "acme.example.com")}
    with project(source):
        if asynchronous:
            pairs = [(name.encode(), one.encode()) for name in twice for one in twice[name]]
            scope = {"path": "/whose/", "query_string": b"", "headers": pairs}
            answer = asyncio.run(AsyncClient().request(**scope))
        else:
            answer = Client().get(
                "/whose/", headers={name: ",".join(twice[name]) for name in twice}
            )
    assert (answer.status_code, json.loads(answer.content)["error"]) == (400, "tenant_malformed")


def test_callables_may_be_async_under_asgi_alone() -> None:
    source = {"tenant_of": of_query_later, "is_known": is_acme_later}
    with project(source):
        answer = asyncio.run(AsyncClient().get("/whose/?tenant=acme"))
        assert (answer.status_code, answer.content) == (200, b"acme")
        assert asyncio.run(AsyncClient().get("/whose/?tenant=beta")).status_code == 404
        with pytest.raises(ImproperlyConfigured, match=r"^FLOWCACHE_TENANT: tenant_of: "):
            Client().get("/whose/?tenant=acme")


@both_ways
def test_exempt_requests_are_served_without_a_tenant(asynchronous: bool) -> None:
    with project({"header": "X-Tenant-ID", "exempt": ["/exempt/"]}):
        answer = ask("/exempt/", "acme", asynchronous=asynchronous)
        assert (answer.status_code, answer.content) == (200, b"no tenant")
        assert ask("/whose/", None, asynchronous=asynchronous).status_code == 400


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "^FLOWCACHE_TENANT: must be a dict"),
        ({}, "^FLOWCACHE_TENANT: .*exactly one"),
        ({"header": "A", "path_part": 1}, "^FLOWCACHE_TENANT: .*exactly one"),
        ({"headers": "A"}, r"^FLOWCACHE_TENANT\['headers'\]: unknown; accepted: header"),
        ({"header": 7}, "^FLOWCACHE_TENANT: header: "),
        ({"header": "A", "exempt": 7}, r"^FLOWCACHE_TENANT: exempt: "),
        ({"tenant_of": "no.such"}, r"^FLOWCACHE_TENANT\['tenant_of'\]: "),
    ],
)
def test_an_unsound_setting_is_named(source: Any, message: str) -> None:
    with project(source), pytest.raises(ImproperlyConfigured, match=message):
        TenantMiddleware(whose)


@both_ways
@pytest.mark.parametrize("where", ["/stream/", "/stream-async/"])
# Django warns for each: it reads a stream of the other kind as a whole.
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
def test_parts_of_a_stream_are_made_for_its_tenant(where: str, asynchronous: bool) -> None:
    async def read() -> dict[str, bytes]:
        answers = {name: await aget(where, name) for name in ("acme", "beta")}
        found = dict.fromkeys(answers, b"")
        streams = {name: aiter(answer) for name, answer in answers.items()}
        for _ in range(3):
            for name, parts in streams.items():
                found[name] += await anext(parts)
        return found

    if asynchronous:
        found = asyncio.run(read())
    else:
        streams = {name: iter(get(where, name)) for name in ("acme", "beta")}
        found = dict.fromkeys(streams, b"")
        for _ in range(3):
            for name, parts in streams.items():
                found[name] += next(parts)
    assert found == {
        "acme": b"0acmeacme 1acmeacme 2acmeacme ",
        "beta": b"0betabeta 1betabeta 2betabeta ",
    }


@pytest.mark.parametrize("where", ["/page/", "/fragment/"])
def test_pages_of_two_tenants_interleaved_over_threads(where: str) -> None:
    what = where.strip("/").replace("fragment", "sidebar")

    def work(name: str, step: Callable[[], Any]) -> None:
        for _ in range(50):
            step()
            assert get(where, name).content.decode() == f"{what} of {name}"

    in_step(work, *TENANTS)
    if where == "/page/":
        assert sorted(made) == [("page", "acme"), ("page", "beta")]


@pytest.mark.parametrize("where", ["/page/", "/fragment/"])
def test_pages_of_two_tenants_interleaved_over_tasks(where: str) -> None:
    what = where.strip("/").replace("fragment", "sidebar")

    async def work(name: str) -> None:
        for _ in range(25):
            answer = await aget(where, name)
            assert answer.content.decode() == f"{what} of {name}"

    async def all_of_them() -> None:
        await asyncio.gather(*(work(name) for name in ("acme", "beta") * 2))

    asyncio.run(all_of_them())


@both_ways
def test_the_cache_of_the_whole_site_keeps_tenants_apart(asynchronous: bool) -> None:
    with project({"header": "X-Tenant-ID"}, MIDDLEWARE=[MIDDLEWARE, UPDATE, FETCH]):
        for _ in range(2):
            for name in ("acme", "beta"):
                answer = ask("/whose/", name, asynchronous=asynchronous)
                assert answer.content.decode() == name
        with override_settings(ROOT_URLCONF="no.such.module"):
            assert ask("/whose/", "acme", asynchronous=asynchronous).content == b"acme"


class TestChecks:
    """The messages of `manage.py check`."""

    def said(self) -> list[str]:
        return [message.id for message in run_checks(tags=["caches"])]

    def test_a_sound_project(self) -> None:
        assert self.said() == []

    @pytest.mark.parametrize("engine", ["cache", "cached_db"])
    def test_sessions_in_the_memory_of_one_process(self, engine: str) -> None:
        dummy = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
        with (
            caches_of(other=dummy),
            override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"),
        ):
            assert self.said() == ["flowcache.W001"]
            with override_settings(SESSION_CACHE_ALIAS="other"):
                assert self.said() == []

    def test_responses_cached_before_the_tenant_is_known(self) -> None:
        with override_settings(MIDDLEWARE=[UPDATE, MIDDLEWARE, FETCH]):
            assert self.said() == ["flowcache.E001"]
        with override_settings(MIDDLEWARE=[UPDATE, FETCH]):
            assert self.said() == []

    def test_a_setting_that_is_unsound(self) -> None:
        other = {"OPTIONS": {"nonsense": 1}}
        with caches_of(other=other), pytest.raises(ImproperlyConfigured, match="nonsense"):
            run_checks(tags=["caches"])
