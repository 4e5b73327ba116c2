"""When an entry's time is over: what is served, what is counted, what is reclaimed, and when."""

from __future__ import annotations

from support import new_cache


def test_entries_past_their_ttl_and_held_for_stale_are_counted_each_once() -> None:
    cache, clock = new_cache()
    for key in range(3):
        cache.set(key, "value", ttl=1, stale=10)
    clock.advance(1)

    assert cache.sweep() == 0
    cache._check()
    assert len(cache) == 0 and cache.stats().entries == 3
    clock.advance(10)
    assert cache.sweep() == 3
    cache._check()
    assert cache.stats().entries == 0
