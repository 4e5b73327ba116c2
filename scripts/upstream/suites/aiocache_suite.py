"""aiocache's acceptance tests of a cache, and of its locks, over the recipe for it.

Run by scripts/upstream/upstream.py, in a folder that holds `tests` of aiocache's sdist, with the
recipe of examples/frameworks on the path.
"""

import aiocache_backend
import pytest
from aiocache import Cache
from aiocache.lock import RedLock
from tests.acceptance import test_lock
from tests.acceptance.test_base import TestCache as OfAnyCache
from tests.utils import Keys

from flowcache.tenancy import tenant


@pytest.fixture
def cache():
    """The cache under test, which every test begins with empty, within a tenant."""
    aiocache_backend.store.clear()
    with tenant("acme"):
        yield Cache(aiocache_backend.FlowCache, namespace="test")


class TestCache(OfAnyCache):
    pass


class TestRedLock(test_lock.TestRedLock):
    @pytest.fixture
    def lock(self, cache):
        return RedLock(cache, Keys.KEY, 20)


class TestOptimisticLock(test_lock.TestOptimisticLock):
    pass
