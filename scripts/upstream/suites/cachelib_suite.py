"""cachelib's common, has, clear and serializer suites over flowcache's class for it.

Run by scripts/upstream/upstream.py, in a folder that holds the tests of cachelib's sdist.
"""

import sys
import types

# The suites take the servers of their other caches from xprocess; none is started here.
sys.modules.setdefault("xprocess", types.SimpleNamespace(ProcessStarter=object))
sys.path.insert(0, "tests")

import pytest
from clear import ClearTests
from common import CommonTests
from has import HasTests
from serializer import SerializerTests

from flowcache.contrib.cachelib import FlowCache
from flowcache.tenancy import tenant


class Suite(CommonTests, HasTests, ClearTests, SerializerTests):
    """The tests that cachelib runs on each of its caches."""

    def cache_factory(self, **options):
        return FlowCache(**options)


class TestPickled(Suite):
    pass


class TestUnserialized(Suite):
    def cache_factory(self, **options):
        made = super().cache_factory(**options)
        made.serializer = None
        return made


class TestWithinTenant(Suite):
    def cache_factory(self, **options):
        return FlowCache(**options, tenant="current")

    @pytest.fixture(autouse=True)
    def a_tenant(self):
        with tenant("acme"):
            yield
