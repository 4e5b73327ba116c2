"""What the benchmarks share: their sizes, and the file that their medians go to.

`--quick` makes fewer and smaller rounds: enough to see that everything runs, not to quote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from machine import RESULTS, environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few small rounds; nothing to quote")
    parser.addoption(
        "--results",
        help="the file for medians, by default bench/results/compare.json (with --quick: none); "
        "what this run did not measure stays in it",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        sizes = [1_000, 20_000] if quick else [1_000, 100_000, 1_000_000]
        metafunc.parametrize("size", sizes, scope="module")


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return 3 if request.config.getoption("--quick") else 21


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Keep the machine's name out of what is committed."""
    output_json["machine_info"].pop("node", None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the medians of every case that was run beside those of earlier runs."""
    benches = getattr(session.config, "_benchmarksession", None)
    measured = {
        bench.fullname.removeprefix("bench/"): dict(bench.extra_info)
        for bench in getattr(benches, "benchmarks", [])
        if "nanoseconds" in bench.extra_info
    }
    given = session.config.getoption("--results")
    if not measured or (session.config.getoption("--quick") and given is None):
        return
    path = Path(given or RESULTS / "compare.json")
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases = {**known.get("cases", {}), **measured}
    written = {"environment": environment(), "cases": dict(sorted(cases.items()))}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
