"""cached(tenant=...): an argument says whose call it is, and whose namespace keeps the result."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcache import Cache, InvalidNamespaceError, Limits, create_cache
from harness.loading_support import until
from harness.support import new_cache, unchanged


@pytest.fixture(params=["compiled", "general"])
def crm(request: pytest.FixtureRequest) -> Iterator[Cache[Any]]:
    """A cache whose hits are answered by compiled code, and one whose hits take the long way."""
    cache = create_cache(max_entries=1_000) if request.param == "compiled" else new_cache()[0]
    yield cache
    cache._check()


class Upstream:
    """What is asked: it keeps the calls, and answers with what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, *asked: Any) -> Any:
        self.calls.append(asked)
        return asked


def held(cache: Any, tenant: str) -> list[Any]:
    return list(cache.namespace(f"tenant:{tenant}").values())


def test_each_tenant_s_results_are_in_its_own_namespace(crm: Cache[Any]) -> None:
    api = Upstream()

    @crm.cached(tenant="tenant_id", tags="contacts")
    def contacts(tenant_id: str, limit: int = 100) -> Any:
        return api(tenant_id, limit)

    for _ in range(3):
        for name in ("acme", "beta"):
            assert contacts(name) == (name, 100)
            assert contacts(name, 5) == (name, 5)
            assert contacts(name, limit=7) == (name, 7)
            assert contacts(limit=7, tenant_id=name) == (name, 7)

    assert len(api.calls) == 8
    assert len(crm) == 0
    assert sorted(crm.namespaces()) == ["tenant:acme", "tenant:beta"]
    assert held(crm, "acme") == [("acme", 100), ("acme", 5), ("acme", 7), ("acme", 7)]
    assert crm.namespace("tenant:acme").invalidate_tag("contacts") == 4
    assert contacts("beta") == ("beta", 100)
    assert len(api.calls) == 8
    assert contacts("acme") == ("acme", 100)
    assert len(api.calls) == 9


def test_of_an_async_function_too(crm: Cache[Any]) -> None:
    api = Upstream()

    @crm.cached(tenant="tenant_id")
    async def stats(tenant_id: str, *, kind: str = "all") -> Any:
        await asyncio.sleep(0)
        return api(tenant_id, kind)

    async def main() -> None:
        for _ in range(2):
            asked = [stats(name, kind=kind) for name in ("acme", "beta") for kind in ("all", "few")]
            found = await asyncio.gather(*asked, *(stats(tenant_id=name) for name in ("a", "b")))
            assert found == [
                *((name, kind) for name in ("acme", "beta") for kind in ("all", "few")),
                ("a", "all"),
                ("b", "all"),
            ]

    asyncio.run(main())
    assert len(api.calls) == 6
    assert held(crm, "a") == [("a", "all")]


