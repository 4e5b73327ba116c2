"""Hostile programs: a cache with guests that call back into it, or raise, at every place.

    make hostile ARGS="--programs 10000 --seed 1"
    make hostile ARGS="--tape 01ff..."

A program is a tape of bytes. Each decision takes the next byte: the settings of the cache, the next
call and its arguments, and the action of each guest. The cache runs guests' code at these places:
``__hash__``, ``__eq__``, ``__del__``, a weak reference's callback, weigher, clock, loader,
listener, ``store_if``, an iterable of tags or keys, a collection. Its action is nothing, any call
on the same cache, on this thread or on another, or an error. At the end of the tape every decision
is 0, which is harmless.

After each call of the program itself the cache recomputes every count and link. At its end all is
dropped, and a guest that is still alive has leaked. Programs run in processes of their own, with a
fault handler and the debug allocator: a crash is a failure with a trace.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from flowcache import FlowcacheError, Limits, Loaded, create_cache
from flowcache.tenancy import tenant

DEEPEST = 4
"""Calls within calls by guests; deeper guests are harmless."""
MOST_CALLS = 300
"""Calls of one program, those of its guests included."""
PATIENCE = float(os.environ.get("PATIENCE", "20"))
PER_PROCESS = 250
"""Programs that one process runs before another takes over."""

EXPECTED = (
    FlowcacheError,
    KeyError,
    ValueError,
    TypeError,
    RuntimeError,
    IndexError,
    TimeoutError,
    StopIteration,
    GeneratorExit,
)
"""The exceptions that a call may raise. SystemError, AssertionError and their like are faults."""


class BoomError(Exception):
    """The exception of a guest."""


class StopNowError(BaseException):
    """The same as an interrupt: no ``Exception``."""


class Roll:
    """The guests that are alive: by identity, since a set would hash and compare them."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[Any]] = {}

    def add(self, guest: Any) -> None:
        key, refs = id(guest), self._refs
        refs[key] = weakref.ref(guest, lambda _: refs.pop(key, None))

    def __len__(self) -> int:
        return len(self._refs)


class Key:
    """Equal by its label, most of the time; its hash collides with many."""

    def __init__(self, world: World, label: int) -> None:
        self.world = world
        self.label = label
        world.alive.add(self)

    def __hash__(self) -> int:
        self.world.visit("hash")
        return self.label % 3

    def __eq__(self, other: object) -> bool:
        self.world.visit("eq")
        return isinstance(other, Key) and self.label == other.label

    def __del__(self) -> None:
        self.world.visit("del")


class Value:
    """Refers to its holder: only the collector ends it, and it calls back then."""

    def __init__(self, world: World, refers: Any) -> None:
        self.world = world
        self.refers = refers
        world.alive.add(self)

    def __del__(self) -> None:
        self.world.visit("del")


class Text(str):  # noqa: SLOT000  its world is no slot of a str
    """A str with hostile methods."""

    world: World

    def __hash__(self) -> int:
        self.world.visit("hash")
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        self.world.visit("eq")
        return str.__eq__(self, other)  # type: ignore[no-any-return]


class Number(int):
    """An int that compares as it likes."""

    def __le__(self, other: object) -> bool:
        return True

    __lt__ = __ge__ = __gt__ = __le__


