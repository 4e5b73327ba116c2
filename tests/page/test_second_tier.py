"""A cache with a second tier: its counters in the metrics, its state on the page."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from flowcache import create_cache
from flowcache.contrib.prometheus import FlowcacheCollector
from flowcache.page import ADMIN, CachePage
from harness.servers import server
from page.asking import by_wsgi


def test_the_tier_s_counters_are_told_by_tenant_and_its_state_is_shown() -> None:
    with server() as valkey:
        from flowcache.tier import ValkeyTier  # Where there is a server, its client is there too.
        from harness.fleet import LONG, PATIENT

        tier = ValkeyTier(valkey.url, lease=LONG, **PATIENT)
        cache: Any = create_cache(name="crm", tier=tier)
        other: Any = create_cache(name="crm", tier=tier)
        registry = CollectorRegistry()
        registry.register(FlowcacheCollector(cache))
        page = CachePage(cache, authorize=lambda request: ADMIN)
        with cache, other:
            other.namespace("tenant:acme").set("k", 1)
            view = cache.namespace("tenant:acme")
            assert view.get("k") == 1
            assert view.get("absent") is None
            view.set("own", 2)
            stats = view.stats()
            told = by_wsgi(page).json["tier"]
            text = generate_latest(registry).decode()
    acme = 'cache="crm",tenant="tenant:acme"'
    assert told["state"] == "live"
    assert told["tier_hits"] == stats.tier_hits == 1 and told["tier_stores"] == stats.tier_stores
    assert f'flowcache_tier_requests_total{{{acme[:11]},result="hit",{acme[12:]}}} 1.0' in text or (
        f'flowcache_tier_requests_total{{{acme},result="hit"}} 1.0' in text
    )
    assert f"flowcache_tier_stores_total{{{acme}}} {stats.tier_stores:.1f}" in text


def test_without_a_tier_there_is_nothing_of_it() -> None:
    cache: Any = create_cache(name="crm")
    page = CachePage(cache, authorize=lambda request: ADMIN)
    registry = CollectorRegistry()
    registry.register(FlowcacheCollector(cache))
    assert by_wsgi(page).json["tier"] == {}
    assert "tier" not in generate_latest(registry).decode()
