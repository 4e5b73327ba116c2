"""Run the suites of several interpreters side by side, and close with the summary of each.

nox runs one session after another. Its `--parallel` shows the lines of a session only at its end,
and closes with its own report. Here each line is shown at once, with its interpreter before it. The
reasons for skipped tests and pytest's summaries stand together at the end.

A suite is divided by the folders of `tests`. The parts of all suites form one queue, from which two
more run at a time than there are processors, since the tests of the tier mostly wait. pytest-xdist
would run them within workers that have threads of their own: from Python 3.12 on a fork warns
there, and a warning fails a test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"

ROUNDS = (
    # The tier's tests wait for half of their time, and take the longest. So they begin first, each
    # beside tests that compute: a queue that ends with them leaves processors idle.
    ("tier", "harness"),
    ("tools",),
    ("core",),
    ("contrib",),
    ("page",),
    # Short ones are one part: each part imports the frameworks anew, for seconds.
    ("loading+wrapping+watching",),
)
"""The parts, the longest first; in a round each suite has all of its parts in the queue."""

LEFT_OUT = ("SKIPPED", "XFAIL", "XPASS", "LEFT OUT")
"""The beginning of the lines that give the reason for what was not tested: pytest's, and ours."""

FAILURES = ("FAILED ", "ERROR ")
"""The beginning of pytest's lines that name a test that failed, and tell why."""

SUMMARY = re.compile(r"=*\s*((?:\d+ [a-z]+\b.*|no tests ran) in ([\d.]+)s).*?=*")
"""The line with which pytest closes."""


@dataclass
class Suite:
    """The sessions of one interpreter."""

    version: str
    options: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How many tests passed, failed, were skipped and so on."""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """The tests that failed, and the parts that ended without naming one."""

    def prepare(self) -> bool:
        """Install all that the parts need, so that they find it installed; True if that is done."""
        return self._nox("", "--install-only")

    def run(self, part: str, prepared: Future[bool], arguments: Sequence[str]) -> None:
        """Run a part: the tests of some folders, or of all where `part` is empty."""
        if prepared.result():
            folders = [str(TESTS / folder) for folder in part.split("+") if folder]
            self._nox(part, "--", *self.options, *arguments, *folders)

    @property
    def summary(self) -> str:
        """The sum of pytest's closing lines."""
        counted = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"{counted or 'no tests ran'} in {self.seconds:.0f}s of its parts"

    def _nox(self, part: str, *arguments: str) -> bool:
        """Run the session, printing its lines as they come; True if it succeeded."""
        process = subprocess.Popen(
            [sys.executable, "-m", "nox", "-s", f"test-{self.version}", *arguments],
            env={**self.variables, **os.environ, "PYTHONS": self.version, "FLOWCACHE_PART": part},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        name = f"{self.version} {part}".rstrip()
        failures: list[str] = []
        for line in map(str.rstrip, process.stdout):
            if line.startswith(LEFT_OUT):
                self.left_out.append(line)
            elif line.startswith(FAILURES):
                failures.append(line)
            elif match := SUMMARY.fullmatch(line):
                self.seconds += float(match[2])
                for count, kind in re.findall(r"(\d+) ([a-z]+)", match[1]):
                    self.counts[kind.removesuffix("s") if kind == "errors" else kind] += int(count)
            print(f"{name} | {line}", flush=True)
        status = process.wait()
        if status != 0:
            self.failures += failures or [f"FAILED {name}: exit status {status}"]
        return status == 0


def rounds_of_parts(arguments: Sequence[str]) -> list[Sequence[str]]:
    """Return the rounds, with any other folder at the end; one empty name for a path asked for."""
    if any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        return [[""]]
    named = {folder for part in chain(*ROUNDS) for folder in part.split("+")}
    others = {path.parent.relative_to(TESTS).parts[:1] for path in TESTS.rglob("test_*.py")}
    return [*ROUNDS, *sorted(other for other in others if named.isdisjoint(other))]


def run_side_by_side(suites: list[Suite], arguments: Sequence[str]) -> None:
    """Run the parts of all suites, two more at a time than there are processors."""
    with ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:
        # All environments come before the first part in the queue, so that no part waits for one
        # that has not begun.
        prepared = [pool.submit(suite.prepare) for suite in suites]
        ran = [
            pool.submit(suite.run, part, ready, arguments)
            for parts in rounds_of_parts(arguments)
            for suite, ready in zip(suites, prepared, strict=True)
            for part in parts
        ]
        try:
            for future in ran:
                future.result()
        except BaseException:  # An interrupt ends the parts that run; no other begins.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for suite in suites:
        # A part without a test that was asked for is no failure, as long as another one has some.
        if not suite.failures and not suite.counts.keys() - {"deselected", "warnings"}:
            suite.failures.append("FAILED: no test ran")


def closing_line(suites: list[Suite]) -> str:
    """Return the summaries, in one line."""
    return "; ".join(
        f"{suite.version}{' FAILED' * bool(suite.failures)}: {suite.summary}" for suite in suites
    )
