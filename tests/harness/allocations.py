"""Each call, once for every allocation that it makes, with that one failing.

    cc -shared -fPIC -o failing_malloc.so tests/harness/failing_malloc.c
    LD_PRELOAD=./failing_malloc.so PYTHONMALLOC=malloc python tests/harness/allocations.py

Runs with `failing_malloc.c` preloaded and `PYTHONMALLOC=malloc`, so that the interpreter's own
allocations fail as well as the core's. A call with a failed allocation raises MemoryError and
leaves the cache as it was, or has done all of its work. The counts and links are whole, every other
entry is there, and no argument of the call is kept.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import logging
import re
import sys
from collections import Counter
from typing import Any

from flowcache import Loaded, create_cache
from flowcache.loading.deadlock import current_load
from harness import calls
from harness.guests import House

shim: Any = ctypes.CDLL(None)
shim.failing_begin.argtypes = (ctypes.c_long, ctypes.c_long)
shim.failing_begin.restype = None
shim.failing_end.restype = ctypes.c_long
shim.failing_held.restype = ctypes.c_long


MANY_TAGS = [f"t{n}" for n in range(40)]


class Guest:
    """A key or a value, told apart by identity, that leaves the list when it dies."""

    __slots__ = ("__weakref__",)


class Scene(House):
    """A cache with entries, tags, namespaces and deadlines; and the guests of one call."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.cache = create_cache(clock=lambda: 100.0, weigher=lambda key, value: 1, **settings)
        self.place = self.cache.namespace("tenant")
        self.place.configure(max_entries=6)
        self.deep = self.place.namespace("below", "deeper")
        self.known = [self.guest() for _ in range(4)]
        for n, key in enumerate(self.known):
            self.place.set(key, self.guest(), ttl=(None, 50)[n % 2], tags=("red", "blue")[: n % 3])
        self.deep.set("deep", self.guest(), tags="red")
        self.place.set("key:number", 1000)
        # Made before the call, which is to fail in the cache and not on its way to it.
        self.fresh = self.guest()
        self.values = [self.guest() for _ in range(4)]
        self.kept_its_place = True

    def guest(self) -> Guest:
        guest = Guest()
        self.alive.add(guest)
        return guest

    def held(self) -> Any:
        return self.known[1]

    def new(self) -> Any:
        return self.fresh

    def value(self) -> Any:
        return self.values[0]

    def tags(self) -> Any:
        return ("red", "new")

    def several(self, *items: Any) -> Any:
        return iter(items)

    def load(self) -> Any:
        return Loaded(self.values[0], tags="new")

    def state(self) -> Any:
        """The results of all public calls, but for counts of use."""
        if self.cache._is_closed():
            return "closed"
        return {
            view.path: (
                [(key, value, view.ttl(key)) for key, value in view.items()],
                sorted(view.namespaces()),
                view.limits,
                [view._tagged(tag) for tag in ("red", "blue", "green", "new")],
                view.stats().pending,
            )
            for view in (self.cache, self.place, self.deep)
        }


def grow(place: Any) -> None:
    place.configure(max_entries=None)
    for n in range(70):
        place.set(n, n, ttl=60, tags=f"t{n}")


def load_within_loads(scene: Scene, load: Any) -> None:
    """Load a key within a loader within a loader, each of which is the current load again after."""

    def within() -> Any:
        running = current_load()
        try:
            return load("innermost", list)
        finally:
            scene.kept_its_place &= current_load() is running

    def outermost() -> Any:
        running = current_load()
        try:
            return load("within", within)
        finally:
            scene.kept_its_place &= current_load() is running

    load(scene.fresh, outermost)


# `iteration` is left out because list() of a list leaks it on 3.11 where its memory cannot be had.
WHOLE = calls.WHOLE | {
    "set, another tenant": lambda s, _: s.deep.set(s.new(), s.value(), ttl=5, tags="new"),
    "set, many tags": lambda s, ns: ns.set(s.new(), s.value(), tags=MANY_TAGS),
    "namespaces, new": lambda s, ns: s.cache.namespace("fresh", "below", max_entries=4, share=2),
    "create_cache": lambda s, _: create_cache(weigher=lambda key, value: 1).set(s.new(), s.value()),
}
SEVERAL = calls.SEVERAL | {
    "growing": lambda s, ns: grow(ns),
    "growing and shrinking": lambda s, ns: (grow(ns), ns.configure(max_entries=20)),
}
LEFT_OUT = ("iteration", "fetch, timeout", "fetch, ahead")
FACE = {name: call for name, call in calls.FACE.items() if name not in LEFT_OUT} | {
    "fetch, within others": lambda s, ns: load_within_loads(s, ns.fetch),
    "refresh, within others": lambda s, ns: load_within_loads(s, ns.refresh),
}
"""Calls that Python code takes part in, on the caller's own thread.

Those of asyncio are left out: a task never ends where a step of it has no memory. The references
that these calls keep are not judged: CPython 3.11 itself leaks the arguments of a function whose
frame or cells it has no memory for.
"""

