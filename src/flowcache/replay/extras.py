"""Libraries that only the replay needs, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


class ReplayError(Exception):
    """An error that the user can correct: shown as one line, without a traceback."""


def need(module: str, purpose: str) -> Any:
    """Import and return `module`; raise ReplayError naming the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != top:
            raise
        distribution = module if top == "backports" else top
        raise ReplayError(
            f'{purpose} needs {distribution}: pip install "flowcache[replay]"'
        ) from error
