"""Presets for the option ``TENANT``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils.module_loading import import_string

from flowcache import TenantNotSetError
from flowcache.reports import shown

__all__ = ["schema_name", "tenant_from"]


def schema_name() -> str:
    """Return the schema of this thread's database connection, as django-tenants sets it.

    ``TENANT: "django-tenants"`` means this function. The public schema is a tenant like any other.
    Raises ``ImproperlyConfigured`` where the database's engine is not that of django-tenants.
    Raises ``TenantNotSetError`` on an event loop. Middleware sets the schema on the connection of
    its own thread, so the schema seen there could be another tenant's, or the public one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise TenantNotSetError(
            "TENANT 'django-tenants' reads the schema of a thread's database connection, which "
            "code on an event loop does not have: use TENANT 'current' and TenantMiddleware"
        )
    try:
        name: str = connection.schema_name
    except AttributeError:
        raise ImproperlyConfigured(
            "OPTIONS['TENANT'] is 'django-tenants', but the database's ENGINE sets no schema: "
            "it must be 'django_tenants.postgresql_backend'"
        ) from None
    return name


PRESETS: dict[str, Callable[[], str | None]] = {"django-tenants": schema_name}


def tenant_from(setting: Any) -> Any:
    """Return the ``tenant`` of ``TenantNamespaces`` for ``OPTIONS["TENANT"]``.

    A preset's name gives its function, a dotted path the object that it names.
    """
    if not isinstance(setting, str) or setting == "current":
        return setting
    if setting in PRESETS:
        return PRESETS[setting]
    try:
        return import_string(setting)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"OPTIONS['TENANT']: must be None, 'current', 'django-tenants', a callable or the "
            f"dotted path of one, got {shown(setting)}: {error}"
        ) from error
