"""Find the CPython interpreters of this machine that can build flowcache.

nox searches PATH and pyenv's active version, accepts an interpreter without headers, and must be
installed first. This searches all of pyenv's versions, asks each interpreter whether it can build,
and runs on Python 3.8 or newer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15", "3.13t")

# A usable interpreter has its headers and can make virtual environments. A build without the GIL is
# a version of its own: "3.13t".
PROBE = """
import ensurepip, os, platform, sys, sysconfig, venv
name, version = platform.python_implementation(), "%d.%d" % sys.version_info[:2]
version += "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
header = os.path.join(sysconfig.get_path("include"), "Python.h")
print(name, version, os.path.isfile(header), sys.executable)
"""


def find_interpreters(versions: list[str]) -> dict[str, str]:
    """Return a usable CPython's path for each version ("3.12") that has one, in the order given."""
    found = {}
    for version in versions:
        for candidate in candidates(version):
            path = probe(candidate, version)
            if path is not None:
                found[version] = path
                break
    return found


def candidates(version: str) -> Iterator[str]:
    """Yield the candidates for this version: this interpreter, those on PATH, pyenv's."""
    if version.rstrip("t") == ".".join(map(str, sys.version_info[:2])):
        yield sys.executable
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = shutil.which(f"python{version}", path=folder)
        if path is not None:
            yield path
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    number = version.rstrip("t")
    free_threaded = version[len(number) :]
    releases = [
        (int(match[1]), folder)
        for folder in root.glob(f"versions/{number}.*{free_threaded}")
        if (match := re.fullmatch(rf"\d+\.\d+\.(\d+){free_threaded}", folder.name))
    ]
    for _, release in sorted(releases, reverse=True):
        yield str(release / "bin" / "python")


def probe(candidate: str, version: str) -> str | None:
    """Return the interpreter's own path if it is a CPython of this version that can build.

    A launcher on PATH may exist and still refuse to start, so each candidate is run.
    """
    try:
        answer = subprocess.run(
            [candidate, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    implementation, answered, has_headers, path = answer.strip().split(" ", 3)
    usable = (implementation, answered, has_headers) == ("CPython", version, "True")
    return path if usable else None
