"""The distributions: an sdist that builds without git, and a wheel with the needed files only."""

from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

pytestmark = [pytest.mark.once, pytest.mark.packaging]

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPILED = (".so", ".pyd")
IN_THE_PACKAGE = (".py", ".pyi", ".typed", ".lua", ".css", ".html", ".js", ".svg")
LEFT_BEHIND = shutil.ignore_patterns(
    ".*", "build", "dist", "wheelhouse", "__pycache__", "*.egg-info", "*.so", "*.pyd", "_core.c"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files as a clone has them, without any files of a build."""
    folder = tmp_path_factory.mktemp("packaging") / "checkout"
    shutil.copytree(ROOT, folder, ignore=LEFT_BEHIND)
    return folder


@pytest.fixture(scope="module")
def distributions(checkout: Path) -> Path:
    """A folder with an sdist and the wheel that was built from it."""
    target = checkout.parent / "dist"
    # The compiled core is inspected, not measured, so it is built without optimisation.
    finished = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, checkout],
        env=os.environ | {"FLOWCACHE_DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return target


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> set[str]:
    """The names of the sdist's files, without the folder that holds them all."""
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


def files_below(folder: Path, *suffixes: str) -> set[str]:
    """The names of the files of these kinds, relative to the folder's parent."""
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.suffix in suffixes
    }


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_one_compiled_core(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    compiled = {name for name in held if name.endswith(COMPILED)}

    assert len(compiled) == 1
    assert compiled.pop().startswith("flowcache/_core.")
    expected = files_below(checkout / "src" / "flowcache", *IN_THE_PACKAGE)
    assert {"flowcache/__init__.py", "flowcache/_core.pyi", "flowcache/py.typed"} <= expected
    assert {name for name in held if not name.endswith(COMPILED)} == expected


def test_the_sdist_holds_what_builds_tests_and_explains(sdist: set[str], checkout: Path) -> None:
    expected = {"pyproject.toml", "setup.py", "MANIFEST.in", "Makefile", "noxfile.py"}
    expected |= {"README.md", "CHANGELOG.md", "LICENSE", "src/_core.pyx"}
    expected |= {f"src/{name}" for name in files_below(checkout / "src" / "_core", ".pxd", ".pyx")}
    expected |= {
        f"src/{name}" for name in files_below(checkout / "src" / "flowcache", *IN_THE_PACKAGE)
    }
    for folder in ("tests", "docs", "examples", "scripts", "bench", "fuzz"):
        expected |= files_below(checkout / folder, ".py", ".md", ".supp", ".c", ".txt")

    assert expected <= sdist
    assert not {name for name in sdist if name.endswith((*COMPILED, "_core.c", ".pyc"))}


def test_the_metadata_ask_for_nothing_beyond_python(wheel: Path) -> None:
    metadata = metadata_of(wheel)

    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    required = metadata.get_all("Requires-Dist", [])
    assert not [requirement for requirement in required if "extra ==" not in requirement]


def test_an_unpacked_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = """
import flowcache, flowcache._core
cache = flowcache.create_cache()
cache.namespace("tenant:acme").set("plan", "gold")
print(cache.namespace("tenant:acme").get("plan"), flowcache._core.__file__)
"""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    value, _, core = finished.stdout.strip().partition(" ")
    assert value == "gold"
    assert Path(core).is_relative_to(tmp_path)


def test_what_is_installed_is_this_version() -> None:
    assert importlib.metadata.version("flowcache") == PROJECT["version"]