class World:
    """One program: its tape, its cache, and all of its guests."""

    def __init__(self, tape: bytes) -> None:
        self.tape = tape
        self.at = 0
        self.depth = 0
        self.calls = 0
        self.visits = 0
        self.over = False
        self.alive = Roll()
        self.watched: list[weakref.ref[Any]] = []
        self.kept: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.faults: list[str] = []
        self.caches: list[Any] = []
        self.views: list[Any] = []
        self.with_weigher = self.draw(2) == 1
        self.with_clock = self.draw(3) == 1
        self.now = 100.0
        self.open()

    # ------------------------------------------------------------------ the tape

    def draw(self, n: int) -> int:
        """The next decision: at least 0 and below n."""
        at = self.at
        self.at = at + 1
        return self.tape[at] % n if at < len(self.tape) else 0

    def visit(self, place: str) -> None:
        """A guest's code runs: it does nothing, calls back or raises."""
        self.visits += 1
        if self.over or self.depth >= DEEPEST or self.draw(4):
            return
        what = self.draw(8)
        if what == 1:
            raise BoomError(place)
        if what == 2 and place in ("loader", "listener", "weigher", "eq"):
            raise StopNowError(place)
        if what > 2:
            self.act()

    # ------------------------------------------------------------------ guests

    def open(self) -> None:
        draw = self.draw
        cache = create_cache(
            default_ttl=(None, 5.0, 0.5)[draw(3)],
            max_entries=(None, 1, 3, 20)[draw(4)],
            weigher=self.weigh if self.with_weigher else None,
            max_weight=(None, 10)[draw(2)] if self.with_weigher else None,
            clock=self.clock if self.with_clock else None,
            child_limits=(None, Limits(max_entries=2, max_pending=2, reserved=0))[draw(2)],
            max_idle_namespaces=(10, 0, 1)[draw(3)],
        )
        self.caches.append(cache)
        self.views.append(cache)

    def weigh(self, key: Any, value: Any) -> Any:
        self.visit("weigher")
        return (1, 0, Number(3), Number(-1), 1 << 61)[self.draw(5)]

    def clock(self) -> float:
        self.visit("clock")
        self.now += (0.0, 0.0, 1.0, -0.5)[self.draw(4)]
        return self.now

    def key(self) -> Any:
        kind, label = self.draw(5), self.draw(6)
        if kind == 1:
            return f"key:{label}"
        if kind == 2:
            return (f"key:{label}", Key(self, label))
        if kind == 3:
            text = Text(f"key:{label}")
            text.world = self
            return text
        return Key(self, label)

    def value(self) -> Any:
        kind = self.draw(5)
        if kind == 0:
            return 1
        value = Value(self, [None, None, self.view(), self.views, self][kind])
        if kind == 1:
            value.refers = weakref.ref(value, lambda _: self.visit("callback"))
            self.watched.append(weakref.ref(value, lambda _: self.visit("callback")))
        return value

    def tags(self) -> Any:
        kind = self.draw(4)
        if kind == 1:
            return "red"
        if kind == 2:
            return self.yielding(["red", "blue", Text("green")][: 1 + self.draw(3)])
        return ((), ("red", "green"))[kind == 3]

    def yielding(self, items: list[Any]) -> Iterator[Any]:
        for item in items:
            if isinstance(item, Text):
                item.world = self
            self.visit("iterable")
            yield item

    def view(self) -> Any:
        return self.views[self.draw(len(self.views))]

    def ttl(self) -> Any:
        return (None, 10, 0, 0.5, Number(3))[self.draw(5)]

    def load(self) -> Any:
        self.visit("loader")
        return (1, self.value(), Loaded(self.value(), ttl=3, tags="red"))[self.draw(3)]

    async def load_async(self) -> Any:
        self.visit("loader")
        await asyncio.sleep(0)
        self.visit("loader")
        return self.value()

    def load_many(self, keys: list[Any]) -> dict[Any, Any]:
        self.visit("loader")
        return {key: self.value() for key in keys[self.draw(2) :]}

    def store_if(self, value: Any) -> bool:
        self.visit("store_if")
        return self.draw(3) != 1

    def listen(self, event: Any) -> None:
        self.visit("listener")

    # ------------------------------------------------------------------ calls

    def act(self) -> None:
        """One call, drawn from all, on a view that is drawn too."""
        self.calls += 1
        if self.calls > MOST_CALLS:
            return
        self.depth += 1
        try:
            call = CALLS[self.draw(len(CALLS))]
            call(self, self.view())
        finally:
            self.depth -= 1

    def act_elsewhere(self, _: Any) -> None:
        """The same on another thread, while this one waits."""

        def other() -> None:
            try:
                self.act()
            except (*EXPECTED, BoomError, StopNowError):
                pass
            except BaseException as error:
                self.faults.append(f"on another thread: {error!r}")

        thread = threading.Thread(target=other)
        thread.start()
        # It may wait for a load that this thread has begun, for a limited time.
        thread.join(0.2)
        self.threads.append(thread)

    def patience(self) -> dict[str, Any]:
        """A time-out but on the main thread.

        A finalizer on a thread that is being started may wait for a load of the thread that starts
        it. That wait never ends, and cannot be detected.
        """
        return {} if threading.current_thread() is threading.main_thread() else {"timeout": 0.05}

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": 0.05}
        if self.draw(2):
            options["ttl"] = self.ttl()
            options["tags"] = self.tags()
        if self.draw(3) == 1:
            options["store_if"] = self.store_if
        if self.draw(4) == 1:
            options["stale"] = True
            options["stale_if_error"] = 5
        return options

    def fetch(self, view: Any) -> None:
        view.fetch(self.key(), self.load, **self.options())

    def fetch_plainly(self, view: Any) -> None:
        """On the caller's own thread: without a time-out the loader is not given another."""
        if threading.current_thread() is threading.main_thread():
            view.fetch(self.key(), self.load, tags=self.tags())

    def afetch(self, view: Any) -> None:
        options = self.options()
        ready = view.afetch(self.key(), (self.load_async, self.load)[self.draw(2)], **options)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(awaited(ready))
        else:
            ready.close()

    def called(self, view: Any) -> None:
        by_tenant = {"tenant": "who", "path": lambda who: who} if self.draw(2) else {}
        cached = view.cached(tags=self.tags(), **by_tenant, **self.patience())(self.square)
        for _ in range(1 + self.draw(3)):
            if self.draw(2):
                cached(self.key())
            else:
                cached(also=self.key(), key=self.key(), who=f"n{self.draw(5)}")
        (cached.cache_info, cached.cache_clear, cached.cache_info)[self.draw(3)]()

    def current(self, view: Any) -> None:
        mine = view.for_current_tenant(lambda who: (who,) if self.draw(2) else who)
        with tenant(f"n{self.draw(5)}"):
            self.fetch(mine)
            mine.get(self.key())
            mine.set(self.key(), self.value())

    def square(self, key: Any, who: str = "n1", also: Any = None) -> Any:
        self.visit("loader")
        return self.value()

    def begin(self, view: Any) -> None:
        """A view of a namespace, which may be new and may be kept, and may lie below."""
        names = tuple(f"n{self.draw(5)}" for _ in range(1 + self.draw(3)))
        settings: dict[str, Any] = (
            {},
            {"max_entries": Number(4), "share": 0.5},
            {"reserved": 1},
            {"child_limits": Limits(max_entries=1)},
        )[self.draw(4)]
        found = view.namespace(*names, **settings)
        if self.draw(2) and len(self.views) < 8:
            self.views.append(found)

    def configure(self, view: Any) -> None:
        view.configure(max_entries=(None, 1, 2, Number(3))[self.draw(4)])
        if self.with_weigher:
            view.configure(max_weight=(None, 5)[self.draw(2)])

    def subscribe(self, view: Any) -> None:
        kinds = (None, "remove", ("set", "hit"))[self.draw(3)]
        end = view.subscribe(self.listen, kinds)
        if self.draw(2):
            end()
        else:
            self.kept.append(end)

    def grow(self, view: Any) -> None:
        for n in range((50, 400)[self.draw(2)]):
            view.set(("grown", n), n)

    def cut_off(self, view: Any) -> None:
        """Fill a namespace until clear() cuts it off, and clear it."""
        if self.draw(4) == 1:
            view.configure(max_entries=None)
            view.set_many({("many", n): n for n in range(8300)}, tags=self.tags())
            view.clear()

    def close(self, view: Any) -> None:
        if self.draw(6) == 1:
            self.caches[-1].close()
            self.open()

    def let_go(self, view: Any) -> None:
        """Drop views, perhaps the last of them, and all other kept objects."""
        del self.views[1 + self.draw(2) :]
        self.kept.clear()

    def misuse(self, view: Any) -> None:
        cache = self.caches[-1]
        what = self.draw(4)
        if what == 0:
            type(view).__new__(type(view))
        elif what == 1:
            cache.__init__()
        elif what == 2:
            view._begin(object())
        else:
            view.afetch(self.key(), self.load_async).close()

    def hook(self, view: Any) -> None:
        """From now on collections come often, and each is a visit."""
        gc.set_threshold(1 + self.draw(20), 2, 2)

    def check(self) -> None:
        """Recompute the caches, once the loads behind stale values have ended."""
        until = time.monotonic() + PATIENCE
        while self.threads:
            self.threads.pop().join(PATIENCE)
        for cache in self.caches:
            while not cache._is_closed() and cache.stats().pending and time.monotonic() < until:
                time.sleep(0.0005)
            cache._check()


