"""Install nox and uv into .venv/nox, if they are not there yet, and run nox in this process.

    python3 scripts/bootstrap.py -s demo -- --serve

Runs on Python 3.8 or newer. nox itself runs on the first interpreter that flowcache supports.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from interpreters import VERSIONS, find_interpreters

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "nox"
PYTHON = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# The newest nox on CPython 3.11 and newer; noxfile.py names the oldest that it needs.
REQUIREMENT = "nox[uv]>=2025.2.9"


def main() -> None:
    """Install nox, then replace this process by it."""
    done = FOLDER / "installed.txt"
    if not (PYTHON.exists() and done.exists() and done.read_text() == REQUIREMENT):
        install_nox()
        done.write_text(REQUIREMENT)
    os.chdir(ROOT)
    os.execv(str(PYTHON), [str(PYTHON), "-m", "nox", *sys.argv[1:]])


def install_nox() -> None:
    """Make an environment for nox and uv, on the first interpreter that is found."""
    for version in VERSIONS:
        for interpreter in find_interpreters([version]).values():
            print(f"installing nox into .venv/nox, for Python {version}", flush=True)
            run(interpreter, "-m", "venv", "--clear", str(FOLDER))
            # A single --quiet still shows warnings.
            quietly = ("--quiet", "--quiet", "--disable-pip-version-check")
            run(str(PYTHON), "-m", "pip", "install", *quietly, REQUIREMENT)
            return
    sys.exit("no CPython of 3.11 to 3.15 with its headers was found, on PATH or among pyenv's")


def run(*command: str) -> None:
    """Run a command; end the program with its exit code if it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
