"""A load whose steps can be interfered with, each in its turn: sync or in a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from flowcache import Cache, RecursiveLoadError, create_cache

from .loading_support import Caller, wait_until

Act = Callable[["Scene"], None]


class Foreign(BaseException):
    """Such as a framework makes to end what runs."""


class Scene:
    """A cache whose clock, weigher, listeners and loader are places at which something is done.

    `place`: such a place, and the number of the visit at which it is done; by default the first.
    """

    def __init__(self, place: str, act: Act, how: str) -> None:
        self.how = how
        self.place, _, nth = place.partition(" ")
        self.nth = int(nth or 1)
        self.act = act
        self.done = True  # Until the scene is set.
        self.joining: list[Caller] = []
        self.cache: Cache[Any] = create_cache(
            clock=lambda: self.visit("clock") or 100.0,
            weigher=lambda key, value: self.visit("weigher") or 1,
        )
        for kind in ("miss", "set", "load"):
            self.cache.subscribe(lambda event: self.visit(event.kind), kind)
        self.space = self.cache.namespace("tenant")
        self.cached = self.wrap()
        self.done = False

    def wrap(self) -> Any:
        return self.space.cached(tags="red")(lambda key: self.load())

    def load(self) -> str:
        self.visit("loader")
        return "mine"

    def visit(self, place: str) -> None:
        if place == self.place and not self.done:
            self.nth -= 1
            if self.nth == 0:
                self.done = True
                self.act(self)

    def key(self) -> Any:
        return self.cached.cache_key("k") if self.how == "cached" else "k"

    def call(self) -> Any:
        if self.how == "cached":
            return self.cached("k")
        return self.space.fetch("k", self.load, tags="red")


class TaskScene(Scene):
    """The same for a call of a task, whose loader is suspended once."""

    def __init__(self, place: str, act: Act, how: str) -> None:
        super().__init__(place, act, how)
        self.asking: asyncio.Task[Any] | None = None
        self.tasks: list[asyncio.Task[Any]] = []

    def wrap(self) -> Any:
        async def load(key: str) -> str:
            return await self.aload()

        return self.space.cached(tags="red")(load)

    async def aload(self) -> str:
        self.visit("loader")
        await asyncio.sleep(0)
        self.visit("resumed")
        return "mine"

    def call(self) -> Any:
        if self.how == "cached":
            return self.cached("k")
        loader = self.load if self.how == "plain" else self.aload
        return self.space.afetch("k", loader, tags="red")

    async def ask(self) -> Any:
        return await self.call()

    def forget(self) -> None:
        """Drop the results: the traceback of an error holds the load."""
        self.asking = None
        self.tasks.clear()
        self.joining.clear()


# What may be done


def interrupt(scene: Scene) -> None:
    raise Foreign


def fail(scene: Scene) -> None:
    raise LookupError("on purpose")


def close(scene: Scene) -> None:
    scene.cache.close()


def invalidate(scene: Scene) -> None:
    scene.space.invalidate_tag("red")


def join(scene: Scene) -> None:
    """Let another thread ask; it waits by now, or has its answer."""
    key = scene.key()
    caller = Caller(lambda: scene.space.fetch(key, lambda: "theirs", tags="red"))
    scene.joining.append(caller)
    wait_until(lambda: scene.cache.stats().coalesced or not caller.is_alive())


def after_joining(act: Act) -> Act:
    """Let another thread join, then do the other act."""

    def join_first(scene: Scene) -> None:
        join(scene)
        act(scene)

    join_first.__name__ = f"join_and_{getattr(act, '__name__', 'act')}"
    return join_first


def join_in_a_task(scene: Scene) -> None:
    """Let a task that is no part of the load ask, once this one is suspended."""
    assert isinstance(scene, TaskScene)
    key = scene.key()

    async def ask() -> Any:
        return await scene.space.afetch(key, lambda: "theirs", tags="red")

    loop = asyncio.get_running_loop()
    scene.tasks.append(Context().run(loop.create_task, ask()))


def ask_in_place(scene: Scene) -> None:
    """Ask on the thread of the loop, which cannot wait for what it runs."""
    try:
        answer = scene.space.fetch(scene.key(), lambda: "theirs", tags="red")
    except RecursiveLoadError:
        return
    assert answer in ("mine", "theirs")


def cancel_caller(scene: Scene) -> None:
    assert isinstance(scene, TaskScene)
    assert scene.asking is not None
    scene.asking.cancel()


def cancel_running(scene: Scene) -> None:
    """Cancel the task that is at this step: the caller's, or that of the loader."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def stop_loop(scene: Scene) -> None:
    asyncio.get_running_loop().stop()
