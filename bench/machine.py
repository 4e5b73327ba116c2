"""The environment of figures: processor, interpreter, commit, and the rivals' versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
RIVALS = (
    "aiocache",
    "async-lru",
    "cachebox",
    "cachetools",
    "cashews",
    "django",
    "dogpile.cache",
    "lru-dict",
    "moka-py",
    "theine",
)


def environment() -> dict[str, Any]:
    """Return the environment of the figures."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "rivals": {name: installed(name) for name in RIVALS},
    }


def commit() -> str:
    """Return the commit, marked where the tree is not that of it.

    The files that the benchmarks write do not count: the first part of a run would mark all others.
    """
    name = git("rev-parse", "--short", "HEAD")
    others = [f":(top,exclude){path}" for path in ("README.md", "bench/results")]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others)
    return f"{name}-dirty" if name and changed else name or "unknown"


def git(*arguments: str) -> str:
    """Return what git prints; nothing outside a checkout."""
    return subprocess.run(
        ["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
