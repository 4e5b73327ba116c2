"""dogpile's backend, beyond its own suites, which scripts/upstream runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from dogpile.cache.util import sha1_mangle_key

from contrib.interleaving import TENANTS, in_step
from flowcache import EntryTooHeavyError, InvalidNamespaceError, TenantNotSetError, create_cache
from flowcache.contrib.dogpile import FlowCacheBackend, TenantInvalidation
from flowcache.tenancy import tenant


def region_of(
    *, expires: float | None = None, mangler: Any = None, **arguments: Any
) -> CacheRegion:
    region = make_region(key_mangler=mangler)
    return region.configure("flowcache", expiration_time=expires, arguments=arguments)


@pytest.mark.parametrize("mangler", [None, sha1_mangle_key], ids=["ours", "sha1"])
def test_two_tenants_interleaved_over_threads_see_their_own(mangler: Any) -> None:
    region = region_of(tenant="current", mangler=mangler)

    @region.cache_on_arguments()
    def whose() -> str:
        return names.pop()

    names: list[str] = []

    def work(name: str, step: Callable[[], Any]) -> None:
        with tenant(name):
            for turn in range(100):
                step()
                assert region.get_or_create(f"k{turn}", lambda: name) == name
                region.set_multi({"a": name, "b": turn})
                step()
                assert region.get_multi(["a", "b", "c"]) == [name, turn, NO_VALUE]

    in_step(work, *TENANTS)
    for name in TENANTS:
        with tenant(name):
            names.append(name)
            assert whose() == name
    with tenant("acme"):
        assert whose() == "acme"
        whose.invalidate()
        region.delete_multi(["a", "b"])
        assert region.get("a") is NO_VALUE
    with tenant("beta"):
        assert whose() == "beta"
        assert region.get("a") == "beta"


def test_mutexes_of_two_tenants_are_apart() -> None:
    region = region_of(tenant="current", mangler=str)
    mutexes = {}
    for name in TENANTS:
        with tenant(name):
            mutexes[name] = region.backend.get_mutex("k")
            assert not mutexes[name].locked()
            assert mutexes[name].acquire(False)
            other = region.backend.get_mutex("k")
            assert other.locked()
            assert other.acquire(False) is False
            assert region.key_is_locked("k")
            with pytest.raises(RuntimeError, match="not acquired"):
                other.release()
    for mutex in mutexes.values():
        mutex.release()
        assert not mutex.locked()


def test_one_mutex_serves_several_threads_in_turn() -> None:
    """A region hands out one object for a key, which threads acquire and release in turn."""
    mutex = region_of().backend.get_mutex("k")
    inside: list[str] = []

    def work(name: str, step: Callable[[], Any]) -> None:
        step()
        for _ in range(500):
            assert mutex.acquire()
            inside.append(name)
            assert inside == [name]
            inside.clear()
            mutex.release()

    in_step(work, *TENANTS)
    assert not mutex.locked()


def test_the_tenant_is_part_of_the_mangled_key() -> None:
    region = region_of(tenant="current", on_no_tenant="shared")
    seen = {region.key_mangler("k")}
    for name in ("acme", "shared", "4:acme", "acme:k"):
        with tenant(name):
            seen.add(region.key_mangler("k"))
            seen.add(region.key_mangler("k:k"))
    assert len(seen) == 9
    assert region_of().key_mangler is None


def test_without_a_tenant_a_call_raises_or_is_shared() -> None:
    region = region_of(tenant="current")
    for call in (
        lambda: region.get("k"),
        lambda: region.set("k", 1),
        lambda: region.get_or_create("k", lambda: 1),
        lambda: region.delete_multi(["k"]),
    ):
        with pytest.raises(TenantNotSetError):
            call()
    shared = region_of(tenant="current", on_no_tenant="shared")
    shared.set("k", "nobody's")
    with tenant("acme"):
        assert shared.get("k") is NO_VALUE
    assert shared.get("k") == "nobody's"
    with pytest.raises(InvalidNamespaceError, match=r"^tenant: "):
        region_of(tenant=lambda: "").get("k")


def test_an_expired_value_stays_and_a_bound_is_kept() -> None:
    region = region_of(expires=1e-6, max_entries=50)
    region.set("k", "old")
    time.sleep(0.001)
    assert region.get("k") is NO_VALUE
    assert region.get("k", ignore_expiration=True) == "old"
    region.set_multi({str(number): number for number in range(1_000)})
    held = region.get_multi(map(str, range(1_000)), ignore_expiration=True)
    assert sum(value is not NO_VALUE for value in held) == 50


def test_a_cache_of_yours_and_a_ttl() -> None:
    now = [0.0]
    cache: Any = create_cache(clock=lambda: now[0])
    region = region_of(cache=cache, tenant="current", ttl=60)
    with tenant("acme"):
        region.set("k", 1)
        assert len(cache.namespace("tenant:acme")) == 1
        now[0] += 60
        assert region.get("k", ignore_expiration=True) is NO_VALUE
        region.set("k", 2)
        cache.namespace("tenant:acme").clear()
        assert region.get("k") is NO_VALUE


def test_a_value_that_is_too_heavy_is_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    region = region_of(max_weight=5, weigher=lambda key, value: value.payload)
    assert region.get_or_create("k", lambda: 3) == 3
    region.set("k", 9)
    assert region.get("k") is NO_VALUE
    assert region.get_or_create("l", lambda: 7) == 7
    region.set_multi({"m": 1, "n": 8})
    assert region.get_multi(["m", "n"]) == [1, NO_VALUE]
    assert caplog.records
    assert issubclass(EntryTooHeavyError, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tenant": 7}, "^tenant: "),
        ({"on_no_tenant": "share"}, "^on_no_tenant: "),
        ({"max_entries": -1}, "^max_entries: "),
        ({"cache": create_cache(), "max_entries": 5}, "^cache: .*max_entries"),
    ],
)
def test_an_unsound_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        region_of(**arguments)


class TestInvalidation:
    def made(self, **options: Any) -> CacheRegion:
        region = region_of(expires=1_000, tenant="current")
        region.configure(
            "flowcache",
            expiration_time=1_000,
            arguments={"tenant": "current"},
            region_invalidator=TenantInvalidation(region, **options),
            replace_existing_backend=True,
        )
        for name in ("acme", "beta", "gamma"):
            with tenant(name):
                region.set("k", "old")
        return region

    def test_one_tenants_leaves_the_others(self) -> None:
        region = self.made()
        with tenant("acme"):
            region.invalidate()
            assert region.get("k") is NO_VALUE
            assert region.get_or_create("k", lambda: "new") == "new"
            assert region.region_invalidator.was_hard_invalidated()
        with tenant("beta"):
            assert region.get("k") == "old"
            assert not region.region_invalidator.was_hard_invalidated()
        with pytest.raises(TenantNotSetError):
            region.invalidate()

    def test_a_soft_one_makes_the_value_expire(self) -> None:
        region = self.made()
        with tenant("acme"):
            region.invalidate(hard=False)
            assert region.region_invalidator.was_soft_invalidated()
            assert region.get("k", ignore_expiration=True) == "old"
            assert region.get_or_create("k", lambda: "new") == "new"
        with tenant("beta"):
            assert region.get_or_create("k", lambda: "new") == "old"

    def test_a_soft_one_does_not_undo_a_hard_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1_000.0]
        strategy = self.made().region_invalidator
        monkeypatch.setattr("flowcache.contrib.dogpile.time.time", lambda: now[0])
        with tenant("acme"):
            strategy.invalidate()
            now[0] = 1_010.0
            strategy.invalidate(hard=False)
            times = (999.0, 1_000.0, 1_000.5, 1_010.0, 1_010.5)
            told = {
                name: [getattr(strategy, name)(one) for one in times]
                for name in ("is_hard_invalidated", "is_soft_invalidated", "is_invalidated")
            }
        assert told == {
            "is_hard_invalidated": [True, True, False, False, False],
            "is_soft_invalidated": [False, False, True, True, False],
            "is_invalidated": [True, True, True, True, False],
        }

    def test_it_remembers_so_many_tenants_and_forgets_to_the_safe_side(self) -> None:
        region = self.made(max_tenants=2)
        for name in ("acme", "beta", "gamma"):
            with tenant(name):
                region.invalidate()
        assert len(region.region_invalidator._times) == 2
        for name in ("acme", "beta", "gamma", "another"):
            with tenant(name):
                assert region.get("k") is NO_VALUE
                region.set("k", "new")
                assert region.get("k") == "new"

    def test_unsound_arguments(self) -> None:
        region = make_region().configure("dogpile.cache.memory")
        for unsound in (0, "1", True):
            with pytest.raises((TypeError, ValueError), match=r"^max_tenants: "):
                TenantInvalidation(region, max_tenants=unsound)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^region: "):
            TenantInvalidation(region).invalidate()


def test_the_entry_point_leads_to_the_backend() -> None:
    assert isinstance(region_of().backend, FlowCacheBackend)
