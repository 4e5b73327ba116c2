"""The backend: Django's ``BaseCache`` over a namespace of the store behind a ``LOCATION``."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from django.core.cache.backends.base import (
    DEFAULT_TIMEOUT,
    MEMCACHE_MAX_KEY_LENGTH,
    BaseCache,
    default_key_func,
)
from django.core.exceptions import ImproperlyConfigured

from flowcache import ConfigurationError, InvalidNamespaceError, Stats, TierUnavailableError
from flowcache.contrib._namespaces import (
    TenantNamespaces,
    aadd_or_warn,
    add_or_warn,
    ahas,
    aset_many_or_warn,
    aset_or_warn,
    has,
    set_many_or_warn,
    set_or_warn,
)
from flowcache.coroutines import at_call
from flowcache.reports import report, shown

from .locks import Lock
from .patterns import escape, prefix_of, regex_of
from .stores import PICKLE, open_store
from .tenants import tenant_from

__all__ = ["FlowCache"]

T = TypeVar("T")

MISSING = object()

ABSENT = 1 << 4096
"""The start value of ``incr`` without an entry, which tells that there was none. A TTL of 0 stores
nothing then, so the call is atomic, and no other thread ever sees the value. A counter in the tier
has 64 bits, so the tier refuses it: ``OverflowError``."""

UNCHANGING = frozenset((str, int, float, bool, type(None)))
"""Types of immutable values: these are stored themselves, without a copy."""


class FlowCache(BaseCache):
    """Django's cache in flowcache: every call of ``BaseCache``, sync and async, and some more.

    ``LOCATION`` names a store of this process. Each ``KEY_PREFIX`` is a namespace in it, and each
    tenant another, so ``clear()`` reaches neither other prefixes nor other tenants. ``OPTIONS``:

    - ``MAX_ENTRIES``, ``MAX_WEIGHT``, ``WEIGHER`` (bytes of key and pickled value by default) and
      ``SWEEP_INTERVAL``, as of ``create_cache``, for the whole store.
    - ``TENANT_LIMITS``: a dict of the fields of ``Limits``, for each tenant and for the entries of
      no tenant.
    - ``SERIALIZER``: ``"pickle"``, or ``None``, where callers share the stored objects.
    - ``TENANT``: ``None``, ``"current"`` (the tenant of ``flowcache.tenancy``),
      ``"django-tenants"``, a callable without arguments or its dotted path.
    - ``ON_NO_TENANT``: ``"raise"`` or ``"shared"``.
    - ``TIER``: a second tier that all processes share: the URL of a Valkey or Redis server, or a
      ``ValkeyTier`` whose codec is ``PickleCodec``. For a URL the key that signs pickles is derived
      from ``SECRET_KEY``; ``SECRET_KEY_FALLBACKS`` verify. The async calls wait for the tier
      without a thread; a sync call that would wait for it on an event loop raises
      ``WouldBlockError``.
    - ``IGNORE_TIER_ERRORS``: ``True`` logs a write or an invalidation that the tier did not
      confirm, instead of raising ``TierUnavailableError``.

    Beyond ``BaseCache``: ``tags=`` where a value is stored, ``invalidate_tag``, ``delete_pattern``,
    ``lock``, ``stats``. ``get_or_set`` with a callable runs it once for all concurrent threads and
    tasks. A value heavier than the limits allow is not stored, and the old value is removed; a
    warning is logged. Raises ``ImproperlyConfigured`` that names the option.
    """

    _makes_keys_as_django = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Note whether a subclass makes or checks keys in its own way."""
        super().__init_subclass__(**options)
        cls._makes_keys_as_django = (
            cls.make_key is BaseCache.make_key and cls.validate_key is BaseCache.validate_key
        )

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        store, options = open_store(location, params.get("OPTIONS", {}))
        super().__init__(params)
        self.store = store.cache
        self._held_locks = store.held_locks
        self._loading = store.loading
        self._pickles = options["SERIALIZER"] == PICKLE
        self._is_tiered = store.cache.tier is not None
        self._ignores_tier_errors: bool = options["IGNORE_TIER_ERRORS"]
        try:
            self._namespaces = TenantNamespaces(
                self.store,
                tenant_from(options["TENANT"]),
                options["ON_NO_TENANT"],
                below=(f"[{self.key_prefix}]",),
                name_of=lambda name: f"OPTIONS[{name.upper()!r}]",
            )
        except InvalidNamespaceError as error:
            raise ImproperlyConfigured(f"KEY_PREFIX: {error}") from error
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(str(error)) from error
        self._fixed = self._namespaces.fixed

    def make_and_validate_key(self, key: Any, version: Any = None) -> str:
        """Return the key of an entry; warn of one that memcached would refuse.

        The result equals that of Django's own calls, which take as long as the rest of a hit.
        """
        if not self._makes_keys_as_django:
            made: str = super().make_and_validate_key(key, version=version)
            return made
        if version is None:
            version = self.version
        if self.key_func is default_key_func:
            made = f"{self.key_prefix!s}:{version!s}:{key!s}"
        else:
            made = self.key_func(key, self.key_prefix, version)
        # A printable key without a space has no character that memcached would refuse.
        if len(made) > MEMCACHE_MAX_KEY_LENGTH or " " in made or not made.isprintable():
            self.validate_key(made)
        return made

    # One entry.

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        """Return the value of a key, else ``default``."""
        key = self.make_and_validate_key(key, version=version)
        namespace = self._fixed if self._fixed is not None else self._namespaces.current()
        if not self._pickles:
            return namespace.get(key, default)
        stored = namespace.get(key, MISSING)
        if stored is MISSING:
            return default
        return pickle.loads(stored) if type(stored) is bytes else stored

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> None:
        """Store a value. ``timeout``: seconds, ``None`` for ever; 0 and less store nothing."""
        key = self.make_and_validate_key(key, version=version)
        ttl = self._ttl(timeout)
        stored = self._encode(value)
        self._call(set_or_warn, self._namespaces.current(), key, stored, ttl=ttl, tags=tags)

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> bool:
        """Store a value where there is none; return whether there was none."""
        key = self.make_and_validate_key(key, version=version)
        namespace = self._namespaces.current()
        ttl = self._ttl(timeout)
        stored = self._encode(value)
        if ttl == 0:
            return not has(namespace, key)
        return bool(self._call(add_or_warn, namespace, key, stored, ttl=ttl, tags=tags))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        """Give a key a new timeout; return whether it was there."""
        key = self.make_and_validate_key(key, version=version)
        ttl = self._ttl(timeout)
        return bool(self._call(self._namespaces.current().touch, key, ttl=ttl))

    def delete(self, key: Any, version: Any = None) -> bool:
        """Delete a key; return whether it was there."""
        key = self.make_and_validate_key(key, version=version)
        return bool(self._call(self._namespaces.current().delete, key))

    def has_key(self, key: Any, version: Any = None) -> bool:
        """Tell whether a key has a value that has not expired."""
        key = self.make_and_validate_key(key, version=version)
        return has(self._namespaces.current(), key)

    def incr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """Add to an ``int`` atomically, its timeout unchanged; ``ValueError`` if it is absent.

        Returns ``None``, as django-redis does, where ``IGNORE_TIER_ERRORS`` passes over an error.
        """
        made = self._counter(key, delta, version)
        namespace = self._namespaces.current()
        try:
            result = self._call(namespace.incr, made, delta, default=ABSENT, ttl=0)
        except TypeError as error:
            raise no_int(key) from error
        except OverflowError:
            if has(namespace, made):
                raise
            raise not_found(key) from None
        return found_count(key, delta, result)

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> Any:
        """Return the value of a key; store ``default``, or its result, if there is none.

        A callable runs once for all waiting callers. A key deleted meanwhile is not stored.
        """
        if not callable(default):
            value = self.get(key, MISSING, version=version)
            if value is not MISSING:
                return value
            self.add(key, default, timeout=timeout, version=version, tags=tags)
            return self.get(key, default, version=version)
        key = self.make_and_validate_key(key, version=version)
        namespace = self._namespaces.current()
        with self._loading(namespace, key):
            stored = namespace.fetch(
                key, lambda: self._encode(default()), ttl=self._ttl(timeout), tags=tags
            )
        return self._decode(stored)

    # Many entries.

    def get_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        """Return the values of those keys that have one."""
        made = {key: self.make_and_validate_key(key, version=version) for key in keys}
        found = self._namespaces.current().get_many(made.values())
        return {key: self._decode(found[one]) for key, one in made.items() if one in found}

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> list[Any]:
        """Store values; return the keys of those that are too heavy to be stored."""
        made = {
            self.make_and_validate_key(key, version=version): (key, self._encode(value))
            for key, value in data.items()
        }
        values = {one: stored for one, (_, stored) in made.items()}
        namespace = self._namespaces.current()
        ttl = self._ttl(timeout)
        if self._goes_one_by_one:
            failed = [
                one
                for one, stored in values.items()
                if not self._call(set_or_warn, namespace, one, stored, ttl=ttl, tags=tags)
            ]
        else:
            failed = set_many_or_warn(namespace, values, ttl=ttl, tags=tags)
        return [made[one][0] for one in failed]

    def delete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        """Delete keys."""
        made = [self.make_and_validate_key(key, version=version) for key in keys]
        namespace = self._namespaces.current()
        if not self._goes_one_by_one:
            namespace.delete_many(made)
            return
        for one in made:
            self._call(namespace.delete, one)

    def clear(self) -> None:
        """Remove this tenant's entries, or those of no tenant, under this ``KEY_PREFIX`` only."""
        self._call(self._namespaces.current().clear)

    def invalidate_tag(self, tag: str, *, wait: Literal["fleet"] | None = None) -> int:
        """Remove the entries with a tag, of those that ``clear()`` reaches.

        Returns their number in this process. With ``wait="fleet"`` and a tier, no process serves
        one of them when the call has returned.
        """
        return self._call(self._namespaces.current().invalidate_tag, tag, wait=wait) or 0

    def delete_pattern(
        self, pattern: str, version: Any = None, *, itersize: int | None = None
    ) -> int:
        """Delete the keys that match a pattern (``*``, ``?``, ``[a-z]``); return their number.

        Compares each key that ``clear()`` would reach. ``itersize``, the size of a scan's step in
        django-redis, has no effect here. With a tier the pattern must be a prefix and ``*``:
        ``ConfigurationError``.
        """
        pattern, prefix = self._pattern(pattern, version)
        namespace = self._namespaces.current()
        if prefix == "":
            return self._call(namespace.clear) or 0
        if prefix is not None:
            return self._call(namespace.invalidate_prefix, prefix) or 0
        matches = regex_of(pattern).fullmatch
        keys = {key for key in (*self._loading.keys_of(namespace), *namespace) if matches(key)}
        return namespace.delete_many(keys)

    # Others.

    def lock(
        self,
        key: Any,
        version: Any = None,
        timeout: float | None = None,
        sleep: float | None = None,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        thread_local: bool = True,
    ) -> Lock:
        """Return the lock of a key among this process's threads; each tenant has its own.

        ``sleep`` is a parameter of django-redis; a waiter here is woken, and ignores it. Raises
        ``ConfigurationError`` with a tier: callers would rely on a lock of all processes, and a
        tier may forget what it holds.
        """
        if self._is_tiered:
            raise ConfigurationError(
                "lock: with OPTIONS['TIER'] there is none, since a lock of this process excludes "
                "no other process: use the lock of a client of Valkey, or an alias without TIER"
            )
        name = self.make_and_validate_key(key, version=version)
        return Lock(
            self._held_locks,
            (self._namespaces.current().path, name),
            timeout=timeout,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
        )

    def stats(self) -> Stats:
        """Return the counters of the entries that ``clear()`` would reach."""
        return self._namespaces.current().stats()

    # The same for tasks. Without a tier each calls its sync twin, where debugging tools look; these
    # calls never block, so none goes to another thread, as Django's defaults do. With a tier each
    # awaits the twin of the namespace's call. The tenant is that of the moment of the call.

    @at_call
    async def aget(self, key: Any, default: Any = None, version: Any = None) -> Any:
        """See :meth:`get`."""
        if not self._is_tiered:
            return self.get(key, default, version)
        key = self.make_and_validate_key(key, version=version)
        stored = await self._namespaces.current().aget(key, MISSING)
        return default if stored is MISSING else self._decode(stored)

    @at_call
    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> None:
        """See :meth:`set`."""
        if not self._is_tiered:
            return self.set(key, value, timeout, version, tags=tags)
        key = self.make_and_validate_key(key, version=version)
        ttl = self._ttl(timeout)
        stored = self._encode(value)
        namespace = self._namespaces.current()
        await self._acall(aset_or_warn, namespace, key, stored, ttl=ttl, tags=tags)
        return None

    @at_call
    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> bool:
        """See :meth:`add`."""
        if not self._is_tiered:
            return self.add(key, value, timeout, version, tags=tags)
        key = self.make_and_validate_key(key, version=version)
        namespace = self._namespaces.current()
        ttl = self._ttl(timeout)
        stored = self._encode(value)
        if ttl == 0:
            return not await ahas(namespace, key)
        return bool(await self._acall(aadd_or_warn, namespace, key, stored, ttl=ttl, tags=tags))

    @at_call
    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: Any = None) -> bool:
        """See :meth:`touch`."""
        if not self._is_tiered:
            return self.touch(key, timeout, version)
        key = self.make_and_validate_key(key, version=version)
        ttl = self._ttl(timeout)
        return bool(await self._acall(self._namespaces.current().atouch, key, ttl=ttl))

    @at_call
    async def adelete(self, key: Any, version: Any = None) -> bool:
        """See :meth:`delete`."""
        if not self._is_tiered:
            return self.delete(key, version)
        key = self.make_and_validate_key(key, version=version)
        return bool(await self._acall(self._namespaces.current().adelete, key))

    @at_call
    async def ahas_key(self, key: Any, version: Any = None) -> bool:
        """See :meth:`has_key`."""
        if not self._is_tiered:
            return self.has_key(key, version)
        key = self.make_and_validate_key(key, version=version)
        return await ahas(self._namespaces.current(), key)

    @at_call
    async def aincr(self, key: Any, delta: int = 1, version: Any = None) -> int:
        """See :meth:`incr`."""
        if not self._is_tiered:
            return self.incr(key, delta, version)
        made = self._counter(key, delta, version)
        namespace = self._namespaces.current()
        try:
            result = await self._acall(namespace.aincr, made, delta, default=ABSENT, ttl=0)
        except TypeError as error:
            raise no_int(key) from error
        except OverflowError:
            if await ahas(namespace, made):
                raise
            raise not_found(key) from None
        return found_count(key, delta, result)

    @at_call
    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> Any:
        """See :meth:`get_or_set`. ``default`` may be a coroutine function."""
        if not callable(default):
            if not self._is_tiered:
                return self.get_or_set(key, default, timeout, version, tags=tags)
            value = await self.aget(key, MISSING, version)
            if value is not MISSING:
                return value
            await self.aadd(key, default, timeout, version, tags=tags)
            return await self.aget(key, default, version)
        key = self.make_and_validate_key(key, version=version)
        namespace = self._namespaces.current()

        async def load() -> Any:
            value = default()
            return self._encode(await value if inspect.isawaitable(value) else value)

        with self._loading(namespace, key):
            stored = await namespace.afetch(key, load, ttl=self._ttl(timeout), tags=tags)
        return self._decode(stored)

    @at_call
    async def aget_many(self, keys: Iterable[Any], version: Any = None) -> dict[Any, Any]:
        """See :meth:`get_many`."""
        if not self._is_tiered:
            return self.get_many(keys, version)
        made = {key: self.make_and_validate_key(key, version=version) for key in keys}
        found = await self._namespaces.current().aget_many(made.values())
        return {key: self._decode(found[one]) for key, one in made.items() if one in found}

    @at_call
    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: Any = None,
        *,
        tags: str | Iterable[str] = (),
    ) -> list[Any]:
        """See :meth:`set_many`."""
        if not self._is_tiered:
            return self.set_many(data, timeout, version, tags=tags)
        made = {
            self.make_and_validate_key(key, version=version): (key, self._encode(value))
            for key, value in data.items()
        }
        values = {one: stored for one, (_, stored) in made.items()}
        namespace = self._namespaces.current()
        ttl = self._ttl(timeout)
        if self._goes_one_by_one:
            failed = [
                one
                for one, stored in values.items()
                if not await self._acall(aset_or_warn, namespace, one, stored, ttl=ttl, tags=tags)
            ]
        else:
            failed = await aset_many_or_warn(namespace, values, ttl=ttl, tags=tags)
        return [made[one][0] for one in failed]

    @at_call
    async def adelete_many(self, keys: Iterable[Any], version: Any = None) -> None:
        """See :meth:`delete_many`."""
        if not self._is_tiered:
            return self.delete_many(keys, version)
        made = [self.make_and_validate_key(key, version=version) for key in keys]
        namespace = self._namespaces.current()
        if not self._goes_one_by_one:
            await namespace.adelete_many(made)
            return None
        for one in made:
            await self._acall(namespace.adelete, one)
        return None

    @at_call
    async def aclear(self) -> None:
        """See :meth:`clear`."""
        if not self._is_tiered:
            return self.clear()
        await self._acall(self._namespaces.current().aclear)
        return None

    @at_call
    async def ainvalidate_tag(self, tag: str, *, wait: Literal["fleet"] | None = None) -> int:
        """See :meth:`invalidate_tag`."""
        if not self._is_tiered:
            return self.invalidate_tag(tag, wait=wait)
        return await self._acall(self._namespaces.current().ainvalidate_tag, tag, wait=wait) or 0

    @at_call
    async def adelete_pattern(
        self, pattern: str, version: Any = None, *, itersize: int | None = None
    ) -> int:
        """See :meth:`delete_pattern`."""
        if not self._is_tiered:
            return self.delete_pattern(pattern, version, itersize=itersize)
        _, prefix = self._pattern(pattern, version)
        namespace = self._namespaces.current()
        if not prefix:
            return await self._acall(namespace.aclear) or 0
        return await self._acall(namespace.ainvalidate_prefix, prefix) or 0

    # Made of other calls, by Django.
    adecr = at_call(BaseCache.adecr)
    aincr_version = at_call(BaseCache.aincr_version)
    adecr_version = at_call(BaseCache.adecr_version)

    async def aclose(self, **_: Any) -> None:
        """Do nothing, as ``close()`` does: the store belongs to the process, not to a request."""

    # Shared helpers.

    def _call(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
        """Make a call that the tier must confirm; ``None``: it did not, and that is passed over."""
        try:
            return call(*arguments, **options)
        except TierUnavailableError as error:
            if not self._ignores_tier_errors:
                raise
            self._pass_over(error)
            return None

    async def _acall(
        self, call: Callable[..., Awaitable[T]], *arguments: Any, **options: Any
    ) -> T | None:
        """See :meth:`_call`."""
        try:
            return await call(*arguments, **options)
        except TierUnavailableError as error:
            if not self._ignores_tier_errors:
                raise
            self._pass_over(error)
            return None

    def _pass_over(self, error: TierUnavailableError) -> None:
        """Log what the tier did not confirm."""
        report("WARNING", "passed over: %s", error, event="not_confirmed", cache=self.store.name)

    @property
    def _goes_one_by_one(self) -> bool:
        """Whether a call for many keys goes on after the tier did not confirm one of them."""
        return self._is_tiered and self._ignores_tier_errors

    def _counter(self, key: Any, delta: Any, version: Any) -> str:
        """Check the arguments of ``incr``; return the key of the entry."""
        if isinstance(delta, bool) or not isinstance(delta, int):
            raise TypeError(f"delta: must be an int, got {type(delta).__name__}")
        return self.make_and_validate_key(key, version=version)

    def _pattern(self, pattern: Any, version: Any) -> tuple[str, str | None]:
        """Return the pattern of whole keys, and the prefix that it comes to, if it is one."""
        if not isinstance(pattern, str):
            raise TypeError(f"pattern: must be a str, got {type(pattern).__name__}")
        version = self.version if version is None else version
        whole: str = self.key_func(pattern, escape(self.key_prefix), escape(str(version)))
        prefix = prefix_of(whole)
        if prefix is None and self._is_tiered:
            raise ConfigurationError(
                f"pattern: with OPTIONS['TIER'] it must be a prefix and '*', such as 'abc*', since "
                f"no other pattern can travel to other processes; or use tags; got {shown(pattern)}"
            )
        return whole, prefix

    def _ttl(self, timeout: Any) -> float | None:
        """Return Django's timeout as a TTL."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return None
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(
                f"timeout: must be seconds as an int or a float, or None, got "
                f"{type(timeout).__name__}"
            )
        if timeout != timeout:
            raise ValueError("timeout: must be seconds, got nan")
        return max(timeout, 0)

    def _encode(self, value: Any) -> Any:
        if not self._pickles or type(value) in UNCHANGING:
            return value
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def _decode(self, stored: Any) -> Any:
        return pickle.loads(stored) if self._pickles and type(stored) is bytes else stored


def no_int(key: Any) -> TypeError:
    """Return the error for a counter whose value is no ``int``."""
    return TypeError(f"key: the value of {shown(key)} is no int")


def not_found(key: Any) -> ValueError:
    """Return Django's error for a counter that is absent."""
    return ValueError(f"Key {shown(key)} not found")


def found_count(key: Any, delta: int, result: int | None) -> int:
    """Return what ``incr`` returns; raise if it began with the start value of an absent key."""
    if result is None:
        return None  # type: ignore[return-value]  # As django-redis: see `incr`.
    if result - delta == ABSENT:
        raise not_found(key)
    return result
