"""`expire` and `expire_tag`: a TTL that ends now."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flowcache import Event, NamespaceRequiredError, create_cache
from harness.support import new_cache, unchanged


def test_the_value_is_served_within_its_window_and_loaded_anew_behind() -> None:
    cache, clock = new_cache(executor=AtOnce())
    cache.set("k", "old", ttl=100, stale=10)
    assert cache.expire("k") is True
    assert (cache.get("k"), "k" in cache, len(cache)) == (None, False, 0)
    clock.advance(9.5)
    assert cache.fetch("k", lambda: "new", ttl=100, stale=10) == "old"
    assert cache.get("k") == "new"
    cache._check()


def test_the_window_counts_from_the_call() -> None:
    cache, clock = new_cache()
    cache.set("k", "old", ttl=100, stale=10)
    clock.advance(50)
    cache.expire("k")
    clock.advance(10)
    assert cache.fetch("k", lambda: "new") == "new"
    assert cache.stats().stale_hits == 0


def test_without_a_window_the_entry_is_removed() -> None:
    cache, _ = new_cache()
    seen: list[Event] = []
    cache.subscribe(seen.append, kinds="remove")
    cache.set("k", 1, ttl=100)
    assert cache.expire("k") is True
    assert [(event.key, event.cause) for event in seen] == [("k", "expired")]
    assert (cache.stats().entries, cache.stats().expirations) == (0, 1)


def test_a_deadline_never_becomes_later() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=1, stale=5)
    clock.advance(3)
    assert cache.expire("k") is False
    clock.advance(3)
    assert cache.fetch("k", lambda: 2) == 2
    assert cache.stats().stale_hits == 0
    assert cache.expire("absent") is False


@pytest.mark.parametrize("ttl", [None, 100])
@pytest.mark.parametrize("stale", [True, 60])
def test_an_entry_of_any_ttl_comes_due_in_its_heap(ttl: float | None, stale: Any) -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=ttl, stale=stale)
    cache.set("other", 1, ttl=5)
    assert cache.expire("k") is True
    cache._check()
    assert len(cache) == 1
    cache._check()
    clock.advance(61)
    assert cache.sweep() == (1 if stale is True else 2)
    cache._check()


def test_an_entry_kept_for_errors_covers_a_load_that_raises() -> None:
    cache, _ = new_cache()
    cache.fetch("k", lambda: "old", ttl=100, stale_if_error=60)
    cache.expire("k")

    def fail() -> str:
        raise ConnectionError

    assert cache.fetch("k", fail, stale_if_error=60) == "old"


def test_a_running_load_of_the_key_is_not_stored() -> None:
    cache, _ = new_cache()

    def load() -> int:
        assert cache.expire("k") is False
        return 1

    assert cache.fetch("k", load) == 1
    assert "k" not in cache


def test_a_tag_ends_what_bears_it_here_and_below_and_nothing_else() -> None:
    cache, _ = new_cache()
    acme, beta = cache.namespace("acme"), cache.namespace("beta")
    below = acme.namespace("below")
    for namespace in (acme, beta, below):
        namespace.set("tagged", 1, ttl=100, stale=10, tags=("t", "u"))
        namespace.set("bare", 1, ttl=100, tags="t")
        namespace.set("other", 1, ttl=100, tags="u")
    assert acme.expire_tag("t") == 4
    assert acme.expire_tag("t") == 0
    assert [sorted(namespace) for namespace in (acme, below, beta)] == [
        ["other"],
        ["other"],
        ["bare", "other", "tagged"],
    ]
    assert acme.fetch("tagged", lambda: 2) == 1
    assert acme.fetch("bare", lambda: 2) == 2
    cache._check()
    assert beta.expire_tag("t") == 2 and cache.expire_tag("no such") == 0
    cache._check()


def test_a_load_that_bears_the_tag_is_not_stored() -> None:
    cache, _ = new_cache()

    def load() -> int:
        assert cache.expire_tag("t") == 0
        return 1

    assert cache.fetch("k", load, tags="t") == 1
    assert "k" not in cache


def test_the_age_of_an_ended_entry_goes_on() -> None:
    cache, clock = new_cache()
    cache.set("k", 1, ttl=100, stale=50)
    clock.advance(30)
    cache.expire("k")
    clock.advance(2)
    seen = cache.inspect("k")
    assert seen is not None
    assert (seen.fresh, seen.ttl, seen.age, seen.grace) == (False, 0, 32, 50)


@pytest.mark.parametrize(
    ("call", "value", "error"),
    [
        ("expire", [], TypeError),
        ("expire_tag", b"t", TypeError),
        ("expire_tag", None, TypeError),
        ("expire_tag", "", ValueError),
        ("expire_tag", "t" * 257, ValueError),
        ("invalidate_where", None, TypeError),
        ("invalidate_where", "t", TypeError),
        ("inspect", {}, TypeError),
    ],
)
def test_what_cannot_be_meant_is_refused(call: str, value: Any, error: type[Exception]) -> None:
    cache, _ = new_cache()
    cache.set("k", 1, ttl=100, tags="t")
    with unchanged(cache), pytest.raises(error):
        getattr(cache, call)(value)


def test_a_root_that_takes_no_entries_refuses_a_key_and_takes_a_tag() -> None:
    cache = create_cache(require_namespace=True)
    cache.namespace("acme").set("k", 1, tags="t")
    with pytest.raises(NamespaceRequiredError):
        cache.expire("k")
    assert cache.expire_tag("t") == 1


class AtOnce:
    """Runs a background load within the call that finds it due."""

    def submit(self, function: Any, /) -> None:
        function()


def test_many_ended_entries_are_reclaimed_slice_by_slice() -> None:
    cache, clock = new_cache()
    for key in range(5_000):
        cache.set(key, 1, ttl=None if key % 2 else 100, stale=5 if key % 3 else None, tags="t")
    assert cache.expire_tag("t") == 5_000
    assert len(cache) == 0
    cache._check()
    clock.advance(math.ulp(1e6) + 5)
    cache.sweep()
    assert cache.stats().entries == 0
    cache._check()
