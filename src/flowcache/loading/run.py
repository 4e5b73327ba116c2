"""One run of a loader, for one key or for many. Its loads are settled in every case.

A sync loader runs in the thread of the leading call, an async one in a task of its own that belongs
to no caller. A run can end in five ways. Each leaves no record in the table of running loads and no
waiter asleep. The ways are a value; an error; an interrupt (`KeyboardInterrupt` and its like) or a
cancellation from outside, after which a waiter leads; the close of its loop; and a `fork`, which
leaves its thread behind.
"""

from __future__ import annotations

import contextvars
import math
import sys
import threading
import weakref
from collections.abc import Coroutine, Mapping
from contextlib import nullcontext, suppress
from time import perf_counter
from types import CoroutineType

from flowcache._core import forks_since_import, is_plain
from flowcache.coroutines import is_awaitable
from flowcache.errors import TooManyLoadsError
from flowcache.reports import report, shown

from . import backoff, deadlock, overdue
from .around import await_within, produce_within
from .load import ABANDONED, ABSENT, Load, Outcome, running_loop
from .options import MISSING, Call, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager
    from contextvars import Context
    from typing import Any


__all__ = ["Run", "run_of"]

FAR_FUTURE = 3650 * 86400.0
"""Seconds until the timer that watches over a loop would fire."""

_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[LoopWatch]] = (
    weakref.WeakKeyDictionary()
)


def no_watch() -> LoopWatch | None:
    """Stand for a reference to a watch that is gone."""


_latest: Callable[[], LoopWatch | None] = no_watch
"""A weak reference to the watch that was asked for last."""


class LoopWatch:
    """Ends the runs of an event loop that closes under them.

    Only a timer of that loop refers to it. `close()` drops the timers, and with this one the runs,
    which no callback of the loop would ever end. It refers to the runs, so that no running load is
    collected.
    """

    __slots__ = ("__weakref__", "itself", "loop", "runs")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.runs: set[Run] = set()
        self.itself = weakref.ref(self)
        self.loop = weakref.ref(loop)

    def __call__(self) -> None:
        """The timer fires, ten years from now."""

    def __del__(self) -> None:
        for run in list(self.runs):  # In one step, which tuple() is not.
            run.cut_off_for_ever()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopWatch:
        """Return the watch over a loop; to be called on the loop's own thread."""
        global _latest  # noqa: PLW0603  of any loop: most processes have one
        watch = _latest()
        if watch is not None and watch.loop() is loop:
            return watch
        known = _watches.get(loop)
        watch = None if known is None else known()
        if watch is None:
            watch = cls(loop)
            # In an empty context: the loop keeps that of the call for as long as it lives.
            contextvars.Context().run(loop.call_later, FAR_FUTURE, watch)
            _watches[loop] = watch.itself
        _latest = watch.itself
        return watch


