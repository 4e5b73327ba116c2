"""dogpile's suites of a backend, its serializers and its mutexes, over flowcache with a tier.

Run by scripts/upstream/upstream.py, on a real server, as dogpile's own suites for Redis are.
"""

import pytest
import tier_server
from dogpile.cache.api import CachedValue
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from flowcache.tenancy import tenant
from flowcache.tier import MsgpackCodec

TIER = tier_server.tier_of(MsgpackCodec(types=[CachedValue]))


def arguments(name, **more):
    """Return the arguments of a region; serialized and other values need names of their own."""
    return {"arguments": {"tier": TIER, "name": name, "lock_sleep": 0.005, **more}}


def of_tenants(name):
    return arguments(name, tenant="current", on_no_tenant="shared")


class OnServer:
    """Checks that each value could be stored on the server, which was there all the time."""

    def teardown_method(self, method):
        super().teardown_method(method)
        region = self._region_inst
        backend = self._backend_inst if region is None else region.actual_backend
        if backend is not None:
            root = backend._namespaces.root
            stats = root.stats()
            # The suite deletes mangled keys, which are mangled again within a tenant.
            root.clear()
            root.close()
            assert stats.untiered == stats.tier_errors == 0, stats


class TestBackend(OnServer, _GenericBackendTestSuite):
    backend = "flowcache"
    config_args = arguments("plain")


class TestSerializer(_GenericSerializerTestSuite, TestBackend):
    config_args = arguments("serialized")


class TestMutex(OnServer, _GenericMutexTestSuite):
    backend = "flowcache"
    config_args = arguments("plain")


class WithinTenant:
    """Within a tenant; threads that a test starts have none, and share the entries of none."""

    @pytest.fixture(autouse=True)
    def a_tenant(self):
        with tenant("acme"):
            yield


class TestBackendWithinTenant(WithinTenant, OnServer, _GenericBackendTestSuite):
    backend = "flowcache"
    config_args = of_tenants("plain, within")


class TestSerializerWithinTenant(_GenericSerializerTestSuite, TestBackendWithinTenant):
    config_args = of_tenants("serialized, within")


class TestMutexWithinTenant(WithinTenant, OnServer, _GenericMutexTestSuite):
    backend = "flowcache"
    config_args = of_tenants("plain, within")