FRAMELESS = re.compile(
    r"error return without exception set|<function .* returned NULL without setting an exception"
)
"""CPython 3.11's errors for a Python function's frame without memory. Compiled ones have none."""
TINY = {"default_ttl": 30.0, "max_entries": 6, "eviction": "tinylfu"}
SHARED = {"default_ttl": None, "max_entries": 6, "sharing": "utility"}


def attempt(call: calls.Call, scene: Scene, nth: int, burst: int) -> tuple[str, int]:
    """Make the call with the n-th allocation failing; what came of it, and how many failed."""
    outcome = "returned"
    shim.failing_begin(nth, burst)
    try:
        call(scene, scene.place)
    except MemoryError:
        outcome = "raised"
    except RuntimeError as error:  # CPython's error for a lock without memory.
        outcome = "raised" if str(error) == "can't allocate lock" else repr(error)
    except SystemError as error:
        outcome = "raised" if FRAMELESS.match(str(error)) else repr(error)
    except BaseException as error:
        outcome = f"raised {type(error).__name__}"
        other = error
        while other is not None and not isinstance(other, MemoryError):
            other = other.__context__ or other.__cause__
        if other is None:
            outcome = repr(error)
        del error, other
    while True:
        try:
            return outcome, shim.failing_end()
        except MemoryError:
            continue  # The very call that ends it allocates.


def run(groups: tuple[Any, ...], burst: int, settings: dict[str, Any]) -> Counter[str]:
    """Run the calls; count outcomes. AssertionError if a cache broke, or lost or kept an entry."""
    happened: Counter[str] = Counter()
    unraisable: list[str] = []
    sys.unraisablehook = lambda report: unraisable.append(f"{report.exc_value!r}")
    for group in groups:
        for name, call in group.items():
            done = Scene(settings)
            call(done, done.place)
            nth, quiet = 0, 0
            while quiet < 3:  # The end of a call may allocate nothing that it must have.
                faulthandler.dump_traceback_later(60, exit=True)
                scene = Scene(settings)
                before = scene.state()
                outcome, failed = attempt(call, scene, nth, burst)
                where = f"{name}, allocation {nth}: {outcome}"
                known = outcome in ("returned", "raised")
                assert known or (group is FACE and outcome.startswith("raised ")), where
                quiet = 0 if failed else quiet + 1
                happened[f"{outcome}"] += bool(failed)
                happened["failures injected"] += failed
                scene.cache._check()
                after = scene.state()
                if group is WHOLE and outcome == "raised":
                    assert after == before, f"{where}\n{before}\n{after}"
                if after != "closed":
                    assert scene.cache.stats().pending == 0, where
                assert scene.kept_its_place, where
                assert current_load() is None, where
                roll = scene.alive
                del scene, before, after
                if group is not FACE:
                    gc.collect()
                    assert not roll, f"{where}: {len(roll)} guests outlived their cache"
                nth += 1
            happened["calls"] += 1
            happened["allocations"] += nth - 3
    faulthandler.cancel_dump_traceback_later()
    assert all("MemoryError" in report for report in unraisable), unraisable
    happened["reported as unraisable"] = len(unraisable)
    return happened


def main() -> int:
    """Run from the command line; a fault ends it with a trace."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--burst", type=int, default=1, help="how many fail in a row (1); above 1 only in the core"
    )
    options = parser.parse_args()
    faulthandler.enable()
    logging.getLogger("flowcache").setLevel(logging.CRITICAL)
    gc.freeze()
    total: Counter[str] = Counter()
    for settings in ({"default_ttl": None}, TINY):
        run((WHOLE, SEVERAL), options.burst, settings)
        gc.collect()
        held = shim.failing_held()
        total += run((WHOLE, SEVERAL), options.burst, settings)
        gc.collect()
        total["blocks kept"] += shim.failing_held() - held
        if options.burst == 1:
            total += run((FACE,), options.burst, settings)
    total += run((WHOLE,), options.burst, SHARED)
    print(", ".join(f"{name}: {n:,}" for name, n in sorted(total.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
