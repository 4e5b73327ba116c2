"""Run the sessions of several interpreters side by side, and close with the summary of each.

nox runs one session after another. Its `--parallel` shows the lines of a session only at its end,
and closes with its own report. Here each line is shown at once, with its interpreter before it. The
reasons for skipped tests and pytest's summaries stand together at the end.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

LEFT_OUT = ("SKIPPED", "XFAIL", "XPASS")
"""The beginning of pytest's lines that give the reason for a skipped test."""

SUMMARY = re.compile(r"=*\s*(\d+ [a-z]+\b.* in [\d.]+s|no tests ran in [\d.]+s).*?=*")
"""The line with which pytest closes."""


@dataclass
class Suite:
    """The session of one interpreter."""

    version: str
    options: Sequence[str] = ()
    left_out: list[str] = field(default_factory=list)
    summary: str = "pytest did not run to its end"
    failed: bool = False

    def run(self, arguments: Sequence[str]) -> None:
        """Run the session, printing its lines as they come."""
        session = [sys.executable, "-m", "nox", "-s", f"test-{self.version}", "--"]
        process = subprocess.Popen(
            [*session, *self.options, *arguments],
            env=os.environ | {"PYTHONS": self.version},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            if line.startswith(LEFT_OUT):
                self.left_out.append(line)
            elif SUMMARY.fullmatch(line):
                self.summary = line.strip("= ")
            print(f"{self.version} | {line}", flush=True)
        self.failed = process.wait() != 0


def run_side_by_side(suites: list[Suite], arguments: Sequence[str]) -> None:
    """Run them all, one per processor at a time."""
    with ThreadPoolExecutor(min(len(suites), os.cpu_count() or 1)) as pool:
        list(pool.map(lambda suite: suite.run(arguments), suites))


def closing_line(suites: list[Suite]) -> str:
    """Return pytest's summaries, in one line."""
    failed = {True: " FAILED", False: ""}
    return "; ".join(f"{suite.version}{failed[suite.failed]}: {suite.summary}" for suite in suites)
