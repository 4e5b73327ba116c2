"""Run a command in an environment that is set up for it, on the first interpreter that is found.

    python3 scripts/run.py demo -- examples/crm_dashboard.py

Takes what environment.py takes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from interpreters import VERSIONS, find_interpreters


def main() -> None:
    """Become environment.py on a Python that flowcache supports."""
    for version in VERSIONS:
        for path in find_interpreters([version]).values():
            script = str(Path(__file__).with_name("environment.py"))
            os.execv(path, [path, script, *sys.argv[1:]])
    sys.exit("no CPython of 3.11 to 3.15 with its headers was found, on PATH or among pyenv's")


if __name__ == "__main__":
    main()
