"""The core beside the pure-Python model, step by step.

    FLOWCACHE_EXAMPLES=10000 pytest tests/harness/test_model.py

runs ten thousand examples of each machine.
"""

from __future__ import annotations

import operator
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcache import Cache, ConfigurationError, Event, Limits, Namespace, create_cache
from flowcache._core import _testing
from harness.model import ModelCache, ModelNamespace
from harness.model_nodes import Node
from harness.support import Colliding, VirtualClock, outcome

EXAMPLES = int(os.environ.get("FLOWCACHE_EXAMPLES", "120"))
STEPS = int(os.environ.get("FLOWCACHE_STEPS", "50"))

PATHS = st.sampled_from([(), ("a",), ("a", "b"), ("a:b",), ("b",), ("b", "a", "c")])
KEYS = st.one_of(
    st.sampled_from(["", "x", "xy", "y", "b:x"]),
    st.sampled_from([b"x", 1, True, 1.0, None, ("x",)]),
    st.sampled_from([Colliding("p"), Colliding("q"), Colliding("r")]),
)
VALUES = st.sampled_from([None, 0, 1, 2, False, "", "text"])
TAGS = st.sampled_from(["t", "u", "t:u"])
TAG_SETS = st.one_of(TAGS, st.lists(TAGS, max_size=3), st.frozensets(TAGS, max_size=3))
TTLS = st.sampled_from([0, 0.5, 1, 2, 4, 10, None])
STALE = st.sampled_from([None, 0, 1, 3, True])
TTLS_OR_NONE = st.fixed_dictionaries({}, optional={"ttl": TTLS})
SLIDING = st.sampled_from([None, 0.5, 1.5, 3])
STORES = st.sampled_from(["set", "set", "add"])
LOOKS = st.sampled_from(["get", "get", "peek", "__getitem__", "__contains__", "ttl", "get_many"])
REMOVALS = st.sampled_from(["delete", "pop", "__delitem__", "delete_many", "popitem"])
SWEEPING_CALLS = [
    st.just(("clear", (), {})),
    st.tuples(st.just("invalidate_tag"), st.tuples(TAGS), st.just({})),
    st.tuples(
        st.just("invalidate_tags"),
        st.tuples(TAG_SETS),
        st.fixed_dictionaries({"match": st.sampled_from(["any", "all"])}),
    ),
    st.tuples(
        st.just("invalidate_prefix"),
        st.tuples(st.sampled_from(["", "x", "xy", "b:", "z"])),
        st.just({}),
    ),
    st.tuples(st.just("expire"), st.tuples(KEYS), st.just({})),
    st.tuples(st.just("expire_tag"), st.tuples(TAGS), st.just({})),
    st.tuples(
        st.just("invalidate_where"),
        st.tuples(
            st.sampled_from(
                [
                    lambda key, value: isinstance(key, str),
                    lambda key, value: value in (1, ""),
                    lambda key, value: True,
                ]
            )
        ),
        st.just({}),
    ),
    st.just(("tags", (), {})),
]
COMPARED = ("hits", "misses", "loads", "sets", "evictions", "evictions_caused", "rejections")
COMPARED += ("invalidations", "lost_hits")
EVICTION = st.sampled_from(["lru", "tinylfu"])


def storing_options() -> st.SearchStrategy[dict[str, Any]]:
    options = {"ttl": TTLS, "tags": TAG_SETS, "stale": STALE, "sliding": SLIDING}
    return st.fixed_dictionaries({}, optional=options)


def inspected(core: Namespace[Any], key: Any) -> tuple[Any, ...] | None:
    """What the core tells of a key, in the model's form."""
    seen = core.inspect(key)
    if seen is None:
        return None
    tags = frozenset(seen.tags)
    return seen.fresh, seen.ttl, seen.grace, tags, seen.weight, seen.sliding


def switched(core: Namespace[Any], enabled: bool) -> bool:
    """Switch a namespace on or off; tell whether it is on."""
    core.enabled = enabled
    return core.enabled


