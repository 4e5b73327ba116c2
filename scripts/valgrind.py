"""Run tests under valgrind's memcheck, with a core that bears symbols and is not optimised.

    make valgrind ARGS="tests/core/test_expiry.py -k heap"

Every block comes from malloc, so that one read past its end or after its release is seen. CPython's
own blocks are written once when they are made, by its debug hooks: it looks at an int's first
digit before it knows that there is one, and memcheck would follow that look into everything after
it. The core's structures bypass these hooks and stay under watch. Leaks are looked for in
`tests/harness`: at its end an interpreter leaves much behind on purpose.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SUPPRESSIONS = Path(__file__).with_name("valgrind.supp")
# What works the core in this process, for children are not watched; a test takes some thirty times
# as long as without.
CORE = "expiry collector tags lru mapping keyed namespaces events"
HARNESS = "interruptions reentrancy model"
TESTS = [f"tests/core/test_{concern}.py" for concern in CORE.split()]
TESTS += [f"tests/harness/test_{concern}.py" for concern in HARNESS.split()]
EXAMPLES = {"FLOWCACHE_EXAMPLES": "6"}


def main() -> None:
    """Become valgrind, and within it pytest."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not installed")
    arguments = sys.argv[1:] or TESTS
    command = [valgrind, "--tool=memcheck", "--quiet", "--error-exitcode=99", "--num-callers=30"]
    command += [f"--suppressions={SUPPRESSIONS}", sys.executable]
    command += ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Of time, thirty times as much is taken.
    command += ["-o", "timeout=3000", "-o", "faulthandler_timeout=2400"]
    changed = EXAMPLES | os.environ | {"PYTHONMALLOC": "malloc_debug"}
    os.execve(valgrind, [*command, *arguments], changed)


if __name__ == "__main__":
    main()
