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
import contextlib
import ctypes
import faulthandler
import gc
import logging
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

from flowcache import Limits, Loaded, create_cache

shim: Any = ctypes.CDLL(None)
shim.failing_begin.argtypes = (ctypes.c_long, ctypes.c_long)
shim.failing_begin.restype = None
shim.failing_end.restype = ctypes.c_long
shim.failing_held.restype = ctypes.c_long


MANY_TAGS = [f"t{n}" for n in range(40)]


class Guest:
    """A key or a value, told apart by identity, that leaves the list when it dies."""

    __slots__ = ("__weakref__",)


class Scene:
    """A cache with entries, tags, namespaces and deadlines; and the guests of one call."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.cache = create_cache(clock=lambda: 100.0, weigher=lambda key, value: 1, **settings)
        self.place = self.cache.namespace("tenant")
        self.place.configure(max_entries=6)
        self.deep = self.place.namespace("below", "deeper")
        self.roll: dict[int, weakref.ref[Guest]] = {}
        self.known = [self.guest() for _ in range(4)]
        for n, key in enumerate(self.known):
            self.place.set(key, self.guest(), ttl=(None, 50)[n % 2], tags=("red", "blue")[: n % 3])
        self.deep.set("deep", self.guest(), tags="red")
        self.place.set("number", 1000)
        self.new = [self.guest() for _ in range(4)]
        self.values = [self.guest() for _ in range(4)]
        self.told: list[Any] = []

    def guest(self) -> Guest:
        guest, roll = Guest(), self.roll
        key = id(guest)
        roll[key] = weakref.ref(guest, lambda _: roll.pop(key, None))
        return guest

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


def drive(ready: Any) -> None:
    with contextlib.suppress(StopIteration):
        ready.send(None)


# Iterators, because list() of a list leaks it on 3.11 where its memory cannot be had.
ONE = {
    "get": lambda s: s.place.get(s.known[0]),
    "peek": lambda s: s.place.peek(s.new[0]),
    "set": lambda s: s.place.set(s.known[1], s.values[0], ttl=5, tags=("red", "new")),
    "set, new": lambda s: s.place.set(s.new[0], s.values[0], ttl=5, tags=("green", "new"), stale=9),
    "set, another tenant": lambda s: s.deep.set(s.new[0], s.values[0], ttl=5, tags="new"),
    "set, many tags": lambda s: s.place.set(s.new[0], s.values[0], tags=MANY_TAGS),
    "add": lambda s: s.place.add(s.new[0], s.values[0], tags="new"),
    "delete": lambda s: s.place.delete(s.known[2]),
    "pop": lambda s: s.place.pop(s.known[2]),
    "popitem": lambda s: s.place.popitem(),
    "touch": lambda s: s.place.touch(s.known[0], 7),
    "ttl": lambda s: s.place.ttl(s.known[1]),
    "incr": lambda s: s.place.incr("number", 5_000),
    "incr, new": lambda s: s.place.incr("another", 5_000, ttl=4),
    "setdefault": lambda s: s.place.setdefault(s.new[0], s.values[0]),
    "ns[key]": lambda s: s.place[s.known[0]],
    "key in ns": lambda s: s.known[0] in s.place,
    "len": lambda s: len(s.place),
    "items": lambda s: (s.place.keys(), s.place.values(), s.place.items()),
    "clear": lambda s: s.place.clear(),
    "invalidate_tag": lambda s: s.place.invalidate_tag("red"),
    "invalidate_tags": lambda s: s.cache.invalidate_tags(("red", "blue"), match="all"),
    "invalidate_prefix": lambda s: s.place.invalidate_prefix("num"),
    "invalidate_where": lambda s: s.cache.invalidate_where(lambda key, value: True),
    "expire": lambda s: s.place.expire(s.known[0]),
    "set, sliding": lambda s: s.deep.set(s.new[0], s.values[0], sliding=5, tags="new"),
    "set, sliding on": lambda s: s.place.set(s.known[0], s.values[0], sliding=5),
    "enabled": lambda s: setattr(s.place, "enabled", False),
    "expire_tag": lambda s: s.cache.expire_tag("red"),
    "inspect": lambda s: (s.place.inspect(s.known[0]), s.cache.tags(), s.cache.children()),
    "fetch, held": lambda s: s.place.fetch(s.known[0], object),
    "stats": lambda s: (s.place.stats(), s.place.limits, s.place.path, repr(s.place)),
    "reset_stats": lambda s: s.place.reset_stats(),
    "namespace": lambda s: s.cache.namespace("tenant", "below"),
    "namespace, new": lambda s: s.cache.namespace("fresh"),
    "namespaces, new": lambda s: s.cache.namespace("fresh", "below", max_entries=4, share=2),
    "configure": lambda s: s.place.configure(
        default_ttl=9, max_entries=9, share=0.5, child_limits=Limits(max_entries=5, share=0.5)
    ),
    "configure, evicting": lambda s: s.cache.configure(max_entries=2),
    "create_cache": lambda s: create_cache(weigher=lambda key, value: 1).set(s.new[0], s.values[0]),
    "sweep": lambda s: s.cache.sweep(),
    "close": lambda s: s.cache.close(),
}
"""Calls that do all of their work or none."""

SEVERAL = {
    "afetch, held": lambda s: drive(s.place.afetch(s.known[0], object)),
    "get_many": lambda s: s.place.get_many(iter(s.known)),
    "get_many, more": lambda s: s.place.get_many(chain(s.known, range(300))),
    "fetch_many, held": lambda s: s.place.fetch_many(iter(s.known), object),
    "afetch_many, held": lambda s: drive(s.place.afetch_many(iter(s.known), object)),
    "set_many, more": lambda s: s.place.set_many(zip(chain(s.new, range(300)), repeat(1))),
    "set_many": lambda s: s.place.set_many(dict(zip(s.new, s.values, strict=True)), tags="new"),
    "delete_many": lambda s: s.place.delete_many(iter(s.known)),
    "update": lambda s: s.place.update(zip(s.new, s.values, strict=True)),
    "growing": lambda s: grow(s.place),
}
"""Calls of several steps, each of which is whole."""

FACE = {
    "listening": lambda s: (
        s.place.subscribe(s.told.append),
        s.place.set(s.known[0], s.values[0]),
        s.place.clear(),
    ),
    "fetch": lambda s: s.place.fetch(
        s.new[0], lambda: Loaded(s.values[0], tags="new"), tags="red", ttl=5
    ),
    "refresh": lambda s: s.place.refresh(s.known[0], lambda: s.values[0]),
    "fetch_many": lambda s: s.place.fetch_many(
        iter(s.new), lambda keys: dict.fromkeys(keys, s.values[0])
    ),
    "cached": lambda s: s.place.cached(ttl=5)(lambda key: s.values[0])(s.new[0]),
    "cached, a keyword": lambda s: s.place.cached()(lambda key: s.values[0])(key=s.new[0]),
    "cached, by tenant": lambda s: s.cache.cached(tenant="who")(lambda who, key: s.values[0])(
        "tenant", key=s.new[0]
    ),
}
"""Calls that Python code takes part in; not those of asyncio, whose tasks never end where a step of
theirs has no memory. Their leaks are not judged: CPython 3.11 itself leaks the arguments of a
function if it has no memory for the frame or the cells."""


def attempt(call: Callable[[Scene], Any], scene: Scene, nth: int, burst: int) -> tuple[str, int]:
    """Make the call with the n-th allocation failing; return the outcome and the failures."""
    outcome = "returned"
    shim.failing_begin(nth, burst)
    try:
        call(scene)
    except MemoryError:
        outcome = "raised"
    except RuntimeError as error:  # CPython's error for a lock without memory.
        outcome = "raised" if str(error) == "can't allocate lock" else repr(error)
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
    for calls in groups:
        for name, call in calls.items():
            done = Scene(settings)
            call(done)
            nth, quiet = 0, 0
            while quiet < 3:  # The end of a call may allocate nothing that it must have.
                faulthandler.dump_traceback_later(60, exit=True)
                scene = Scene(settings)
                before = scene.state()
                outcome, failed = attempt(call, scene, nth, burst)
                where = f"{name}, allocation {nth}: {outcome}"
                assert outcome in ("returned", "raised") or calls is FACE, where
                quiet = 0 if failed else quiet + 1
                happened[f"{outcome}"] += bool(failed)
                happened["failures injected"] += failed
                scene.cache._check()
                after = scene.state()
                if calls is ONE and outcome == "raised":
                    assert after == before, f"{where}\n{before}\n{after}"
                if after != "closed":
                    assert scene.cache.stats().pending == 0, where
                roll = scene.roll
                del scene, before, after
                gc.collect()
                assert not roll or calls is FACE, (
                    f"{where}: {len(roll)} guests outlived their cache"
                )
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
    for settings in ({"default_ttl": None}, {"default_ttl": 30.0, "max_entries": 6}):
        run((ONE, SEVERAL), options.burst, settings)
        gc.collect()
        held = shim.failing_held()
        total += run((ONE, SEVERAL), options.burst, settings)
        gc.collect()
        total["blocks kept"] += shim.failing_held() - held
        if options.burst == 1:
            total += run((FACE,), options.burst, settings)
    print(", ".join(f"{name}: {n:,}" for name, n in sorted(total.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
