"""Django's `BaseCacheTests` over flowcache's backend with a tier, on a real server.

Run by scripts/upstream/upstream.py, beside django_suite.py, which says what is left out.
"""

import django_suite
import tier_server
from django.conf import settings
from django.core.cache import caches
from django.test import TestCase, override_settings
from django.test.utils import get_runner

import flowcache.tenancy
from flowcache.tier import PickleCodec

TIER = tier_server.tier_of(PickleCodec([settings.SECRET_KEY.encode() * 2]))


class OnServer(django_suite.Suite):
    """Django's own suites of Redis have a server, too, that outlives a test."""

    def tearDown(self):
        """Check that the tests of this class were stored on the server, and then clear."""
        stats = caches["default"].stats()
        assert stats.untiered == stats.tier_errors == 0, stats
        super().tearDown()
        for one in caches.all(initialized_only=True):
            one.clear()


@override_settings(CACHES=django_suite.settings_of_caches("without, tiered", TIER=TIER))
class WithoutTenantsWithTier(OnServer, TestCase):
    """`TENANT` is None, as it is where it is not set."""


@override_settings(
    CACHES=django_suite.settings_of_caches("within, tiered", TENANT="current", TIER=TIER)
)
class WithinTenantWithTier(OnServer, TestCase):
    """Each test runs for a tenant; afterwards another tenant must find none of its entries."""

    def setUp(self):
        """Enter the tenant, for this test alone."""
        super().setUp()
        scope = flowcache.tenancy.tenant("acme")
        scope.__enter__()
        self.addCleanup(scope.__exit__, None, None, None)

    def tearDown(self):
        """Check that the other tenant finds nothing here and there, and then clear."""
        names = ["key", "key1", "key2", "answer", "somekey"]
        with flowcache.tenancy.tenant("beta"):
            assert caches["default"].get_many(names) == {}
            assert caches["default"].stats().tier_hits == 0
        super().tearDown()


def main():
    """Run the suite; return how many of its tests failed."""
    left_out = django_suite.LEFT_OUT.items()
    print("left out:", *(f"{name}: {why}" for name, why in left_out), sep="\n  ")
    return get_runner(settings)(verbosity=1).run_tests(["django_tier_suite"])
