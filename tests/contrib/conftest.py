"""Fixtures that a module of these tests asks for with `usefixtures`."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from harness.tenant_support import now


@pytest.fixture
def none_before_and_after() -> Iterator[None]:
    """Have no tenant current; generators that were left behind end before."""
    gc.collect()
    assert now() is None
    yield
    assert now() is None


@pytest.fixture
def stores_begin_empty() -> Iterator[None]:
    """Have the stores of Django's setting `CACHES` begin empty."""
    from contrib.django_project import caches_of

    with caches_of():
        yield
