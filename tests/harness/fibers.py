"""Programs that stop in the middle and go on when they are told to: threads and greenlets."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

try:
    from greenlet import getcurrent, greenlet
except ImportError:  # it has compiled parts, and these no wheels for every build without the GIL
    greenlet = None


class Fiber:
    """A program that stops in the middle and goes on when it is told to."""

    def resume(self) -> None:
        raise NotImplementedError

    is_done = False


class ThreadFiber(Fiber):
    """One in a thread, which runs while the thread that resumes it waits."""

    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.run = run
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()

    def main(self) -> None:
        self.turn.acquire()
        try:
            self.run(self.pause)
        except BaseException as error:
            self.error = error
        self.is_done = True
        self.back.release()

    def pause(self) -> None:
        self.back.release()
        self.turn.acquire()

    def resume(self) -> None:
        self.turn.release()
        self.back.acquire()
        if self.is_done:
            self.thread.join()
            if self.error is not None:
                raise self.error


class GreenletFiber(Fiber):
    """One in a greenlet of the thread that made it, with a context of its own."""

    def __init__(
        self, run: Callable[[Callable[[], None]], None], context: contextvars.Context | None
    ) -> None:
        self.run = run
        self.thread = threading.current_thread()
        self.error: BaseException | None = None
        self.greenlet = greenlet(self.main)
        if context is not None:
            self.greenlet.gr_context = context

    def main(self) -> None:
        try:
            self.run(self.pause)
        except BaseException as error:
            self.error = error
        self.is_done = True
        self.pause()  # The greenlet that is its parent need not be there any more.

    def pause(self) -> None:
        self.caller.switch()

    def resume(self) -> None:
        self.caller = getcurrent()
        self.greenlet.switch()
        if self.error is not None:
            raise self.error
