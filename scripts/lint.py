"""Run every linter over the whole project, and say of each whether it was content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A tool's script lies beside the interpreter of the environment that it is installed in.
TOOLS = Path(sys.executable).parent
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("cython-lint", "src/_core.pyx", "src/_core"),
    ("codespell", "."),
)


def main() -> int:
    """Run them all, also after one has failed; return how many did."""
    # cython-lint looks for its own helper on PATH.
    environment = os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"}
    failed = 0
    for tool, *arguments in CHECKS:
        command = " ".join([tool, *arguments])
        print(f"--- {command}", flush=True)
        finished = subprocess.run([TOOLS / tool, *arguments], env=environment, check=False)
        if finished.returncode:
            failed += 1
            print(f"--- {command}: exit code {finished.returncode}", flush=True)
    print(f"lint: {len(CHECKS) - failed} of {len(CHECKS)} content", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
