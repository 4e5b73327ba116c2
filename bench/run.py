"""Run the benchmarks, write their results and plots, and put the figures into the README.

    make bench                       all of it, in about twenty minutes
    make bench ARGS=--quick          few rounds and smaller sizes, into bench/results/quick
    make bench ARGS="--only compare" one part; results of the others stay
    make bench ARGS="--only figures" the table and the plots again, from present results

Other load on the machine spoils the figures, and the ratios less: rounds are interleaved. The
README changes only after a run that is not quick.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from figures import write_readme
from machine import HERE, RESULTS
from plots import draw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SUITES = ("ops", "compare", "fetch", "eviction", "integrations")
PARTS = (*SUITES, "memory", "startup", "pauses", "fleet", "figures")
VERDICT = re.compile(r"::(\S+) (PASSED|FAILED|ERROR|SKIPPED)")


def main() -> int:
    """Run the requested parts; return the number of parts that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, smaller sizes; rough")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    options = parser.parse_args()
    parts = options.only or PARTS
    results = RESULTS / "quick" if options.quick else RESULTS
    console = Console()
    suites = [part for part in SUITES if part in parts]
    failed = [part for part in suites if not run_suite(console, part, results, options.quick)]
    others = {
        "memory": ["--results", str(results), *["--entries", "200000"] * options.quick],
        "startup": ["--results", str(results), *["--rounds", "5"] * options.quick],
        "pauses": ["--entries", "100000", "--runs", "1", "--no-file"] if options.quick else [],
        "fleet": ["--quick"] * options.quick,
    }
    for part, arguments in others.items():
        command = [sys.executable, str(HERE / f"{part}.py"), *arguments]
        if part in parts and subprocess.run(command, check=False).returncode:
            failed.append(part)
    console.print(write_readme(results, HERE.parent / "README.md", write=not options.quick))
    for path in draw(results):
        console.print(f"drawn: {path.relative_to(HERE.parent)}")
    if failed:
        console.print(f"[bold]failed:[/] {', '.join(failed)}")
    return len(failed)


def run_suite(console: Console, part: str, results: Path, quick: bool) -> bool:
    """Run one module's benchmarks under a progress bar; return whether its process succeeded."""
    command = [sys.executable, "-u", "-m", "pytest", str(HERE / f"test_{part}.py")]
    listed = subprocess.run(
        [*command, "--collect-only", "-q"], capture_output=True, text=True, check=False
    )
    total = sum("::" in line for line in listed.stdout.splitlines())
    results.mkdir(parents=True, exist_ok=True)
    command += ["-v", "--benchmark-only", f"--results={results}", "--benchmark-quiet"]
    command += ["--timeout=1200", "-p", "no:cacheprovider"] + ["--quick"] * quick
    columns = (
        TextColumn("{task.fields[suite]:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    lines = []
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run,
        Progress(*columns, console=console) as progress,
    ):
        assert run.stdout is not None
        task = progress.add_task("", total=total, suite=part)
        for line in run.stdout:
            lines.append(line)
            verdict = VERDICT.search(line)
            if verdict:
                name, how = verdict.groups()
                progress.update(task, advance=1, description=name)
                if how != "PASSED" or not console.is_terminal:
                    progress.print(f"{part} {name} {how}", highlight=False)
    if run.returncode or not total:
        console.print("".join(lines), highlight=False, markup=False)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
