"""An event that happens once, and the threads and tasks of any loop that wait for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Event

__all__ = ["Bell"]


class Bell:
    """Rings once. A thread waits for it with `wait`, a task with `awaited`."""

    __slots__ = ("_event", "_tasks")

    def __init__(self) -> None:
        self._event = Event()
        self._tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def has_rung(self) -> bool:
        """True once it has rung."""
        return self._event.is_set()

    def ring(self) -> None:
        """Wake all waiters; from any thread."""
        self._event.set()
        tasks, self._tasks = self._tasks, []
        for loop, future in tasks:
            with suppress(RuntimeError):  # The loop is closed, and its task with it.
                loop.call_soon_threadsafe(_wake, future)

    def wait(self, seconds: float) -> bool:
        """Block this thread until it rings, for so long at most; return whether it has rung."""
        return self._event.wait(seconds)

    async def awaited(self, seconds: float) -> bool:
        """Suspend this task until it rings, for so long at most; return whether it has rung."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        entry = (loop, future)
        self._tasks.append(entry)
        timer = loop.call_later(seconds, _wake, future)
        try:
            if not self._event.is_set():  # It may have rung before the entry was there.
                await future
        finally:
            timer.cancel()
            with suppress(ValueError):
                self._tasks.remove(entry)
        return self._event.is_set()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
