"""A tenant of several names is one: its pool, its places and its failures are not its neighbour's.

With ``tenant_depth=2`` the first name, as in ``("tenant", "acme")``, is common to all tenants.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flowcache import TooManyLoadsError, create_cache
from flowcache.loading import backoff, overdue, pool
from harness.loading_support import assert_nothing_left, wait_until
from harness.support import VirtualClock


def two_tenants(depth: int = 2, **options: Any) -> tuple[Any, VirtualClock, Any, Any]:
    clock = VirtualClock()
    cache = create_cache(clock=clock, tenant_depth=depth, **options)
    acme, beta = (cache.namespace("tenant", name) for name in ("acme", "beta"))
    return cache, clock, acme, beta


def test_hung_loads_of_one_tenant_stop_no_other_one_s() -> None:
    cache, clock, acme, beta = two_tenants()
    hang = threading.Event()
    places = [acme.namespace("below"), acme.namespace("beside")]
    for key in range(pool.PER_TENANT):
        for ns in (*places, beta):
            ns.set(key, "old", ttl=1, stale=True)
    clock.advance(2)
    try:
        for key in range(pool.PER_TENANT):
            for ns in places:
                assert ns.fetch(key, lambda: hang.wait(60), stale=True) == "old"
        assert beta.fetch(0, lambda: "new", stale=True) == "old"
        wait_until(lambda: beta.peek(0) == "new")
    finally:
        hang.set()
    wait_until(lambda: cache.stats().pending == 0)
    assert_nothing_left(cache)


def test_threads_that_one_tenant_left_behind_refuse_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overdue, "PER_TENANT", 2)
    cache, _, acme, beta = two_tenants()
    hang = threading.Event()
    try:
        for key in range(2):
            with pytest.raises(TimeoutError):
                acme.namespace("below").fetch(key, lambda: hang.wait(60), timeout=0.01)
        with pytest.raises(TooManyLoadsError, match=r"\('tenant', 'acme'\)"):
            acme.fetch("more", lambda: 1, timeout=0.01)
        assert beta.fetch("k", lambda: 1, timeout=60) == 1
    finally:
        hang.set()
    wait_until(lambda: cache.stats().pending == 0)


@pytest.mark.parametrize(("depth", "refused"), [(1, False), (2, True)])
def test_a_load_within_a_load_of_another_tenant_takes_a_place(depth: int, refused: bool) -> None:
    cache, _, acme, beta = two_tenants(depth)
    cache.namespace("tenant", max_pending=1)

    def load() -> Any:
        return beta.fetch("k", lambda: "inner")

    if refused:
        with pytest.raises(TooManyLoadsError):
            acme.fetch("k", load)
    else:
        assert acme.fetch("k", load) == "inner"
    # Within one tenant it takes none, at any depth of it.
    below = acme.namespace("below")
    assert acme.fetch("l", lambda: below.fetch("k", lambda: "own")) == "own"


def test_the_failing_keys_of_one_tenant_push_out_no_other_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES", 10)
    _, clock, acme, beta = two_tenants()
    tried = []

    def fail() -> None:
        tried.append(1)
        raise OSError("upstream")

    for ns, keys in ((beta, 1), (acme, 30)):
        for key in range(keys):
            ns.set(key, "old", ttl=1)
    clock.advance(0.5)
    for ns, keys in ((beta, 1), (acme, 30)):
        for key in range(keys):
            assert ns.fetch(key, fail, stale_if_error=60, refresh_ahead=0.1) == "old"
            wait_until(lambda ns=ns, key=key: backoff.is_backing_off(ns, key))
    assert backoff.is_backing_off(beta, 0)
    assert not backoff.is_backing_off(acme, 0)


def test_the_root_and_the_names_above_the_tenants_have_pools_as_well() -> None:
    cache, clock, _, _ = two_tenants(depth=3)
    for ns in (cache, cache.namespace("tenant"), cache.namespace("tenant", "acme")):
        ns.set("k", "old", ttl=1, stale=True)
        clock.advance(2)
        assert ns.fetch("k", lambda: "new", stale=True) == "old"
        wait_until(lambda ns=ns: ns.peek("k") == "new")