FORMS: dict[str, tuple[Callable[..., Any], list[tuple[tuple[Any, ...], dict[str, Any], str]]]] = {
    "first": (
        lambda who, x=1: (who, x),
        [(("acme",), {}, "acme"), (("acme", 2), {}, "acme"), ((), {"who": "beta"}, "beta")],
    ),
    "last, with a default": (
        lambda x, who="common": (who, x),
        [((1,), {}, "common"), ((1, "acme"), {}, "acme"), ((1,), {"who": "beta"}, "beta")],
    ),
    "keyword only": (
        lambda *x, who="common": (who, x),
        [(("acme",), {}, "common"), (("beta",), {"who": "acme"}, "acme")],
    ),
    "position only": (
        lambda who, /, **more: (who, more),
        [(("acme",), {"who": "beta"}, "acme"), (("beta",), {}, "beta")],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_argument_may_be_given_in_each_way_that_the_function_takes_it(
    crm: Cache[Any], form: str
) -> None:
    function, calls = FORMS[form]
    asked = Upstream()

    def ask(*args: Any, **kwargs: Any) -> Any:
        return asked(function(*args, **kwargs))

    functools.update_wrapper(ask, function)
    ask.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    cached = crm.cached(tenant="who")(ask)
    for _ in range(2):
        for args, kwargs, expected in calls:
            ((who, _rest),) = cached(*args, **kwargs)
            assert who == expected
            assert cached(*args, **kwargs) in held(crm, expected)
    assert len(asked.calls) == len(calls)


def test_in_a_class(crm: Cache[Any]) -> None:
    api = Upstream()

    class Client:
        @crm.cached(tenant="who")
        def method(self, x: int, who: str = "common") -> Any:
            return api("method", x, who)

        @crm.cached(tenant="who")
        @classmethod
        def of_class(cls, who: str) -> Any:
            return api("class", who)

        @crm.cached(tenant="who")
        @staticmethod
        def static(who: str) -> Any:
            return api("static", who)

    client = Client()
    for _ in range(2):
        assert client.method(1) == ("method", 1, "common")
        assert client.method(1, "acme") == ("method", 1, "acme")
        assert client.method(x=1, who="acme") == ("method", 1, "acme")
        assert Client.method(client, 2, "beta") == ("method", 2, "beta")
        assert Client.of_class("acme") == client.of_class("acme") == ("class", "acme")
        assert Client.static("beta") == client.static("beta") == ("static", "beta")
    assert len(api.calls) == 6
    assert client.method.invalidate(1, "acme")
    assert client.method.refresh(1) == ("method", 1, "common")
    assert len(api.calls) == 7


def test_each_call_about_a_result_takes_the_same_arguments(crm: Cache[Any]) -> None:
    api = Upstream()

    @crm.cached(tenant="who")
    def ask(who: str, x: int = 0) -> Any:
        api(who, x)
        return who, x, len(api.calls)

    first = ask("acme", 1), ask("beta", 1)
    assert ask.cache_key("acme", 1) in crm.namespace("tenant:acme")
    assert ask.cache_key("acme", 1) not in crm.namespace("tenant:beta")
    assert ask.refresh("acme", 1) == ("acme", 1, 3)
    assert ask("acme", 1) == ("acme", 1, 3)
    assert ask("beta", 1) == first[1]
    assert ask.invalidate("acme", 1)
    assert not ask.invalidate("acme", 1)
    assert not ask.invalidate("gamma", 1)
    assert ask("beta", 1) == first[1]
    assert ask("acme", 1) == ("acme", 1, 4)


def test_what_is_counted_and_cleared_is_of_one_tenant_or_of_all(crm: Cache[Any]) -> None:
    @crm.cached(tenant="who")
    def ask(who: str, x: int = 0) -> Any:
        return who, x

    crm.namespace("tenant:acme", max_entries=3)
    for name, calls in (("acme", 4), ("beta", 2)):
        for _ in range(calls):
            ask(name)
    most = crm.limits.max_entries
    assert ask.cache_info(tenant="acme") == (3, 1, 3, 1)
    assert ask.cache_info(tenant="beta") == (1, 1, None, 1)
    assert ask.cache_info(tenant="gamma") == (0, 0, None, 0)
    assert ask.cache_info() == (4, 2, most, 2)

    ask.cache_clear(tenant="acme")
    assert ask.cache_info(tenant="acme") == (0, 0, 3, 0)
    assert ask.cache_info() == (1, 1, most, 1)
    ask("acme")
    ask("acme")
    assert ask.cache_info(tenant="acme") == (1, 1, 3, 1)

    crm.namespace("tenant:acme").set("other", 1)
    ask.cache_clear()
    assert ask.cache_info() == (0, 0, most, 0)
    assert crm.namespace("tenant:acme").get("other") == 1
    ask("beta")
    assert ask.cache_info() == (0, 1, most, 1)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("", InvalidNamespaceError, "who: must not be empty"),
        (" acme", InvalidNamespaceError, "who: must not begin or end"),
        ("a" * 257, InvalidNamespaceError, "who: at most 256 characters"),
        (None, TypeError, "who: must be a str, got NoneType"),
        (7, TypeError, "who: must be a str, got int"),
        (b"acme", TypeError, "who: must be a str, got bytes"),
    ],
)
def test_an_unsound_tenant_is_refused_and_the_function_not_called(
    crm: Cache[Any], given: Any, error: type[Exception], said: str
) -> None:
    api = Upstream()

    @crm.cached(tenant="who")
    def ask(x: int, who: Any = None) -> Any:
        return api(x, who)

    @crm.cached(tenant="who")
    async def ask_later(x: int, who: Any = None) -> Any:
        return api(x, who)

    with unchanged(crm):
        for call in (ask, ask.invalidate, ask.refresh, ask_later, ask_later.refresh):
            with pytest.raises(error, match=f"^{said}"):
                call(1, given)
            with pytest.raises(error, match=f"^{said}"):
                call(1, who=given)
    with pytest.raises(TypeError, match=r"^who: must be a str, got NoneType"):
        ask(1)
    assert api.calls == []


def test_a_call_that_gives_no_tenant_is_refused(crm: Cache[Any]) -> None:
    api = Upstream()

    @crm.cached(tenant="who")
    def ask(who: str, x: int = 0) -> Any:
        return api(who, x)

    for call in (ask, ask.invalidate, ask.refresh):
        with pytest.raises(TypeError, match="who"):
            call(x=1)  # type: ignore[operator]
    assert api.calls == []
    assert list(crm.namespaces()) == []


def test_a_tenant_that_the_function_has_no_parameter_for_is_refused(crm: Cache[Any]) -> None:
    def ask(who: str, *rest: Any, **more: Any) -> Any:
        return who

    for name in ("tenant_id", "rest", "more", ""):
        with pytest.raises(ValueError, match=r"^tenant: must name a parameter of .*ask.* has who$"):
            crm.cached(tenant=name)(ask)
    with pytest.raises(ValueError, match=r"it has none$"):
        crm.cached(tenant="who")(lambda: 1)
    with pytest.raises(TypeError, match=r"^tenant: must be the name of a parameter, got int"):
        crm.cached(tenant=7)(ask)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^tenant: the parameters of .* are not known"):
        crm.cached(tenant="who")(min)
    with pytest.raises(TypeError, match=r"^path: has a meaning only with tenant="):
        crm.cached(path=str)(ask)
    with pytest.raises(TypeError, match=r"^path: must be callable or None, got str"):
        crm.cached(tenant="who", path="tenant")(ask)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^tenant: this namespace is the current tenant's"):
        crm.for_current_tenant().cached(tenant="who")(ask)
    for call in (crm.cached()(ask).cache_info, crm.cached()(ask).cache_clear):
        with pytest.raises(TypeError, match=r"^tenant: only of a function that was cached with"):
            call(tenant="acme")


