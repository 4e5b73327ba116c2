"""Run the tests of the projects that flowcache stands in for, over flowcache's own classes.

    python scripts/upstream/upstream.py [django] [dogpile] ... [--litestar CHECKOUT]

Run by the Python of an environment that holds flowcache and those projects. The tests come from the
sdist of the installed version, which pip fetches once into .venv/sdists. Before a suite runs, its
omitted tests are printed, each with the reason. Litestar's sdist has no tests: they run if a
checkout of its repository is named. The suites with a tier start a Valkey server of their own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOWNLOADS = ROOT / ".venv" / "sdists"
SUITES = Path(__file__).resolve().parent / "suites"
EXAMPLES = ROOT / "examples" / "frameworks"


@dataclass(frozen=True)
class Suite:
    """One project's tests, and the file that runs them over flowcache's class."""

    distribution: str
    file: str
    folders: tuple[str, ...] = ()
    """Folders of the sdist to copy beside the file; none where the wheel holds the tests."""
    arguments: tuple[str, ...] = ("-m", "pytest", "-q", "-rsx", "-p", "no:cacheprovider")
    settings: str = ""
    """The settings of pytest that the tests need."""
    examples: tuple[str, ...] = ()
    """Files of examples/frameworks to copy beside the file."""
    beside: tuple[str, ...] = ()
    """Files of scripts/upstream/suites that it imports."""


KNOWN = {
    "django": Suite(
        "Django",
        "django_suite.py",
        ("tests/cache",),
        ("-c", "import sys, django_suite; sys.exit(django_suite.main())"),
    ),
    "django_tier": Suite(
        "Django",
        "django_tier_suite.py",
        ("tests/cache",),
        ("-c", "import sys, django_tier_suite; sys.exit(django_tier_suite.main())"),
        beside=("django_suite.py", "tier_server.py"),
    ),
    "dogpile": Suite("dogpile.cache", "dogpile_suite.py"),
    "dogpile_tier": Suite("dogpile.cache", "dogpile_tier_suite.py", beside=("tier_server.py",)),
    "cachelib": Suite("cachelib", "cachelib_suite.py", ("tests",)),
    "cachetools": Suite("cachetools", "cachetools_suite.py", ("tests",)),
    "flask_caching": Suite("Flask-Caching", "flask_caching_suite.py", ("tests",)),
    "aiocache": Suite(
        "aiocache",
        "aiocache_suite.py",
        ("tests",),
        settings="asyncio_mode = auto\n",
        examples=("aiocache_backend.py",),
    ),
}

# The plugins for its markers are not installed: each test runs once, in one process.
OF_LITESTAR = Suite(
    "litestar",
    "litestar_suite.py",
    arguments=("-m", "pytest", "-q", "-rsx", "-p", "no:cacheprovider", "-p", "litestar_suite"),
    settings="asyncio_mode = auto\n",
)


def main() -> int:
    """Run the suites that are named, or all; return how many failed."""
    parser = argparse.ArgumentParser(description="Run upstreams' own tests over flowcache.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(KNOWN))
    parser.add_argument(
        "--litestar", type=Path, metavar="CHECKOUT", help="run Litestar's tests too"
    )
    options = parser.parse_args()
    named = options.suites or ([] if options.litestar else list(KNOWN))
    unknown = [name for name in named if name not in KNOWN]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(KNOWN)}")
    failed = [name for name in named if not run(KNOWN[name])]
    if options.litestar:
        named.append("litestar")
        tests = options.litestar / "tests" / "unit" / "test_stores.py"
        if not run(OF_LITESTAR, tests):
            failed.append("litestar")
    print(f"upstream: {len(named) - len(failed)} of {len(named)} suites passed", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def run(suite: Suite, tests: Path | None = None) -> bool:
    """Run one suite in a folder of its own; return whether it passed.

    ``tests``: a file of tests that takes the suite as pytest's plugin.
    """
    version = importlib.metadata.version(suite.distribution)
    where = " with a tier" if "tier_server.py" in suite.beside else ""
    print(f"--- {suite.distribution} {version}{where}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in (suite.file, *suite.beside):
            shutil.copy(SUITES / file, folder)
        for example in suite.examples:
            shutil.copy(EXAMPLES / example, folder)
        if suite.folders:
            extract(fetch(suite.distribution, version), suite.folders, folder)
        if tests is not None:
            shutil.copy(tests, folder)
        target = [] if suite.arguments[0] == "-c" else [tests.name if tests else suite.file]
        # Neither the tests' own settings for pytest nor those of this project apply.
        (folder / "pytest.ini").write_text(f"[pytest]\n{suite.settings}", encoding="utf-8")
        # The server of a tier is one of this project's tests.
        paths = [name, str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        finished = subprocess.run(
            [sys.executable, *suite.arguments, *target], cwd=folder, env=environment, check=False
        )
    return finished.returncode == 0


def fetch(distribution: str, version: str) -> Path:
    """Return the sdist of a distribution, fetched if it was not before."""
    folder = DOWNLOADS / f"{distribution}-{version}"
    if not any(folder.glob("*.tar.gz")):
        wanted = ["--no-deps", "--no-binary", ":all:", f"{distribution}=={version}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
        subprocess.run([*command, *wanted], check=True)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def extract(sdist: Path, folders: tuple[str, ...], target: Path) -> None:
    """Copy folders of an sdist into the target, each under its own name."""
    with tempfile.TemporaryDirectory() as name, tarfile.open(sdist) as archive:
        archive.extractall(name, filter="data")
        (top,) = Path(name).iterdir()
        for folder in folders:
            shutil.copytree(top / folder, target / Path(folder).name, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
