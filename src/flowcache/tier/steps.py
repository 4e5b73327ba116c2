"""Calls as steps: the kinds of steps, their execution by a thread or a task, and scripts.

A call is written once, as a generator that yields its steps. `Caller.run` carries them out on a
thread, `Caller.arun` in a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flowcache.coroutines import is_awaitable
from flowcache.errors import ConfigurationError
from flowcache.loading.around import await_within, produce_within

from .bell import Bell
from .bus import new_token
from .errors import ServerError, SlowError, UnreachableError
from .layout import Bucket
from .link import Ask
from .resp import ReplyError
from .script import script

if TYPE_CHECKING:
    from .bus import Bus
    from .servers import Servers

__all__ = ["Caller", "Exchange", "Leave", "Pause", "Produce", "Rediscover", "Steps"]

T = TypeVar("T")


class Pause(NamedTuple):
    """A step that waits until a bell rings, or so long. Its result tells if the bell has rung."""

    bell: Bell
    seconds: float


class Exchange:
    """A step that asks the server of a bucket. Its result is the ask; `ServerError` is raised."""

    __slots__ = ("ask", "bucket")

    def __init__(self, bucket: Bucket, ask: Ask) -> None:
        self.bucket = bucket
        self.ask = ask


class Rediscover(NamedTuple):
    """A step that finds the servers anew."""


class Leave(NamedTuple):
    """A step that ends the connections of a bucket to a server of another history."""

    bucket: Bucket
    replid: bytes


class Produce(NamedTuple):
    """A step that calls a user's loader. Its result is the loader's, which a task awaits."""

    loader: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    around: Callable[[], AbstractContextManager[object]] | None = None
    """Makes the context manager around the loader, by `around_load=`."""

    def carry_out(self) -> Any:
        """Call the loader on this thread."""
        if self.around is None:
            return self.loader(*self.arguments)
        return produce_within(self.around(), partial(self.loader, *self.arguments))

    def begin(self) -> Any:
        """Call the loader in a task, which awaits what is awaitable."""
        if self.around is None:
            return self.loader(*self.arguments)
        return await_within(self.around(), partial(self.loader, *self.arguments))


Step = Pause | Exchange | Leave | Rediscover | Produce
Steps = Generator[Step, Any, T]


class Caller:
    """Carries steps out, and runs scripts by the rules on what is sent again and confirmed."""

    def __init__(self, servers: Servers, bus: Bus, *, keep_on_change: bool) -> None:
        self._servers = servers
        self._bus = bus
        self._keep = b"1" if keep_on_change else b"0"
        self.errors = 0
        """Exchanges that failed, and values that could not be read."""

    def call(
        self,
        bucket: Bucket,
        name: str,
        keys: tuple[bytes, ...],
        arguments: tuple[bytes | int, ...],
        *,
        patience: float,
        confirms: bool = False,
        again: bytes = b"",
    ) -> Steps[list[Any]]:
        """Run a script; raises `ServerError` for what it did not do, or what is not confirmed.

        `again` names an operation that may be sent once more when it is not known if it ran. It may
        run twice then, and late: its echoes are applied from then on (rule 6).
        """
        called, in_full, moves = script(name), False, 1
        while True:
            # Rule 2: an incarnation is unique for each attempt.
            attempt = (new_token(), self._keep, *arguments)
            command = (called.call_in_full if in_full else called.call)(keys, *attempt)
            try:
                replicas = self._bus.replicas_of(bucket) if confirms else 0
                ask = yield Exchange(bucket, Ask(patience, calls=(command,), confirm=replicas))
            except ServerError as error:
                self.errors += 1
                if again and not isinstance(error, SlowError):
                    self._bus.awaited.disown(again)
                    again = b""
                    continue
                raise
            reply = ask.replies[0]
            if isinstance(reply, ReplyError):
                if reply.kind == "NOSCRIPT" and not in_full:
                    in_full = True  # It did not run.
                    continue
                self.errors += 1
                if (yield from self.look_elsewhere(bucket, reply, ask.replid)) and moves:
                    moves -= 1
                    continue
                raise UnreachableError(str(reply))
            if reply[0] == b"hidden":
                raise ConfigurationError("tier: the server hides its master_replid")
            yield from self._check_confirmed(bucket, reply[1], ask, replicas, confirms=confirms)
            return list(reply)

    def call_many(
        self,
        bucket: Bucket,
        name: str,
        requests: list[tuple[tuple[bytes, ...], tuple[bytes | int, ...]]],
        *,
        patience: float,
        again: bytes = b"",
    ) -> Steps[list[list[Any]]]:
        """Run a script for each request of names and arguments, in one round trip, as `call` does.

        All are confirmed. A request that was refused is made once more by itself.
        """
        called, in_full = script(name), False
        results: list[Any] = [None] * len(requests)
        pending = list(range(len(requests)))
        while pending:
            # Rule 2: an incarnation is unique for each attempt.
            commands = tuple(
                (called.call_in_full if in_full and not at else called.call)(
                    requests[number][0], new_token(), self._keep, *requests[number][1]
                )
                for at, number in enumerate(pending)
            )
            replicas = self._bus.replicas_of(bucket)
            try:
                ask = yield Exchange(bucket, Ask(patience, calls=commands, confirm=replicas))
            except ServerError as error:
                self.errors += 1
                if again and not isinstance(error, SlowError):
                    self._bus.awaited.disown(again)
                    again = b""
                    continue
                raise
            unknown = []
            for number, reply in zip(pending, ask.replies, strict=True):
                if isinstance(reply, ReplyError):
                    if reply.kind == "NOSCRIPT":  # It did not run.
                        unknown.append(number)
                    continue
                if reply[0] == b"hidden":
                    raise ConfigurationError("tier: the server hides its master_replid")
                yield from self._check_confirmed(bucket, reply[1], ask, replicas, confirms=True)
                results[number] = list(reply)
            pending = [] if in_full else unknown
            in_full = True
        for number, (keys, arguments) in enumerate(requests):
            if results[number] is None:
                results[number] = yield from self.call(
                    bucket, name, keys, arguments, patience=patience, confirms=True, again=again
                )
        return results

    def _check_confirmed(
        self, bucket: Bucket, replid: bytes, ask: Ask, replicas: int, *, confirms: bool
    ) -> Steps[None]:
        """Refuse the result of a server that may be a primary no more (rules 7, 8)."""
        if (yield from self.leave(bucket, replid)):
            self.errors += 1
            raise UnreachableError("the server writes a history that the fleet has left")
        if not confirms:
            return
        if ask.confirmed < replicas:
            self.errors += 1
            raise UnreachableError(f"{ask.confirmed} of {replicas} replicas confirmed it")
        self._bus.note(bucket, replid)

    def leave(self, bucket: Bucket, replid: bytes) -> Steps[bool]:
        """End the connections to a server if the fleet has left it; True if it has (rule 8)."""
        has_left = self._bus.has_left(bucket, replid)
        if has_left:
            yield Leave(bucket, replid)
        return has_left

    def look_elsewhere(self, bucket: Bucket, refused: ReplyError, replid: bytes) -> Steps[bool]:
        """Find the servers anew if that is what a refusal asks for; True if it was."""
        if refused.kind not in ("MOVED", "READONLY", "CLUSTERDOWN"):
            return False
        if refused.kind == "READONLY":  # It is a replica by now, on a connection from before.
            yield Leave(bucket, replid)
        try:
            yield Rediscover()
        except ServerError:
            self.errors += 1
            return False
        return True

    # Carrying steps out

    def run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call on this thread, and return its result."""
        try:
            step = next(steps)
            while True:
                try:
                    if type(step) is Exchange:
                        if not self._servers.shares:
                            self._servers.find()
                        server = self._servers.share_of(step.bucket.slot).server
                        result: Any = server.ask(step.ask)
                    elif type(step) is Leave:
                        self._servers.share_of(step.bucket.slot).server.leave(step.replid)
                        result = None
                    elif type(step) is Pause:
                        result = step.bell.wait(step.seconds)
                    elif type(step) is Produce:
                        result = step.carry_out()
                    else:
                        self._servers.discover()
                        result = None
                except BaseException as error:  # noqa: BLE001  the steps decide
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def arun(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call in this task, and return its result."""
        loop = asyncio.get_running_loop()
        try:
            step = next(steps)
            while True:
                try:
                    if type(step) is Exchange:
                        if not self._servers.shares:
                            await loop.run_in_executor(None, self._servers.find)
                        server = self._servers.share_of(step.bucket.slot).server
                        result: Any = await server.aask(step.ask, loop)
                    elif type(step) is Leave:
                        server = self._servers.share_of(step.bucket.slot).server
                        server.leave_on(loop, step.replid)
                        result = None
                    elif type(step) is Pause:
                        result = await step.bell.awaited(step.seconds)
                    elif type(step) is Produce:
                        result = step.begin()
                        if is_awaitable(result):
                            result = await result
                    else:
                        await loop.run_in_executor(None, self._servers.discover)
                        result = None
                except BaseException as error:  # noqa: BLE001  the steps decide
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