class SideBySide(RuleBasedStateMachine):
    """Drives both, and compares each result and the remaining entries."""

    core: Cache[Any]
    model: ModelCache
    in_step = False  # after a divergence there is no more to compare

    def start(self, **configuration: Any) -> None:
        self.clock = VirtualClock()
        self.core = create_cache(clock=self.clock, **configuration)
        _testing.salt(self.core, 1)
        self.model = ModelCache(clock=self.clock, hash_of=self.hash_of, **configuration)
        self.evicted: list[tuple[tuple[str, ...], Any, str]] = []

    def note_eviction(self, event: Event) -> None:
        if event.cause in ("evicted", "over_limit"):
            self.evicted.append((event.path, event.key, event.cause))

    def hash_of(self, path: tuple[str, ...], key: Any) -> int:
        return _testing.hash(self.core.namespace(*path) if path else self.core, key)

    def at(self, path: tuple[str, ...]) -> tuple[Namespace[Any], ModelNamespace]:
        if any(node.order.policy == "tinylfu" for node in self.model.root.tree()):
            # By that policy entries that are past their time count, until they are reclaimed.
            self.core.sweep()
        return self.core.namespace(*path) if path else self.core, self.model.namespace(*path)

    def both(self, path: tuple[str, ...], method: str, *arguments: Any, **options: Any) -> None:
        self.in_step = False
        core, model = self.at(path)
        call = operator.methodcaller(method, *arguments, **options)
        expected = outcome(lambda: call(model))
        assert outcome(lambda: call(core)) == expected, f"{method}{arguments} {options} in {path}"

    def compare_counters(self, *, settled: bool) -> None:
        for node in self.model.root.tree():
            core, model = self.at(node.path)
            stats, expected = core.stats(), model.counters()
            for name in COMPARED:
                assert getattr(stats, name) == expected.get(name, 0), (node.path, name)
            if settled:
                assert stats.expirations == expected.get("expirations", 0), node.path
                assert (stats.entries, stats.weight) == (expected["entries"], expected["weight"]), (
                    node.path
                )
            else:
                # Reclaiming what has expired may wait; nothing may be lost meanwhile.
                assert (
                    stats.entries >= expected["entries"] and stats.weight >= expected["weight"]
                ), node.path

    def compare_contents(self) -> None:
        for node in self.model.root.tree():
            core, model = self.at(node.path)
            expected = model.contents()
            assert list(core.items()) == expected, node.path
            assert list(core) == [key for key, _ in expected] and len(core) == len(expected), (
                node.path
            )
            assert [core.ttl(key) for key, _ in expected] == [
                model.ttl(key) for key, _ in expected
            ], node.path
            for key in node.entries:
                assert inspected(core, key) == model.inspect(key), (node.path, key)
            self.compare_order(core, node)

    def compare_order(self, core: Namespace[Any], node: Node) -> None:
        young, listed, sketch = _testing.order(core)
        order = node.order
        assert listed == [*order.old.items(), *order.young.items()], node.path
        assert young == len(order.young), node.path
        counts = order.sketch
        assert sketch == (counts and (counts.wanted, len(counts.lines), counts.epoch % 16))

    def settle(self) -> None:
        self.core.sweep()
        self.model.sweep()
        self.core._check()
        assert _testing.debris(self.core) == 0
        self.compare_counters(settled=True)
        self.compare_contents()
        for node in self.model.root.tree():
            core, model = self.at(node.path)
            assert model.namespaces() <= set(core.namespaces()) <= set(node.children), node.path

    def teardown(self) -> None:
        if self.in_step:
            self.settle()


