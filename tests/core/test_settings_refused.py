"""Every refused name, limit and setting of a namespace: the error names it, and nothing changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import (
    Cache,
    ConfigurationError,
    InvalidNamespaceError,
    Limits,
    create_cache,
)
from harness.refusals import Call, crossed, furnished, refuse, with_option
from harness.support import new_cache, unchanged

# names


BAD_NAMES: list[tuple[Any, type[Exception]]] = [
    ("", InvalidNamespaceError),
    (" ", InvalidNamespaceError),
    (" a", InvalidNamespaceError),
    ("a ", InvalidNamespaceError),
    ("a\n", InvalidNamespaceError),
    ("\u00a0a", InvalidNamespaceError),
    ("a\u2003", InvalidNamespaceError),
    ("a" * 257, InvalidNamespaceError),
    ("a" * 300, InvalidNamespaceError),
    (1, TypeError),
    (None, TypeError),
    (b"a", TypeError),
    (("a", "b"), TypeError),
    (["a"], TypeError),
]


@crossed(
    {
        "alone": lambda ns, value: ns.namespace(value),
        "first": lambda ns, value: ns.namespace(value, "new"),
        "last": lambda ns, value: ns.namespace("new", "newer", value),
        "below one that exists": lambda ns, value: ns.namespace("below", value),
        "with settings": lambda ns, value: ns.namespace("new", value, max_entries=5),
    },
    BAD_NAMES,
)
def test_a_name(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "name")


def test_a_path_without_names_or_with_too_many() -> None:
    refuse(lambda ns, value: ns.namespace(), None, TypeError, "at least one name")
    refuse(lambda ns, value: ns.namespace(*"x" * 63), None, InvalidNamespaceError, "64 names")


# limits


BAD_BOUNDS: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (2**62, ValueError),
    (10**5_000, ValueError),
    (1.5, TypeError),
    (5.0, TypeError),
    ("5", TypeError),
    (True, TypeError),
]
SETTING_CALLS: dict[str, Callable[..., object]] = {
    "configure": lambda ns, **options: ns.configure(**options),
    "namespace": lambda ns, **options: ns.namespace("new", "newer", **options),
    "namespace that exists": lambda ns, **options: ns.namespace("below", **options),
    "with a good one": lambda ns, **options: ns.configure(default_ttl=1, **options),
    "Limits": lambda ns, **options: Limits(**options),
}
CREATING_CALLS = {
    "create_cache": lambda ns, **options: create_cache(weigher=lambda key, value: 1, **options),
    "Cache": lambda ns, **options: Cache(weigher=lambda key, value: 1, **options),
}


@crossed(with_option("max_entries", SETTING_CALLS | CREATING_CALLS), BAD_BOUNDS)
def test_max_entries(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "max_entries")


@crossed(with_option("max_weight", SETTING_CALLS | CREATING_CALLS), BAD_BOUNDS)
def test_max_weight(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "max_weight")


@crossed(with_option("max_pending", SETTING_CALLS), BAD_BOUNDS)
def test_max_pending(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "max_pending")


@crossed(
    with_option("reserved", SETTING_CALLS),
    [
        (-1, ValueError),
        (2**62, ValueError),
        (1.5, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_reserved(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "reserved")


@crossed(
    with_option("share", SETTING_CALLS),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (10**5_000, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_share(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "share")


@crossed(
    with_option("eviction", SETTING_CALLS | CREATING_CALLS),
    [
        ("LRU", ValueError),
        ("", ValueError),
        ("sieve", ValueError),
        (None, TypeError),
        (True, TypeError),
        (b"lru", TypeError),
    ],
)
def test_eviction(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "eviction")


@crossed(
    with_option("child_limits", SETTING_CALLS | CREATING_CALLS),
    [({}, TypeError), ({"max_entries": 5}, TypeError), (5, TypeError)],
)
def test_child_limits(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "child_limits")


@crossed(
    with_option("max_size", SETTING_CALLS)
    | {"create_cache": lambda ns, value: create_cache(max_size=value)},
    [(5, TypeError)],
)
def test_a_setting_that_does_not_exist(call: Call, value: Any, error: type[Exception]) -> None:
    refuse(call, value, error, "max_size")


@crossed(
    {
        "configure": lambda ns, value: ns.configure(reserved=value),
        "with a limit of its own": lambda ns, value: ns.configure(reserved=6, max_entries=5),
        "namespace": lambda ns, value: ns.namespace("new", "newer", reserved=value),
        "a smaller limit": lambda ns, value: ns.namespace("below").configure(max_entries=2),
        "a smaller reservation": lambda ns, value: ns.configure(reserved=2),
        "a smaller limit above": lambda ns, value: ns.configure(max_entries=2),
    },
    [(101, ConfigurationError)],
)
def test_reservations_that_exceed_a_limit(call: Call, value: Any, error: type[Exception]) -> None:
    cache, tenant = furnished()
    cache.namespace("tenant", reserved=100)
    cache.namespace("tenant", "acme", reserved=100)
    tenant.namespace("below", reserved=3)
    with unchanged(cache), pytest.raises(error, match="reserved"):
        call(tenant, value)


def test_children_whose_reservations_a_limit_above_cannot_keep() -> None:
    cache, _ = new_cache(max_entries=5, child_limits=Limits(reserved=3))
    kept = cache.namespace("a")
    with unchanged(cache), pytest.raises(ConfigurationError, match="reserved"):
        cache.namespace("b", "c")
    assert list(cache.namespaces()) == ["a"]
    assert kept.limits.reserved == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.configure(max_weight=5),
        lambda cache: cache.namespace("new", max_weight=5),
        lambda cache: cache.configure(child_limits=Limits(max_weight=5)),
        lambda cache: cache.configure(child_limits=Limits(child_limits=Limits(max_weight=5))),
        lambda cache: create_cache(max_weight=5),
        lambda cache: create_cache(child_limits=Limits(max_weight=5)),
    ],
)
def test_a_limit_on_weight_where_nothing_is_weighed(call: Callable[[Cache[Any]], object]) -> None:
    cache, _ = new_cache()
    with unchanged(cache), pytest.raises(ConfigurationError, match="max_weight"):
        call(cache)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"weigher": 5}, TypeError),
        ({"clock": 5}, TypeError),
        ({"name": None}, TypeError),
        ({"name": b"x"}, TypeError),
        ({"require_namespace": 1}, TypeError),
        ({"require_namespace": None}, TypeError),
        ({"max_idle_namespaces": -1}, ValueError),
        ({"max_idle_namespaces": None}, TypeError),
        ({"max_idle_namespaces": 1.0}, TypeError),
        ({"max_idle_namespaces": True}, TypeError),
    ],
)
def test_an_argument_of_the_cache(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        create_cache(**arguments)
