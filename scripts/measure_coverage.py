"""Run the suite with line and branch coverage of the Python face and line coverage of the core.

    make coverage

The core is built with Cython's line tracing. Its C lies beside its source in the environment's copy
of the sources, and that is where this runs, because Cython's plug-in looks for it there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(sys.prefix) / "flowcache-source"
DATA = ROOT / ".coverage"


def main() -> int:
    """Measure, then report; return pytest's exit code."""
    settings = [f"--rcfile={ROOT / 'pyproject.toml'}"]
    environment = os.environ | {"COVERAGE_FILE": str(DATA)}
    run = [sys.executable, "-m", "coverage", "run", *settings, "-m", "pytest", "-q"]
    run += ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    run += ["-m", "not packaging", *(sys.argv[1:] or [str(ROOT / "tests")])]
    failed = subprocess.run(run, cwd=SOURCES, env=environment, check=False).returncode
    report = [sys.executable, "-m", "coverage", "report", *settings]
    subprocess.run(report, cwd=SOURCES, env=environment, check=False)
    return failed


if __name__ == "__main__":
    sys.exit(main())
