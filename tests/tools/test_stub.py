"""The types that checkers see of the compiled core are those of the running core."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowcache
from flowcache import _core

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
TYPING = Path(__file__).parent / "typing"
ALLOWED = ["allowed.txt"] + ["allowed_from_3_13.txt"] * (sys.version_info >= (3, 13))


def compare(stubs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy", reason="mypy cannot be installed here")
    # No user code depends on the layout of a class in memory.
    arguments = ["flowcache._core", "--concise", "--ignore-disjoint-bases", *options]
    return subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *arguments],
        env=os.environ | {"MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
    )


def test_the_stub_agrees_with_the_compiled_module() -> None:
    finished = compare(ROOT / "src", *(f"--allowlist={TYPING / name}" for name in ALLOWED))
    # stubtest reports nothing if it finds no stub, as the module's name is private.
    assert "error" not in finished.stderr
    assert (finished.returncode, finished.stdout) == (0, "")


def test_a_stub_that_does_not_agree_is_found(tmp_path: Path) -> None:
    package = tmp_path / "flowcache"
    package.mkdir()
    (package / "__init__.pyi").touch()
    (package / "_core.pyi").write_text("class Namespace:\n    def no_such_call(self) -> int: ...\n")
    finished = compare(tmp_path)
    assert finished.returncode == 1
    assert "flowcache._core.Namespace.no_such_call is not present at runtime" in finished.stdout
    assert "flowcache._core.Load is not present in stub" in finished.stdout


def test_fetch_and_afetch_tell_their_signatures() -> None:
    options = ["ttl", "tags", "stale", "stale_if_error", "fallback_on", "refresh_ahead", "sliding"]
    options += ["jitter", "store_if", "pass_old", "timeout"]
    for call in (_core.Namespace.fetch, _core.Namespace.afetch):
        assert list(inspect.signature(call).parameters) == ["self", "key", "loader", *options]


def test_what_is_public_is_documented() -> None:
    for owner in (flowcache, flowcache.Namespace, flowcache.Cache):
        for name in dir(owner):
            made = getattr(owner, name)
            if not name.startswith("_") and (callable(made) or isinstance(made, property)):
                assert made.__doc__, f"{owner.__name__}.{name}"
