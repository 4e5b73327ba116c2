"""flowcache as a cache of Flask-Caching.

app.config["CACHE_TYPE"] = "flowcache.contrib.flask_caching.FlowCache"
app.config["CACHE_OPTIONS"] = {"tenant": "current", "max_entries": 50_000}
"""

from __future__ import annotations

from typing import Any

from flask_caching.backends.base import BaseCache

from flowcache import ConfigurationError, Limits

from . import cachelib
from ._tiers import derived_keys, signing_tier

__all__ = ["FlowCache"]


class FlowCache(BaseCache, cachelib.FlowCache):
    """Flask-Caching's ``BaseCache`` over the namespace of the tenant for which it is called.

    ``CACHE_OPTIONS`` takes the arguments of ``flowcache.contrib.cachelib.FlowCache``.
    ``max_entries`` defaults to ``CACHE_THRESHOLD``. ``delete_memoized`` and ``clear`` reach the
    current tenant's entries and no others. ``tier`` may be a URL: the key that signs pickles is
    derived from ``SECRET_KEY``, and ``SECRET_KEY_FALLBACKS`` verify.
    """

    def __init__(
        self, default_timeout: int = 300, ignore_delete_many_errors: bool = False, **options: Any
    ) -> None:
        cachelib.FlowCache.__init__(self, default_timeout, ignore_delete_many_errors, **options)

    @classmethod
    def factory(
        cls, app: Any, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> FlowCache:
        """Return the cache that an application's settings describe."""
        if "cache" not in kwargs and "max_entries" not in kwargs:
            kwargs["max_entries"] = checked_threshold(config["CACHE_THRESHOLD"])
        if kwargs.get("tier") is not None:

            def keys() -> list[bytes]:
                secret = app.config.get("SECRET_KEY")
                if not secret:
                    raise ConfigurationError("SECRET_KEY is needed to sign pickles with")
                older = app.config.get("SECRET_KEY_FALLBACKS") or ()
                purpose = "flowcache.contrib.flask_caching: pickles in the tier"
                return derived_keys([secret, *older], purpose)

            kwargs["tier"] = signing_tier(kwargs["tier"], "CACHE_OPTIONS['tier']", keys)
        return cls(*args, **kwargs)


def checked_threshold(threshold: Any) -> Any:
    """Return the bound on entries; an error names the setting that it comes from."""
    try:
        Limits(max_entries=threshold)
    except (TypeError, ValueError) as error:
        fault = str(error).removeprefix("max_entries: ")
        raise type(error)(f"CACHE_THRESHOLD: {fault}") from None
    return threshold
