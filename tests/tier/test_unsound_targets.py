"""Targets of which no connection can be made: an error that names the argument, in every call."""

from __future__ import annotations

import importlib
from typing import Any
from uuid import uuid4

import pytest

from flowcache import create_cache
from flowcache.errors import ConfigurationError, TierUnavailableError
from flowcache.tier import ValkeyTier
from harness.fleet import PATIENT, confirmed, run
from harness.servers import Server, wait_until


@pytest.mark.parametrize(
    "url",
    ["valkey://host:port", "valkey://host:99999", "valkey://[::1", "valkey://user:secret@h:-1/0"],
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"url_or_client: .* is no URL") as raised:
        create_cache(tier=url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["secret@host", "user:secret@host:1/0", "http://u:secret@host"])
def test_what_is_no_url_of_a_server_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"url_or_client: must begin with .*@host") as told:
        create_cache(tier=url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "valkey://host?unknown=1",
        "valkey://host?socket_timeout=long",
        "valkey://" + "a" * 70 + ".b:1",
        "valkey://a..b:1",
        "valkey://\ud800:1",
        "valkey://user:secret@a..b:1",
    ],
)
def test_what_the_library_cannot_use_is_told_in_each_call(url: str) -> None:
    with create_cache(tier=ValkeyTier(url, **PATIENT)) as cache:  # type: ignore[arg-type]
        namespace = cache.namespace("tenant:acme")
        for call in (
            cache.connect,
            lambda: namespace.get("k"),
            lambda: namespace.set("k", "v"),
            lambda: namespace.fetch("k", lambda: "v"),
            namespace.clear,
            lambda: run(namespace.aget("k")),
            lambda: run(namespace.afetch("k", lambda: "v")),
        ):
            with pytest.raises(ConfigurationError, match="url_or_client: ") as raised:
                call()
            assert "secret" not in str(raised.value)


def test_credentials_that_cannot_be_had_are_a_server_out_of_reach(new_server: Server) -> None:
    from valkey import CredentialProvider, Valkey

    class Broken(CredentialProvider):  # type: ignore[misc]
        is_broken = True

        def get_credentials(self) -> Any:
            if self.is_broken:
                raise LookupError("the vault is sealed")
            return ("default", "")

    provider = Broken()
    client = Valkey(port=new_server.port, credential_provider=provider)
    tier = ValkeyTier(client, **PATIENT)  # type: ignore[arg-type]
    with create_cache(tier=tier, name="credentials") as cache:
        namespace = cache.namespace("tenant:acme")
        with pytest.raises(TierUnavailableError, match="LookupError: the vault is sealed"):
            cache.connect()
        assert namespace.get("k") is None
        assert namespace.fetch("k", lambda: "v") == "v"


def uses(client: Any, other: Any) -> None:
    """Store with one client, closed at once as is its pool, and read with the other."""
    client.close()
    pool = getattr(client, "connection_pool", None)
    if pool is not None:
        pool.disconnect()
    settings: Any = {"name": f"given {uuid4()}"}
    with (
        create_cache(tier=ValkeyTier(client, **PATIENT), **settings) as here,  # type: ignore[arg-type]
        create_cache(tier=ValkeyTier(other, **PATIENT), **settings) as there,  # type: ignore[arg-type]
    ):
        confirmed(here.connect)
        confirmed(there.connect)
        confirmed(lambda: here.namespace("tenant:acme").set("k", "v"))
        wait_until(lambda: there.namespace("tenant:acme").get("k") == "v")


@pytest.mark.parametrize("name", ["valkey.Valkey", "redis.Redis"])
def test_clients_with_settings_of_their_own(any_server: Server, name: str) -> None:
    package, _, kind = name.partition(".")
    library = importlib.import_module(package)
    client = getattr(library, kind)

    class Traced(client):  # type: ignore[misc]
        """A client of the user's own class, as tracing makes it."""

    url = any_server.url.replace("valkey:", f"{package}:")
    for made in (
        Traced(port=any_server.port),
        Traced.from_url(url, protocol=2, decode_responses=True, client_name="mine"),
        client(port=any_server.port, protocol=3, health_check_interval=1, db=0),
        client(connection_pool=library.BlockingConnectionPool.from_url(url, max_connections=1)),
        client(port=any_server.port, single_connection_client=True, encoding="utf-16"),
    ):
        uses(made, url)


def test_clients_that_cannot_do_are_refused_by_name(new_server: Server) -> None:
    import valkey
    import valkey.asyncio

    class Traced(valkey.asyncio.Valkey):  # type: ignore[misc]
        """A client for tasks, of the user's own class."""

    class Other:
        """An object of another library, which has a pool as well."""

        connection_pool = object()

    for target, said in ((Traced(), "give the sync client"), (Other(), "got Other")):
        with pytest.raises(ConfigurationError, match=rf"^url_or_client: .*{said}"):
            ValkeyTier(target)

    class Fake(valkey.Connection):  # type: ignore[misc]
        """A connection to no server, as fakes for tests have it."""

        def connect(self) -> None:
            self._sock = object()

        def disconnect(self, *_: object) -> None:
            self._sock = None

    pool = valkey.ConnectionPool(connection_class=Fake)
    tier = ValkeyTier(valkey.Valkey(connection_pool=pool), **PATIENT)  # type: ignore[arg-type]
    with create_cache(tier=tier) as cache:
        for call in (cache.connect, lambda: cache.namespace("t").get("k")):
            with pytest.raises(ConfigurationError, match=r"^url_or_client: .* have no socket"):
                call()
