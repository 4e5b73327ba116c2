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
import faulthandler
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from typing import Any

from flowcache import FlowcacheError, Limits, Loaded, create_cache
from harness import calls
from harness.guests import BoomError, House, Key, Value
from harness.support import SOURCE_FOLDER, TESTS_FOLDER

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


class StopNowError(BaseException):
    """The same as an interrupt: no ``Exception``."""


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


class World(House):
    """One program: its tape, its cache, and all of its guests."""

    def __init__(self, tape: bytes) -> None:
        super().__init__()
        self.tape = tape
        self.at = 0
        self.depth = 0
        self.calls = 0
        self.visits = 0
        self.over = False
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
        # A cache that is being made reads its clock, and nothing can be called on it yet.
        if self.over or not self.views or self.depth >= DEEPEST or self.draw(4):
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
            return (f"key:{label}", self.guest(label))
        if kind == 3:
            return self.text(f"key:{label}")
        return self.guest(label)

    held = new = number = key

    def guest(self, label: int) -> Key:
        return Key(self, label, label % 3)

    def text(self, plain: str) -> Text:
        text = Text(plain)
        text.world = self
        return text

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
            return self.several(*["red", "blue", self.text("green")][: 1 + self.draw(3)])
        return ((), ("red", "green"))[kind == 3]

    def view(self) -> Any:
        return self.views[self.draw(len(self.views))]

    def ttl(self) -> Any:
        return (None, 10, 0, 0.5, Number(3))[self.draw(5)]

    def load(self) -> Any:
        self.visit("loader")
        return (1, self.value(), Loaded(self.value(), ttl=3, tags="red"))[self.draw(3)]

    def load_many(self, keys: list[Any]) -> dict[Any, Any]:
        self.visit("loader")
        return {key: self.value() for key in keys[self.draw(2) :]}

    def store_if(self, value: Any) -> bool:
        self.visit("store_if")
        return self.draw(3) != 1

    @property
    def cache(self) -> Any:
        return self.caches[-1]

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
        """A time-out but on the main thread, where without one the loader runs on that thread.

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

    def afetch(self, view: Any) -> None:
        loader = (self.load_async, self.load)[self.draw(2)]
        calls.finish(view.afetch(self.key(), loader, **self.options()))

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


OWN = (
    "close",
    "enabled",
    "configure",
    "configure, evicting",
    "configure, weight",
    "fetch, timeout",
)
"""Calls that would end what a program can do, or take long, if they were as they are elsewhere."""

CALLS: list[calls.Call] = [
    *(call for name, call in calls.CALLS.items() if name not in OWN),
    lambda w, v: gc.collect(),
    World.fetch,
    World.fetch,
    World.afetch,
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
    handler = signal.getsignal(signal.SIGINT)
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
        # A guest that raises within asyncio.run() can keep it from removing its own, with its task.
        signal.signal(signal.SIGINT, handler)
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
    # A guest may raise between a call and the begin of the coroutine that it has made.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
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
                env=os.environ
                | {
                    "PYTHONMALLOC": "debug",
                    "PYTHONPATH": os.pathsep.join([SOURCE_FOLDER, TESTS_FOLDER]),
                },
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
