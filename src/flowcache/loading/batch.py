"""`fetch_many` and `afetch_many`: one call of a loader for all keys without another load."""

from __future__ import annotations

from contextvars import copy_context

from flowcache import _core
from flowcache.coroutines import is_async

from . import deadlock
from .attempt import begin, conclude, load_behind, look_up, settle_in_task, settle_in_thread
from .load import ABSENT, Outcome, own_loop
from .options import Call, Options, check_loader
from .run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop as Loop
    from collections.abc import Awaitable, Callable, Hashable, Iterable
    from contextvars import Context
    from typing import Any

    from .load import Load

    BatchLoader = Callable[[list[Any]], Any]

__all__ = ["afetch_many", "afetch_rest", "fetch_many", "fetch_rest"]


def fetch_many(
    namespace: Any, keys: Iterable[Hashable], loader: BatchLoader, /, **options: Any
) -> Any:
    """Return a dict of `keys`; `loader` is called once, with those that no other call loads."""
    if is_async(loader):
        return afetch_many(namespace, keys, loader, **options)
    check_loader(loader)
    checked = Options("fetch_many", options)
    return fetch_rest(namespace, tuple(_core.listed_keys(keys)), loader, checked, None, {})


def afetch_many(
    namespace: Any, keys: Iterable[Hashable], loader: BatchLoader, /, **options: Any
) -> Awaitable[dict[Any, Any]]:
    """Await a dict of `keys`; `loader` is called once, with those that no other call loads."""
    check_loader(loader)
    checked = Options("afetch_many", options)
    return afetch_rest(namespace, tuple(_core.listed_keys(keys)), loader, checked, None, {})


def fetch_rest(
    namespace: Any,
    keys: tuple[Hashable, ...],
    loader: BatchLoader,
    options: Options,
    found: dict[Hashable, Any] | None,
    missing: dict[Hashable, None],
) -> Any:
    """Answer a `fetch_many` of which the core has found some keys; `None`: it has not looked."""
    batch = Batch(namespace, keys, loader, Call(options), found=found, missing=missing)
    deadline = batch.call.deadline()
    batch.look_up_all(None)
    while batch.missing:
        run = batch.new_run(None)
        loads: list[Load] = []
        try:
            batch.begin_all(run, loads)
            while loads:
                runner = run if loads[-1].run is run else batch.new_run(None)
                batch.take(runner, loads[-1].key, settle_in_thread(runner, loads[-1], deadline))
                loads.pop()
        except BaseException:
            run.withdraw()
            raise
        finally:
            loads.clear()  # A traceback would keep this frame, and so their values.
    return batch.result()


def afetch_rest(
    namespace: Any,
    keys: tuple[Hashable, ...],
    loader: BatchLoader,
    options: Options,
    found: dict[Hashable, Any] | None,
    missing: dict[Hashable, None],
) -> Awaitable[dict[Any, Any]]:
    """Answer an `afetch_many` likewise."""
    context = copy_context()
    batch = Batch(namespace, keys, loader, Call(options), context, found=found, missing=missing)

    async def afetch_many() -> dict[Any, Any]:
        loop = own_loop()
        deadline = batch.call.deadline()
        batch.look_up_all(loop)
        while batch.missing:
            run = batch.new_run(loop)
            loads: list[Load] = []
            try:
                batch.begin_all(run, loads)
                while loads:
                    runner = run if loads[-1].run is run else batch.new_run(loop)
                    settled = settle_in_task(runner, loads[-1], deadline)
                    batch.take(runner, loads[-1].key, await settled)
                    loads.pop()
            except BaseException:
                run.withdraw()
                raise
            finally:
                loads.clear()
        return batch.result()

    return afetch_many()


class Batch:
    """One call of `fetch_many`: its results, and its missing keys."""

    def __init__(
        self,
        namespace: Any,
        keys: tuple[Hashable, ...],
        loader: BatchLoader,
        call: Call,
        context: Context | None = None,
        *,
        found: dict[Hashable, Any] | None,
        missing: dict[Hashable, None],
    ) -> None:
        self.namespace = namespace
        self.loader = loader
        self.call = call
        self.context = context
        """That of an async call, in which the loader runs; None: that of the running code."""
        self.keys = keys
        self.unseen = dict.fromkeys(keys) if found is None else missing
        """The keys that are still to be looked up."""
        self.missing: dict[Hashable, None] = {}
        self.found: dict[Hashable, Any] = {} if found is None else found

    def new_run(self, loop: Loop | None, *, is_background: bool = False) -> Run:
        return Run(
            self.namespace,
            self.loader,
            self.call,
            loop=loop,
            context=self.context,
            many=True,
            background=is_background,
        )

    def look_up_all(self, loop: Loop | None) -> None:
        """Find held values; start a background load of the due keys, by one call of the loader."""
        due = []
        for key in self.unseen:
            if self.context is None:
                found = look_up(self.namespace, key, self.call)
            else:
                found = self.context.run(look_up, self.namespace, key, self.call, in_task=True)
            if found is None:
                self.missing[key] = None
            else:
                self.found[key], is_due = found
                if is_due:
                    due.append(key)
        if due:
            load_behind(self.new_run(loop, is_background=True), due)

    def begin_all(self, run: Run, loads: list[Load]) -> None:
        """Put the loads to wait for into `loads`: first those of others, last the run's own.

        The run's own are led together. They come last because the last is waited for first.
        """
        others = []
        for key in list(self.missing):
            load = begin(run, key)
            if isinstance(load, Outcome):
                self.take(run, key, load)
            elif load.run is run:
                if loads:
                    deadlock.wait_for(load, loads[0])
                loads.append(load)
            else:
                others.append(load)
        loads[:0] = others

    def take(self, run: Run, key: Hashable, outcome: Outcome | None) -> None:
        """Take one key's result, or leave it missing, to be tried again."""
        answer = conclude(run, key, outcome)
        if answer is not None or (outcome is ABSENT and run.is_started):
            del self.missing[key]
            if answer is not None:
                self.found[key] = answer[0]

    def result(self) -> dict[Any, Any]:
        return {key: self.found[key] for key in self.keys if key in self.found}