class Run:
    """A run of `loader` for the loads that it leads."""

    # Attributes that most runs never change are the class's.
    is_apart = False
    """It runs apart from its first caller, and an interrupt of that caller does not end it."""
    is_started = False
    forsaken = False
    greenlet: object = None
    """The greenlet that will run it or runs it, if its thread runs several."""
    thread: int | None = None
    """The thread that will run it or runs it, and so cannot wait for it; None: not known."""
    handled: BaseException | None = None
    """The exception that the caller handles while the loader runs in its thread."""
    interrupted: BaseException | None = None
    """The exception that ended the run and is for its first caller alone."""
    stands_in_for: Load | None = None
    """The registered load in whose place the result is stored, for a run beside it."""
    task: asyncio.Task[None] | None = None
    watch: weakref.ref[LoopWatch] | None = None
    """Weak, or it would outlive the timer of a loop that was closed."""

    def __init__(
        self,
        namespace: Any,
        loader: Callable[..., Any],
        call: Call,
        loop: asyncio.AbstractEventLoop | None = None,
        context: Context | None = None,
        *,
        many: bool = False,
        is_refresh: bool = False,
        background: bool = False,
    ) -> None:
        self.namespace = namespace
        self.loader: Callable[..., Any] | None = loader
        self.call = call
        self.loop = loop
        self.context = context
        """That of the call, in a copy of which its task runs the loader."""
        self.many = many
        self.is_refresh = is_refresh
        self.background = self.detached = background
        """Detached: it runs on when no call waits for it."""
        self.loads: list[Load] = []
        self.tickets: list[None] = []
        """One, while a thread of the pool may claim the run."""
        if loop is None and not background:
            self.greenlet = current_greenlet()
            self.thread = threading.get_ident()

    # Registering

    def begin(self, key: Hashable) -> Load | tuple[Any] | None:
        """Register a load of `key` for this run, or return the one that runs already.

        If a held value answers the call by now, no load is needed: (value,), or None in the
        background. Raises `TooManyLoadsError`, `CacheClosedError`, and `TypeError` for an
        unhashable key. Near the recursion limit it raises `RecursionError` before anything is
        registered, as no load could be ended there.
        """
        begun: Load | tuple[Any] | None
        begin, options, loads = self.namespace._begin, self.call.options, self.loads
        try:
            begun = begin(key, options, self, loads, self.background, self.is_refresh)
        except TooManyLoadsError:
            if not end_left(self.namespace._store()):
                raise
            begun = begin(key, options, self, loads, self.background, self.is_refresh)
        if self.loop is None and self.call.options.timeout is not None and not self.background:
            self._refuse_overdue(begun)
        return begun

    def _refuse_overdue(self, begun: Load | tuple[Any] | None) -> None:
        """Give up a load that would need one thread too many."""
        if not isinstance(begun, Load) or begun.run is not self:
            return
        try:
            overdue.refuse_more(self.namespace)
        except BaseException:
            self.namespace._abandon(begun)
            self.loads.remove(begun)
            begun.settle(ABANDONED)
            raise

    def begin_beside(self, target: Load) -> Load:
        """Make a load that is not registered; it is stored as `target`'s, if that still stands."""
        load = Load(target.key, self.call.options.tags)
        load.run = self
        load.stands_in_for = self.stands_in_for = target
        load.around_load = target.around_load
        self.loads.append(load)
        return load

    def offer(self) -> None:
        """Let a thread of the pool claim the run, which is complete now."""
        self.tickets.append(None)
        self.is_apart = True  # Last: an exception in between must not leave it to no thread.

    def claim(self) -> bool:
        """Take the right to run a run of the pool, or to end it before it runs: True, once."""
        try:
            self.tickets.pop()
        except IndexError:
            return False
        return True

    def started(self) -> float:
        """Return when its first load began, on the cache's clock; the past, if it has ended."""
        return min((load.started for load in tuple(self.loads)), default=-math.inf)

    def is_superseded(self) -> bool:
        """True if its result would not be stored and no call waits for it."""
        loads = tuple(self.loads)
        return all(load.outcome is not None or (load.fenced and not load.waiters) for load in loads)

    def is_in_other_greenlet(self) -> bool:
        """True if it runs on this thread and yet not below this call: to block would stop it."""
        return (
            self.greenlet is not None
            and self.thread == threading.get_ident()
            and self.greenlet is not current_greenlet()
        )

    def is_left(self) -> bool:
        """True if it cannot go on: a fork left its thread behind, or its loop stands."""
        if self.loop is not None and not self.loop.is_running():
            return True
        return any(load.forks != forks_since_import() for load in self.loads)

    def may_be_joined(self) -> bool:
        """True if it runs. If not, it is ended, and the next to begin a load leads.

        A run that only waits for a thread of the pool is ended too: a new call need not wait for
        the runs before it.
        """
        if self.is_left() or (self.loop is None and self.background and self.claim()):
            self.end()
            return False
        return True

    # Running

    def execute(self) -> None:
        """Run a sync loader to its end in this thread. Raises exceptions for this thread alone."""
        self.is_started = True
        self.thread = threading.get_ident()
        self.greenlet = current_greenlet()
        self.handled = sys.exception()
        scope, token = deadlock.enter_load(self.loads[0])
        began = perf_counter()
        try:
            produced = error = None
            try:
                around = self.loads[0].around_load
                produced = (
                    self._produce()
                    if around is None
                    else produce_within(self._surroundings(around), self._produce)
                )
            except Exception as failure:
                error = failure
            self._conclude(produced, error, perf_counter() - began)
        except BaseException as interrupt:
            self._be_interrupted(interrupt)
            raise
        finally:
            deadlock.leave_load(scope, token)
            self.end()
            error = None  # Its traceback holds this frame.

    def _conclude(self, produced: Any, error: Exception | None, seconds: float) -> None:
        """Settle the loads of a sync loader. Raises exceptions for the first caller alone."""
        if error is None and not is_plain(produced) and is_awaitable(produced):
            refused = refuse_awaitable(produced)
            if not self.background:
                raise refused
            error = refused
        if error is None:
            self._deliver(produced, seconds)
        else:
            self._fail_all(error, seconds)

    def finish(self, produced: Any, error: BaseException | None, seconds: float) -> None:
        """End a load that compiled code led up to here. Raises exceptions for its caller alone."""
        self.handled = sys.exception()
        try:
            if error is not None and not isinstance(error, Exception):
                raise error
            self._conclude(produced, error, seconds)
        except BaseException as interrupt:
            self._be_interrupted(interrupt)
            raise
        finally:
            self.end()
            del error

    def execute_in_thread(self) -> None:
        """Run a sync loader in a daemon thread of its own, in a copy of the caller's context."""
        within = contextvars.copy_context().run
        try:
            self.is_started = self.is_apart = True
            overdue.enter_thread(self)
            threading.Thread(
                target=within, args=(self._execute_in_own,), name="flowcache-load", daemon=True
            ).start()
        except BaseException:
            self.is_apart = False  # Should the end fail as well, `withdraw` tries once more.
            overdue.leave_thread(self)
            self.end()
            raise
        # Up to here a finalizer that fetches the key would wait for the code that it interrupts.
        if self.thread == threading.get_ident():
            self.thread = self.greenlet = None  # Not this one; the other has not begun.

    def _execute_in_own(self) -> None:
        try:
            self.execute_apart()
        finally:
            overdue.leave_thread(self)

    def is_overdue(self) -> bool:
        """True if a call ran out of patience with it, and none waits for it now."""
        return self.detached and not any(load.waiters for load in tuple(self.loads))

    def execute_apart(self) -> None:
        """Run in a thread without a caller: an interrupt is for the first caller, or logged."""
        with suppress(BaseException):
            self.execute()

    def start_task(self) -> None:
        """Run the loader, sync or async, in a task of this thread's running loop."""
        loop, context = self.loop, self.context
        assert loop is not None
        assert context is not None
        coroutine = None
        try:
            self.is_started = self.is_apart = True
            coroutine = self._execute_in_task(self.loads[0])
            watch = LoopWatch.of(loop)
            self.watch = watch.itself
            watch.runs.add(self)
            # Not by `context=`, which a task factory of the application may not take.
            self.task = task = context.run(loop.create_task, coroutine)
            # A task that is cancelled before its first step never enters the coroutine.
            task.add_done_callback(self._task_done)
        except BaseException:
            self.is_apart = False
            if coroutine is not None:
                coroutine.close()
            self.end()
            raise

    async def _execute_in_task(self, load: Load) -> None:
        if load.outcome is not None:
            return  # The loop stood still, and another call has taken over.
        scope, _ = deadlock.enter_load(load)
        self.handled = sys.exception()  # There is one if the task begins within its caller.
        began = perf_counter()
        try:
            try:
                around = load.around_load
                produced = (
                    self._produce()
                    if around is None
                    else await_within(self._surroundings(around), self._produce)
                )
                if type(produced) is CoroutineType or (
                    not is_plain(produced) and is_awaitable(produced)
                ):
                    produced = await produced
            except Exception as failure:
                self._fail_all(failure, perf_counter() - began)
            else:
                seconds = perf_counter() - began
                if self.many:
                    self._deliver(produced, seconds)
                elif self.loads:  # Others may have ended the run meanwhile.
                    self._keep(load, produced, seconds, seconds)
        except BaseException as interrupt:
            # A cancellation from outside sends every caller back to the start. So does the end of
            # the coroutine without its loop, perhaps at the exit of the interpreter.
            if running_loop() is not self.loop or is_cancellation(interrupt):
                self.cut_off()
            else:
                self._be_interrupted(interrupt)
            raise
        finally:
            deadlock.leave_load(scope, None)
            task = self.task
            self.end()
            del load  # An error's traceback holds this frame; its load holds the error.
        if task is not None:
            task.remove_done_callback(self._task_done)  # It has no more to do.

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.cut_off()  # It has ended by now, unless it was cancelled before its first step.
        if not task.cancelled():
            task.exception()  # Seen: `interrupted` bears it, or it was raised out of the loop.

    def forsake(self) -> None:
        """Cancel the task if no call waits for any of its loads."""
        task, loop = self.task, self.loop
        if task is None or loop is None or self.detached or self.forsaken:
            return
        if any(load.waiters for load in self.loads):
            return
        # The load stays registered until the loader has really ended, so that no second one runs
        # beside it. A call that joins until then waits for the end, and leads next.
        self.forsaken = True
        if running_loop() is loop:
            task.cancel()
        else:
            with suppress(RuntimeError):
                contextvars.Context().run(loop.call_soon_threadsafe, cancel, task)

    # Ending

    def _be_interrupted(self, interrupt: BaseException) -> None:
        """Keep an exception that is no `Exception` for the first caller: no other may raise it.

        Interrupts, killed greenlets and time-outs of greenlets and task runners are meant for the
        code that they were raised in. Of the callers that wait, one leads the next load.
        """
        self.interrupted = interrupt
        if self.background:
            for load in tuple(self.loads):
                backoff.note_failure(self.namespace, load.key)
        if self.detached:
            report(
                "WARNING",
                "a background load was interrupted by %s",
                shown(interrupt),
                event="load_interrupted",
                **self._place(),
            )

    def end(self) -> None:
        """Abandon unsettled loads and drop all references. At any time, by any code, repeatedly."""
        for load in tuple(self.loads):
            if load.outcome is None:
                self.namespace._abandon(load)
                load.settle(ABANDONED)
            elif load.waiters:
                # An interrupt came once the outcome was published, before the waiters woke.
                load.settle(ABANDONED)
        watch = None if self.watch is None else self.watch()
        if watch is not None:
            watch.runs.discard(self)
        self.loads.clear()
        self.loader = self.watch = self.task = None
        self.stands_in_for = self.context = self.handled = self.greenlet = None

    def cut_off(self) -> None:
        """End a run whose task or event loop ends before it, and remember it if none waits."""
        if self.background:
            for load in tuple(self.loads):
                if load.outcome is None:
                    backoff.note_failure(self.namespace, load.key, cut_off=True)
        self.end()

    def cut_off_for_ever(self) -> None:
        """Cut off a run whose event loop is closed, and close its coroutine.

        The collector would close it in the context of the code that runs then, another tenant's
        perhaps.
        """
        task, context = self.task, self.context
        self.cut_off()
        coroutine = None if task is None else task.get_coro()
        if task is None or coroutine is None or context is None or sys.is_finalizing():
            return
        own_context = getattr(task, "get_context", None)  # From CPython 3.12 on.
        context = context.copy() if own_context is None else own_context()
        try:
            context.run(coroutine.close)
        except BaseException as error:
            report(
                "WARNING",
                "a loader that its closed event loop cut off failed",
                event="load_cut_off",
                error=error,
                **self._place(),
            )

    def withdraw(self) -> None:
        """End a run whose first caller was interrupted, unless another thread runs it."""
        if not self.is_apart or self.claim():
            self.end()

    def _produce(self) -> Any:
        loader = self.loader
        assert loader is not None
        if self.many:
            return loader([load.key for load in self.loads])
        if self.call.options.pass_old:
            held = self.namespace._held(self.loads[0].key)
            return loader(MISSING if held is None else held[0])
        return loader()

    def _surroundings(self, around: Callable[..., Any]) -> AbstractContextManager[object]:
        """Return the context manager that `around_load` makes: for a batch, of all its keys."""
        if getattr(self.loader, "enters_around_load", False):
            return nullcontext()  # Where it calls the user's loader, it does so itself.
        keys = tuple(load.key for load in self.loads)
        made: AbstractContextManager[object]
        made = around(self.namespace.path, keys if self.many else keys[0])
        return made

    def _deliver(self, produced: Any, seconds: float) -> None:
        # Others may have ended the run meanwhile: then there is no load to settle.
        if not self.many:
            for load in tuple(self.loads):
                self._keep(load, produced, seconds, seconds)
            return
        if not isinstance(produced, Mapping):
            error = TypeError(
                "loader_many: must return a mapping of keys to values, "
                f"got {type(produced).__name__}"
            )
            self._fail_all(error, seconds)
            return
        counted = seconds
        for load in tuple(self.loads):
            try:
                absent = load.key not in produced
                value = None if absent else produced[load.key]
            except Exception as error:
                self._fail(load, error, seconds, counted)
            else:
                if absent:
                    self._leave_out(load)
                    continue
                self._keep(load, value, seconds, counted)
            counted = 0.0

    def _keep(self, load: Load, produced: Any, seconds: float, counted: float) -> None:
        """Store the value, unless an invalidation came before, and hand it to the waiters."""
        anew = self.is_refresh or self.background
        try:
            options = self.call.options
            self.namespace._finish(load, options, produced, seconds, counted, anew)
        except Exception as error:
            if load.outcome is not None:
                raise  # The waiters have it: what failed came after.
            self._fail(load, error, seconds, counted)

    def _leave_out(self, load: Load) -> None:
        """End a load of a key that a batch loader left out: the entry to replace is removed."""
        if self.stands_in_for is None:
            self.namespace._leave_out(load, self.call.options)
        backoff.forget_failures(self.namespace, load.key)
        load.settle(ABSENT)

    def _fail_all(self, error: BaseException, seconds: float) -> None:
        counted = seconds
        for load in tuple(self.loads):
            self._fail(load, error, seconds, counted)
            counted = 0.0

    def _fail(self, load: Load, error: BaseException, seconds: float, counted: float) -> None:
        unseen = self.background or ((self.detached or self.forsaken) and not load.waiters)
        if self.background or load.key in self.call.in_place:
            # First: no call may begin the next one before the key is known to back off.
            backoff.note_failure(self.namespace, load.key)
        self.namespace._abandon(load, counted, failed=True)
        load.settle(Outcome(error=error, leader=self, handled=self.handled))
        self.namespace._emit("load_error", load.key, None, None, error, seconds)
        if unseen:
            report(
                "WARNING",
                "a background load in namespace %s failed",
                shown(self.namespace.path),
                event="load_failed",
                error=error,
                key=load.key,
                **self._place(),
            )

    def _place(self) -> dict[str, Any]:
        """Return the fields of a log record that tell of the namespace."""
        return {"cache": self.namespace._store().name, "path": self.namespace.path}


