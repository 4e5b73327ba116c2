"""Random programs of tenants' blocks: no call is ever made for a tenant that is not its own.

    python tests/harness/tenants.py --programs 10000 --seed 1

A program is run as it is drawn. It begins and ends blocks of `tenant()` and `no_tenant()`, nested,
as decorators and by hand in any order. It suspends generators and async generators within a block,
resumes them, closes them and leaves them to the collector, in this context or another. It begins
and cancels tasks. It makes threads, executors, copied contexts and greenlets, which stop in the
middle and go on later. It awaits calls in another place than it made them. In between it reads,
stores, loads and calls cached functions through one `for_current_tenant()`.

Beside it runs a model of what is promised. A context has the tenant that was current where it was
copied, and its own blocks that have not ended. The innermost is current. A block may end in another
context than its own, or before Python 3.12 within a collection. Then a copy of that context may
have no tenant instead. Each value bears the tenant that the model had when it was asked for. One
that is read, stored or loaded for another is found at once, and again when all namespaces are
looked through at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import gc
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowcache import TenantNotSetError, TenantScopeWarning, create_cache
from flowcache.tenancy import carry, current_tenant, no_tenant, tenant
from harness.fibers import Fiber, GreenletFiber, ThreadFiber, greenlet
from harness.places import NO_TENANT, Block, Place, here, in_place

TENANTS = ("acme", "beta", "gamma")
INHERITS = bool(getattr(sys.flags, "thread_inherit_context", 0))
"""Whether a plain thread begins in a copy of its parent's context."""


class Violation(AssertionError):  # noqa: N818 - what a run finds
    """A call was made for another tenant than the model has."""


def loading_tenant() -> str:
    """Return the current tenant; the error that there is none tells the place of the load."""
    try:
        return current_tenant.get()
    except TenantNotSetError as error:
        error.place = here.get()  # type: ignore[attr-defined]
        raise


def loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Loop:
    """An object left to the collector, in a cycle."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.me = self


class Program:
    """One program: its choices, its actions, and its open blocks."""

    def __init__(self, seed: int, counts: Counter[str]) -> None:
        self.random = random.Random(seed)
        self.counts = counts
        self.left = self.random.randrange(20, 90)
        self.cache = create_cache(require_namespace=True, default_ttl=None, max_entries=None)
        self.mine = self.cache.for_current_tenant()
        self.generators: list[Any] = []
        self.agenerators: list[Any] = []
        self.fibers: list[Fiber] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.calls: list[tuple[Place, Awaitable[Any]]] = []
        self.collecting = False

        @self.mine.cached(ttl=60)
        def plain(key: int) -> str:
            return f"{loading_tenant()}'s"

        @self.mine.cached(ttl=60)
        async def later(key: int) -> str:
            before = loading_tenant()
            await asyncio.sleep(0)
            return f"{before}'s" if loading_tenant() == before else "changed"

        self.plain, self.later = plain, later

    # Checks

    def check(self, allowed: set[str], made: Callable[[], Any], what: str) -> None:
        """Make a call for one of the tenants that may be current, and check what it gives."""
        # The context of an awaitable call is a copy of this one, in which its loader runs.
        copied = Place(here.get())
        token = here.set(copied)
        try:
            value = made()
        except TenantNotSetError:
            self.refused(allowed, what)
            return
        finally:
            here.reset(token)
        if isinstance(value, Awaitable):
            self.calls.append((copied, value))
        else:
            self.see(allowed, value, what)

    def refused(self, allowed: set[str], what: str) -> None:
        if NO_TENANT not in allowed:
            raise Violation(f"{what}: no tenant instead of {allowed}") from None
        self.counts["refused"] += 1

    def see(self, allowed: set[str], value: Any, what: str) -> None:
        owners = {f"{name}'s" for name in allowed if name != NO_TENANT}
        values = value.values() if isinstance(value, dict) else (value,)
        for one in values:
            if one is not None and one not in owners:
                raise Violation(f"{what}: {one} and not of {allowed}")
        if not owners:
            raise Violation(f"{what}: answered {value!r} though no tenant is current")
        self.counts["answered"] += 1

    def look(self, what: str) -> set[str]:
        place = here.get()
        allowed, now = place.accepts(), current_tenant.get(NO_TENANT)
        if now not in allowed:
            raise Violation(f"{what}: {now} is current and not {allowed}")
        self.counts[f"seen in {what}"] += 1
        return {now}

    def call(self, what: str) -> None:
        """Make one call of the current tenant's."""
        allowed = self.look(what)
        (now,) = allowed
        key = self.random.randrange(4)
        akey = key + 100  # A thread that waited for a task's load would wait for its own loop.
        mine, value = self.mine, f"{now}'s"

        def load() -> str:
            return f"{loading_tenant()}'s"

        def load_many(keys: list[int]) -> dict[int, str]:
            return dict.fromkeys(keys, load())

        async def aload() -> str:
            return await self.later.__wrapped__(key)

        async def aload_many(keys: list[int]) -> dict[int, str]:
            return dict.fromkeys(keys, await aload())

        sync: list[Callable[[], Any]] = [
            lambda: mine.get(key),
            lambda: mine.set(key, value),
            lambda: mine.setdefault(key, value),
            lambda: mine.get_many([key, key + 1]),
            lambda: mine.pop(key, None),
            lambda: (mine.clear() and None) or None,
            lambda: dict(mine),
            lambda: mine.fetch(key, load),
            lambda: mine.fetch(key, load, timeout=30),
            lambda: mine.refresh(key, load),
            lambda: mine.fetch_many([key, key + 1], load_many),
            lambda: self.plain(key),
        ]
        calls = [*sync]
        if loop_runs():
            calls += [
                lambda: mine.afetch(akey, aload),
                lambda: mine.afetch(akey, load),
                lambda: mine.arefresh(akey, aload),
                lambda: mine.afetch_many([akey, akey + 1], aload_many),
                lambda: self.later(key),
            ] * 2
        self.check(allowed, self.random.choice(calls), what)

    # Blocks

    def block(self) -> tuple[str, Any]:
        name = self.random.choice((*TENANTS, NO_TENANT))
        return name, no_tenant() if name == NO_TENANT else tenant(name)

    def begin(self, name: str) -> Block:
        place = here.get()
        block = Block(name, place)
        place.blocks.append(block)
        return block

    def end(self, block: Block, *, surely_here: bool = True) -> None:
        block.home.blocks.remove(block)
        collected = self.collecting and sys.version_info < (3, 12)
        if not surely_here or collected or here.get(None) is not block.home:
            block.ended_elsewhere = block.home.shows_ended = True
            self.counts["ended elsewhere"] += 1

    def rows(self) -> Iterator[None]:
        name, block = self.block()
        with block:
            mark = self.begin(name)
            try:
                for _ in range(3):
                    self.call("generator")
                    yield
            finally:
                # Nothing is asked for between this and the end of the block.
                self.end(mark)

    async def pages(self) -> AsyncIterator[None]:
        name, block = self.block()
        with block:
            mark = self.begin(name)
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
                    self.call("async generator")
                    yield
            finally:
                # The task in which the loop closes it takes the place of the one that dropped it.
                self.end(mark, surely_here=False)

    # Steps

    def spend(self) -> bool:
        self.left -= 1
        return self.left > 0

    def steps(self, depth: int, pause: Callable[[], None] | None) -> None:
        """Draw and do steps that do not await, until some budget is spent."""
        for _ in range(self.random.randrange(1, 6)):
            if not self.spend():
                return
            self.step(depth, pause)

    def step(self, depth: int, pause: Callable[[], None] | None) -> None:
        kinds = ["call"] * 6 + ["generator"] * 3 + ["resume", "close", "drop", "close beside"] * 2
        kinds += ["collect", "fiber", "go on", "by hand"]
        if pause is not None:
            kinds += ["pause"] * 3
        if depth < 4:
            kinds += ["block"] * 5 + ["raise", "decorated", "set"]
            kinds += ["copy", "empty", "thread", "pool"]
        kind = self.random.choice(kinds)
        self.counts[kind] += 1
        getattr(self, "do_" + kind.replace(" ", "_"))(depth, pause)
        self.look("after " + kind)

    def do_call(self, depth: int, pause: Any) -> None:
        self.call("call")

    def do_pause(self, depth: int, pause: Any) -> None:
        pause()

    def do_block(self, depth: int, pause: Any) -> None:
        name, block = self.block()
        with block:
            mark = self.begin(name)
            try:
                self.call("block")
                self.steps(depth + 1, pause)
            finally:
                self.end(mark)

    def do_raise(self, depth: int, pause: Any) -> None:
        name, block = self.block()
        with contextlib.suppress(ZeroDivisionError), block:
            mark = self.begin(name)
            try:
                self.steps(depth + 1, pause)
                raise ZeroDivisionError
            finally:
                self.end(mark)

    def do_decorated(self, depth: int, pause: Any) -> None:
        name, block = self.block()

        @block
        def run() -> None:
            mark = self.begin(name)
            try:
                self.call("decorated")
                self.steps(depth + 1, pause)
            finally:
                self.end(mark)

        run()

    def do_set(self, depth: int, pause: Any) -> None:
        # Within a block, which ends it together with all blocks left open in it.
        name, block = self.block()
        with block:
            mark = self.begin(name)
            try:
                current_tenant.set("gamma")
                mark.tenant = "gamma"
                self.call("set")
                self.steps(depth + 1, pause)
            finally:
                self.end(mark)

    def do_by_hand(self, depth: int, pause: Any) -> None:
        """Begin two or three blocks and end them in any order."""
        marks = []
        for _ in range(self.random.randrange(2, 4)):
            name, block = self.block()
            block.__enter__()
            marks.append((block, self.begin(name)))
        self.random.shuffle(marks)
        for block, mark in marks:
            self.call("by hand")
            block.__exit__(None, None, None)
            self.end(mark)
            self.look("by hand")

    def do_generator(self, depth: int, pause: Any) -> None:
        made = self.rows()
        next(made)
        self.generators.append(made)

    def take(self) -> Any:
        """A generator that is suspended, or None."""
        if not self.generators:
            return None
        return self.generators.pop(self.random.randrange(len(self.generators)))

    def do_resume(self, depth: int, pause: Any) -> None:
        made = self.take()
        if made is not None and next(made, self) is None:
            self.generators.append(made)

    def do_close(self, depth: int, pause: Any) -> None:
        made = self.take()
        if made is not None:
            made.close()

    def do_drop(self, depth: int, pause: Any) -> None:
        made = self.take()
        if made is not None and self.random.random() < 0.5:
            made = Loop(made)

    def do_close_beside(self, depth: int, pause: Any) -> None:
        made = self.take()
        if made is None:
            return

        def close() -> None:
            made.close()

        if self.random.random() < 0.5:
            self.run_in(contextvars.copy_context(), Place(here.get()), close)
        else:
            self.run_in(contextvars.Context(), Place(), close)

    def do_collect(self, depth: int, pause: Any) -> None:
        self.collect()

    def collect(self) -> None:
        self.collecting = True
        gc.collect(1)
        self.collecting = False

    def run_in(self, context: contextvars.Context, place: Place, function: Any) -> None:
        context.run(in_place, place, function)

    def do_copy(self, depth: int, pause: Any) -> None:
        place = Place(here.get())
        self.run_in(contextvars.copy_context(), place, lambda: self.inside("copy", depth, None))

    def do_empty(self, depth: int, pause: Any) -> None:
        self.run_in(contextvars.Context(), Place(), lambda: self.inside("empty", depth, None))

    def inside(self, what: str, depth: int, pause: Any) -> None:
        self.call(what)
        self.steps(depth + 1, pause)

    def do_thread(self, depth: int, pause: Any) -> None:
        """A thread to its end: with the context, or plain."""
        fiber = self.thread(depth)
        while not fiber.is_done:
            fiber.resume()

    def do_pool(self, depth: int, pause: Any) -> None:
        """A call in a thread of an executor, which has had others before it."""
        with ThreadPoolExecutor(1) as pool:
            place = Place(here.get()) if INHERITS else Place()
            pool.submit(self.on_its_own, place, depth).result()
            carried = carry(self.on_its_own)
            pool.submit(carried, Place(here.get()), depth).result()

    def on_its_own(self, place: Place, depth: int) -> None:
        in_place(place, self.in_a_thread, "pool", depth, None)

    def in_a_thread(self, what: str, depth: int, pause: Any) -> None:
        self.inside(what, depth, pause)
        while greenlets := [one for one in self.fibers if one.thread is threading.current_thread()]:
            self.fibers.remove(greenlets[0])
            while not greenlets[0].is_done:
                greenlets[0].resume()

    def thread(self, depth: int) -> Fiber:
        place = here.get()
        if self.random.random() < 0.5:
            inherited = Place(place)

            def run(pause: Callable[[], None]) -> None:
                in_place(inherited, self.in_a_thread, "carried thread", depth, pause)

            return ThreadFiber(carry(run))
        begun = Place(place) if INHERITS else Place()

        def run_plain(pause: Callable[[], None]) -> None:
            in_place(begun, self.in_a_thread, "plain thread", depth, pause)

        return ThreadFiber(run_plain)

    def do_fiber(self, depth: int, pause: Any) -> None:
        """Begin a thread or a greenlet that stops in the middle."""
        if greenlet is None or self.random.random() < 0.4:
            self.fibers.append(self.thread(depth))
        else:
            place, context = Place(), None
            if self.random.random() < 0.5:
                place, context = Place(here.get()), contextvars.copy_context()

            def run(pause: Callable[[], None]) -> None:
                in_place(place, self.inside, "greenlet", depth, pause)

            self.fibers.append(GreenletFiber(run, context))

    def do_go_on(self, depth: int, pause: Any) -> None:
        fibers = [fiber for fiber in self.fibers if self.may_go_on(fiber)]
        if not fibers:
            return
        fiber = self.random.choice(fibers)
        self.fibers.remove(fiber)
        fiber.resume()
        if not fiber.is_done:
            self.fibers.append(fiber)

    def go_to_their_end(self) -> None:
        """Resume the greenlets of this thread until they have ended."""
        while fibers := [fiber for fiber in self.fibers if self.may_go_on(fiber)]:
            fiber = fibers[-1]
            self.fibers.remove(fiber)
            while not fiber.is_done:
                fiber.resume()

    def may_go_on(self, fiber: Fiber) -> bool:
        is_greenlet = isinstance(fiber, GreenletFiber)
        return not is_greenlet or fiber.thread is threading.current_thread()

    # With a loop

    async def asteps(self, depth: int) -> None:
        for _ in range(self.random.randrange(1, 7)):
            if not self.spend():
                return
            await self.astep(depth)

    async def astep(self, depth: int) -> None:
        kinds = ["step"] * 8 + ["sleep"] * 3 + ["await"] * 3 + ["agenerator"] * 2
        kinds += ["aresume", "aclose", "adrop"]
        if depth < 4:
            kinds += ["ablock"] * 4 + ["task"] * 3 + ["cancelled", "to thread", "adecorated"]
        kind = self.random.choice(kinds)
        self.counts[kind] += 1
        if kind == "step":
            self.step(depth, None)
        else:
            await getattr(self, "do_" + kind.replace(" ", "_"))(depth)
        self.look("after " + kind)

    async def do_sleep(self, depth: int) -> None:
        await asyncio.sleep(0)

    async def do_await(self, depth: int) -> None:
        """Await one of the calls that were made, here or elsewhere, for its own tenant."""
        if self.calls:
            await self.answer(*self.calls.pop(self.random.randrange(len(self.calls))))

    async def answer(self, place: Place, made: Awaitable[Any]) -> None:
        try:
            value = await made
        except TenantNotSetError as error:
            # The call may have joined a load of another place, whose loader has no tenant.
            self.refused(getattr(error, "place", place).accepts(), "awaited")
        else:
            self.counts["seen in awaited"] += 1
            self.see({place.current()}, value, "awaited")

    async def do_ablock(self, depth: int) -> None:
        name, block = self.block()
        with block:
            mark = self.begin(name)
            try:
                self.call("async block")
                await self.asteps(depth + 1)
            finally:
                self.end(mark)

    async def do_adecorated(self, depth: int) -> None:
        name, block = self.block()

        @block
        async def run() -> None:
            mark = self.begin(name)
            try:
                self.call("async decorated")
                await self.asteps(depth + 1)
            finally:
                self.end(mark)

        if self.random.random() < 0.5:
            await run()
        else:
            await self.task(run)

    def task(self, function: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        place = Place(here.get())

        async def run() -> None:
            here.set(place)
            await function()

        return asyncio.create_task(run())

    async def do_task(self, depth: int) -> None:
        async def run() -> None:
            self.call("task")
            await self.asteps(depth + 1)

        self.tasks.append(self.task(run))

    async def do_cancelled(self, depth: int) -> None:
        if self.tasks:
            self.tasks[self.random.randrange(len(self.tasks))].cancel()

    async def do_to_thread(self, depth: int) -> None:
        # Nothing else runs meanwhile: the model is one program's.
        place = Place(here.get())
        carried = carry(self.on_its_own)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(carried, place, depth).result()

    async def do_agenerator(self, depth: int) -> None:
        made = self.pages()
        self.agenerators.append(made)
        await anext(made)

    def atake(self) -> Any:
        idle = [made for made in self.agenerators if not made.ag_running]
        if not idle:
            return None
        made = self.random.choice(idle)
        self.agenerators.remove(made)
        return made

    async def do_aresume(self, depth: int) -> None:
        made = self.atake()
        if made is not None and await anext(made, self) is None:
            self.agenerators.append(made)

    async def do_aclose(self, depth: int) -> None:
        made = self.atake()
        if made is not None:
            await made.aclose()

    async def do_adrop(self, depth: int) -> None:
        made = self.atake()
        if made is not None and self.random.random() < 0.5:
            made = Loop(made)

    # The whole

    def run(self) -> None:
        contextvars.Context().run(in_place, Place(), self.run_here)
        for name in self.cache.namespaces():
            for value in self.cache.namespace(name).values():
                if f"tenant:{value}" != f"{name}'s":
                    raise Violation(f"{name} holds {value}")
        self.cache.close()

    def run_here(self) -> None:
        if self.random.random() < 0.5:
            self.steps(0, None)
            self.finish()
        else:
            asyncio.run(self.main())
            self.finish()

    async def main(self) -> None:
        here.set(Place(here.get()))
        for _ in range(3):
            await self.asteps(0)
        self.finish()
        while self.tasks:
            results = await asyncio.gather(*self.tasks, return_exceptions=True)
            del self.tasks[: len(results)]
            for result in results:
                if isinstance(result, Exception):
                    raise result
        while self.calls:
            await self.answer(*self.calls.pop())
        while (made := self.atake()) is not None:
            await made.aclose()
        self.finish()

    def finish(self) -> None:
        """End what is still open, in no order, and look once more."""
        self.left = 0
        self.go_to_their_end()
        self.random.shuffle(self.generators)
        while self.generators:
            self.generators.pop().close()
            self.look("finish")
        self.collect()
        self.look("finish")


def run(programs: int, seed: int, *, seconds: float | None = None) -> Counter[str]:
    """Run programs; return their counts. Raises `Violation`, with the program's number."""
    counts: Counter[str] = Counter()
    began = time.monotonic()
    gc.collect()
    gc.freeze()
    gc.disable()  # A collection at any moment would change what is open, and not tell the model.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TenantScopeWarning)
            for number in range(programs):
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                try:
                    Program(hash((seed, number)), counts).run()
                except Violation as violation:
                    raise Violation(f"program {number} of seed {seed}: {violation}") from violation
                counts["programs"] += 1
                if number % 50 == 0:
                    gc.collect()
    finally:
        gc.enable()
    return counts


def main() -> int:
    """Run as many programs as were asked for."""
    parser = argparse.ArgumentParser(description="Check tenants' blocks with random programs.")
    parser.add_argument("--programs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    try:
        counts = run(arguments.programs, arguments.seed)
    except Violation as violation:
        print(f"VIOLATION: {violation}")
        return 1
    print(", ".join(f"{count:,} {kind}" for kind, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
