"""Run the suite with line and branch coverage of the Python face and line coverage of the core.

    make coverage

Takes the folder in which the core was built, then pytest's arguments. coverage.py does not read the
counters of a compiler, so gcov counts the core. gcov knows a line of Cython by the C code that
names it; a line is reached if any of its C code is. Child processes count for the core alone.
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
            # Cython's own C comes last and names no line: gcov counts it past the end of the file.
            length = len((SOURCES / name).read_text(encoding="utf-8").splitlines())
            for line in room["lines"]:
                number = line["line_number"]
                if number <= length:
                    counts[name][number] = max(counts[name].get(number, 0), line["count"])
    return counts


def report_core(counts: dict[str, dict[int, int]]) -> None:
    """Print of each room the number of lines that ran, and the lines that did not."""
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
    """Return the numbers, with runs of them as ranges."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


if __name__ == "__main__":
    sys.exit(main())
