"""Libraries that only the replay tool needs, imported when they are."""

from __future__ import annotations

import importlib
from typing import Any


class ReplayError(Exception):
    """What a user can mend: shown as one line, without a traceback."""


def need(module: str, purpose: str) -> Any:
    """Import and return `module`; raise ReplayError naming the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        distribution = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != distribution:
            raise
        raise ReplayError(
            f'{purpose} needs {distribution}: pip install "flowcache[replay]"'
        ) from error
