"""Make or mend one virtual environment, build flowcache in it, and run a command with its Python.

    python3.12 scripts/environment.py test demo -- -m pytest

Run by the interpreter that the environment is for. What is up to date is not done again. The
sources are copied into the environment and built there: builds of several interpreters do not
meet, the checkout stays clean, and what the command imports is what a user would install.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
PACKAGE_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
SOURCE_SUFFIXES = (".py", ".pyi", ".pyx", ".pxd", ".typed")
# Requirements of tests that a build without the GIL does not always have: compiled, and without
# wheels for it. The tests that need them are skipped there, and say so.
NOT_FREE_THREADED = ("mypy", "uvloop", "zstandard")
SWITCHES = ("FLOWCACHE_DEBUG", "FLOWCACHE_SANITIZE", "FLOWCACHE_COVERAGE")


def main() -> None:
    """Set up what the command line asks for and become the command, if there is one."""
    parser = argparse.ArgumentParser(description="Set up an environment; run a command in it.")
    parser.add_argument("extras", nargs="*", help="extras whose requirements to install")
    parser.add_argument("--no-build", action="store_true", help="do without flowcache itself")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]

    folder = environment_folder()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(python):
        say(f"making {folder.relative_to(ROOT)} for Python {sys.version.split()[0]}")
        venv.create(folder, clear=True, with_pip=True)
    install_requirements(folder, python, options.extras)
    if not options.no_build:
        install_flowcache(folder, python)
    if command:
        os.chdir(ROOT)
        os.execve(python, [str(python), *command], os.environ | sanitizer_variables())


def environment_folder() -> Path:
    """Return where this Python's environment is; each set of build switches has one of its own."""
    name = f"{sys.version_info.major}.{sys.version_info.minor}"
    if FREE_THREADED:
        name += "t"
    for switch in SWITCHES:
        if os.environ.get(switch):
            name += f"-{switch.removeprefix('FLOWCACHE_').lower()}-{os.environ[switch]}"
    return ROOT / ".venv" / name


def sanitizer_variables() -> dict[str, str]:
    """Return the variables with which this Python can load a sanitized core."""
    sanitizer = os.environ.get("FLOWCACHE_SANITIZE")
    if sanitizer == "thread":
        if "-fsanitize=thread" not in (sysconfig.get_config_var("PY_CORE_CFLAGS") or ""):
            sys.exit(
                "ThreadSanitizer must see CPython's own locks: build it --with-thread-sanitizer"
            )
        return {"TSAN_OPTIONS": f"suppressions={ROOT / 'scripts' / 'tsan.supp'}"}
    if sanitizer != "address":
        return {}
    # The runtime must be there before the first allocation, and the C++ library, whose exceptions
    # it watches, before the modules that use it; Python's own allocator would hide faults from it.
    # Leaks are not asked for: an interpreter leaves much behind at its end. What it finds stands
    # in a file, for pytest holds what is printed, and ends the run otherwise than a failed test.
    compiler = os.environ.get("CC", "cc")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    report = environment_folder() / "asan-report"
    return {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode=77:log_path={report}",
        "PYTHONMALLOC": "malloc",
    }


def works(python: Path) -> bool:
    """Tell whether the environment is there and belongs to the interpreter that runs this."""
    ask = "import pip, sys; print(sys.base_prefix)"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.stdout.strip() == sys.base_prefix


def install_requirements(folder: Path, python: Path, extras: list[str]) -> None:
    """Install what the build and the extras require, as pyproject.toml states it now."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = set(project["build-system"]["requires"])
    for extra in extras:
        required.update(project["project"]["optional-dependencies"][extra])
    if FREE_THREADED:
        required = {one for one in required if not one.startswith(NOT_FREE_THREADED)}
    record = folder / "requirements.json"
    known = set(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else set()
    if required <= known:
        return
    say(f"installing what {', '.join(extras) or 'the build'} needs into {folder.relative_to(ROOT)}")
    # Without the GIL the newest release of some is a source that asks for a Rust compiler, where an
    # older one is a wheel: pip is to look for that.
    wheels = ["--only-binary", ":all:"] if FREE_THREADED else []
    pip(python, *wheels, *sorted(required))
    record.write_text(json.dumps(sorted(required | known)), encoding="utf-8")


def install_flowcache(folder: Path, python: Path) -> None:
    """Build and install flowcache if its sources are not those that were built last."""
    sources, done = folder / "flowcache-source", folder / "flowcache-built"
    changed = copy_sources(sources)
    if changed:
        done.unlink(missing_ok=True)
    if done.exists():
        return
    # A module that is gone from the sources would live on in what was gathered for the last wheel.
    # The compiled core stays: it is compiled again when it is older than its sources.
    for stale in sources.glob("build/lib*/flowcache/**/*.py*"):
        if stale.suffix in SOURCE_SUFFIXES:
            stale.unlink()
    say(f"building flowcache in {folder.relative_to(ROOT)}")
    pip(python, "--no-deps", "--no-build-isolation", "--force-reinstall", str(sources))
    done.touch()


def copy_sources(target: Path) -> bool:
    """Make the target hold the checkout's sources and no others; return if it had to change."""
    wanted = [ROOT / name for name in PACKAGE_FILES]
    wanted += [path for path in (ROOT / "src").rglob("*") if path.suffix in SOURCE_SUFFIXES]
    changed = False
    for path in wanted:
        copy = target / path.relative_to(ROOT)
        if copy.exists() and filecmp.cmp(path, copy, shallow=False):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        # With the time of now: an older file that came back must be new to the build.
        shutil.copyfile(path, copy)
        changed = True
    for copy in list((target / "src").rglob("*")):
        if copy.suffix in SOURCE_SUFFIXES and not (ROOT / copy.relative_to(target)).exists():
            copy.unlink()
            changed = True
    return changed


def pip(python: Path, *arguments: str) -> None:
    """Install with the environment's pip; end the program with its exit code if that fails."""
    # Once quiet still lets warnings through.
    quietly = ("--quiet", "--quiet", "--disable-pip-version-check")
    command = [str(python), "-m", "pip", "install", *quietly, *arguments]
    finished = subprocess.run(command, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def say(line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
