"""Benches that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.fleet import Make
from harness.proxy import Proxy
from harness.servers import Server, binaries, newest, server

from .bench import Bench, replicated

# A second server says nothing about an interpreter.
EACH: dict[str, Any] = {
    "params": [
        pytest.param(one, marks=pytest.mark.once) if number else one
        for number, one in enumerate(binaries() or [None])
    ],
    "ids": lambda one: getattr(one, "name", "none"),
}


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may stop, kill and starve."""
    with server() as running:
        yield running


@pytest.fixture(**EACH)
def own_of_each(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The same of each kind that there is."""
    with server(request.param or newest()) as running:
        yield running


@pytest.fixture(**EACH)
def pair_of_each(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Server, Server, Proxy]]:
    """A primary with a replica, of each kind that there is; and the link between them."""
    with replicated(request.param or newest(), tmp_path) as running:
        yield running


@pytest.fixture
def links() -> Iterator[list[Proxy]]:
    """The links of a bench. They end after the caches, and before the servers."""
    made: list[Proxy] = []
    yield made
    for link in made:
        link.close()


@pytest.fixture
def bench(own_server: Server, links: list[Proxy], make: Make) -> Bench:
    """A server, and caches that reach it by proxies."""
    return Bench(make, links, own_server)


@pytest.fixture
def each_bench(own_of_each: Server, links: list[Proxy], make: Make) -> Bench:
    """The same with each kind of server."""
    return Bench(make, links, own_of_each)


@pytest.fixture
def two(
    pair_of_each: tuple[Server, Server, Proxy], links: list[Proxy], make: Make
) -> tuple[Bench, Proxy]:
    """A primary with a replica, and the link between the two."""
    primary, replica, between = pair_of_each
    return Bench(make, links, primary, replica), between


@pytest.fixture
def new_two(tmp_path: Path, links: list[Proxy], make: Make) -> Iterator[tuple[Bench, Proxy]]:
    """The same of the newest kind of server."""
    with replicated(newest(), tmp_path) as (primary, replica, between):
        yield Bench(make, links, primary, replica), between
