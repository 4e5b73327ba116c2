"""A test that does not run says why, where the summary shows it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).resolve().parent.parent
FEWEST_WORDS = 3
SKIPS = ("pytest.skip", "pytest.xfail", "pytest.importorskip")
MARKS = ("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail")


def reasons(tree: ast.AST) -> Iterator[tuple[int, str | None]]:
    """Yield the line of each skip, and its reason."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call | ast.Attribute):
            continue
        name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        if not isinstance(node, ast.Call):
            # A mark that is not called has no reason. `skipif` without a condition is an error.
            if name == "pytest.mark.skip":
                calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
                if all(call.func is not node for call in calls):
                    yield node.lineno, None
            continue
        if name not in (*SKIPS, *MARKS):
            continue
        given = [one.value for one in node.keywords if one.arg == "reason"]
        if name in ("pytest.skip", "pytest.xfail"):
            given += node.args[:1]
        yield node.lineno, ast.unparse(given[0]) if given else None


def test_each_skip_says_why() -> None:
    found = 0
    for path in sorted(TESTS.rglob("*.py")):
        for line, reason in reasons(ast.parse(path.read_text())):
            found += 1
            where = f"{path.relative_to(TESTS)}:{line}"
            assert reason is not None, f"{where} gives no reason"
            assert len(reason.split()) >= FEWEST_WORDS, f"{where}: {reason} is no reason"
    assert found > 60


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip\ndef test(): ...",
        "pytest.mark.skip()",
        "pytest.mark.skipif(True)",
        "pytest.mark.xfail(strict=True)",
        "pytest.importorskip('pydantic')",
        "pytest.skip()",
    ],
)
def test_a_skip_without_a_reason_is_found(source: str) -> None:
    assert [reason for _, reason in reasons(ast.parse(source))] == [None]


def run(program: str, **environment: str) -> str:
    """Run a test of the tier's as the suite does; return what pytest wrote."""
    file, test = TESTS / "tier" / "test_layout.py", "test_all_of_a_unit_lies_in_one_slot"
    return subprocess.run(
        [sys.executable, "-c", program, str(file), "-k", test],
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTS.parent,
        env={**os.environ, **environment},
    ).stdout


PYTEST = "import pytest; status = pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]])\n"
PROGRAM = f"import sys; {PYTEST}sys.exit(status not in (0, 5))"
WITHOUT = f"import sys; sys.modules['msgspec'] = None; {PYTEST}sys.exit(status not in (0, 5))"


def test_a_server_that_is_missing_is_named_in_the_summary(tmp_path: Path) -> None:
    assert "LEFT OUT the tier was not tested on: redis (not found)" in run(
        PROGRAM, PATH=str(tmp_path)
    )


def test_without_its_packages_the_tests_of_the_tier_say_so() -> None:
    out = run(WITHOUT)
    assert "SKIPPED [1]" in out
    assert "msgspec, of the extra `valkey`, cannot be installed here" in out
