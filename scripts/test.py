"""Run the suite on every supported interpreter that is found, each in its own environment.

    python3 scripts/test.py [--python 3.12]... [--first] [-- pytest's arguments]

Each line of output bears its interpreter; what each left out, and why, and pytest's closing lines
stand together at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interpreters import VERSIONS, find_interpreters

LEFT_OUT = ("SKIPPED", "XFAIL", "XPASS")
"""How the lines begin in which pytest says what it left out, or did not expect to pass, and why."""

PACKAGING = "left out: the tests that build the distributions, which the first interpreter runs"

ELSEWHERE = (
    "left out everywhere: what needs a compiler's tools, or longer: make asan, ubsan, tsan, "
    "valgrind, fuzz, coverage, and the programs in docs/reliability.md"
)


def main() -> int:
    """Run what the command line asks for; return 0 only if something ran and all of it passed."""
    parser = argparse.ArgumentParser(description="Run the suite on every interpreter found.")
    parser.add_argument("--python", action="append", metavar="3.x", help="run on this version")
    parser.add_argument("--first", action="store_true", help="run on the first one found alone")
    parser.add_argument("arguments", nargs="*", help="for pytest")
    options = parser.parse_args()

    versions = options.python or list(VERSIONS)
    found = find_interpreters(versions)
    missing = [version for version in versions if version not in found]
    if options.first:
        found = dict(list(found.items())[:1])
    census = f"{', '.join(found) or 'none'}; not found: {', '.join(missing) or 'none'}"
    print(f"interpreters: {census}", flush=True)
    if not found:
        return 1

    jobs = min(len(found), os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        runs = {
            version: pool.submit(run_suite, version, path, options.arguments, packaging=number == 0)
            for number, (version, path) in enumerate(found.items())
        }
    print(f"\nran on: {census}")
    failed = 0
    for version, run in runs.items():
        code, closing_line = run.result()
        failed += code != 0
        print(f"Python {version}" + (f" FAILED, exit code {code}" if code else ""))
        print(closing_line, flush=True)
    print(ELSEWHERE, flush=True)
    return 1 if failed else 0


def run_suite(version: str, path: str, arguments: list[str], *, packaging: bool) -> tuple[int, str]:
    """Run one interpreter's suite, printing its lines as they come; return exit code and last line.

    The tests that build the distributions say nothing about an interpreter: one of them is enough.
    Tests that fail are run once more, alone, and what comes of it counts: many wait for threads of
    a machine that may be busy. That it took two runs is said in the last line.
    """
    code, closing_line = run_once(version, path, arguments, packaging=packaging)
    if code == 1:
        print(f"{version} | once more, what failed: {closing_line}", flush=True)
        again = ["--last-failed", "--last-failed-no-failures=none", *arguments]
        code, second = run_once(version, path, again, packaging=packaging)
        closing_line = f"{closing_line}\nand what failed, run again alone:\n{second}"
    return code, closing_line


def run_once(version: str, path: str, arguments: list[str], *, packaging: bool) -> tuple[int, str]:
    """Run pytest once, printing its lines as they come; return exit code and closing lines.

    Those are what it left out, with the reasons, and the last line.
    """
    script = str(Path(__file__).with_name("environment.py"))
    pytest = ["-m", "pytest", "-o", f"cache_dir=.pytest_cache/{version}"]
    if not packaging:
        pytest += ["-m", "not packaging"]
    process = subprocess.Popen(
        [path, script, "test", "demo", "replay", "--", *pytest, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    closing_line = ""
    left_out = [] if packaging else [PACKAGING]
    for line in process.stdout:
        closing_line = line.rstrip() or closing_line
        if line.startswith(LEFT_OUT):
            left_out.append(line.rstrip())
        print(f"{version} | {line.rstrip()}", flush=True)
    return process.wait(), "\n".join([*left_out, closing_line])


if __name__ == "__main__":
    sys.exit(main())
