"""Calls that end at any exchange with the server: interrupted, cancelled, or without the answer.

The server has done what it was asked, or does it later; in each case no lease of a load is left
behind, and the process holds no value that the tier has not.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from flowcache import _core
from flowcache.tier.errors import SlowError
from flowcache.tier.link import Ask
from harness.fleet import run
from harness.servers import Server, wait_until

KEYS = ["a", "b", "c"]


class Struck(BaseException):
    """Nothing in the tier knows it, as it knows no signal handler's exception."""


def engine_of(namespace: Any) -> Any:
    return _core._tier_of(namespace).engine


@contextmanager
def struck_after(
    namespace: Any, number: int, error: BaseException, *names: bytes
) -> Iterator[list[Ask]]:
    """Raise an error in place of the answer to the exchange of a number; yield the exchanges.

    With names only the exchanges count that work on such keys.
    """
    (server,) = engine_of(namespace).servers.all
    seen: list[Ask] = []
    ask, aask = server.ask, server.aask

    def is_due(one: Ask) -> bool:
        if not names or any(name in call for name in names for call in one.calls):
            seen.append(one)
            return len(seen) == number
        return False

    def asked(one: Ask) -> Ask:
        due, answered = is_due(one), ask(one)
        if due:
            raise error
        return answered

    async def aasked(one: Ask, loop: Any) -> Ask:
        due, answered = is_due(one), await aask(one, loop)
        if due:
            raise error
        return answered

    server.ask, server.aask = asked, aasked
    try:
        yield seen
    finally:
        del server.ask, server.aask


def load_many(keys: list[Any]) -> dict[Any, Any]:
    return dict.fromkeys(keys, "v")


async def aload() -> str:
    return "v"


async def aload_many(keys: list[Any]) -> dict[Any, Any]:
    return load_many(keys)


def refuse() -> None:
    raise ValueError("the loader's own")


LOADS: dict[str, Callable[[Any], Any]] = {
    "fetch": lambda ns: ns.fetch("a", lambda: "v", tags=("t",)),
    "a loader that raises": lambda ns: ns.fetch("a", refuse),
    "refresh": lambda ns: ns.refresh("a", lambda: "v"),
    "fetch_many": lambda ns: ns.fetch_many(KEYS, load_many),
    "afetch": lambda ns: run(ns.afetch("a", aload)),
    "arefresh": lambda ns: run(ns.arefresh("a", aload)),
    "afetch_many": lambda ns: run(ns.afetch_many(KEYS, aload_many)),
}


def leases(server: Server, name: str) -> Any:
    return server.call("KEYS", f"fc1:{name}:*:l:*")


@pytest.mark.parametrize("call", LOADS.values(), ids=LOADS)
def test_a_load_that_ends_leaves_no_lease(
    new_server: Server, make: Any, request: pytest.FixtureRequest, call: Callable[[Any], Any]
) -> None:
    name = f"struck-{request.node.callspec.id}".replace(" ", "-")
    cache = make(new_server, name=name)
    for number in itertools.count(1):
        namespace = cache.namespace(f"tenant:{number}")
        error = asyncio.CancelledError() if call.__code__.co_names[0] == "run" else Struck()
        with (
            suppress(Struck, asyncio.CancelledError, ValueError),
            struck_after(namespace, number, error) as seen,
        ):
            call(namespace)
        assert leases(new_server, name) == [], (number, len(seen))
        assert not engine_of(namespace).bus._held
        if len(seen) < number:
            break
    assert number > 2


@pytest.mark.parametrize("name", ["afetch", "arefresh", "afetch_many"])
def test_a_load_that_is_closed_renews_its_lease_no_more(
    new_server: Server, make: Any, name: str
) -> None:
    """As with a task whose loop ended first: it can ask for nothing, and its lease runs out."""
    namespace = make(new_server, name="closed").namespace("tenant:acme")
    bus = engine_of(namespace).bus
    loop = asyncio.new_event_loop()

    async def load(*_: Any) -> Any:
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()

    keys: Any = KEYS if name == "afetch_many" else "a"
    task = loop.create_task(getattr(namespace, name)(keys, load))
    loop.run_forever()
    assert bus._held
    task._log_destroy_pending = False
    loop.close()
    del task, loop
    gc.collect()
    assert not bus._held


def test_a_lease_that_was_granted_too_late_is_given_back(new_server: Server, make: Any) -> None:
    cache = make(new_server, name="late")
    namespace = cache.namespace("tenant:acme")
    namespace.fetch("known", lambda: "v")  # So that the server knows the script.
    found: list[int] = []

    def load(*keys: Any) -> Any:
        found.append(len(leases(new_server, "late")))
        return load_many(*keys) if keys else "v"

    for key, call, count in (
        ("a", lambda: namespace.fetch("a", load), 1),
        ("b", lambda: run(namespace.afetch("b", load)), 1),
        ("c", lambda: namespace.fetch_many(["c", "d"], load), 2),
    ):
        late = SlowError("no answer in time")
        with struck_after(namespace, 1, late, b":l:"):
            assert call() in ("v", {"c": "v", "d": "v"})
        assert found.pop() == count  # The others wait for this load, as it runs.
        assert leases(new_server, "late") == []
        assert key not in namespace  # For the tier has not taken it.


