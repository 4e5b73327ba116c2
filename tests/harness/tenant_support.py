"""Shared parts of the tests of tenants: the current tenant, generators with a block, threads."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from flowcache import TenantScopeWarning
from flowcache.tenancy import current_tenant, tenant

MENDS = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether the end of a block changes a context of another thread."""

warns = partial(pytest.warns, TenantScopeWarning)


def now() -> Any:
    """The current tenant, or None."""
    return current_tenant.get(None)


def rows(name: str) -> Iterator[str]:
    """A generator with a `yield` within its block, a case that flowcache cannot correct."""
    with tenant(name):
        yield current_tenant.get()
        yield current_tenant.get()


def in_a_thread(function: Callable[[], Any]) -> Any:
    """The result of a function that another thread has called."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(60)
