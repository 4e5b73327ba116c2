"""The tiers of integrations: a cache of their own with one, and pickles that a key signed."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flowcache import Cache, ConfigurationError, Namespace, _core, create_cache

if TYPE_CHECKING:
    from flowcache.tier import ValkeyTier

__all__ = ["check_signed", "derived_keys", "own_cache", "signing_tier"]


def own_cache(kind: str, options: Mapping[str, Any]) -> Cache[Any]:
    """Make the cache of an integration's own, with options of ``create_cache``.

    Raises ``ConfigurationError`` for a tier without a name: caches of one name are one cache there.
    """
    if "default_ttl" in options:
        raise TypeError("default_ttl: is not taken, since a store without a timeout has its own")
    if options.get("tier") is not None and "name" not in options:
        raise ConfigurationError(
            "name: is needed with tier, where all caches of one name share their entries"
        )
    return create_cache(default_ttl=None, **{"name": kind, **options})


def derived_keys(secrets: Iterable[str | bytes], purpose: str) -> list[bytes]:
    """Return a signing key for each secret of an application, of no use for another purpose."""
    return [
        hmac.digest(
            secret.encode() if isinstance(secret, str) else secret, purpose.encode(), "sha256"
        )
        for secret in secrets
    ]


def signing_tier(
    given: Any, name: str, keys: Callable[[], list[bytes]] | None = None
) -> ValkeyTier:
    """Return the tier for `given`, a URL or a `ValkeyTier`, whose values are signed pickles.

    `keys` gives the keys that sign for a URL; without them a URL is refused. `name`: the name of
    the option in messages. Raises `ConfigurationError` for another codec than `PickleCodec`.
    """
    from flowcache.tier import PickleCodec, ValkeyTier

    if isinstance(given, ValkeyTier):
        check_codec(given, name)
        return given
    if not isinstance(given, str):
        raise ConfigurationError(
            f"{name}: must be a ValkeyTier or a URL of Valkey or Redis, got {type(given).__name__}"
        )
    if keys is None:
        raise ConfigurationError(
            f"{name}: a URL names no key to sign pickles with: give "
            "ValkeyTier(url, codec=PickleCodec(keys=[...]))"
        )
    try:
        return ValkeyTier(given, codec=PickleCodec(keys()))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {error}") from error


def check_signed(cache: Namespace[Any], name: str) -> None:
    """Raise `ConfigurationError` for a cache with a tier whose values are no signed pickles."""
    tier = _core._tier_of(cache)
    if tier is not None:
        check_codec(tier.settings, name)


def check_codec(tier: ValkeyTier, name: str) -> None:
    from flowcache.tier import PickleCodec

    if not isinstance(tier.codec, PickleCodec):
        raise ConfigurationError(
            f"{name}: the codec of its tier must be PickleCodec(keys=[...]), since values are "
            f"pickled and only signed pickles are safe to load, got {type(tier.codec).__name__}"
        )
