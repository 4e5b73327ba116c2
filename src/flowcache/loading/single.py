"""`fetch`, `afetch`, `refresh` and `arefresh`: what they do when a hit alone does not answer."""

from __future__ import annotations

from contextvars import copy_context

from flowcache.coroutines import is_async

from .attempt import attempt_in_task, attempt_in_thread, conclude, load_behind, look_up
from .load import own_loop
from .options import Call
from .run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable
    from contextvars import Context
    from typing import Any

    Loader = Callable[[], Any]

__all__ = ["afetch", "afetch_miss", "arefresh", "fetch", "fetch_miss", "refresh"]


def fetch_miss(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Answer a `fetch` that compiled code did not: from a stale value, or by a load."""
    call = Call("fetch", loader, options)
    held = look_up(namespace, key, call)
    if held is None:
        return load_in_thread(namespace, key, loader, call)
    if call.is_due(held):
        load_behind(Run(namespace, loader, call, background=True), [key])
    return held.value


def fetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Answer a `fetch` that compiled code has not looked at: `refresh_ahead=`, wrong arguments."""
    if is_async(loader):
        return afetch(namespace, key, loader, **options)
    return fetch_miss(namespace, key, loader, **options)


def afetch(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Answer an `afetch` that compiled code did not. Bad options raise before it is awaited.

    The context is taken here, as the namespace is: the awaitable may be awaited in another one.
    """
    call = Call("afetch", loader, options)
    context = copy_context()

    async def afetch() -> Any:
        loop = own_loop()
        held = context.run(look_up, namespace, key, call, in_task=True)
        if held is None:
            in_place = key in call.in_place
            return await load_in_task(namespace, key, loader, call, context, is_refresh=in_place)
        if call.is_due(held):
            run = Run(namespace, loader, call, loop=loop, context=context, background=True)
            load_behind(run, [key])
        return held.value

    return afetch()


afetch_miss = afetch


def refresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Any:
    """Load the key though it be fresh, or join the load that runs. `async def`: `arefresh`."""
    if is_async(loader):
        return arefresh(namespace, key, loader, **options)
    call = Call("refresh", loader, options)
    return load_in_thread(namespace, key, loader, call, is_refresh=True)


def arefresh(namespace: Any, key: Hashable, loader: Loader, /, **options: Any) -> Awaitable[Any]:
    """Load the key though it be fresh, or join the load that runs."""
    call = Call("arefresh", loader, options)
    return load_in_task(namespace, key, loader, call, copy_context(), is_refresh=True)


def load_in_thread(
    namespace: Any, key: Hashable, loader: Loader, call: Call, *, is_refresh: bool = False
) -> Any:
    """Lead or join a load of the key, and block until there is an answer."""
    deadline = call.deadline()
    while True:
        # No local here, nor in what raises, holds an outcome: its traceback would hold it in turn.
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
    *,
    is_refresh: bool = False,
) -> Any:
    """Lead or join a load of the key, and suspend until there is an answer.

    The loader runs in a copy of `context`, which is that of the call.
    """
    loop = own_loop()
    deadline = call.deadline()
    while True:
        run = Run(namespace, loader, call, loop=loop, context=context, is_refresh=is_refresh)
        answer = conclude(run, key, await attempt_in_task(run, key, deadline))
        if answer is not None:
            return answer[0]
