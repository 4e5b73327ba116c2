"""`fetch`, `afetch`, `refresh` and `arefresh`: calls that a hit alone does not answer."""

from __future__ import annotations

from contextvars import copy_context

from flowcache.coroutines import is_async

from .attempt import attempt_in_task, attempt_in_thread, conclude, load_behind
from .load import Outcome, own_loop
from .options import Call, Options, check_loader, unpack
from .run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable, Hashable
    from contextvars import Context
    from typing import Any

    from .load import Load

    Loader = Callable[[], Any]

__all__ = [
    "aanswer",
    "afetch",
    "arefresh",
    "areload",
    "fetch",
    "finish_led",
    "load_anew",
    "load_missing",
    "refresh",
    "reload",
    "settle_led",
]


def fetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Answer a `fetch` with arguments that compiled code did not parse."""
    if is_async(loader):
        return afetch(namespace, key, loader, **options)
    check_loader(loader)
    return namespace._fetch(key, loader, Options("fetch", options))


def afetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Answer an `afetch` that compiled code did not. Bad options raise before it is awaited."""
    check_loader(loader)
    return aanswer(namespace, key, loader, Options("afetch", options))


def aanswer(
    namespace: Any,
    key: Hashable,
    loader: Loader,
    options: Options,
    on_miss: Callable[[], object] | None = None,
) -> Awaitable[Any]:
    """Return an awaitable of the held value, with a background load if due, or of a loaded one.

    The context is taken here, as the namespace is: the awaitable may be awaited in another one.
    """
    context = copy_context()

    async def afetch() -> Any:
        loop = own_loop()
        found = context.run(namespace._look_up, key, options, True)
        call = Call(options)
        if found:
            value, is_due = found
            if is_due:
                run = Run(namespace, loader, call, loop=loop, context=context, background=True)
                load_behind(run, [key])
            return value
        in_place = found is False
        if in_place:
            call.in_place = {key}
        if on_miss is not None:
            context.run(on_miss)
        return await load_in_task(namespace, key, loader, call, context, loop, in_place)

    return afetch()


def refresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Load the key even if it is fresh, or join the running load. `async def`: `arefresh`."""
    if is_async(loader):
        return arefresh(namespace, key, loader, **options)
    check_loader(loader)
    return reload(namespace, key, loader, Options("refresh", options))


def arefresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Load the key even if it is fresh, or join the running load."""
    check_loader(loader)
    return areload(namespace, key, loader, Options("arefresh", options))


def reload(namespace: Any, key: Hashable, loader: Loader, options: Options) -> Any:
    """Load the key, or join the running load."""
    return load_in_thread(namespace, key, loader, Call(options), is_refresh=True)


def areload(namespace: Any, key: Hashable, loader: Loader, options: Options) -> Awaitable[Any]:
    """Return an awaitable of the same."""
    context = copy_context()

    async def arefresh() -> Any:
        return await load_in_task(
            namespace, key, loader, Call(options), context, own_loop(), is_refresh=True
        )

    return arefresh()


# Calls that compiled code hands over, with their state.


def load_anew(namespace: Any, key: Hashable, loader: Loader, options: Options) -> None:
    """Load a key in the background, after a sync call that was answered with the held value."""
    load_behind(Run(namespace, loader, Call(options), background=True), [key])


def load_missing(namespace: Any, key: Hashable, loader: Loader, options: Options) -> Any:
    """Answer a sync call that was counted as a miss, and that compiled code cannot lead."""
    return load_in_thread(namespace, key, loader, Call(options))


def settle_led(load: Load, value: Any) -> None:
    """Give the value of a load that compiled code led to the calls that joined it."""
    load.settle(Outcome(value, None, load.loss))


def finish_led(
    load: Load, options: Options, value: Any, error: BaseException | None, seconds: float
) -> Any:
    """End a load that compiled code led, and that did not end with a plain value."""
    run, key = load.run, load.key
    run.call = Call(options)
    try:
        run.finish(value, error, seconds)
        answer = conclude(run, key, load.outcome)
        if answer is not None:
            return answer[0]
        # Another call has ended it meanwhile, as after a fork: this call returns its own value.
        if error is not None:
            raise error
        return unpack(value)[0]
    finally:
        del load, value, error  # A traceback holds this frame.


def load_in_thread(
    namespace: Any, key: Hashable, loader: Loader, call: Call, *, is_refresh: bool = False
) -> Any:
    """Lead or join a load of the key, and block until there is an answer."""
    deadline = call.deadline()
    while True:
        # No local here, nor in a function that raises, holds an outcome: a traceback would keep it.
        run = Run(namespace, loader, call, is_refresh=is_refresh)
        answer = conclude(run, key, attempt_in_thread(run, key, deadline))
        if answer is not None:
            return answer[0]


async def load_in_task(
    namespace: Any,
    key: Hashable,
    loader: Loader,
    call: Call,
    context: Context,
    loop: AbstractEventLoop,
    is_refresh: bool,
) -> Any:
    """Lead or join a load of the key, and suspend until there is an answer.

    The loader runs in a copy of `context`, which is that of the call.
    """
    deadline = call.deadline()
    while True:
        run = Run(namespace, loader, call, loop, context)
        if is_refresh:
            run.is_refresh = True
        answer = conclude(run, key, await attempt_in_task(run, key, deadline))
        if answer is not None:
            return answer[0]
