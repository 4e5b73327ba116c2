"""Out of memory, at every single allocation of every call."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import support

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded allocator, compiled here."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make an allocator that fails")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the allocator that fails stands in for that of glibc")
    library = tmp_path_factory.mktemp("shim") / "failing_malloc.so"
    source = HERE / "failing_malloc.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
    return library


@pytest.mark.skipif(sys.platform != "linux", reason="preloads an allocator, as Linux can")
@pytest.mark.skipif(support.ADDRESS_SANITIZED, reason="AddressSanitizer's allocator is the first")
@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="CPython from 3.12 on crashes by itself where a generator expression has no memory",
)
@pytest.mark.parametrize("burst", [1, 4])
def test_memory_that_is_out_is_an_error_and_nothing_else(shim: Path, burst: int) -> None:
    finished = subprocess.run(
        [sys.executable, HERE / "allocations.py", "--burst", str(burst)],
        env=os.environ
        | {
            "LD_PRELOAD": str(shim),
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([support.SOURCE_FOLDER, support.TESTS_FOLDER]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    parts = (part.rsplit(": ", 1) for part in finished.stdout.strip().split(", "))
    counts = {name: int(n.replace(",", "")) for name, n in parts}
    assert counts["failures injected"] > 500
    assert counts["raised"] > 0.9 * counts["failures injected"] / burst
    # Blocks that the interpreter itself keeps for later; a leak would keep one for each failure.
    assert counts.get("blocks kept", 0) < 100
