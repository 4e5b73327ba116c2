"""What a namespace may hold is decided above it; its own view sets no more than it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import Cache, ConfigurationError, Limits, Namespace, create_cache, tenancy
from harness.support import new_cache, unchanged

GIVEN: dict[str, Any] = {
    "max_entries": 5,
    "max_weight": 50,
    "max_pending": 2,
    "reserved": 3,
    "share": 2.0,
}
LESS: dict[str, Any] = {
    "max_entries": 4,
    "max_weight": 40,
    "max_pending": 1,
    "reserved": 2,
    "share": 1.5,
}
MORE = [
    ("max_entries", 6),
    ("max_entries", None),
    ("max_weight", 51),
    ("max_weight", None),
    ("max_pending", 3),
    ("max_pending", None),
    ("reserved", 4),
    ("share", 2.001),
    ("share", 1e9),
]


def by_name() -> tuple[Cache[Any], Namespace[Any]]:
    cache, _ = new_cache(max_entries=100, weigher=lambda key, value: 1)
    return cache, cache.namespace("acme", **GIVEN)


def by_child_limits() -> tuple[Cache[Any], Namespace[Any]]:
    cache, _ = new_cache(
        max_entries=100, weigher=lambda key, value: 1, child_limits=Limits(**GIVEN)
    )
    return cache, cache.namespace("acme")


def below_a_tenant() -> tuple[Cache[Any], Namespace[Any]]:
    cache, _ = new_cache(max_entries=100, weigher=lambda key, value: 1)
    cache.namespace("group", reserved=9)
    return cache, cache.namespace("group", "acme", **GIVEN)


def given_twice() -> tuple[Cache[Any], Namespace[Any]]:
    cache, view = by_name()
    cache.namespace("acme", **dict.fromkeys(("max_entries", "max_weight", "max_pending")))
    cache.namespace("acme", reserved=40, share=50)
    return cache, cache.namespace("acme", **GIVEN) and view


WAYS = [by_name, by_child_limits, below_a_tenant, given_twice]
Furnish = Callable[[], tuple[Cache[Any], Namespace[Any]]]


@pytest.mark.parametrize("furnish", WAYS)
@pytest.mark.parametrize(("name", "value"), MORE)
def test_a_view_raises_nothing_above_what_it_was_given(
    furnish: Furnish, name: str, value: Any
) -> None:
    cache, view = furnish()
    view.update(a=1, b=2)
    with unchanged(cache):
        limits = view.limits
        for settings in ({name: value}, {"default_ttl": 7, name: value}):
            with pytest.raises(ConfigurationError, match=rf"^{name}: at most {GIVEN[name]:g}, "):
                view.configure(**settings)
        assert view.limits == limits


@pytest.mark.parametrize("furnish", WAYS)
def test_a_view_lowers_what_it_was_given_and_goes_back_no_further(furnish: Furnish) -> None:
    cache, view = furnish()
    for _ in range(3):
        view.configure(**LESS)
        assert {name: getattr(view.limits, name) for name in LESS} == LESS
        view.configure(max_entries=2, reserved=0, share=0.1, max_weight=1)
        for name, value in MORE:
            with pytest.raises(ConfigurationError, match=f"^{name}: "):
                view.configure(**{name: value})
        view.configure(**GIVEN)
        assert {name: getattr(view.limits, name) for name in GIVEN} == GIVEN
    cache._check()


@pytest.mark.parametrize("name", GIVEN)
def test_what_one_setting_was_given_is_no_other_s(name: str) -> None:
    """Giving one leaves the others as they were given, also where the view has lowered them."""
    cache, view = by_name()
    view.configure(**LESS)
    cache.namespace("acme", **{name: GIVEN[name]})
    view.configure(**GIVEN)
    assert {name: getattr(view.limits, name) for name in GIVEN} == GIVEN


def test_a_namespace_that_was_given_nothing_has_no_reservation_and_an_ordinary_share() -> None:
    cache, _ = new_cache(max_entries=10)
    view = cache.namespace("acme")
    for settings in ({"reserved": 1}, {"share": 1.1}):
        with pytest.raises(ConfigurationError):
            view.configure(**settings)
    view.configure(max_entries=3, max_pending=3, share=0.5)
    view.configure(max_entries=None, max_pending=None, share=1.0)
    assert view.limits == Limits(
        default_ttl=None,
        max_entries=None,
        max_weight=None,
        max_pending=None,
        reserved=0,
        share=1,
        eviction="lru",
        guaranteed=0.5,
    )


def test_the_root_is_free() -> None:
    cache, _ = new_cache(max_entries=10, weigher=lambda key, value: 1)
    cache.configure(max_entries=5, max_weight=5, max_pending=5)
    cache.configure(max_entries=None, max_weight=None, max_pending=None)
    cache.configure(max_entries=1_000, child_limits=Limits(reserved=3, share=9))
    assert cache.namespace("a").limits.reserved == 3


def test_other_settings_are_the_view_s_own() -> None:
    cache, _ = new_cache(child_limits=Limits(max_entries=5, default_ttl=3))
    view = cache.namespace("acme")
    view.configure(default_ttl=None, child_limits=Limits(max_entries=100, share=5))
    below = view.namespace("below")
    below.update(dict.fromkeys(range(50)))
    assert below.limits.share == 5
    assert len(below) == 5


def test_code_that_is_handed_a_view_takes_nothing_from_its_neighbours() -> None:
    cache = create_cache(max_entries=100, child_limits=Limits(max_entries=5))
    plugin, beta = cache.namespace("acme"), cache.namespace("beta")
    beta.set("k", "beta's")
    for settings in ({"max_entries": None}, {"share": 1e9}, {"reserved": 5}):
        with pytest.raises(ConfigurationError):
            plugin.configure(**settings)
    for name in ("a", "b"):
        with pytest.raises(ConfigurationError):
            plugin.namespace(name, reserved=1)
        plugin.namespace(name, share=1e9, max_entries=1_000).update(dict.fromkeys(range(500)))
    plugin.update(dict.fromkeys(range(500)))
    assert plugin.stats().entries == 5
    assert dict(beta) == {"k": "beta's"}


def test_a_forgotten_namespace_is_given_the_same_again() -> None:
    cache, _ = new_cache(max_idle_namespaces=0, child_limits=Limits(max_entries=5, share=2))
    for _ in range(3):
        cache.namespace("acme")
        with pytest.raises(ConfigurationError):
            cache.namespace("acme").configure(max_entries=6)
        cache.namespace("acme").configure(max_entries=4)
        cache.namespace("acme").configure(share=2)


def test_the_namespace_of_the_current_tenant_is_a_view() -> None:
    cache, _ = new_cache(child_limits=Limits(max_entries=5))
    mine = cache.for_current_tenant()
    with tenancy.tenant("acme"):
        with pytest.raises(ConfigurationError, match=r"^max_entries: at most 5, .* got 6"):
            mine.configure(max_entries=6)
        mine.configure(max_entries=3)
        mine.namespace("below", max_entries=100)
        assert mine.limits.max_entries == 3
    with tenancy.tenant("beta"):
        assert mine.limits.max_entries == 5


def test_a_limit_of_loads_that_was_lowered_cannot_be_lifted() -> None:
    cache, _ = new_cache(child_limits=Limits(max_pending=2))
    view = cache.namespace("acme")
    view.configure(max_pending=1)
    with pytest.raises(ConfigurationError):
        view.configure(max_pending=3)

    async def main() -> int:
        gate = asyncio.Event()
        asked = [asyncio.ensure_future(view.afetch(key, gate.wait)) for key in range(4)]
        while sum(one.done() for one in asked) < 3:
            await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return answers.count(True)

    assert asyncio.run(main()) == 1


# Reservations


def test_reservations_below_a_namespace_never_exceed_its_own() -> None:
    cache, _ = new_cache(max_entries=100)
    top = cache.namespace("top", reserved=10)
    top.namespace("a", reserved=6)
    with unchanged(cache):
        for refused in (
            lambda: top.namespace("b", reserved=5),
            lambda: top.namespace("a", reserved=11),
            lambda: top.namespace("b", "c", reserved=1),
            lambda: top.namespace("a", "c", reserved=7),
            lambda: cache.namespace("top", reserved=5),
            lambda: top.configure(reserved=5),
        ):
            with pytest.raises(ConfigurationError, match=r"^reserved: "):
                refused()
    top.namespace("b", reserved=4)
    top.namespace("a", "c", reserved=6)
    top.namespace("a", "c", reserved=0)
    top.namespace("a", reserved=0)
    top.configure(reserved=4)
    assert cache.namespace("top", reserved=30).limits.reserved == 30


def test_child_limits_that_reserve_more_than_there_is_refuse_the_child() -> None:
    cache, _ = new_cache(max_entries=100)
    top = cache.namespace("top", reserved=5, child_limits=Limits(reserved=2))
    top.namespace("a")
    top.namespace("b")
    with unchanged(cache), pytest.raises(ConfigurationError, match="more than its reserved=5"):
        top.namespace("c")
    top.configure(child_limits=None)
    top.namespace("c")


def test_room_that_is_reserved_above_is_spent_below() -> None:
    """Reservations of children are within that of their parent, and take nothing more."""
    cache, _ = new_cache(max_entries=10)
    top = cache.namespace("top", reserved=6)
    top.namespace("a", reserved=3).update(dict.fromkeys("xyz"))
    top.namespace("b").update(dict.fromkeys("xyz"))
    cache.namespace("rest", reserved=4)
    with pytest.raises(ConfigurationError):
        cache.namespace("more", reserved=1)
    cache.namespace("rest").update(dict.fromkeys(range(50)))
    assert top.stats().entries == 6
    top.namespace("b").update(dict.fromkeys(range(50)))
    assert len(top.namespace("a")) == 3
    cache._check()
