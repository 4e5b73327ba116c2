"""cachetools' tests of its decorators, with namespaces of flowcache as the caches.

Run by scripts/upstream/upstream.py, in a folder that holds the tests of cachetools' sdist.
"""

import unittest

from tests.test_cached import DecoratorTestMixin
from tests.test_cachedmethod import MethodDecoratorTestMixin

from flowcache import create_cache
from flowcache.tenancy import current_tenant

LEFT_OUT = (
    "test_decorator_deepcopy_super",
    "test_decorator_pickle",
    "test_decorator_pickle_aliased",
    "test_decorator_pickle_info",
    "test_decorator_pickle_super",
)
for name in LEFT_OUT:
    reason = "copies or pickles the cache: a namespace is a view of shared entries of its process"
    left_out = unittest.skip(reason)(getattr(MethodDecoratorTestMixin, name))
    setattr(MethodDecoratorTestMixin, name, left_out)


class OfRoot:
    def cache(self, minsize, **options):
        return create_cache(max_entries=minsize)


class OfNamespace:
    def cache(self, minsize, **options):
        return create_cache().namespace("tenant:acme", max_entries=minsize)


class OfCurrentTenant:
    def setUp(self):
        self.token = current_tenant.set("acme")

    def tearDown(self):
        current_tenant.reset(self.token)

    def cache(self, minsize, **options):
        return create_cache().for_current_tenant()


class TestCachedOfRoot(OfRoot, unittest.TestCase, DecoratorTestMixin):
    pass


class TestCachedOfNamespace(OfNamespace, unittest.TestCase, DecoratorTestMixin):
    pass


class TestCachedOfCurrentTenant(OfCurrentTenant, unittest.TestCase, DecoratorTestMixin):
    pass


class TestMethodOfRoot(OfRoot, unittest.TestCase, MethodDecoratorTestMixin):
    pass


class TestMethodOfNamespace(OfNamespace, unittest.TestCase, MethodDecoratorTestMixin):
    pass


class TestMethodOfCurrentTenant(OfCurrentTenant, unittest.TestCase, MethodDecoratorTestMixin):
    pass