async def awaited(what: Any) -> Any:
    return await what


CALLS: list[Callable[[World, Any], Any]] = [
    lambda w, v: v.get(w.key()),
    lambda w, v: v.set(w.key(), w.value(), ttl=w.ttl(), tags=w.tags()),
    lambda w, v: v.set(w.key(), w.value()),
    lambda w, v: v.set(w.key(), w.value(), tags=w.tags(), stale=True),
    lambda w, v: v.peek(w.key()),
    lambda w, v: v.add(w.key(), w.value(), tags=w.tags()),
    lambda w, v: v.delete(w.key()),
    lambda w, v: v.pop(w.key(), None),
    lambda w, v: v.popitem(),
    lambda w, v: v.touch(w.key(), w.ttl()),
    lambda w, v: v.ttl(w.key()),
    lambda w, v: v.incr(w.key(), 1),
    lambda w, v: v.get_many(w.yielding([w.key(), w.key()])),
    lambda w, v: v.get_many([w.key() for _ in range(w.draw(90))]),
    lambda w, v: v.set_many({w.key(): w.value(), w.key(): w.value()}, tags=w.tags()),
    lambda w, v: v.delete_many(w.yielding([w.key(), w.key()])),
    lambda w, v: v.setdefault(w.key(), w.value()),
    lambda w, v: v.update([(w.key(), w.value())]),
    lambda w, v: (v[w.key()], len(v)),
    lambda w, v: (w.key() in v, list(v), list(v.values()), v.items()),
    lambda w, v: v.clear(),
    lambda w, v: w.caches[-1].clear(),
    lambda w, v: v.invalidate_tag("red"),
    lambda w, v: v.invalidate_tags(w.tags(), match=("any", "all")[w.draw(2)]),
    lambda w, v: v.invalidate_prefix("key:"),
    lambda w, v: v.invalidate_where(lambda key, value: w.draw(2)),
    lambda w, v: v.expire(w.key()),
    lambda w, v: (v.expire_tag("red"), v.inspect(w.key()), v.tags(), v.children()),
    lambda w, v: (v.stats(), v.limits, list(v.namespaces()), v.path, repr(v), hash(v), v == v),
    lambda w, v: v.reset_stats(),
    lambda w, v: w.caches[-1].sweep(),
    lambda w, v: gc.collect(),
    World.fetch,
    World.fetch,
    World.fetch_plainly,
    World.afetch,
    lambda w, v: v.refresh(w.key(), w.load, **w.options()),
    lambda w, v: v.fetch_many(
        w.yielding([w.key(), w.key()]), w.load_many, tags=w.tags(), **w.patience()
    ),
    World.called,
    World.current,
    World.begin,
    World.begin,
    World.configure,
    World.subscribe,
    World.grow,
    World.cut_off,
    World.close,
    World.let_go,
    World.misuse,
    World.hook,
    World.act_elsewhere,
]


