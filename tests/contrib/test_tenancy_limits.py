"""The limits that docs/tenancy.md describes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flowcache import LoadTimeoutError, TenantNotSetError
from flowcache.tenancy import carry, current_tenant, tenant
from harness.support import new_cache, run_isolated
from harness.tenant_support import now

# trio


@pytest.fixture
def run_trio() -> Callable[..., Any]:
    trio = pytest.importorskip("trio", reason="trio cannot be installed here")
    return trio.run  # type: ignore[no-any-return]


def test_on_trio_a_hit_is_answered_and_a_load_says_what_is_supported(
    run_trio: Callable[..., Any],
) -> None:
    mine = new_cache()[0].for_current_tenant()

    async def load() -> str:
        pytest.fail("the loader ran")

    @mine.cached()
    async def price() -> str:
        pytest.fail("the function ran")

    async def main() -> None:
        with tenant("acme"):
            mine.set("held", "value")
            assert await mine.afetch("held", load) == "value"
            for call in (
                lambda: mine.afetch("absent", load),
                lambda: mine.arefresh("held", load),
                lambda: mine.afetch_many(["absent"], load),
                price,
            ):
                with pytest.raises(RuntimeError, match=r"asyncio.*trio.*fetch\(\) in a thread"):
                    await call()
            assert mine.stats().pending == 0

    run_trio(main)


def test_on_trio_a_thread_fetches_for_its_tenant(run_trio: Callable[..., Any]) -> None:
    import trio

    mine = new_cache()[0].for_current_tenant()
    answers: dict[str, Any] = {}

    async def serve(name: str) -> None:
        with tenant(name):
            answers[name] = await trio.to_thread.run_sync(mine.fetch, "who", current_tenant.get)
            await trio.lowlevel.checkpoint()
            assert now() == name

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in ("acme", "beta", "gamma"):
                nursery.start_soon(serve, name)

    run_trio(main)
    assert answers == {name: name for name in ("acme", "beta", "gamma")}


def test_the_asgi_middleware_runs_on_trio(run_trio: Callable[..., Any]) -> None:
    from flowcache.contrib.asgi import TenantMiddleware

    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(now())

    async def send(message: Any) -> None:
        sent.append(message)

    guarded = TenantMiddleware(application, header="X-Tenant-ID")
    scope = {"type": "http", "path": "/", "headers": [(b"x-tenant-id", b"acme")]}
    run_trio(guarded, scope, None, send)
    assert sent == ["acme"]


# Greenlets


def test_a_greenlet_has_no_tenant_unless_it_is_carried() -> None:
    greenlet = pytest.importorskip("greenlet", reason="greenlet cannot be installed here")
    with tenant("acme"):
        assert greenlet.greenlet(now).switch() is None
        assert greenlet.greenlet(carry(now)).switch() == "acme"


def test_blocks_of_greenlets_that_take_turns_are_each_their_own() -> None:
    greenlet = pytest.importorskip("greenlet", reason="greenlet cannot be installed here")
    main = greenlet.getcurrent()
    seen: list[tuple[str, Any]] = []

    def run(name: str) -> None:
        with tenant(name):
            for _ in range(3):
                seen.append((name, now()))
                main.switch()
        seen.append((name, now()))

    greenlets = [greenlet.greenlet(run) for _ in range(3)]
    with tenant("own"):
        for turn in range(4):
            for number, one in enumerate(greenlets):
                one.switch(*([f"t{number}"] if turn == 0 else []))
                assert now() == "own"
    assert seen == [(f"t{n}", f"t{n}") for n in range(3)] * 3 + [(f"t{n}", None) for n in range(3)]


def test_a_greenlet_that_is_killed_ends_its_block_in_its_own_context() -> None:
    greenlet = pytest.importorskip("greenlet", reason="greenlet cannot be installed here")
    main = greenlet.getcurrent()
    ended: list[Any] = []

    def run() -> None:
        try:
            with tenant("acme"):
                main.switch()
        finally:
            ended.append(now())

    one = greenlet.greenlet(run)
    one.switch()
    with tenant("beta"):
        del one
        assert now() == "beta"
    assert ended == [None]


# Views and keys


def test_what_is_taken_from_one_tenant_stays_that_tenant_s() -> None:
    mine = new_cache()[0].for_current_tenant()
    with tenant("acme"):
        mine.set("k", "acme's")
        mine.namespace("below").set("k", "acme's, below")
        view, keys, names = mine.namespace("below"), mine.keys(), mine.namespaces()
        one = iter(mine)
    with tenant("beta"):
        assert view["k"] == "acme's, below"
        assert (list(keys), list(names), list(one)) == (["k"], ["below"], ["k"])
        assert mine.get("acme:k") is None
        assert list(mine) == []
    with pytest.raises(TenantNotSetError):
        iter(mine)


def test_typed_looks_at_the_arguments_and_not_into_them() -> None:
    cache, _ = new_cache()
    typed = cache.cached(typed=True)(repr)
    assert (typed(1), typed(True), typed(1.0)) == ("1", "True", "1.0")
    assert (typed((1,)), typed((True,))) == ("(1,)", "(1,)")


# Interpreters and threads


def test_a_second_interpreter_of_a_process_is_refused_and_the_first_goes_on() -> None:
    if sys.version_info >= (3, 13):
        make, program = "_interpreters", "assert interpreters.exec(made, source) is not None"
    else:
        make = "_xxsubinterpreters"
        program = (
            "try:\n    interpreters.run_string(made, source)\n"
            "except interpreters.RunFailedError as error:\n    assert 'ImportError' in str(error)\n"
            "else:\n    raise SystemExit('imported')"
        )
    run_isolated(
        f"import sys, {make} as interpreters\n"
        "from flowcache import create_cache\n"
        "made = interpreters.create()\n"
        "source = f'import sys; sys.path[:] = {sys.path!r}; import flowcache'\n"
        f"{program}\n"
        "cache = create_cache()\n"
        "cache.set('k', 1)\n"
        "assert cache.get('k') == 1\n"
    )


def test_a_waiter_that_holds_the_last_place_of_the_loader_s_executor_ends_by_its_timeout() -> None:
    cache, _ = new_cache()
    with ThreadPoolExecutor(1) as only:

        def load() -> str:
            return only.submit(lambda: "loaded").result(60)

        asked = only.submit(lambda: cache.fetch("k", load, timeout=0.2))
        with pytest.raises(LoadTimeoutError):
            asked.result(60)
        assert cache.fetch("k", load) == "loaded"