class DataMachine(SideBySide):
    """Every keyed call, tags, prefixes, clear, TTLs and stale windows, under a small bound."""

    @initialize(
        max_entries=st.sampled_from([None, 1, 2, 5, 9]),
        default_ttl=st.sampled_from([None, 3.0]),
        eager=st.booleans(),
        at_once=st.sampled_from([None, 1, 2, 3]),
        eviction=EVICTION,
    )
    def begin(
        self,
        max_entries: int | None,
        default_ttl: float | None,
        eager: bool,
        at_once: int | None,
        eviction: str,
    ) -> None:
        self.eager = (
            eager  # compare contents after every step, or leave expired entries where they are
        )
        self.start(max_entries=max_entries, default_ttl=default_ttl, eviction=eviction)
        _testing.seed(self.core, 1)
        if at_once is not None:
            # Removals of thousands leave debris; here removals of two or four do. The table splits
            # after so many, too.
            _testing.slice(self.core, at_once, at_once)

    # Few rules, so that stores are frequent enough for the other rules.

    @rule(path=PATHS, key=KEYS, value=VALUES, method=STORES, options=storing_options())
    def store(
        self, path: tuple[str, ...], key: Any, value: Any, method: str, options: dict[str, Any]
    ) -> None:
        self.both(path, method, key, value, **options)

    @rule(path=PATHS, key=KEYS, value=VALUES, ttl=TTLS, stale=STALE, tags=TAG_SETS)
    def store_with_everything(
        self, path: tuple[str, ...], key: Any, value: Any, ttl: Any, stale: Any, tags: Any
    ) -> None:
        self.both(path, "set", key, value, ttl=ttl, stale=stale, tags=tags)

    @rule(path=PATHS, mapping=st.dictionaries(KEYS, VALUES, max_size=4), options=storing_options())
    def store_many(
        self, path: tuple[str, ...], mapping: dict[Any, Any], options: dict[str, Any]
    ) -> None:
        self.both(path, "set_many", mapping, **options)

    @rule(path=PATHS, key=KEYS, value=VALUES, method=st.sampled_from(["__setitem__", "setdefault"]))
    def store_plainly(self, path: tuple[str, ...], key: Any, value: Any, method: str) -> None:
        self.both(path, method, key, value)

    @rule(path=PATHS, key=st.sampled_from(["x", "y"]), delta=st.integers(-2, 2), ttl=TTLS_OR_NONE)
    def count(self, path: tuple[str, ...], key: str, delta: int, ttl: dict[str, Any]) -> None:
        self.both(path, "incr", key, delta, **ttl)

    @rule(path=PATHS, key=KEYS, ttl=TTLS_OR_NONE)
    def touch(self, path: tuple[str, ...], key: Any, ttl: dict[str, Any]) -> None:
        self.both(path, "touch", key, **ttl)

    @rule(path=PATHS, keys=st.lists(KEYS, min_size=1, max_size=4), method=LOOKS)
    def look(self, path: tuple[str, ...], keys: list[Any], method: str) -> None:
        self.both(path, method, *([keys] if method == "get_many" else keys[:1]))

    @rule(path=PATHS, keys=st.lists(KEYS, min_size=1, max_size=4), method=REMOVALS, default=VALUES)
    def remove(self, path: tuple[str, ...], keys: list[Any], method: str, default: Any) -> None:
        arguments: dict[str, list[Any]] = {"delete_many": [keys], "popitem": []}
        self.both(path, method, *arguments.get(method, keys[:1]))
        self.both(path, "pop", keys[-1], default)

    @rule(path=PATHS, call=st.one_of(SWEEPING_CALLS))
    def invalidate(
        self, path: tuple[str, ...], call: tuple[str, tuple[Any, ...], dict[str, Any]]
    ) -> None:
        method, arguments, options = call
        self.both(path, method, *arguments, **options)

    @rule(path=PATHS, key=KEYS, ttl=st.sampled_from([1, 4]), jitter=st.sampled_from([0, 0.5]))
    def store_at_random(self, path: tuple[str, ...], key: Any, ttl: float, jitter: float) -> None:
        """Where the core draws a TTL the model takes it over, if it is one that may be drawn."""
        self.in_step = False
        core, model = self.at(path)
        core.set(key, 1, ttl=ttl, jitter=jitter)
        seen = core.inspect(key)
        assert (seen is None) == model.node.is_off()
        if seen is None:
            model.set(key, 1, ttl=ttl)
        else:
            assert seen.ttl is not None and ttl * (1 - jitter) <= seen.ttl <= ttl
            model.set(key, 1, ttl=seen.ttl)

    @rule(path=PATHS, stays_off=st.booleans())
    def switch_off(self, path: tuple[str, ...], stays_off: bool) -> None:
        for enabled in (False,) if stays_off else (False, True):
            self.switch(path, enabled)

    @rule(path=PATHS)
    def switch_on(self, path: tuple[str, ...]) -> None:
        for depth in range(len(path) + 1):
            self.switch(path[:depth], True)

    def switch(self, path: tuple[str, ...], enabled: bool) -> None:
        self.in_step = False
        core, model = self.at(path)
        assert switched(core, enabled) == model.enable(enabled)

    @rule(path=PATHS, ttl=st.sampled_from([1, 2.5, None]), reset=st.booleans())
    def administer(self, path: tuple[str, ...], ttl: float | None, reset: bool) -> None:
        if reset:
            # Expired entries must be counted before the reset on both sides.
            self.core.sweep()
            self.both(path, "reset_stats")
        else:
            self.both(path, "configure", default_ttl=ttl)

    @rule(path=PATHS, eviction=EVICTION)
    def choose(self, path: tuple[str, ...], eviction: str) -> None:
        self.both(path, "configure", eviction=eviction)

    @rule(seconds=st.sampled_from([0.5, 1, 2, 5]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.settle()

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "core"):
            return
        self.core._check()
        self.compare_counters(settled=False)
        if self.eager:
            self.compare_contents()
        self.in_step = True


TREE = [("a",), ("a", "x"), ("a", "y"), ("b",), ("b", "x"), ("c",)]
PLACES = st.sampled_from([(), *TREE])
ABOVE = st.booleans()
NEW = [("p",), ("q",), ("p", "q"), ("x",)]
CHILD_LIMITS = st.sampled_from(
    [
        None,
        Limits(max_entries=2),
        Limits(share=0.5, reserved=1),
        Limits(max_weight=9, child_limits=Limits(max_entries=1)),
        Limits(reserved=4, max_entries=6),
        Limits(eviction="tinylfu"),
    ]
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "max_entries": st.sampled_from([None, 1, 4]),
        "reserved": st.integers(0, 2),
        "share": st.sampled_from([0.5, 2.0]),
        "child_limits": CHILD_LIMITS,
        "eviction": EVICTION,
    },
)


