"""Targets of which no connection can be made: an error that names the argument, in every call."""

from __future__ import annotations

from typing import Any

import pytest

from flowcache import create_cache
from flowcache.errors import ConfigurationError, TierUnavailableError
from flowcache.tier import ValkeyTier
from harness.fleet import PATIENT, run
from harness.servers import Server


@pytest.mark.parametrize(
    "url",
    ["valkey://host:port", "valkey://host:99999", "valkey://[::1", "valkey://user:secret@h:-1/0"],
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"url_or_client: .* is no URL") as raised:
        create_cache(tier=url)
    assert "secret" not in str(raised.value)


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
