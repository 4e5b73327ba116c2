"""Run the suite with line and branch coverage of the Python face and line coverage of the core.

    make coverage

Takes the folder in which the core was built, then pytest's arguments. coverage.py does not read the
counters of a compiler.
The core counts for gcov, which knows Cython's lines by the C that names them; a line is reached if
any of its C is. What runs in processes of its own is counted for the core alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(sys.argv[1])
DATA = ROOT / ".coverage"


def main() -> int:
    """Measure, then report; return pytest's exit code."""
    settings = [f"--rcfile={ROOT / 'pyproject.toml'}"]
    environment = os.environ | {"COVERAGE_FILE": str(DATA)}
    for counted in SOURCES.rglob("*.gcda"):
        counted.unlink()
    run = [sys.executable, "-m", "coverage", "run", *settings, "-m", "pytest", "-q"]
    run += ["-p", "no:cacheprovider", "-m", "not packaging", *sys.argv[2:]]
    failed = subprocess.run(run, cwd=ROOT, env=environment, check=False).returncode
    report = [sys.executable, "-m", "coverage", "report", *settings]
    subprocess.run(report, cwd=ROOT, env=environment, check=False)
    report_core(core_counts())
    return failed


def core_counts() -> dict[str, dict[int, int]]:
    """Return how often each line of each room of the core ran."""
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    for counted in SOURCES.rglob("*.gcda"):
        told = subprocess.run(
            ["gcov", "--json-format", "--stdout", counted],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for room in json.loads(told)["files"]:
            name = room["file"]
            if not name.endswith((".pyx", ".pxd")) or not (SOURCES / name).exists():
                continue
            # Cython's own C comes last and names nobody: it counts as lines past the end.
            length = len((SOURCES / name).read_text(encoding="utf-8").splitlines())
            for line in room["lines"]:
                number = line["line_number"]
                if number <= length:
                    counts[name][number] = max(counts[name].get(number, 0), line["count"])
    return counts


def report_core(counts: dict[str, dict[int, int]]) -> None:
    """Print of each room how many lines ran, and which did not."""
    lines = reached = 0
    for name, room in sorted(counts.items()):
        missed = sorted(number for number, count in room.items() if not count)
        lines += len(room)
        reached += len(room) - len(missed)
        share = 100 * (len(room) - len(missed)) / len(room)
        print(f"{name:<28} {len(room):>5} {len(missed):>5} {share:5.1f}%  {spans(missed)}")
    if lines:
        print(f"the core: {reached:,} of {lines:,} lines, {100 * reached / lines:.1f} %")


def spans(numbers: list[int]) -> str:
    """Return the numbers with runs of them drawn together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


if __name__ == "__main__":
    sys.exit(main())
