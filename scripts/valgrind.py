"""Run tests under valgrind's memcheck, with a core that bears symbols and is not optimised.

    make valgrind ARGS="tests/test_expiry.py -k heap"

Every block comes from malloc, so that one read past its end or after its release is seen. Leaks are
for `tests/isolated`: at its end an interpreter leaves much behind on purpose.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SUPPRESSIONS = Path(__file__).with_name("valgrind.supp")
# One of each concern of the core; a test takes some thirty times as long as without.
TESTS = ("tests/test_interruptions.py", "tests/test_expiry.py", "tests/test_reentrancy.py")


def main() -> None:
    """Become valgrind, and within it pytest."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not installed")
    arguments = sys.argv[1:] or [test for test in TESTS if Path(test).exists()]
    command = [valgrind, "--tool=memcheck", "--quiet", "--error-exitcode=99", "--num-callers=30"]
    command += [f"--suppressions={SUPPRESSIONS}", sys.executable]
    command += ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    os.execve(valgrind, [*command, *arguments], os.environ | {"PYTHONMALLOC": "malloc"})


if __name__ == "__main__":
    main()
