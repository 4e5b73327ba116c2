"""Cache: the root namespace, which begins and ends a cache's life."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import MutableMapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import _core
from ._core import Namespace
from .coroutines import check_sync
from .errors import CacheClosedError, ConfigurationError
from .loading import pool
from .reports import report, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from .limits import Limits
    from .loading.pool import Executor
    from .tier import ValkeyTier
    from .tier.loads import Tier

    AroundLoad = Callable[[tuple[str, ...], Hashable], AbstractContextManager[object]]

__all__ = ["Cache", "Namespace", "create_cache"]

V = TypeVar("V")

MutableMapping.register(Namespace)


class Cache(Namespace[V]):
    """The root namespace of a cache. See :func:`create_cache` for its parameters."""

    __slots__ = ("__weakref__", "_sweeper")

    _sweeper: Sweeper | None

    def __init__(
        self,
        *,
        default_ttl: float | timedelta | None = 300.0,
        max_entries: int | None = 10_000,
        max_weight: int | None = None,
        weigher: Callable[[Any, Any], int] | None = None,
        child_limits: Limits | None = None,
        require_namespace: bool = False,
        max_pending_age: float | timedelta = 30.0,
        sweep_interval: float | timedelta | None = None,
        max_idle_namespaces: int = 10_000,
        clock: Callable[[], float] | None = None,
        name: str = "flowcache",
        executor: Executor | None = None,
        enabled: bool = True,
        around_load: AroundLoad | None = None,
        tenant_depth: int = 1,
        tier: ValkeyTier | str | None = None,
        eviction: Literal["lru", "tinylfu"] = "lru",
        sharing: Literal["fair", "utility"] = "fair",
        max_loss: float = 0.05,
    ) -> None:
        """Make an empty cache. Raises ``TypeError`` or ``ValueError`` that names the argument."""
        for argument, function in (("weigher", weigher), ("clock", clock)):
            if function is not None and not callable(function):
                raise TypeError(f"{argument}: must be callable, got {type(function).__name__}")
            check_sync(function, argument)
        if not isinstance(require_namespace, bool):
            raise TypeError(
                f"require_namespace: must be a bool, got {type(require_namespace).__name__}"
            )
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled: must be a bool, got {type(enabled).__name__}")
        if not isinstance(name, str):
            raise TypeError(f"name: must be a str, got {type(name).__name__}")
        if isinstance(max_idle_namespaces, bool) or not isinstance(max_idle_namespaces, int):
            raise TypeError(
                f"max_idle_namespaces: must be an int, got {type(max_idle_namespaces).__name__}"
            )
        if max_idle_namespaces < 0:
            raise ValueError(f"max_idle_namespaces: must be at least 0, got {max_idle_namespaces}")
        check_executor(executor)
        check_around_load(around_load)
        if isinstance(tenant_depth, bool) or not isinstance(tenant_depth, int):
            raise TypeError(f"tenant_depth: must be an int, got {type(tenant_depth).__name__}")
        if not 1 <= tenant_depth <= 64:
            raise ValueError(f"tenant_depth: must be an int from 1 to 64, got {tenant_depth}")
        check_sharing(sharing, max_loss)
        if sharing == "utility" and max_entries is None and tenant_depth == 1:
            raise ConfigurationError('sharing: "utility" goes by entries, and needs max_entries')
        if tier is not None and clock is not None:
            raise ConfigurationError("clock: a cache with a tier goes by the clock of leases")
        pending_age = _core.duration(max_pending_age, "max_pending_age")
        interval = None
        if sweep_interval is not None:
            interval = _core.duration(sweep_interval, "sweep_interval")
            if interval == 0:
                raise ValueError("sweep_interval: must be more than 0 seconds, or None")
        self._open(
            max_entries,
            max_weight,
            weigher,
            default_ttl,
            child_limits,
            pending_age,
            require_namespace,
            max_idle_namespaces,
            clock,
            name,
            eviction,
            tenant_depth if sharing == "utility" else 0,
            max_loss,
        )
        self._store().tenant_depth = tenant_depth
        if enabled is not True:
            self.enabled = enabled
        self.around_load = around_load
        pool.open_pool(self._store(), pending_age, executor)
        if tier is not None:
            from .tier.loads import Tier
            from .tier.namespace import tiered
            from .tier.settings import tier_of

            made = Tier(self, tier_of(tier), name, tenant_depth, pending_age)
            self.__class__ = tiered(type(self))  # One whose calls know the tier.
            _core._open_tier(self, made, made.settings.lease)
        self._sweeper = None
        if interval is not None:
            self._sweeper = Sweeper(self, interval)
            self._sweeper.start()

    @property
    def around_load(self) -> AroundLoad | None:
        """``around_load(path, key)`` makes a context manager around each loader; ``None``: none.

        For traces: what the loader does is within it. ``path`` is that of the namespace; for
        ``fetch_many`` ``key`` is a tuple of the keys. It may be assigned while the cache is used.
        """
        around: AroundLoad | None = self._store().around_load
        return around

    @around_load.setter
    def around_load(self, around_load: AroundLoad | None) -> None:
        check_around_load(around_load)
        self._store().around_load = around_load

    def close(self) -> None:
        """Drop every entry and refuse all further use, of this cache and of its views.

        Running loads go on for the calls that wait, and are not stored. A second call has no
        effect.
        """
        sweeper = getattr(self, "_sweeper", None)  # Not set if __init__ raised.
        if sweeper is not None:
            sweeper.stop()
        self._close()
        tier = self.tier
        if tier is not None:
            tier.close()

    async def aclose(self) -> None:
        """Close the cache, and end the connections that the tier has on this event loop."""
        tier = self.tier
        if tier is not None:
            await tier.finish_writes()
        self.close()
        if tier is not None:
            await tier.aclose()

    @property
    def tier(self) -> Tier | None:
        """The second tier, or ``None``; ``cache.tier.state`` tells how it is."""
        tier: Tier | None = self._store().tier
        return tier

    def connect(self) -> None:
        """Reach the tier now, so that errors come now; without one, do nothing.

        Raises ``ConfigurationError`` for a server that can never do, and ``TierUnavailableError``.
        """
        if self.tier is not None:
            self.tier.write("connect", self.tier.steps_connect())

    async def aconnect(self) -> None:
        """Reach the tier now, so that errors come now; without one, do nothing."""
        if self.tier is not None:
            await self.tier.engine.arun(self.tier.steps_connect())

    def sweep(self) -> int:
        """Expire every entry past its time; return their number. Costs O(log n) for each.

        Also releases the memory of the debris of ``clear`` and ``invalidate_*``. Other threads run
        in between, after some thousand entries at most.
        """
        return sweep(self)

    def __enter__(self) -> Cache[V]:
        """Return the cache; it is closed at the end."""
        if self._is_closed():
            raise CacheClosedError("the cache is closed")
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the cache."""
        self.close()

    async def __aenter__(self) -> Cache[V]:
        """Return the cache; it is closed at the end."""
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        """Close the cache."""
        await self.aclose()


