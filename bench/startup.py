"""The time that `import flowcache` adds to the start of a program, beside other imports.

    make bench ARGS="--only startup"

Each import runs in a fresh process, in turns with the others. The result is the median time of the
import statement, with the files in the system's cache. It includes the modules of the standard
library that a package imports.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

from machine import RESULTS, environment
from rich.progress import track

BASIS = "asyncio, dataclasses, typing"
"""Modules that an application has imported already: the goal of flowcache is their time and 10
ms."""
MODULES = ("flowcache", BASIS, "cachebox", "cachetools", "cashews", "moka_py", "theine")
TIME = """\
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
"""


def seconds_of(module: str) -> float:
    command = [sys.executable, "-c", TIME.format(module=module)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--results", default=str(RESULTS))
    options = parser.parse_args()
    taken: dict[str, list[float]] = {module: [] for module in MODULES}
    for number in track(range(options.rounds + 1), "importing, each in a fresh process"):
        turns = list(MODULES)
        random.shuffle(turns)
        for module in turns:
            seconds = seconds_of(module)
            if number:  # the first run brings the files into the system's cache
                taken[module].append(seconds)
    figures = {module: round(median(times) * 1e3, 2) for module, times in taken.items()}
    for module, milliseconds in sorted(figures.items(), key=lambda item: item[1]):
        print(f"{module:<30}{milliseconds:>8.2f} ms")
    written = {"environment": environment(), "milliseconds": figures}
    path = Path(options.results, "startup.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
