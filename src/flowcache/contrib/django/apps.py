"""The application that registers the system checks."""

from django.apps import AppConfig
from django.core import checks

from .checks import check_order_of_middleware, check_sessions

__all__ = ["FlowcacheConfig"]


class FlowcacheConfig(AppConfig):
    """Registers the checks of ``flowcache.contrib.django``; it has no models."""

    name = "flowcache.contrib.django"
    label = "flowcache"
    verbose_name = "flowcache"

    def ready(self) -> None:
        """Register the checks, under Django's own tag for caches."""
        checks.register(check_sessions, checks.Tags.caches)
        checks.register(check_order_of_middleware, checks.Tags.caches)