def run_tape(tape: bytes) -> World:
    """Run one program; AssertionError if it broke the cache, or an object leaked."""
    world = World(tape)
    unraisable: list[Any] = []

    def collected(phase: str, _: Any) -> None:
        world.visit("collection")

    threshold, hook = gc.get_threshold(), sys.unraisablehook
    sys.unraisablehook = lambda report: unraisable.append(report.exc_value)
    gc.callbacks.append(collected)
    try:
        while world.at < len(tape) and world.calls < MOST_CALLS:
            try:
                world.act()
            except (*EXPECTED, BoomError, StopNowError) as error:
                refuse(error)
            was, world.over = world.over, True  # The check is no occasion to call back.
            world.check()
            world.over = was
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collected)
        world.over = True
    while unraisable:  # No name for one of them: it would keep its guests alive.
        refuse(unraisable.pop())
    assert not world.faults, world.faults
    alive = world.alive
    world.__dict__.update(caches=[], views=[], kept=[], watched=[])
    until = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        if len(alive) == 0 or time.monotonic() > until:
            break
        time.sleep(0.001)
    sys.unraisablehook = hook
    assert len(alive) == 0, f"{len(alive)} guests outlived their cache"
    return world


def refuse(error: BaseException) -> None:
    """Fail for an exception that no call may raise, as SystemError: a fault of a C function."""
    seen: BaseException | None = error
    while seen is not None:
        assert isinstance(seen, (*EXPECTED, BoomError, StopNowError)), repr(seen)
        seen = seen.__context__