def end_left(store: object) -> bool:
    """End the loads of a cache whose event loops do not run; False: there are none."""
    ended = False
    for known in _watches.keyrefs():
        loop = known()
        if loop is None or loop.is_running():
            continue
        watch_ref = _watches.get(loop)
        watch = None if watch_ref is None else watch_ref()
        if watch is None:
            continue
        for run in list(watch.runs):
            if run.namespace._store() is store:
                run.cut_off()
                ended = True
    return ended


def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task, without a message."""
    task.cancel()


def is_cancellation(interrupt: BaseException) -> bool:
    """True if the running task was asked to stop: the error is then not the loader's own."""
    from asyncio import CancelledError, current_task

    task = current_task()
    return isinstance(interrupt, CancelledError) and task is not None and task.cancelling() > 0


def current_greenlet() -> object:
    """Return the greenlet that runs, or None where there are no greenlets."""
    ask = getattr(sys.modules.get("greenlet"), "getcurrent", None)
    return None if ask is None else ask()


def run_of(load: Load) -> Run:
    """Return the record of a run that compiled code leads, for a call that joins its load."""
    run = Run(load.namespace, no_loader, PLAIN)
    run.is_started = True
    run.thread, run.greenlet = load.thread, load.greenlet
    run.loads.append(load)
    return run


def no_loader() -> None:
    """Stand for the loader of a run that compiled code leads."""


PLAIN = Call(Options("fetch", {}))


def refuse_awaitable(produced: Any) -> TypeError:
    """Return the error for a sync call whose loader made an awaitable; close that, in silence."""
    if isinstance(produced, Coroutine):
        produced.close()
    return TypeError(
        f"loader: returned an awaitable ({type(produced).__name__}); "
        "use afetch (arefresh, afetch_many) for it"
    )
