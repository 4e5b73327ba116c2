"""Keys, tenants and settings in the messages of integrations: short, escaped, and never raising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from contrib.django_project import caches_of
from flowcache import create_cache
from flowcache.contrib._namespaces import TenantNamespaces
from flowcache.contrib.django import LockError, TenantMiddleware
from flowcache.contrib.django.stores import open_store

pytestmark = pytest.mark.usefixtures("stores_begin_empty")


class Unprintable:
    """A key, or a setting, whose `repr` raises."""

    def __str__(self) -> str:
        return "a key"

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def lock_twice(key: Any) -> None:
    with cache.lock(key), cache.lock(key, blocking_timeout=0):
        pytest.fail("both were acquired")


def absent_counter(key: Any) -> None:
    cache.incr(key)


def counter_of_text(key: Any) -> None:
    cache.set(key, "text")
    cache.incr(key)


def middleware(setting: Any) -> None:
    with override_settings(FLOWCACHE_TENANT=setting):
        TenantMiddleware(lambda request: None)


CASES: dict[str, tuple[type[Exception], Callable[[Any], object]]] = {
    "an absent counter": (ValueError, absent_counter),
    "a counter that is none": (TypeError, counter_of_text),
    "a lock": (LockError, lock_twice),
    "a timeout of a lock": (TypeError, lambda key: cache.lock("k", timeout=key)),
    "a tenant": (TypeError, lambda given: TenantNamespaces(create_cache(), given)),
    "what to do without one": (
        ValueError,
        lambda given: TenantNamespaces(create_cache(), None, given),
    ),
    "an unknown option": (ImproperlyConfigured, lambda given: open_store("", {given: 1})),
    "a serializer": (ImproperlyConfigured, lambda given: open_store("", {"SERIALIZER": given})),
    "the setting": (ImproperlyConfigured, middleware),
    "a name in the setting": (ImproperlyConfigured, lambda given: middleware({given: 1})),
}
WARNING = "ignore::django.core.cache.backends.base.CacheKeyWarning"


@pytest.mark.filterwarnings(WARNING)
@pytest.mark.parametrize(("error", "call"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("given", ["secret\n" * 100_000, Unprintable()], ids=["long", "no repr"])
def test_a_message_is_short_and_one_line(
    given: Any, error: type[Exception], call: Callable[[Any], object]
) -> None:
    with caches_of(), pytest.raises(error) as told:
        call(given)
    message = str(told.value)
    assert len(message) < 500
    assert message.isprintable()


def test_the_options_of_two_aliases_that_differ() -> None:
    long = "x" * 100_000
    with caches_of():
        open_store("one", {"WEIGHER": len, "TENANT_LIMITS": {"max_entries": 5}})
        with pytest.raises(ImproperlyConfigured) as told:
            open_store("one", {"WEIGHER": len, "TENANT_LIMITS": {long: 5}})
    assert len(str(told.value)) < 1_000


def fields(record: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name.startswith("flowcache_")}


def test_the_record_of_a_value_that_is_too_heavy_has_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = {"MAX_WEIGHT": 10, "WEIGHER": lambda key, value: 100}
    with caches_of(default={"LOCATION": "crm", "OPTIONS": limits}):
        cache.set("secret-key", "a secret value")
        cache.add("secret-key", "a secret value")
        cache.set_many({"secret-key": "a secret value"})
    told = [record for record in caplog.records if record.name == "flowcache"]
    assert len(told) == 3
    for record in told:
        assert fields(record) == {
            "flowcache_event": "not_stored",
            "flowcache_cache": "django:crm",
            "flowcache_namespace": ["shared", "[]"],
            "flowcache_tenant": "shared",
        }
        assert "secret" not in record.getMessage()


def test_the_record_of_a_change_that_is_passed_over_has_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("valkey", reason="the client of the tier cannot be installed here")
    options = {"TIER": "valkey://127.0.0.1:1/0", "IGNORE_TIER_ERRORS": True}
    with caches_of(default={"LOCATION": "crm", "OPTIONS": options}):
        cache.set("secret-key", "a secret value")
    told = [fields(record) for record in caplog.records if "passed over" in record.getMessage()]
    assert told == [{"flowcache_event": "not_confirmed", "flowcache_cache": "django:crm"}]
    assert "secret" not in caplog.text
