"""The errors that flowcache raises. Each is also the builtin that a caller would catch."""

from __future__ import annotations

__all__ = [
    "CacheClosedError",
    "ConfigurationError",
    "EntryTooHeavyError",
    "FlowcacheError",
    "InvalidNamespaceError",
    "InvalidTagError",
    "LoadTimeoutError",
    "NamespaceRequiredError",
    "RecursiveLoadError",
    "TenantNotSetError",
    "TenantScopeWarning",
    "TierUnavailableError",
    "TooManyLoadsError",
    "WeigherError",
    "WouldBlockError",
]


class FlowcacheError(Exception):
    """The base of every error that is flowcache's own."""


class CacheClosedError(FlowcacheError, RuntimeError):
    """The cache was closed; neither it nor any of its views can be used."""


class NamespaceRequiredError(FlowcacheError, RuntimeError):
    """A keyed call reached the root of a cache made with ``require_namespace=True``."""


class InvalidNamespaceError(FlowcacheError, ValueError):
    """A namespace name is empty, too long, or bears leading or trailing white space."""


class InvalidTagError(FlowcacheError, ValueError):
    """A tag is empty or longer than 256 characters."""


class ConfigurationError(FlowcacheError, ValueError):
    """Settings contradict each other: reservations that exceed a limit above them."""


class EntryTooHeavyError(FlowcacheError, ValueError):
    """A value weighs more than its namespace, or one above it, may hold in all."""


class WeigherError(FlowcacheError, ValueError):
    """A weigher returned something that is not an ``int`` of at least 0."""


class RecursiveLoadError(FlowcacheError, RuntimeError):
    """A loader fetched, itself or through other loaders, the key that it is loading."""


class LoadTimeoutError(FlowcacheError, TimeoutError):
    """A load took longer than the caller's ``timeout``, and no stale value could stand in."""


class TooManyLoadsError(FlowcacheError, RuntimeError):
    """A namespace already has ``max_pending`` loads running."""


class TenantNotSetError(FlowcacheError, LookupError):
    """A call needed the current tenant and none is set."""


class TenantScopeWarning(RuntimeWarning):
    """A block of ``tenant()`` ended out of order, or in another context than it began in."""


class TierUnavailableError(FlowcacheError, ConnectionError):
    """The tier has not confirmed an invalidation or a store; in this process it was done."""


class WouldBlockError(FlowcacheError, RuntimeError):
    """A blocking call would wait for the tier on the thread of a running event loop.

    Nothing was changed; the message names the call to await.
    """