class FairnessMachine(SideBySide):
    """Limits, shares, reservations, weights change at every level; the victims are the model's."""

    @initialize(
        order=st.permutations(TREE),
        max_entries=st.sampled_from([None, 3, 6, 12]),
        max_weight=st.sampled_from([None, 6, 15]),
        child_limits=st.sampled_from(
            [None, Limits(max_entries=4), Limits(share=0.5), Limits(max_weight=9)]
        ),
        eviction=EVICTION,
    )
    def begin(
        self,
        order: list[tuple[str, ...]],
        max_entries: int | None,
        max_weight: int | None,
        child_limits: Limits | None,
        eviction: str,
    ) -> None:
        self.start(
            max_entries=max_entries,
            max_weight=max_weight,
            weigher=lambda key, value: value,
            default_ttl=None,
            child_limits=child_limits,
            eviction=eviction,
        )
        self.core.subscribe(self.note_eviction, kinds=("remove",))
        for path in order:
            self.at(path)

    @rule(
        path=PLACES,
        keys=st.integers(1, 6),
        value=st.sampled_from([0, 1, 1, 2, 3, 8]),
        burst=st.integers(1, 5),
    )
    def store(self, path: tuple[str, ...], keys: int, value: int, burst: int) -> None:
        for step in range(burst):
            self.both(path, "set", (keys + step) % 8, value)

    @rule(
        path=PLACES,
        key=st.integers(0, 7),
        ttl=st.sampled_from([1, 2]),
        stale=st.sampled_from([None, 1]),
    )
    def store_for_a_while(
        self, path: tuple[str, ...], key: int, ttl: float, stale: float | None
    ) -> None:
        self.both(path, "set", key, 1, ttl=ttl, stale=stale)

    @rule(path=PLACES, key=st.integers(0, 7))
    def use(self, path: tuple[str, ...], key: int) -> None:
        self.both(path, "get", key)

    @rule(path=PLACES, key=st.integers(0, 7))
    def delete(self, path: tuple[str, ...], key: int) -> None:
        self.both(path, "delete", key)

    @rule(path=PLACES)
    def clear(self, path: tuple[str, ...]) -> None:
        self.both(path, "clear")

    def change(self, path: tuple[str, ...], above: bool, **settings: Any) -> None:
        """From above, which gives, or by the namespace's own view, which may only take less."""
        if not path or not above:
            self.both(path, "configure", **settings)
        elif (refused := self.make(path[:-1], path[-1:], settings)) is not None:
            assert refused is ConfigurationError

    @rule(path=PLACES, above=ABOVE, limit=st.sampled_from([None, 1, 2, 3, 5, 8]))
    def limit_entries(self, path: tuple[str, ...], above: bool, limit: int | None) -> None:
        self.change(path, above, max_entries=limit)

    @rule(path=PLACES, above=ABOVE, limit=st.sampled_from([None, 1, 3, 7, 12]))
    def limit_weight(self, path: tuple[str, ...], above: bool, limit: int | None) -> None:
        self.change(path, above, max_weight=limit)

    @rule(
        path=st.sampled_from(TREE), above=ABOVE, share=st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0])
    )
    def change_share(self, path: tuple[str, ...], above: bool, share: float) -> None:
        self.change(path, above, share=share)

    @rule(path=st.sampled_from(TREE), above=ABOVE, reserved=st.integers(0, 3))
    def reserve(self, path: tuple[str, ...], above: bool, reserved: int) -> None:
        self.change(path, above, reserved=reserved)

    @rule(
        path=PLACES,
        above=ABOVE,
        limit=st.sampled_from([None, 2, 5]),
        share=st.sampled_from([0.5, 2.0]),
        reserved=st.integers(0, 2),
    )
    def change_several(
        self, path: tuple[str, ...], above: bool, limit: int | None, share: float, reserved: int
    ) -> None:
        settings = (
            {"max_entries": limit, "share": share, "reserved": reserved}
            if path
            else {"max_entries": limit}
        )
        self.change(path, above, **settings)

    @rule(path=PLACES, above=ABOVE, eviction=EVICTION)
    def choose(self, path: tuple[str, ...], above: bool, eviction: str) -> None:
        self.change(path, above, eviction=eviction)

    @rule(path=PLACES, limits=CHILD_LIMITS)
    def limit_children(self, path: tuple[str, ...], limits: Limits | None) -> None:
        self.both(path, "configure", child_limits=limits)

    @rule(path=PLACES, names=st.sampled_from(NEW), settings=SETTINGS, weights=st.integers(0, 3))
    def make_and_store(
        self,
        path: tuple[str, ...],
        names: tuple[str, ...],
        settings: dict[str, Any],
        weights: int,
    ) -> None:
        if self.make(path, names, settings) is None:
            self.both((*path, *names), "set", "k", weights)

    def make(
        self, path: tuple[str, ...], names: tuple[str, ...], settings: dict[str, Any]
    ) -> type[Exception] | None:
        """A namespace like no other yet, or one that is there; return how it was refused."""
        self.in_step = False
        core, model = self.at(path)
        expected = outcome(lambda: model.namespace(*names, **settings).path)
        assert outcome(lambda: core.namespace(*names, **settings).path) == expected, (path, names)
        return None if expected[0] == "returned" else expected[1]

    @rule(seconds=st.sampled_from([1, 2]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "core"):
            return
        self.core._check()
        expected = [
            removal for removal in self.model.removed if removal[2] in ("evicted", "over_limit")
        ]
        assert self.evicted == expected
        self.compare_counters(settled=False)
        self.compare_contents()
        self.in_step = True


PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)

TestData = DataMachine.TestCase
TestData.settings = PROFILE
TestFairness = FairnessMachine.TestCase
TestFairness.settings = PROFILE
