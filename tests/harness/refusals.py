"""Shared parts of the tests of bad arguments: a cache with entries, calls crossed with values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from flowcache import Cache, Namespace
from harness.support import new_cache, unchanged

Call = Callable[[Namespace[Any], Any], object]


def furnished(**settings: Any) -> tuple[Cache[Any], Namespace[Any]]:
    """A cache with an entry at every place that a call can reach, and a namespace of it."""
    cache, clock = new_cache(max_entries=100, weigher=lambda key, value: 1, **settings)
    tenant = cache.namespace("tenant", "acme")
    for namespace in (cache, cache.namespace("tenant"), tenant, tenant.namespace("below")):
        namespace.set("k", 1, tags=("t", "u"), ttl=60, stale=60)
        namespace.set("n", 2)
        namespace.set("stale", 3, ttl=1, stale=60, tags="t")
    clock.advance(2)
    for namespace in (tenant, cache):
        namespace.get("k")
        namespace.get("absent")
    return cache, tenant


def refuse(
    call: Call, value: Any, error: type[Exception], named: str, **settings: Any
) -> pytest.ExceptionInfo[Exception]:
    """Assert that a call refuses the value, names it in the error, and changes nothing."""
    cache, tenant = furnished(**settings)
    with unchanged(cache), pytest.raises(error, match=named) as raised:
        call(tenant, value)
    return raised


def crossed(
    calls: dict[str, Call], values: Iterable[tuple[Any, type[Exception]]]
) -> pytest.MarkDecorator:
    """Parametrize by call, value and error: every call with every value."""
    return pytest.mark.parametrize(
        ("call", "value", "error"),
        [
            pytest.param(call, value, error, id=f"{name}-{shown(value)}")
            for name, call in calls.items()
            for value, error in values
        ],
    )


def shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**9 else "a huge int"
    return text if len(text) < 30 else f"{text[:12]}...{len(text)}"


def with_option(name: str, calls: dict[str, Callable[..., object]]) -> dict[str, Call]:
    """The calls with the value under test as their option of that name."""

    def bind(call: Callable[..., object]) -> Call:
        return lambda ns, value: call(ns, **{name: value})

    return {label: bind(call) for label, call in calls.items()}
