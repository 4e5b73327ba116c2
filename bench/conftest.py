"""Shared parts of the benchmarks: their sizes, and the files for their medians.

`--quick` makes fewer and smaller rounds. They show that everything runs, and are not to be quoted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from machine import environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few small rounds; nothing to quote")
    parser.addoption(
        "--results",
        help="the folder for medians, a file for each module; other medians stay",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        sizes = [1_000, 100_000] if quick else [1_000, 100_000, 1_000_000]
        metafunc.parametrize("size", sizes, scope="module")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return 5 if request.config.getoption("--quick") else 31


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keep the machine's name out of the committed files."""
    output_json["machine_info"].pop("node", None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the medians of this run, and keep those of cases that it did not run."""
    folder = session.config.getoption("--results")
    benches = getattr(session.config, "_benchmarksession", None)
    if folder is None or benches is None:
        return
    measured: dict[str, dict[str, Any]] = defaultdict(dict)
    for bench in benches.benchmarks:
        module, _, case = bench.fullname.partition("::")
        name = Path(module).stem.removeprefix("test_")
        if bench.extra_info:
            measured[name][case] = dict(bench.extra_info)
    for name, cases in measured.items():
        path = Path(folder, f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        merged = dict(sorted({**known.get("cases", {}), **cases}.items()))
        written = {"environment": environment(), "cases": merged}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
