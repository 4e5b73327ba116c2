"""Litestar's tests of a store, over flowcache's: the plugin that gives them `store`.

Run by scripts/upstream/upstream.py, in a folder that holds tests/unit/test_stores.py of Litestar's
repository; its sdist has no tests.
"""

import datetime as dt
import time

import pytest
import time_machine

from flowcache import create_cache
from flowcache.contrib.litestar import FlowStore
from flowcache.tenancy import tenant


def made(**options):
    """Return a store that reads the time that the tests shift."""
    # time.time itself, which the tests replace, looked up at each call.
    clock = lambda: time.time()  # noqa: E731, PLW0108
    return FlowStore(create_cache(default_ttl=None, clock=clock), **options)


@pytest.fixture(params=["without", "namespaced", "within"])
def store(request):
    """The store under test: without tenants, in a namespace of one, within a tenant."""
    if request.param == "within":
        with tenant("acme"):
            yield made(tenant="current")
    elif request.param == "namespaced":
        yield made().with_namespace("a").with_namespace("b")
    else:
        yield made()


@pytest.fixture
def frozen_datetime():
    with time_machine.travel(dt.datetime.now(tz=dt.UTC), tick=False) as traveller:
        yield traveller


def pytest_collection_modifyitems(config, items):
    """Leave out the tests of Litestar's own stores: they request one of those by name."""
    of_any_store = [item for item in items if "store" in item.fixturenames]
    config.hook.pytest_deselected(items=[item for item in items if item not in of_any_store])
    items[:] = of_any_store