def tape_of(seed: int, n: int) -> bytes:
    draw = random.Random(f"{seed}/{n}")
    return draw.randbytes(draw.choice((60, 200, 600, 1500)))


# ---------------------------------------------------------------------- processes


def child() -> None:
    """Read tapes, one a line, in hexadecimal; answer each with its counts."""
    logging.getLogger("flowcache").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        world = run_tape(bytes.fromhex(line.strip()))
        print(world.calls, world.visits, flush=True)
        del world
    faulthandler.cancel_dump_traceback_later()


class Runner:
    """A process that runs tapes, and is replaced when it has died or run many."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.ran = 0

    def run(self, tape: bytes) -> tuple[int, int]:
        """Run one tape; AssertionError with the trace if the process did not survive it."""
        if self.process is None or self.ran >= PER_PROCESS:
            self.close()
            self.ran = 0
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-W", "error", __file__, "--child"],
                env=os.environ | {"PYTHONMALLOC": "debug"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(tape.hex() + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        self.ran += 1
        if not answer:
            trace = process.stderr.read()
            self.close()
            raise AssertionError(f"exit {process.returncode} of --tape {tape.hex()}\n{trace}")
        calls, visits = answer.split()
        return int(calls), int(visits)

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None


def main() -> int:
    """Run from the command line; 1 if a program was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--programs", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--seed", type=int, default=1, help="draws the tapes (1)")
    parser.add_argument("--tape", help="run this one, in this process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child()
        return 0
    if options.tape is not None:
        logging.getLogger("flowcache").setLevel(logging.CRITICAL)
        world = run_tape(bytes.fromhex(options.tape))
        print(f"{world.calls} calls, {world.visits} visits")
        return 0
    runner, calls, visits, failures = Runner(), 0, 0, 0
    for n in range(options.programs):
        try:
            more_calls, more_visits = runner.run(tape_of(options.seed, n))
        except AssertionError as failure:
            failures += 1
            print(f"FAULT: program {n}: {failure}", flush=True)
        else:
            calls += more_calls
            visits += more_visits
    runner.close()
    print(
        f"{options.programs:,} programs, {calls:,} calls, guests' code ran {visits:,} times, "
        f"{failures} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
