"""Each call, with each action of a guest at each place where the call runs its code.

    make matrix ARGS="--visits 4 --stale"

For every public call a fresh cache is made. Its guests (keys, values, weigher, clock, loader,
listener, ``store_if``, iterables, weak references, the collector) count their visits. Then the call
is made again and again, each time on a fresh cache. At its n-th visit one guest takes one action:
another call on the same cache, on this thread or on another, or an error. Each time the cache is
checked, and nothing may outlive it. With ``--stale`` all is repeated with entries past their TTL.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from flowcache import Cache, FlowcacheError, Loaded, Namespace, create_cache
from harness import calls
from harness.guests import BoomError, House, Key, Value


class Foreign:
    """A value of another tenant, which no call of this one may return."""


class Filler:
    """An object made for the collector to count."""


class Scene(House):
    """A fresh cache with a few entries, a running load's worth of guests, and one thing armed."""

    def __init__(self, *, stale: bool = False) -> None:
        super().__init__()
        self.armed: tuple[str, int, Callable[[Scene], Any]] | None = None
        self.visits: Counter[str] = Counter()
        self.callbacks: list[Any] = []
        self.now = 100.0
        self.cache: Cache[Any] = create_cache(
            default_ttl=None,
            max_entries=5,
            weigher=self.weigh,
            max_weight=100,
            clock=self.clock,
            max_idle_namespaces=0,
        )
        self.place: Namespace[Any] = self.cache.namespace("tenant")
        self.other: Namespace[Any] = self.cache.namespace("other", max_entries=3)
        self.cache.subscribe(self.listen)
        for label in "abc":
            self.place.set(
                self.key(label), self.value(), ttl=1 if stale else None, tags="red", stale=True
            )
        self.place.set("key:text", 1, tags=("red", "blue"))
        self.place.set("key:number", 1)
        if stale:
            self.now += 5
        self.visits.clear()

    def key(self, label: str = "c") -> Key:
        return Key(self, label)

    held = key

    def new(self) -> Key:
        return Key(self, "x")

    def value(self) -> Value:
        value = Value(self, self.place)
        self.callbacks.append(weakref.ref(value, lambda _: self.visit("callback")))
        return value

    def load(self) -> Any:
        self.visit("loader")
        return Loaded(self.value(), tags=self.several("red"))

    def visit(self, place: str) -> None:
        self.visits[place] += 1
        if self.armed is not None and self.armed[:2] == (place, self.visits[place]):
            action, self.armed = self.armed[2], None
            action(self)

    def weigh(self, key: Any, value: Any) -> int:
        self.visit("weigher")
        return 1

    def clock(self) -> float:
        self.visit("clock")
        return self.now


CALLS: dict[str, calls.Call] = calls.CALLS | {
    # A guest may remove the entry, and then it is a load, which wants a loop.
    "afetch, held": lambda s, ns: calls.finish(ns.afetch(s.held(), s.load)),
    "afetch_many, held": lambda s, ns: calls.finish(
        ns.afetch_many(["key:text", s.key(), s.key("b")], s.load_many)
    ),
    "drop": lambda s, _: s.__dict__.update(cache=None, place=None),
}

ACTIONS: dict[str, Callable[[Scene], Any]] = {
    "get": lambda s: s.place.get(s.key()),
    "set": lambda s: s.place.set(s.key(), s.value(), tags="red"),
    "set, evicting": lambda s: [s.other.set(s.key(label), s.value()) for label in "vwxyz"],
    "delete": lambda s: s.place.delete(s.key()),
    "take over": lambda s: (
        [s.place.delete(s.key(label)) for label in "abcx"],
        [s.other.set(s.key(label), Foreign()) for label in "abc"],
    ),
    "pop": lambda s: [s.place.pop(s.key(label), None) for label in "abcx"],
    "clear": lambda s: s.place.clear(),
    "clear, root": lambda s: s.cache.clear(),
    "close": lambda s: s.cache.close(),
    "invalidate_tag": lambda s: s.cache.invalidate_tag("red"),
    "namespaces": lambda s: [s.cache.namespace(f"n{n}").get("x") for n in range(4)],
    "drop views": lambda s: s.__dict__.update(place=s.cache, other=s.cache),
    "configure": lambda s: s.place.configure(max_entries=1),
    "items": lambda s: s.place.items(),
    "fetch": lambda s: s.place.fetch(s.key("z"), s.load, timeout=1),
    "fetch, the same": lambda s: s.place.fetch(s.key("x"), s.value, timeout=0.01),
    "cut off": lambda s: (
        s.cache.configure(max_entries=None, max_weight=None),
        s.place.set_many({("many", n): n for n in range(8200)}, tags="red"),
        s.place.clear(),
    ),
    "grow": lambda s: (
        s.cache.configure(max_entries=None, max_weight=None),
        [s.place.set(("many", n), n) for n in range(300)],
    ),
    "collect": lambda s: gc.collect(),
    "later": lambda s: setattr(s, "now", s.now + 1000),
    "elsewhere": lambda s: elsewhere(
        lambda: (s.place.set(s.key(), 1), s.cache.invalidate_tag("red"))
    ),
    "close elsewhere": lambda s: elsewhere(s.cache.close),
    "raise": lambda s: raise_boom(),
}

SLOW = {"cut off"}
"""Done only in the look-up, where alone it can make a difference."""

