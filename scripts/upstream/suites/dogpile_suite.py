"""dogpile's suites of a backend, its serializers and its mutexes, over flowcache's backend.

Run by scripts/upstream/upstream.py; the suites come with dogpile's wheel.
"""

import pytest
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from flowcache.tenancy import tenant

ARGUMENTS = {"arguments": {"max_entries": 10_000}}
OF_TENANTS = {"arguments": {"tenant": "current", "on_no_tenant": "shared"}}


class TestBackend(_GenericBackendTestSuite):
    backend = "flowcache"
    config_args = ARGUMENTS


class TestSerializer(_GenericSerializerTestSuite, TestBackend):
    pass


class TestMutex(_GenericMutexTestSuite):
    backend = "flowcache"
    config_args = ARGUMENTS


class WithinTenant:
    """Within a tenant; threads that a test starts have none, and share the entries of none."""

    @pytest.fixture(autouse=True)
    def a_tenant(self):
        with tenant("acme"):
            yield


class TestBackendWithinTenant(WithinTenant, _GenericBackendTestSuite):
    backend = "flowcache"
    config_args = OF_TENANTS


class TestSerializerWithinTenant(_GenericSerializerTestSuite, TestBackendWithinTenant):
    pass


class TestMutexWithinTenant(WithinTenant, _GenericMutexTestSuite):
    backend = "flowcache"
    config_args = OF_TENANTS