def check_around_load(around_load: object) -> None:
    """Raise `TypeError` for what cannot make a context manager."""
    if around_load is not None and not callable(around_load):
        raise TypeError(f"around_load: must be callable or None, got {type(around_load).__name__}")
    check_sync(around_load, "around_load")


def check_sharing(sharing: object, max_loss: object) -> None:
    """Raise `TypeError` or `ValueError` for a way of sharing that does not exist."""
    if not isinstance(sharing, str):
        raise TypeError(f"sharing: must be a str, got {type(sharing).__name__}")
    if sharing not in ("fair", "utility"):
        raise ValueError(f'sharing: must be "fair" or "utility", got {shown(sharing)}')
    if isinstance(max_loss, bool) or not isinstance(max_loss, (int, float)):
        raise TypeError(f"max_loss: must be a number, got {type(max_loss).__name__}")
    if not 0 < max_loss <= 1:
        raise ValueError(f"max_loss: must be more than 0 and at most 1, got {shown(max_loss)}")


def check_executor(executor: object) -> None:
    """Raise `TypeError` for an executor that cannot run loads in threads of this process."""
    if executor is None:
        return
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "executor: must have a method submit, as concurrent.futures.ThreadPoolExecutor has, "
            f"or be None, got {type(executor).__name__}"
        )
    if any(kind.__name__ == "ProcessPoolExecutor" for kind in type(executor).__mro__):
        raise TypeError("executor: must run threads; a loader cannot go to another process")


def sweep(root: Namespace[Any]) -> int:
    """Expire the due entries, slice by slice; return their number."""
    swept = 0
    more = True
    while more:
        expired, more = root._sweep()
        swept += expired
    root._emit("sweep", None, value=swept)
    return swept