def test_a_decorator_below_that_gives_other_arguments_cannot_misplace_a_result(
    crm: Cache[Any],
) -> None:
    """What passes everything on shows the parameters of another function as its own."""

    def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function("session", *args, **kwargs)

        return call

    @crm.cached(tenant="who")
    @with_session
    def ask(session: str, who: str, x: str) -> Any:
        return who, x

    with pytest.raises(TypeError, match=r"^who: the call must give it"):
        ask("acme", "beta")
    for _ in range(2):
        assert ask(who="acme", x="beta") == ("acme", "beta")
    assert held(crm, "acme") == [("acme", "beta")]
    assert list(crm.namespaces()) == ["tenant:acme"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (lambda who: who, ("acme",)),
        (lambda who: ("tenant", who), ("tenant", "acme")),
        (lambda who: (part for part in ["t", who]), ("t", "acme")),
    ],
)
def test_a_path_says_where_a_tenant_s_results_are(
    crm: Cache[Any], path: Any, expected: tuple[str, ...]
) -> None:
    for above in (crm, crm.namespace("app")):

        @above.cached(tenant="who", path=path)
        def ask(who: str) -> Any:
            return [who]

        assert ask("acme") is ask("acme")
        assert list(above.namespace(*expected).values()) == [["acme"]]


def test_a_path_that_names_nothing_is_refused(crm: Cache[Any]) -> None:
    api = Upstream()
    for made in (None, 7, b"acme", (), ("",), " acme"):

        @crm.cached(tenant="who", path=lambda who, made=made: made)
        def ask(who: str) -> Any:
            return api(who)

        with pytest.raises((TypeError, ValueError), match=r"^(path|name): "):
            ask("acme")
    assert api.calls == []


def test_keys_tags_and_types_are_made_as_without_a_tenant(crm: Cache[Any]) -> None:
    api = Upstream()

    @crm.cached(tenant="who", key="rates", tags=lambda who, day: (f"day:{day}",))
    def rates(who: str, day: int) -> Any:
        return api(who, day)

    @crm.cached(tenant="who", typed=True)
    def typed(who: str, x: Any) -> Any:
        return api(who, x)

    for _ in range(2):
        assert rates("acme", 1) == ("acme", 1)
        assert rates("beta", 2) == ("beta", 2)
        assert typed("acme", 1)[1] is not typed("acme", True)[1]
    assert len(api.calls) == 4
    assert crm.namespace("tenant:acme")["rates"] == ("acme", 1)
    assert crm.namespace("tenant:acme").invalidate_tag("day:1") == 1
    assert rates("beta", 3) == ("beta", 2)
    with pytest.raises(ValueError, match=r"^key: 'rates' is already the key of"):
        crm.for_current_tenant().cached(key="rates")(lambda who: who)


def test_a_partial_that_brings_the_tenant_keeps_it(crm: Cache[Any]) -> None:
    def ask(who: str, x: int) -> Any:
        return who, x

    of_acme = crm.wrap(functools.partial(ask, who="acme"), tenant="who")
    assert of_acme(x=1) == of_acme(x=1) == ("acme", 1)
    assert of_acme(x=1, who="beta") == ("beta", 1)
    assert held(crm, "acme") == [("acme", 1)]
    with pytest.raises(ValueError, match=r"^tenant: must name a parameter"):
        crm.wrap(functools.partial(ask, "acme"), tenant="who")


def test_the_limits_of_a_tenant_hold_for_its_results() -> None:
    crm = create_cache(child_limits=Limits(max_entries=2))

    @crm.cached(tenant="who")
    def ask(who: str, x: int) -> Any:
        return who, x

    for x in range(10):
        ask("acme", x)
        ask("beta", 0)
    assert ask.cache_info(tenant="acme").currsize == 2
    assert ask.cache_info(tenant="beta") == (9, 1, 2, 1)


def test_a_refresh_behind_a_hit_is_for_the_tenant_of_the_call() -> None:
    crm, clock = new_cache()
    api = Upstream()

    @crm.cached(tenant="who", ttl=10, stale=True, refresh_ahead=0.5)
    async def ask(who: str) -> Any:
        await asyncio.sleep(0)
        return api(who)

    async def main() -> None:
        for name in ("acme", "beta"):
            assert await ask(name) == (name,)
        clock.advance(7)
        assert await ask("acme") == ("acme",)
        await until(lambda: crm.namespace("tenant:acme").ttl(ask.cache_key("acme")) == 10)
        assert api.calls == [("acme",), ("beta",), ("acme",)]
        assert crm.namespace("tenant:beta").ttl(ask.cache_key("beta")) == 3

    asyncio.run(main())
