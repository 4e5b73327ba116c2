"""What a second tier is made of: a server, a codec, and what happens when it is away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from flowcache import _core
from flowcache.errors import ConfigurationError
from flowcache.reports import shown

from .codec import Codec, MsgpackCodec, check_codec
from .engine import Engine
from .envelope import Envelope
from .layout import SLOTS, plain_name
from .wire import Dialer

if TYPE_CHECKING:
    from datetime import timedelta

    from .following import Follower
    from .layout import Layout

__all__ = ["ValkeyTier"]

SHORTEST_LEASE: Final = 1.5
"""Seconds: three heart-beats."""
IN_CLUSTER: Final = 32
"""Buckets of a cluster, unless another number is asked for."""


class ValkeyTier:
    """A second tier on Valkey or Redis, 7.0 or newer, for ``create_cache(tier=...)``.

    ``url_or_client``: a URL (``valkey://``, ``valkeys://``, ``redis://``, ``rediss://``,
    ``unix://``), or a sync client of valkey-py or redis-py, of a cluster or from a Sentinel too.
    ``codec``: how values become bytes, :class:`MsgpackCodec` by default. ``buckets``: into how many
    parts the tenants are divided; 1, or 32 of a cluster's client. ``lease``: seconds for which a
    process may serve what it holds without hearing of the fleet. ``local_ttl``: seconds for which
    it holds a value at most. ``on_partition``: what a process does whose lease is over: ``"load"``,
    ``("stale", seconds)``, or ``"raise"``. ``on_primary_change``: ``"void"`` what is in the tier
    when another primary takes over, or ``"keep"`` it, with the invalidations undone that were lost.
    ``replicas``: how many confirm each write; by default as many as were seen.
    ``queue_invalidations``: how many invalidations that the tier has not confirmed are kept and
    sent later, instead of raised. ``unit_stores``: values that a tenant may store in a second, over
    the fleet; more stay in the process. ``prefix``: begins each key there. ``soft_timeout`` bounds
    what a read waits, ``hard_timeout`` what a write waits. ``limit``: bytes that a value has at
    most; ``compress_from``: bytes from which it is deflated, or ``None``.

    Opens nothing. All processes of a fleet have to agree on name, buckets, tenant depth and lease.
    Raises ``TypeError``, ``ValueError`` or ``ConfigurationError`` that names the argument.
    """

    def __init__(
        self,
        url_or_client: Any,
        /,
        *,
        codec: Codec | None = None,
        buckets: int | None = None,
        lease: float | timedelta = 2.0,
        local_ttl: float | timedelta | None = None,
        on_partition: Literal["load", "raise"] | tuple[Literal["stale"], float] = "load",
        on_primary_change: Literal["void", "keep"] = "void",
        replicas: int | None = None,
        queue_invalidations: int = 0,
        unit_stores: int | None = None,
        prefix: str = "fc1",
        soft_timeout: float | timedelta = 0.050,
        hard_timeout: float | timedelta = 0.250,
        limit: int = 1 << 20,
        compress_from: int | None = 2048,
    ) -> None:
        self._dialer = Dialer(url_or_client)
        is_cluster = getattr(url_or_client, "nodes_manager", None) is not None
        self.codec: Codec = MsgpackCodec() if codec is None else codec
        check_codec(self.codec)
        self.buckets = whole(buckets, "buckets", 1, SLOTS) or (IN_CLUSTER if is_cluster else 1)
        self.lease = seconds(lease, "lease", SHORTEST_LEASE)
        self.local_ttl = None if local_ttl is None else seconds(local_ttl, "local_ttl", 0.001)
        self.is_strict, self.stale_for = partition(on_partition)
        if on_primary_change not in ("void", "keep"):
            raise ValueError(
                f'on_primary_change: must be "void" or "keep", got {shown(on_primary_change)}'
            )
        self.keeps_on_change = on_primary_change == "keep"
        self.replicas = whole(replicas, "replicas", 0, 100)
        queued = whole(queue_invalidations, "queue_invalidations", 0, 1_000_000)
        if queued is None:
            raise TypeError("queue_invalidations: must be an int, got None")
        self.queue_invalidations = queued
        self.unit_stores = whole(unit_stores, "unit_stores", 1, 1_000_000_000)
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: must be a str, got {type(prefix).__name__}")
        if not prefix or plain_name(prefix) != prefix:
            raise ValueError(
                f"prefix: must be letters, digits, '_', '-' and '.' only, got {shown(prefix)}"
            )
        self.prefix = prefix
        self.soft_timeout = seconds(soft_timeout, "soft_timeout", 0.001)
        self.hard_timeout = seconds(hard_timeout, "hard_timeout", 0.001)
        if self.soft_timeout > self.hard_timeout:
            raise ValueError("soft_timeout: must not be longer than hard_timeout")
        limit_checked = whole(limit, "limit", 1, 1 << 29)
        if limit_checked is None:
            raise TypeError("limit: must be an int, got None")
        self._envelope = Envelope(
            self.codec,
            limit=limit_checked,
            pack_from=whole(compress_from, "compress_from", 1, 1 << 29),
        )

    def engine(self, layout: Layout, follower: Follower) -> Engine:
        """Return the tier's half of a cache. Opens nothing."""
        return Engine(
            layout,
            self._envelope,
            self._dialer,
            follower,
            soft=self.soft_timeout,
            hard=self.hard_timeout,
            lease=self.lease,
            replicas=self.replicas,
            keep_on_change=self.keeps_on_change,
            queued=self.queue_invalidations,
            unit_stores=self.unit_stores or 0,
        )

    def __repr__(self) -> str:
        return f"<ValkeyTier by {self._dialer!r}>"


def seconds(value: Any, name: str, least: float) -> float:
    """Return a duration in seconds; an error that names the argument for one that is too short."""
    checked = _core.duration(value, name)
    if checked < least:
        raise ValueError(f"{name}: must be at least {least:g} seconds, got {checked:g}")
    return checked


def whole(value: Any, name: str, least: int, most: int) -> int | None:
    """Return an int within bounds, or `None`; an error that names the argument for others."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be an int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name}: must be an int from {least} to {most}, got {shown(value)}")
    return value


def partition(policy: Any) -> tuple[bool, float]:
    """Return whether reads raise without a lease, and for how many seconds they are stale."""
    if isinstance(policy, str) and policy in ("load", "raise"):
        return policy == "raise", 0.0
    if isinstance(policy, tuple) and len(policy) == 2 and policy[0] == "stale":
        return False, _core.duration(policy[1], "on_partition")
    raise ValueError(
        f'on_partition: must be "load", "raise" or ("stale", seconds), got {shown(policy)}'
    )


def tier_of(given: Any) -> ValkeyTier:
    """Return what `tier=` asks for; a URL is the short form."""
    if isinstance(given, ValkeyTier):
        return given
    if isinstance(given, str):
        return ValkeyTier(given)
    raise ConfigurationError(
        f"tier: must be a ValkeyTier or a URL of Valkey or Redis, got {type(given).__name__}"
    )