IN_COLLECTIONS = {"take over", "grow", "clear, root", "drop views", "close"}
"""Most of the others act on memory as one of these does."""

EXPECTED = (BoomError, FlowcacheError, KeyError, TimeoutError, AttributeError)
"""AttributeError: of what an action dropped, as `None.get`."""


MOST_COLLECTIONS = 60
"""Of one call: the collector runs at every allocation, and that is often."""


@contextlib.contextmanager
def collecting(scene: Scene) -> Iterator[None]:
    """Have the collector run at every allocation.

    It runs within the allocation up to CPython 3.11; 3.12 and later wait until no C code is under
    way.
    """

    def collected(phase: str, _: Any) -> None:
        if phase == "start":
            scene.visit("collection")
        else:
            # So many more allocations than ends: the next one runs the collector again.
            scene.callbacks.extend([Filler() for _ in range(30)])

    threshold = gc.get_threshold()
    gc.disable()
    gc.collect()  # CPython keeps tuples that are gone for the next ones: now it keeps none.
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    gc.enable()
    try:
        yield
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)


def do_nothing(scene: Scene, place: Any) -> None:
    """What is left to do once the call is made."""


def raise_boom() -> None:
    raise BoomError


def elsewhere(call: Callable[[], Any]) -> None:
    def run() -> None:
        with contextlib.suppress(*EXPECTED):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)


def check_own(result: Any) -> None:
    """Check that no part of a call's result belongs to another tenant."""
    assert not isinstance(result, Foreign), "another tenant's value"
    if isinstance(result, dict):
        result = list(result.items())
    if isinstance(result, (tuple, list)):
        for part in result:
            check_own(part)


def perform(call: calls.Call, scene: Scene, unraisable: list[Any]) -> None:
    """Make the call, check the cache, drop all and see that nothing is left."""
    try:
        check_own(call(scene, scene.place))
    except TypeError as error:
        if "its value is no int" not in str(error):  # A guest stored another under incr()'s key.
            raise
    except EXPECTED:
        pass
    scene.armed = None
    cache = scene.cache
    if cache is not None:
        cache._check()
    del cache
    alive = scene.alive
    scene.__dict__.update(cache=None, place=None, other=None, callbacks=[])
    while unraisable:
        error = unraisable.pop()
        assert isinstance(error, EXPECTED), error
        del error
    until = time.monotonic() + 20  # A load behind a stale value runs on a thread of its own.
    while gc.collect() is not None and len(alive) and time.monotonic() < until:
        time.sleep(0.001)
    assert len(alive) == 0, f"{len(alive)} guests outlived their cache"


def run(
    most: int, seconds: float, *, with_stale: bool, every: int, first: int = 0, part: str = ""
) -> tuple[int, set[tuple[str, str]]]:
    """Run all cases up to the n-th visit of each guest; how many, and which places were met."""
    cases, taken, met = 0, 0, set()
    unraisable: list[Any] = []
    gc.freeze()  # The collections after each case are to see what the case left, and no module.
    sys.unraisablehook = lambda report: unraisable.append(report.exc_value)
    for name, call in CALLS.items():
        if part not in name:
            continue
        for stale in (False, True)[: 1 + with_stale]:
            scene = Scene(stale=stale)
            rehearsal = scene.visits
            with contextlib.suppress(KeyError), collecting(scene):
                call(scene, scene.place)
            perform(do_nothing, scene, unraisable)
            for place, asked in rehearsal.items():
                met.add((name, place))
                often = MOST_COLLECTIONS if place == "collection" else most
                for nth in range(1, min(asked, often) + 1):
                    for what, action in ACTIONS.items():
                        if what in SLOW and (nth > 1 or stale or place not in ("eq", "hash")):
                            continue
                        if place == "collection" and what not in IN_COLLECTIONS:
                            continue
                        cases += 1
                        if cases % every != first:
                            continue
                        taken += 1
                        faulthandler.dump_traceback_later(seconds, exit=True)
                        scene = Scene(stale=stale)
                        scene.armed = (place, nth, action)
                        try:
                            if place == "collection":
                                result = None
                                with contextlib.suppress(*EXPECTED), collecting(scene):
                                    result = call(scene, scene.place)
                                check_own(result)
                                result = None
                                perform(do_nothing, scene, unraisable)
                            else:
                                perform(call, scene, unraisable)
                        except BaseException:
                            print(f"FAULT: {name}: {place} {nth} {what}, stale={stale}")
                            raise
    faulthandler.cancel_dump_traceback_later()
    return taken, met


def main() -> int:
    """Run from the command line; a fault ends it with a trace."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visits", type=int, default=2, help="of each guest in each call (2)")
    parser.add_argument("--stale", action="store_true", help="with stale entries as well")
    parser.add_argument("--calls", default="", help="only those whose name has this in it")
    parser.add_argument("--every", type=int, default=1, help="take each n-th case only (1)")
    parser.add_argument("--first", type=int, default=0, help="the first case to take (0: the n-th)")
    options = parser.parse_args()
    faulthandler.enable()
    logging.getLogger("flowcache").setLevel(logging.CRITICAL)
    cases, met = run(
        options.visits,
        60,
        with_stale=options.stale,
        every=options.every,
        first=options.first % options.every,
        part=options.calls,
    )
    print(f"{cases:,} cases: {len(CALLS)} calls, {len(met)} places in them, {len(ACTIONS)} actions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
