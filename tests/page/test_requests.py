"""The page's requests: who may see what, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flowcache import InvalidNamespaceError, create_cache
from flowcache.page import ADMIN, CachePage, Request, show
from page.asking import MOUNT, by_asgi, by_wsgi


def leaves(told: Any) -> Iterator[Any]:
    """Yield every figure and text of an answer."""
    if isinstance(told, (dict, list)):
        for one in told.values() if isinstance(told, dict) else told:
            yield from leaves(one)
    else:
        yield told


SIDES = pytest.mark.parametrize("ask", [by_asgi, by_wsgi])


def busy() -> Any:
    cache: Any = create_cache(name="crm", max_entries=1_000)
    for tenant, secret in (("acme", "acme-secret"), ("beta", "beta-secret")):
        view = cache.namespace(f"tenant:{tenant}")
        view.set(f"key of {tenant}", secret, tags=f"tag of {tenant}")
        view.namespace(f"user of {tenant}").get("absent")
        with pytest.raises(ZeroDivisionError if tenant == "acme" else KeyError):
            view.fetch("bad", (lambda: 1 / 0) if tenant == "acme" else (lambda: {}["no"]))
    for _ in range(717):
        cache.namespace("tenant:beta").get("key of beta")
    return cache


def page_for(who: Any, cache: Any = None, **settings: Any) -> CachePage:
    return CachePage(busy() if cache is None else cache, authorize=lambda request: who, **settings)


@SIDES
@pytest.mark.parametrize(
    "path", ["", "/", "/data", "/page.js", "/page.css", "/icon.svg", "/record", "/absent"]
)
def test_without_authority_there_is_403_and_nothing_else(ask: Any, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        answer = ask(page_for(None), path, method=method, x_flowcache="1")
        assert answer.status == 403
        assert answer.body == (b"" if method == "HEAD" else b"Forbidden")
        assert "location" not in answer.headers


@SIDES
def test_the_files_of_the_page(ask: Any) -> None:
    page = page_for(ADMIN)
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ):
        answer = ask(page, path)
        assert answer.status == 200 and answer.headers["content-type"].startswith(kind)
        assert len(answer.body) == int(answer.headers["content-length"]) > 100
        assert ask(page, path, method="HEAD").body == b""
    assert ask(page, "/../app.py").status == 404
    assert ask(page, "/data", method="DELETE").status == 405


@SIDES
@pytest.mark.parametrize("path", ["/", "/data", "/page.js", "/absent"])
def test_each_answer_has_a_strict_policy(ask: Any, path: str) -> None:
    headers = ask(page_for(ADMIN), path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_script_or_style_of_its_own_and_asks_no_other_host() -> None:
    page = page_for(ADMIN)
    html = by_asgi(page, "/").body.decode()
    assert "<script>" not in html and "style=" not in html and "onclick" not in html
    for path in ("/", "/page.js", "/page.css"):
        text = by_asgi(page, path).body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "") and "innerHTML" not in text


@SIDES
def test_without_the_slash_the_browser_is_sent_below(ask: Any) -> None:
    answer = ask(page_for(ADMIN), "")
    assert (answer.status, answer.headers["location"]) == (307, "./cache/")


@SIDES
def test_an_operator_sees_all_tenants(ask: Any) -> None:
    told = ask(page_for(ADMIN)).json
    assert (told["role"], told["cache"], told["state"]) == ("admin", "crm", "live")
    rows = {row["name"]: row for row in told["tenants"]["rows"]}
    assert rows["tenant:beta"]["hits"] == 717
    assert rows["tenant:acme"]["entries"] == 1 and rows["tenant:acme"]["fair"] == 500
    assert told["failures"] == {} or sum(told["failures"].values())
    assert told["history"]["columns"][0] == "at"


@SIDES
@pytest.mark.parametrize(
    "query",
    [
        "",
        "tenant=beta",
        "tenant=tenant:beta&path=tenant:beta&who=beta",
        "at=tenant:beta",
        "at=..&at=tenant:beta",
        "at=",
        "search=beta",
        "names=tenant:beta",
        "by=hits&search=tenant",
        "path=&role=admin&record=1",
    ],
)
def test_a_tenant_s_page_has_nothing_of_another(ask: Any, query: str) -> None:
    page = page_for("acme", reveal_keys=True)
    told = ask(page, "/data", query).json
    del told["path"]  # What was asked for, as it was asked.
    for foreign in ("beta", "KeyError"):
        assert foreign not in json.dumps(told)
    assert not {717, 719, 1_000} & set(leaves(told))
    assert told["role"] == "tenant" and told["tenant"] == "acme"
    assert "pid" not in told and "workers" not in told
    if "at=" not in query:
        assert told["stats"]["entries"] == 1
        assert told["tenants"]["count"] == 1
        assert told["failures"] == {} or list(told["failures"]) == ["ZeroDivisionError"]
    else:
        assert told["state"] == "absent" and told["stats"]["entries"] == 0


@SIDES
def test_a_tenant_may_look_below_its_own(ask: Any) -> None:
    told = ask(page_for("acme"), "/data", "at=user%20of%20acme").json
    assert told["state"] == "live" and told["stats"]["misses"] == 1


@SIDES
def test_no_value_ever_and_no_key_unless_it_is_revealed(ask: Any) -> None:
    cache = busy()
    for reveal in (False, True):
        page = page_for(ADMIN, cache, reveal_keys=reveal)
        ask(page, "/record", method="POST", x_flowcache="1")
        for _ in range(50):
            cache.namespace("tenant:acme").get("key of acme")
        hot: Any = page._watcher.scope(()).hot
        hot._begun -= hot._seconds  # As if its time were over.
        told = ask(page)
        text = told.body.decode()
        assert told.json["hot"]["state"] == "done" and told.json["hot"]["seen"] == 50
        assert "acme-secret" not in text and "beta-secret" not in text
        assert ("key of acme" in text) is reveal
        assert told.json["hot"]["keys"][0]["held"] is True


def test_a_running_load_is_shown_with_its_key_masked() -> None:
    cache: Any = create_cache()
    page = page_for(ADMIN, cache)
    told: list[Any] = []
    cache.namespace("a").fetch("secret", lambda: told.append(by_wsgi(page)) or 1)
    (load,) = told[0].json["loads"]
    assert load["path"] == ["a"] and load["key"].startswith("str #")
    assert b"secret" not in told[0].body


def test_a_look_creates_no_namespace_and_keeps_none_from_being_forgotten() -> None:
    cache: Any = create_cache(max_idle_namespaces=2)
    for name in ("a", "b"):
        cache.namespace(name).get("k")
    page = page_for(ADMIN, cache)
    assert by_wsgi(page, "/data", "at=absent").json["state"] == "absent"
    assert list(cache.namespaces()) == ["a", "b"]
    by_wsgi(page)
    cache.namespace("c").get("k")
    assert set(cache.namespaces()) == {"b", "c"}


@SIDES
@pytest.mark.parametrize(
    "query", ["by=size", "since=x", "&".join(["at=a"] * 90), "search=" + "x" * 300]
)
def test_what_no_page_asks_is_refused(ask: Any, query: str) -> None:
    assert ask(page_for(ADMIN), "/data", query).status == 400


@SIDES
def test_a_recording_begins_by_a_request_of_the_page_alone(ask: Any) -> None:
    page = page_for(ADMIN)
    assert ask(page, "/record", method="POST").status == 405
    assert ask(page, "/record", x_flowcache="1").status == 405
    told = ask(page, "/record", method="POST", x_flowcache="1").json
    assert told["hot"]["state"] == "sampling" and 9 < told["hot"]["left"] <= 10


@SIDES
def test_authorize_sees_the_request(ask: Any) -> None:
    seen: list[Request] = []
    page = CachePage(busy(), authorize=seen.append)
    assert ask(page, "/data", "by=hits&at=x&at=y", cookie="a=1").status == 403
    (request,) = seen
    assert (request.method, request.path) == ("GET", "/data")
    assert request.headers["cookie"] == "a=1"
    assert request.query["at"] == ["x", "y"]
    assert request.scope.get("root_path", request.scope.get("SCRIPT_NAME")) == MOUNT


@SIDES
@pytest.mark.parametrize("who", [True, 1, b"acme", [ADMIN], {"tenant": "acme"}])
def test_no_other_answer_of_authorize_opens_anything(ask: Any, who: Any) -> None:
    with pytest.raises(TypeError, match="authorize: must return None, ADMIN or a tenant's name"):
        ask(page_for(who))


@SIDES
def test_a_tenant_s_name_must_be_one(ask: Any) -> None:
    with pytest.raises(InvalidNamespaceError, match="authorize"):
        ask(page_for(""))


@SIDES
def test_an_error_of_authorize_goes_to_the_server(ask: Any) -> None:
    def broken(request: Request) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        ask(CachePage(busy(), authorize=broken))


def test_authorize_may_be_awaited_by_asgi_alone() -> None:
    async def who(request: Request) -> Any:
        await asyncio.sleep(0)
        return ADMIN

    page = CachePage(busy(), authorize=who)
    assert by_asgi(page).status == 200
    with pytest.raises(TypeError, match="authorize: returned an awaitable"):
        by_wsgi(page)


def test_a_path_of_several_names_is_a_tenant_s() -> None:
    cache: Any = create_cache()
    cache.namespace("tenant", "acme").set("k", 1)
    page = page_for("acme", cache, path=lambda tenant: ("tenant", tenant))
    assert by_wsgi(page).json["stats"]["entries"] == 1


def test_a_closed_cache_is_said_to_be_closed() -> None:
    cache = busy()
    page = page_for(ADMIN, cache)
    cache.close()
    assert by_wsgi(page).json["state"] == "closed"


def test_lifespan_and_websockets() -> None:
    page = page_for(ADMIN)
    sent: list[Any] = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(page({"type": "lifespan"}, receive, send))
    messages.append({"type": "websocket.connect"})
    asyncio.run(page({"type": "websocket"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, TypeError, "authorize"),
        ({"authorize": None}, TypeError, "authorize: must be callable, got NoneType"),
        ({"reveal_keys": "no"}, TypeError, "reveal_keys: must be a bool, got str"),
        ({"groups": 3}, TypeError, "groups: must be patterns, got int"),
        ({"groups": [3]}, TypeError, "groups: each must be a str or a pattern, got int"),
        ({"groups": ["("]}, ValueError, "groups: '\\(' is no pattern"),
        ({"path": 3}, TypeError, "path"),
    ],
)
def test_what_makes_no_page(settings: Any, error: Any, message: str) -> None:
    if settings:
        settings = {"authorize": lambda request: None} | settings
    with pytest.raises(error, match=message):
        CachePage(create_cache(), **settings)


def test_only_a_cache_has_a_page_or_is_shown(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="cache: must be a cache or a namespace, got dict"):
        CachePage({}, authorize=lambda request: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache: must be a cache or a namespace, got dict"):
        show({}, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="folder: must be a path, got int"):
        show(create_cache(), 3)  # type: ignore[arg-type]
