"""Flask-Caching's generic suite over flowcache's class for it.

Run by scripts/upstream/upstream.py, in a folder that holds the tests of Flask-Caching's sdist.
"""

import sys
import time
import types

# The suites take the servers of their other caches from xprocess; none is started here.
sys.modules.setdefault("xprocess", types.SimpleNamespace(ProcessStarter=object))
sys.path.insert(0, "tests")

import pytest
from test_backend_cache import GenericCacheTests

from flowcache.contrib.flask_caching import FlowCache
from flowcache.tenancy import tenant


class TestFlowCache(GenericCacheTests):
    @pytest.fixture
    def make_cache(self):
        return FlowCache

    @pytest.fixture
    def sleep(self):
        """Return a function that lets time pass: Flask-Caching's moves the clock of its caches."""
        return time.sleep


class TestFlowCacheWithinTenant(TestFlowCache):
    @pytest.fixture
    def make_cache(self):
        with tenant("acme"):
            yield lambda: FlowCache(tenant="current")
