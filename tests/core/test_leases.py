"""The process's own half of a cache with a second tier: the lease, fills and their fences."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcache import ConfigurationError, _core, create_cache
from flowcache.cache import Cache
from flowcache.loading.deadlock import current_load

FOREVER = 1e9
LATE = 0.01
"""Seconds by which a look-up may take the time to be earlier than it is."""


class Front:
    """A tier that has nothing, and writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def get(self, namespace: Any, key: Any, default: Any) -> Any:
        self.asked.append((namespace.path, key))
        return default

    def get_by_name(self, namespace: Any, key: Any, default: Any = None) -> Any:
        return self.get(namespace, key, default)

    def fetch(self, namespace: Any, key: Any, loader: Any, **options: Any) -> Any:
        self.asked.append((namespace.path, key))
        return _core.Namespace.fetch(namespace, key, loader, **options)

    def afetch(self, namespace: Any, key: Any, loader: Any, **options: Any) -> Any:
        self.asked.append((namespace.path, key))
        return _core.Namespace.afetch(namespace, key, loader, **options)


class View(_core.Namespace[Any]):
    """What the views of a tiered cache are."""

    __slots__ = ()

    get = _core._tiered_get
    fetch = _core._tiered_fetch
    afetch = _core._tiered_afetch


@pytest.fixture(params=[0, 1 << 20], ids=["clock", "counter"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache[Any]]:
    """A cache with a tier, and a lease that lives, by either way to tell the time."""
    known = _core._views()
    _core._take_views(View)
    _core._lease_ticks(request.param)
    made = create_cache(default_ttl=60)
    _core._open_tier(made, Front(), FOREVER)
    lend(made, FOREVER)
    yield made
    _core._lease_ticks(0)
    _core._take_views(known)


def lend(cache: Cache[Any], seconds: float, stale: float = 0) -> None:
    now = _core.lease_time()
    _core._lend(cache._store(), now + seconds, now + seconds + stale)


def fill(namespace: Any, key: Any, value: Any = "v", **terms: Any) -> bool:
    """Bring a value in, as a read of the tier does."""
    begun = _core._fill(namespace, key)
    try:
        return store(namespace, begun, value, **terms)
    finally:
        _core._fill_end(begun)


def store(
    namespace: Any,
    begun: Any,
    value: Any = "v",
    *,
    ttl: float = 60,
    left: float = math.inf,
    grace: float = 0,
    stale_ok: bool = False,
    tags: tuple[str, ...] = (),
) -> bool:
    until = _core.lease_time() + left
    return _core._fill_store(namespace, begun, value, ttl, until, grace, stale_ok, tags)


# The lease


LOOKS: list[Callable[[Any], Any]] = [
    lambda ns: ns.get("k"),
    lambda ns: ns.peek("k"),
    lambda ns: ns.get_many(["k"]).get("k"),
    lambda ns: "v" if "k" in ns else None,
    lambda ns: dict(ns.items()).get("k"),
    lambda ns: ns.fetch("k", lambda: None, store_if=lambda _: False),
    lambda ns: "v" if ns._held("k") else None,
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("ttl", [60, None])
def test_what_is_held_is_served_within_the_lease_alone(
    cache: Cache[Any], look: Callable[[Any], Any], ttl: float | None
) -> None:
    ns = cache.namespace("tenant:acme")
    ns.set("k", "v", ttl=ttl)
    assert look(ns) == "v"
    lend(cache, 0)
    assert look(ns) is None
    lend(cache, FOREVER)
    if look is not LOOKS[5]:  # A load that keeps nothing takes away what it was to replace.
        assert look(ns) == "v"
    cache._check()


def test_a_cached_function_is_served_within_the_lease_alone(cache: Cache[Any]) -> None:
    calls = []
    ns = cache.namespace("tenant:acme")

    @ns.cached
    def double(number: int) -> int:
        calls.append(number)
        return number * 2

    assert [double(2), double(2)] == [4, 4]
    assert calls == [2]
    lend(cache, 0)
    assert double(2) == 4
    assert calls == [2, 2]


def test_stale_use_is_counted(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    ns.set("k", "v")
    assert (ns.get("k"), _core._lapsed_hits(cache._store())) == ("v", 0)
    lend(cache, 0, stale=FOREVER)
    assert (ns.get("k"), _core._lapsed_hits(cache._store())) == ("v", 1)


def test_what_stays_in_the_process_needs_no_lease(cache: Cache[Any]) -> None:
    above = cache.namespace("tenant:acme")
    ns = above.namespace("here", tiered=False)
    below = ns.namespace("below")
    for each in (above, ns, below):
        each.set("k", "v")
    lend(cache, 0)
    assert [each.get("k") for each in (above, ns, below)] == [None, "v", "v"]
    assert [path for path, _ in cache._store().tier.asked] == [("tenant:acme",)]
    _core._void(cache)
    lend(cache, FOREVER)
    assert [each.get("k") for each in (above, ns, below)] == [None, "v", "v"]
    assert _core._tier_of(above) is not None
    assert _core._tier_of(below) is None
    with pytest.raises(ConfigurationError, match=r"^tiered: "):
        below.configure(tiered=True)
    with pytest.raises(TypeError, match=r"^tiered: must be a bool"):
        above.configure(tiered=1)  # type: ignore[arg-type]


# Loads that are joined


class Load:
    """A load that runs until it is told to end, and the calls that came to it."""

    def __init__(self, namespace: Any) -> None:
        self.namespace = namespace
        self.ends = threading.Event()
        self.began = threading.Event()
        self.found: list[str] = []
        self._threads: list[threading.Thread] = []
        self._call(self._old)
        assert self.began.wait(60)

    def joined(self) -> bool:
        """Whether a call that comes now is answered by this load. It ends then."""
        loaded: list[str] = []

        def new() -> str:
            loaded.append("new")
            return "new"

        async def use() -> None:
            asking = asyncio.ensure_future(self.namespace.afetch("k", new))
            await asyncio.sleep(0.01)
            self.ends.set()
            self.found.append(await asking)

        asyncio.run(use())
        for thread in self._threads:
            thread.join()
        assert sorted(self.found) == ["new", "old"] if loaded else ["old", "old"]
        return not loaded

    def _old(self) -> str:
        self.began.set()
        assert self.ends.wait(60)
        return "old"

    def _call(self, loader: Callable[[], str]) -> None:
        thread = threading.Thread(
            target=lambda: self.found.append(self.namespace.fetch("k", loader))
        )
        thread.start()
        self._threads.append(thread)


def cut_off(cache: Cache[Any]) -> None:
    _core._lend(cache._store(), 0.0, 0.0)


def run_out(cache: Cache[Any]) -> None:
    lend(cache, 0)
    time.sleep(2 * LATE)


def test_a_load_is_joined_within_the_lease(cache: Cache[Any]) -> None:
    assert Load(cache).joined()


@pytest.mark.parametrize("end", [cut_off, run_out])
def test_a_load_of_before_the_end_of_the_lease_is_joined_no_more(
    cache: Cache[Any], end: Callable[[Any], None]
) -> None:
    """An invalidation elsewhere is not heard of here any more, and does not wait for that."""
    load = Load(cache)
    end(cache)
    assert not load.joined()


def test_without_the_lease_one_load_answers_for_as_long_as_others_may_be_late(
    cache: Cache[Any],
) -> None:
    cut_off(cache)
    assert Load(cache).joined()
    _core._open_tier(cache, Front(), 0.05)
    load = Load(cache)
    time.sleep(0.1)
    assert not load.joined()


def test_a_load_is_joined_while_stale_use_is_allowed(cache: Cache[Any]) -> None:
    lend(cache, 0, stale=FOREVER)
    assert Load(cache).joined()


def test_a_load_is_joined_again_with_a_new_lease(cache: Cache[Any]) -> None:
    lend(cache, 0.01)
    load = Load(cache)
    time.sleep(0.05)
    lend(cache, FOREVER)
    assert load.joined()


def test_a_load_of_what_stays_in_the_process_needs_no_lease(cache: Cache[Any]) -> None:
    here = cache.namespace("here", tiered=False)
    load = Load(here)
    cut_off(cache)
    assert load.joined()


# Fills and fences


FENCES: list[Callable[[Any, Any], None]] = [
    lambda cache, ns: _core._fence_key(ns, "key"),
    lambda cache, ns: _core._fence_below(ns),
    lambda cache, ns: _core._fence_below(cache),
    lambda cache, ns: _core._fence_tags(ns, ("t",)),
    lambda cache, ns: _core._fence_tags(cache, ("t", "u")),
    lambda cache, ns: _core._fence_tags(ns, ("t", "u"), True),
    lambda cache, ns: _core._fence_prefix(ns, "ke"),
    lambda cache, ns: _core._void(ns),
    lambda cache, ns: _core._void(cache),
]

ELSEWHERE: list[Callable[[Any, Any], None]] = [
    lambda cache, ns: _core._fence_key(ns, "other"),
    lambda cache, ns: _core._fence_key(cache, "key"),
    lambda cache, ns: _core._fence_below(ns.namespace("below")),
    lambda cache, ns: _core._fence_below(cache.namespace("tenant:other")),
    lambda cache, ns: _core._fence_tags(ns, ("w",)),
    lambda cache, ns: _core._fence_tags(cache.namespace("tenant:other"), ("t",)),
    lambda cache, ns: _core._fence_prefix(ns, "kx"),
    lambda cache, ns: _core._fence_prefix(cache, "ke"),
    lambda cache, ns: _core._void(ns.namespace("below")),
]


@pytest.mark.parametrize("fence", FENCES)
def test_a_fenced_fill_stores_nothing(cache: Cache[Any], fence: Callable[[Any, Any], None]) -> None:
    ns = cache.namespace("tenant:acme")
    begun = [_core._fill(ns, "key") for _ in range(3)]
    fence(cache, ns)
    assert not any(store(ns, one, tags=("t", "u")) for one in begun)
    for one in begun:
        _core._fill_end(one)
    assert ns.get("key") is None
    assert fill(ns, "key", tags=("t", "u"))  # One that begins later reads what came after.
    assert ns.get("key") == "v"
    cache._check()


@pytest.mark.parametrize("fence", ELSEWHERE)
def test_a_fence_elsewhere_leaves_a_fill_alone(
    cache: Cache[Any], fence: Callable[[Any, Any], None]
) -> None:
    ns = cache.namespace("tenant:acme")
    begun = _core._fill(ns, "key")
    fence(cache, ns)
    assert store(ns, begun, tags=("t", "u"))
    _core._fill_end(begun)
    assert ns.get("key") == "v"


def test_a_fence_spares_ones_own_fill(cache: Cache[Any]) -> None:
    own, other = _core._fill(cache, "k"), _core._fill(cache, "k")
    _core._fence_key(cache, "k", own)
    assert not store(cache, other)
    assert store(cache, own)


def test_a_fill_that_has_ended_stores_nothing(cache: Cache[Any]) -> None:
    begun = _core._fill(cache, "k")
    _core._fill_end(begun)
    _core._fill_end(begun)
    assert not store(cache, begun)
    _core._fence_below(cache)
    assert _core._close_tags(begun, ("a",)) == ("a",)


def test_a_fill_is_no_load_and_joins_none(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme", max_pending=1)
    begun = _core._fill(ns, "k")
    assert not _core._is_loading(ns, "k")
    assert ns.fetch("k", lambda: (_core._is_loading(ns, "k"), ns.stats().pending)) == (True, 1)
    assert not begun.fenced
    assert store(ns, begun, "w")
    assert ns.get("k") == "w"


def test_the_end_of_a_value_is_that_of_the_tier(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    assert fill(ns, "k", ttl=60, left=20)
    left = ns.ttl("k")
    assert left is not None
    assert 19 < left <= 20 + LATE
    held = ns._held("k")
    assert held is not None
    assert held[2] == 60  # Two thirds of its TTL have passed.
    assert not fill(ns, "late", ttl=60, left=-1)
    assert fill(ns, "stale", ttl=60, left=-1, grace=10, stale_ok=True)
    assert ns.get("stale") is None
    held = ns._held("stale")
    assert held is not None
    assert -2 < held[1] <= -1 + LATE
    assert ns.fetch("stale", lambda: "new") == "v"
    assert fill(ns, "forever", ttl=math.inf)
    assert ns.ttl("forever") is None
    assert fill(ns, "capped", ttl=math.inf, left=5)
    capped = ns.ttl("capped")
    assert capped is not None
    assert capped <= 5 + LATE
    cache._check()


def test_a_load_may_be_told_when_its_value_ends(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    for left, held in ((20.0, True), (-1.0, False)):

        def load(left: float = left) -> str:
            running = current_load()
            assert running is not None
            running.until = _core.lease_time() + left
            running.is_fill = True
            return "v"

        ns.delete("k")
        assert ns.fetch("k", load) == "v"
        assert ("k" in ns) is held
    assert ns.stats().loads == 0  # It came from the tier.


def test_fills_from_many_threads_are_fenced_by_hash(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    barrier = threading.Barrier(4)

    def use(number: int) -> None:
        barrier.wait()
        for turn in range(500):
            if number == 0:
                _core._fence_key(ns, turn % 7)
                ns.delete(turn % 7)
            else:
                fill(ns, turn % 7, turn)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache._check()


# What is asked of the tier


def test_the_tier_is_asked_for_what_is_not_held(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    asked = cache._store().tier.asked
    ns.set("k", "v")

    async def load() -> str:
        return "a"

    assert [ns.get("k"), ns.get("k", 1), ns.fetch("k", list), run(ns.afetch("k", load))] == [
        "v"
    ] * 4
    assert asked == []
    assert [ns.get("m"), ns.get("m", 1), ns.get("m", default=2)] == [None, 1, 2]
    assert ns.fetch("f", lambda: 3) == 3
    assert run(ns.afetch("a", load)) == "a"
    assert run(ns.fetch("b", load)) == "a"
    assert [key for _, key in asked] == ["m", "m", "m", "f", "a", "b"]
    asked.clear()
    here = cache.namespace("here", tiered=False)
    assert [here.get("m"), here.get("m", 1), here.get("m", default=2)] == [None, 1, 2]
    assert here.fetch("f", lambda: 3) == 3
    assert run(here.afetch("a", load)) == "a"
    assert asked == []


def run(awaitable: Any) -> Any:
    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


# Views


def test_the_views_of_a_tiered_cache_are_of_its_class(cache: Cache[Any]) -> None:
    ns = cache.namespace("tenant:acme")
    assert type(ns) is View
    assert ns == _core._below(cache._store(), ("tenant:acme",))
    assert hash(ns) == hash(cache.namespace("tenant:acme"))
    assert _core._below(cache._store(), ("tenant:acme", "none")) is None
    assert list(ns.namespaces()) == []
    assert type(create_cache().namespace("plain")) is _core.Namespace
    for kind in (View, _core.Namespace):
        with pytest.raises(TypeError, match="made by namespace"):
            kind()
        with pytest.raises(TypeError, match="made by namespace"):
            kind.__new__(kind)


def test_views_are_made_and_dropped_without_a_trace(cache: Cache[Any]) -> None:
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1000):
        cache.namespace(f"tenant:{number % 5}").get("k", None)
    cache._store().tier.asked.clear()
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_only_a_class_without_fields_can_be_that_of_views() -> None:
    class Larger(_core.Namespace[Any]):
        __slots__ = ("more",)

    for kind in (Larger, int):
        with pytest.raises(TypeError, match=r"^kind: "):
            _core._take_views(kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda ns, wait: ns.set("k", 1, wait=wait),
        lambda ns, wait: ns.delete("k", wait=wait),
        lambda ns, wait: ns.clear(wait=wait),
        lambda ns, wait: ns.invalidate_tag("t", wait=wait),
        lambda ns, wait: ns.invalidate_tags(["t"], wait=wait),
        lambda ns, wait: ns.invalidate_prefix("p", wait=wait),
    ],
)
def test_wait_has_no_effect_without_a_tier(call: Callable[[Any, Any], Any]) -> None:
    ns = create_cache().namespace("tenant:acme")
    ns.set("k", 2)
    with pytest.raises(ValueError, match=r'^wait: must be None or "fleet"'):
        call(ns, "all")
    assert ns.get("k") == 2
    call(ns, "fleet")
    call(ns, None)