WRITES: dict[str, Callable[[Any], Any]] = {
    "set": lambda ns: ns.set("k", "new"),
    "set_many": lambda ns: ns.set_many({"k": "new"}),
    "delete": lambda ns: ns.delete("k"),
    "delete_many": lambda ns: ns.delete_many(["k"]),
    "pop": lambda ns: ns.pop("k", None),
    "touch": lambda ns: ns.touch("k", 99),
    "expire": lambda ns: ns.expire("k"),
    "clear": lambda ns: ns.clear(),
    "invalidate_tag": lambda ns: ns.invalidate_tag("t"),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
    "expire_tag": lambda ns: ns.expire_tag("t"),
    "aset": lambda ns: run(ns.aset("k", "new")),
    "adelete": lambda ns: run(ns.adelete("k")),
    "aclear": lambda ns: run(ns.aclear()),
}


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
def test_a_write_that_is_done_after_its_call_has_ended(
    pair: tuple[Any, Any], call: Callable[[Any], Any]
) -> None:
    """As at the end of a loop, whose tasks are cancelled: the server gets it later."""
    one, _ = pair
    call(one)  # So that the server knows the script.
    one.set("k", "old", tags=("t",))
    (server,) = engine_of(one).servers.all
    ask, sent = server.ask, list[Ask]()

    def asked(asking: Ask) -> Ask:
        if not asking.calls:
            return ask(asking)
        sent.append(asking)
        raise Struck

    async def aasked(asking: Ask, loop: Any) -> Ask:
        sent.append(asking)
        raise asyncio.CancelledError

    server.ask, server.aask = asked, aasked
    with suppress(Struck, asyncio.CancelledError):
        call(one)
    del server.ask, server.aask
    assert "k" not in one
    assert one.get("k") == "old"
    assert "k" in one
    (late,) = sent
    server.ask(Ask(late.patience, calls=late.calls))
    wait_until(lambda: "k" not in one)


def test_a_refresh_that_was_done_as_its_task_was_cancelled(pair: tuple[Any, Any]) -> None:
    """Its echo was heard before, so that nothing drops the old value later."""
    one, _ = pair
    one.refresh("k", lambda: "old")  # So that the server knows the script.
    engine = engine_of(one)
    (server,) = engine.servers.all
    ask, heard = server.ask, engine.bus.messages

    async def aasked(asking: Ask, loop: Any) -> Ask:
        ask(asking)
        if b"new" in b"".join(asking.calls):
            await asyncio.to_thread(wait_until, lambda: engine.bus.messages > heard)
            raise asyncio.CancelledError
        return asking

    async def load() -> str:
        return "new"

    server.aask = aasked
    with suppress(asyncio.CancelledError):
        run(one.arefresh("k", load))
    del server.aask
    assert "k" not in one
    assert one.get("k") == "new"


def test_a_read_from_before_a_refresh_is_not_held(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    other.set("k", "old")
    tier = _core._tier_of(one)
    keep = tier.keep

    def late(*about: Any) -> None:
        monkeypatch.undo()
        assert one.refresh("k", lambda: "new") == "new"
        keep(*about)

    monkeypatch.setattr(tier, "keep", late)
    assert one.get("k") == "old"  # It began before.
    assert one.get("k") == "new"


@pytest.mark.parametrize("name", ["set", "set_many", "aset"])
def test_a_write_that_was_done_as_its_call_ended(pair: tuple[Any, Any], name: str) -> None:
    """Its echo was heard before, so that nothing drops the old value later."""
    one, _ = pair
    one.set("k", "old")
    engine = engine_of(one)
    (server,) = engine.servers.all
    ask, heard = server.ask, engine.bus.messages

    def fill(asking: Ask, error: BaseException) -> None:
        del server.ask, server.aask
        assert one.get("k") == "old"  # Another thread reads it, just before.
        ask(Ask(asking.patience, calls=asking.calls))
        wait_until(lambda: engine.bus.messages > heard)
        raise error

    async def afill(asking: Ask, loop: Any) -> None:
        await asyncio.to_thread(fill, asking, KeyError())

    server.ask = lambda asking: fill(asking, Struck())
    server.aask = afill
    with pytest.raises((Struck, KeyError)):
        WRITES[name](one)
    assert "k" not in one
    assert one.get("k") == "new"