class Sweeper:
    """A daemon thread that sweeps a cache periodically, and refers to it only meanwhile.

    The cache lives while there is a view of it, its root or another.
    """

    def __init__(self, cache: Cache[Any], interval: float) -> None:
        self._stopped = threading.Event()
        self._interval = min(interval, threading.TIMEOUT_MAX)
        self._store = weakref.ref(cache._store(), self._cache_gone)
        sweepers.add(self)

    def start(self) -> None:
        """Start the thread; after a fork, start it anew."""
        name = "flowcache-sweep"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        # In an empty context: a thread with its starter's context would keep it alive.
        Context().run(thread.start)

    def stop(self) -> None:
        """End the thread soon. Does not wait for it."""
        self._stopped.set()

    def _cache_gone(self, _: object) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            store = self._store()
            if store is None:
                return
            root = _core._root_of(store)
            try:
                sweep(root)
            except CacheClosedError:
                return
            except Exception as error:  # noqa: BLE001  the user's clock's or finalizer's; reported
                report(
                    "ERROR",
                    "a sweep of cache %r raised",
                    store.name,
                    event="sweep_failed",
                    error=error,
                    cache=store.name,
                )
            del store, root

    def after_fork(self) -> None:
        """Begin again in a child process, where the parent's thread does not exist."""
        if not self._stopped.is_set() and self._store() is not None:
            self._stopped = threading.Event()
            self.start()


sweepers: weakref.WeakSet[Sweeper] = weakref.WeakSet()


def _after_fork() -> None:
    for sweeper in list(sweepers):
        sweeper.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def create_cache(
    *,
    default_ttl: float | timedelta | None = 300.0,
    max_entries: int | None = 10_000,
    max_weight: int | None = None,
    weigher: Callable[[Any, Any], int] | None = None,
    child_limits: Limits | None = None,
    require_namespace: bool = False,
    max_pending_age: float | timedelta = 30.0,
    sweep_interval: float | timedelta | None = None,
    max_idle_namespaces: int = 10_000,
    clock: Callable[[], float] | None = None,
    name: str = "flowcache",
    executor: Executor | None = None,
    enabled: bool = True,
    around_load: AroundLoad | None = None,
    tenant_depth: int = 1,
    tier: ValkeyTier | str | None = None,
    eviction: Literal["lru", "tinylfu"] = "lru",
    sharing: Literal["fair", "utility"] = "fair",
    max_loss: float = 0.05,
) -> Cache[Any]:
    """Make a cache, to be shared by every tenant of this process.

    ``default_ttl``: seconds (or a ``timedelta``) that an entry stored without a TTL stays fresh;
    ``None``: for ever. ``max_entries``: the bound on entries of the whole cache; ``None``: none.
    ``max_weight``: the bound on the sum of ``weigher(key, value)``, an ``int`` of at least 0 that
    is called once a store. ``child_limits``: the :class:`Limits` that every namespace right below
    the root starts with. ``require_namespace``: refuse keyed calls on the root with
    ``NamespaceRequiredError``. ``max_pending_age``: seconds after which a running load no longer
    holds up new callers, nor is stored. ``sweep_interval``: seconds between sweeps by a daemon
    thread; ``None``: no thread, expired entries are reclaimed as the cache is used.
    ``max_idle_namespaces``: how many empty, unused namespaces keep their counters. ``clock``:
    returns seconds, for tests; the monotonic clock by default. ``name``: a label. ``executor``:
    runs the background loads of threads, by its ``submit(function)``; ``None``: threads of the
    cache's own. ``enabled``: ``False`` stores nothing, until ``cache.enabled`` is set to ``True``.
    ``around_load(path, key)``: makes a context manager around each loader, for traces.
    ``tenant_depth``: how many names of a path make a tenant, for the pools of background loads,
    metrics, ``sharing`` and the tier.
    ``tier``: a second tier that a fleet of processes shares, a
    :class:`~flowcache.tier.ValkeyTier` or the URL of a Valkey or Redis server. Nothing is opened
    before the first call that needs it, or :meth:`Cache.connect`.
    ``eviction``: which entry of a namespace gives way: ``"lru"``, the least recent one, or
    ``"tinylfu"``, which keeps those that are asked for often; namespaces inherit it.
    ``sharing``: how tenants share the room: ``"fair"``, by their ``share``, or ``"utility"``: they
    lend it to those in which it saves most misses, and each keeps at least half of its fair share.
    ``max_loss``: the part of its misses that a tenant may lose by that as hits, about.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """
    return Cache(
        default_ttl=default_ttl,
        max_entries=max_entries,
        max_weight=max_weight,
        weigher=weigher,
        child_limits=child_limits,
        require_namespace=require_namespace,
        max_pending_age=max_pending_age,
        sweep_interval=sweep_interval,
        max_idle_namespaces=max_idle_namespaces,
        clock=clock,
        name=name,
        executor=executor,
        enabled=enabled,
        around_load=around_load,
        tenant_depth=tenant_depth,
        tier=tier,
        eviction=eviction,
        sharing=sharing,
        max_loss=max_loss,
    )
