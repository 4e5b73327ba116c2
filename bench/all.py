"""Run every benchmark, write bench/results, draw the plots and fill the README's table.

make bench                  some 20 minutes of a machine that does nothing else
make bench ARGS=--quick     that everything runs; nothing is written
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    suite = ["-m", "pytest", str(HERE), "--benchmark-only", "--benchmark-columns=median"]
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            commands = [
                [*suite, "--quick"],
                ["memory.py", "--entries", "20000", "--results", str(Path(scratch, "memory.json"))],
            ]
        else:
            commands = [[*suite, "-v"], ["memory.py"], ["plots.py"], ["figures.py"]]
        for number, command in enumerate(commands, 1):
            print(f"--- {number} of {len(commands)}: {' '.join(command)}", flush=True)
            finished = subprocess.run([sys.executable, *command], cwd=HERE, check=False)
            if finished.returncode:
                return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
