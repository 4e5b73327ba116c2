"""Stores by ``LOCATION``: instances of the backend, in every thread, share their entries."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from flowcache import Cache, Limits, Namespace, create_cache
from flowcache.contrib._tiers import derived_keys, signing_tier
from flowcache.reports import shown

from .locks import HeldLocks

__all__ = ["PICKLE", "Store", "open_store", "root"]

PICKLE = "pickle"

ALIAS_OPTIONS = {"TENANT": None, "ON_NO_TENANT": "raise", "IGNORE_TIER_ERRORS": False}
"""Options that each alias of a store may set for itself, with their defaults."""

STORE_OPTIONS: dict[str, Any] = {
    "MAX_ENTRIES": 10_000,
    "MAX_WEIGHT": None,
    "WEIGHER": None,
    "TENANT_LIMITS": None,
    "SWEEP_INTERVAL": None,
    "SERIALIZER": PICKLE,
    "TIER": None,
}
"""Options of a store, equal for all its aliases, with their defaults."""


class RunningLoads:
    """The keys that ``get_or_set`` loads now: ``delete_pattern`` must fence those that match."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: Counter[tuple[Namespace[Any], str]] = Counter()

    @contextmanager
    def __call__(self, namespace: Namespace[Any], key: str) -> Iterator[None]:
        """Hold the key in the list while its caller waits, until the value is stored."""
        load = namespace, key
        with self._lock:
            self._callers[load] += 1
        try:
            yield
        finally:
            with self._lock:
                self._callers[load] -= 1
                if not self._callers[load]:
                    del self._callers[load]

    def keys_of(self, namespace: Namespace[Any]) -> list[str]:
        """Return the keys of a namespace that are listed now."""
        with self._lock:
            return [key for of, key in self._callers if of == namespace]


@dataclass(frozen=True)
class Store:
    """The store that the aliases of one ``LOCATION`` share, in all threads."""

    cache: Cache[Any]
    options: Mapping[str, Any]
    held_locks: HeldLocks = field(default_factory=HeldLocks)
    loading: RunningLoads = field(default_factory=RunningLoads)


stores: dict[str, Store] = {}
stores_lock = threading.Lock()


def open_store(location: str, given: Any) -> tuple[Store, dict[str, Any]]:
    """Return the store of a ``LOCATION``, made if there is none, and the options of an alias.

    Raises ``ImproperlyConfigured`` that names an option that is unknown or invalid, or that differs
    between two aliases of one store.
    """
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"OPTIONS: must be a dict, got {type(given).__name__}")
    known = {**ALIAS_OPTIONS, **STORE_OPTIONS}
    for name in given:
        if name not in known:
            accepted = ", ".join(known)
            raise ImproperlyConfigured(f"OPTIONS[{shown(name)}]: unknown; accepted: {accepted}")
    options = {**known, **given}
    if options["SERIALIZER"] not in (PICKLE, None):
        raise ImproperlyConfigured(
            f"OPTIONS['SERIALIZER']: must be 'pickle' or None, got {shown(options['SERIALIZER'])}"
        )
    if not isinstance(options["IGNORE_TIER_ERRORS"], bool):
        raise ImproperlyConfigured(
            "OPTIONS['IGNORE_TIER_ERRORS']: must be a bool, got "
            f"{type(options['IGNORE_TIER_ERRORS']).__name__}"
        )
    if options["IGNORE_TIER_ERRORS"] and getattr(options["TIER"], "is_strict", False):
        raise ImproperlyConfigured(
            "OPTIONS['IGNORE_TIER_ERRORS']: must be False for a ValkeyTier whose on_partition is "
            "'raise'"
        )
    if options["TIER"] is not None and not location:
        raise ImproperlyConfigured(
            "LOCATION: is needed with OPTIONS['TIER'], where all caches of one LOCATION are one"
        )
    of_store = {name: options[name] for name in STORE_OPTIONS}
    with stores_lock:
        if location not in stores:
            stores[location] = Store(make_cache(location, of_store), of_store)
        store = stores[location]
    for name, value in of_store.items():
        if value != store.options[name]:
            # A URL is not shown: it may hold a password.
            differ = f"is {shown(value)} here and {shown(store.options[name])} for"
            if name == "TIER":
                differ = "differs from that of"
            raise ImproperlyConfigured(
                f"OPTIONS[{name!r}]: {differ} another alias of LOCATION {location!r}; aliases of "
                "one LOCATION share its store"
            )
    return store, options


def make_cache(location: str, options: Mapping[str, Any]) -> Cache[Any]:
    """Make the cache behind a ``LOCATION``."""
    weigher = options["WEIGHER"]
    if isinstance(weigher, str):
        try:
            weigher = import_string(weigher)
        except ImportError as error:
            raise ImproperlyConfigured(f"OPTIONS['WEIGHER']: {error}") from error
    elif weigher is None and options["MAX_WEIGHT"] is not None:
        if options["SERIALIZER"] is None:
            raise ImproperlyConfigured(
                "OPTIONS['WEIGHER']: is needed for MAX_WEIGHT where SERIALIZER is None; with "
                "'pickle' the weight is the size in bytes unless a WEIGHER says otherwise"
            )
        weigher = size_of_entry
    limits = options["TENANT_LIMITS"]
    if limits is not None:
        try:
            limits = Limits(**limits)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"OPTIONS['TENANT_LIMITS']: {error}") from error
    try:
        return create_cache(
            default_ttl=None,
            max_entries=options["MAX_ENTRIES"],
            max_weight=options["MAX_WEIGHT"],
            weigher=weigher,
            child_limits=limits,
            require_namespace=True,
            sweep_interval=options["SWEEP_INTERVAL"],
            tier=tier_from(options["TIER"]),
            name=f"django:{location}" if location else "django",
        )
    except (TypeError, ValueError) as error:
        # A message of `create_cache` begins with its parameter, which is the option's name.
        parameter, _, what = str(error).partition(":")
        raise ImproperlyConfigured(f"OPTIONS[{parameter.upper()!r}]:{what}") from error


def tier_from(given: Any) -> Any:
    """Return the tier for ``OPTIONS["TIER"]``; the secrets of the project sign for a URL."""
    if given is None:
        return None

    def keys() -> list[bytes]:
        secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        return derived_keys(secrets, "flowcache.contrib.django: pickles in the tier")

    try:
        return signing_tier(given, "OPTIONS['TIER']", keys)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"OPTIONS['TIER']: needs what flowcache[valkey] installs: {error}"
        ) from error
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from error


def size_of_entry(key: str, stored: Any) -> int:
    """Weigh an entry by the bytes of its key and its pickled value."""
    return len(key) + (len(stored) if type(stored) is bytes else sys.getsizeof(stored))


def root(alias: str = "default") -> Cache[Any]:
    """Return the whole store behind an alias, every tenant's entries: for operators.

    Code for one tenant needs only the cache that Django gives it.
    """
    backend = caches[alias]
    try:
        store: Cache[Any] = backend.store
    except AttributeError:
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}]: its BACKEND is {type(backend).__qualname__}, not FlowCache"
        ) from None
    return store


def forget_stores(*, setting: str, **_: Any) -> None:
    """Forget the stores when a test overrides ``CACHES``: they begin anew, with its options."""
    if setting == "CACHES":
        with stores_lock:
            for store in stores.values():
                if store.cache.tier is not None:
                    store.cache.close()
            stores.clear()


setting_changed.connect(forget_stores)
