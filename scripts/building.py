"""Build a wheel of flowcache outside the checkout, unless the last one has the same sources.

nox would let uv build in the checkout. Builds of several interpreters would collide there, and
each session would compile the core again. Here each interpreter, and each set of build switches,
has a folder of its own, from which every session installs the same wheel.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
ASSETS = (".css", ".html", ".js", ".svg")
SOURCE_SUFFIXES = (".py", ".pyi", ".pyx", ".pxd", ".typed", ".lua", *ASSETS)


def build_wheel(folder: Path, build: Callable[..., object]) -> Path:
    """Return a wheel of the current sources; `build` runs `uv build` with its arguments."""
    sources, target = folder / "sources", folder / "wheel"
    changes = changed_files(sources)
    if changes:
        shutil.rmtree(target, ignore_errors=True)
        copy(changes, sources)
    if not list(target.glob("*.whl")):
        # Files gathered for the last wheel may include a module that the sources no longer have.
        # The compiled core stays: it is compiled again when it is older than its sources.
        for stale in sources.glob("build/lib*/flowcache/**/*"):
            if stale.suffix in SOURCE_SUFFIXES:
                stale.unlink()
        print(f"building flowcache in {folder.relative_to(ROOT)}", flush=True)
        # An interrupted run leaves no wheel in the folder that later runs read.
        unfinished = folder / "unfinished"
        build("--wheel", "--no-build-isolation", "--out-dir", unfinished, sources)
        unfinished.rename(target)
    (wheel,) = target.glob("*.whl")
    return wheel


def changed_files(sources: Path) -> list[Path]:
    """Return the files that differ from the copy, and the files that only the copy has."""
    wanted = [Path(name) for name in PACKAGE_FILES] + source_files(ROOT)
    changed = [
        path
        for path in wanted
        if not (sources / path).exists()
        or not filecmp.cmp(ROOT / path, sources / path, shallow=False)
    ]
    return changed + [path for path in source_files(sources) if path not in wanted]


def source_files(root: Path) -> list[Path]:
    """Return the sources below `src`, relative to the root."""
    paths = (root / "src").rglob("*")
    return [path.relative_to(root) for path in paths if path.suffix in SOURCE_SUFFIXES]


def copy(changes: list[Path], sources: Path) -> None:
    """Make the copy equal to the checkout."""
    for path in changes:
        if (ROOT / path).exists():
            (sources / path).parent.mkdir(parents=True, exist_ok=True)
            # With the current time: the build must see an older file that came back as new.
            shutil.copyfile(ROOT / path, sources / path)
        else:
            (sources / path).unlink()
