"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .extras import need


class Progress:
    """A bar on standard error for each stage of the work, or none."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars

    @contextmanager
    def stage(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show one stage; call the yielded function with the work done."""
        if self._bars is None:
            yield lambda _done: None
            return
        task = self._bars.add_task(what, total=total)
        yield lambda done: self._bars.update(task, completed=done)
        self._bars.update(task, total=total or 1, completed=total or 1)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Progress]:
    """Show progress on standard error while the block runs; nothing unless it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Progress(None)
        return
    rich = need("rich.progress", "the progress bar (--quiet: none)")
    console = need("rich.console", "the progress bar").Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True) as bars:
        yield Progress(bars)
