"""The namespace of the tests of cached functions: answered by compiled code, and by Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flowcache import Namespace, create_cache
from harness.loading_support import assert_nothing_left
from harness.support import new_cache


@pytest.fixture(params=["compiled", "general"])
def ns(request: pytest.FixtureRequest) -> Iterator[Namespace[Any]]:
    """A namespace with hits answered by compiled code, and one with hits that take the long way.

    A cache with a user's clock never takes the short cut, so each test shows that both ways agree.
    """
    cache = create_cache(max_entries=100) if request.param == "compiled" else new_cache()[0]
    yield cache.namespace("functions")
    cache._check()
    assert_nothing_left(cache)
