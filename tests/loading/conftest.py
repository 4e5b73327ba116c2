"""How the tests of loading make their calls: on each kind of event loop, by thread and by task."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcache import Namespace
from harness.loading_support import Main, Run, loop_factories, settle


@pytest.fixture(params=loop_factories())
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test's coroutine on a loop of its own; any complaint of that loop is a failure."""

    def run(main: Main) -> None:
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, about: complaints.append(about))
            runner.run(main())
            gc.collect()  # "Task exception was never retrieved" comes from a finalizer.
        assert complaints == []

    return run


@pytest.fixture(params=["thread", "task"])
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """One call, by `fetch` or by `afetch`, on a loop that lives as long as the test."""
    if request.param == "thread":
        yield lambda namespace, *args, **options: namespace.fetch(*args, **options)
        return
    with asyncio.Runner() as runner:

        async def call(namespace: Namespace[Any], *args: Any, **options: Any) -> Any:
            return await namespace.afetch(*args, **options)

        def ask(*args: Any, **options: Any) -> Any:
            result = runner.run(call(*args, **options))
            runner.run(settle())  # Background loads go on.
            return result

        yield ask
