"""Django's `BaseCacheTests` over flowcache's backend: without tenants, and again within one.

Run by scripts/upstream/upstream.py, in a folder that holds `cache`, the tests of Django's sdist.
"""

import django
from django.conf import settings

BACKEND = "flowcache.contrib.django.FlowCache"

settings.configure(
    CACHES={"default": {"BACKEND": BACKEND}},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["cache", "flowcache.contrib.django"],
    LANGUAGE_CODE="en",
    ROOT_URLCONF=[],
    SECRET_KEY="of the tests",
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SILENCED_SYSTEM_CHECKS=["flowcache.W001"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    USE_TZ=False,
)
django.setup()

from cache import tests
from django.core.cache import cache, caches
from django.test import TestCase, override_settings
from django.test.utils import get_runner

import flowcache.tenancy

LEFT_OUT = {
    "test_cull": "wants 29 survivors of 49 stores into 30 places; here the 30 most recent survive",
    "test_zero_cull": "wants all but the last 19 culled at once; CULL_FREQUENCY is no option here",
}
"""Tests of Django that expect culling; flowcache evicts one entry at a time."""


def settings_of_caches(location, **options):
    """Return `CACHES` for the suite, as Django's own tests make them for each of its backends."""
    made = tests.caches_setting_for_tests(
        base={"BACKEND": BACKEND, "LOCATION": location}, exclude={"cull", "zero_cull"}
    )
    made["cull"] = {"BACKEND": BACKEND, "LOCATION": f"{location} cull"}
    for one, entries in (
        ("cull", 30),
        *((alias, 10_000) for alias in list(made) if alias != "cull"),
    ):
        made[one]["OPTIONS"] = {"MAX_ENTRIES": entries, **options}
    return made


class Suite(tests.BaseCacheTests):
    """The tests that Django runs on each of its backends."""

    test_cull = None
    test_zero_cull = None


@override_settings(CACHES=settings_of_caches("without"))
class WithoutTenants(Suite, TestCase):
    """`TENANT` is None, as it is where it is not set."""


@override_settings(CACHES=settings_of_caches("within", TENANT="current"))
class WithinTenant(Suite, TestCase):
    """Each test runs for a tenant; afterwards another tenant must find none of its entries."""

    def setUp(self):
        """Enter the tenant, for this test alone."""
        super().setUp()
        scope = flowcache.tenancy.tenant("acme")
        scope.__enter__()
        self.addCleanup(scope.__exit__, None, None, None)

    def tearDown(self):
        """Check that the other tenant sees no entries, and then clear."""
        with flowcache.tenancy.tenant("beta"):
            assert caches["default"].stats().entries == 0
            assert cache.delete_pattern("*") == 0
        super().tearDown()


class OfMiddleware:
    """Django's tests of its caching middleware, whose caches are flowcache's."""

    def setUp(self):
        """Begin with nothing cached."""
        for one in caches.all():
            one.clear()
        super().setUp()


def over_flowcache(case):
    """Return a case of Django's that asks for LocMemCache, over flowcache's backend."""
    given = case._overridden_settings["CACHES"]
    made = {
        alias: {**one, "BACKEND": BACKEND, "LOCATION": f"{case.__name__} {one.get('LOCATION')}"}
        for alias, one in given.items()
    }
    return override_settings(CACHES=made)(type(case.__name__, (OfMiddleware, case), {}))


CacheHEADTest = over_flowcache(tests.CacheHEADTest)
CacheI18nTest = over_flowcache(tests.CacheI18nTest)
PrefixedCacheI18nTest = over_flowcache(tests.PrefixedCacheI18nTest)
CacheMiddlewareTest = over_flowcache(tests.CacheMiddlewareTest)
CacheUtils = over_flowcache(tests.CacheUtils)
TestWithTemplateResponse = over_flowcache(tests.TestWithTemplateResponse)


def main():
    """Run the suite; return how many of its tests failed."""
    print("left out:", *(f"{name}: {why}" for name, why in LEFT_OUT.items()), sep="\n  ")
    return get_runner(settings)(verbosity=1).run_tests(["django_suite"])
