"""The sessions of flowcache, each in an environment of its own below `.venv`.

`make` installs nox and names the targets; `.venv/nox/bin/nox --list` lists the sessions. `PYTHONS`
narrows the interpreters: `make test PYTHONS="3.12 3.13"`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tomllib
from pathlib import Path

import nox
from nox.command import CommandFailed

sys.path.insert(0, str(Path(__file__).resolve().parent / "scripts"))

from building import build_wheel
from interpreters import VERSIONS, find_interpreters
from suites import Suite, closing_line, run_side_by_side

nox.needs_version = ">=2025.2.9"
nox.options.envdir = ".venv"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["test", "lint"]
# Of nox's own lines only errors are shown. An environment is made anew if its interpreter changed.
logging.getLogger("nox").setLevel(logging.ERROR)
os.environ["NOX_ENABLE_STALENESS_CHECK"] = "1"

ROOT = Path(__file__).resolve().parent
WANTED = os.environ.get("PYTHONS", "").split() or list(VERSIONS)
FOUND = find_interpreters(WANTED)
MISSING = [version for version in WANTED if version not in FOUND]
FIRST = next(iter(FOUND), WANTED[0])
FIRST_PYTHON = FOUND.get(FIRST, FIRST)
TSAN_PYTHON = os.environ.get("TSAN_PYTHON", "python3.13t")

SUITE = ("test", "demo", "replay")
"""The extras that the suite needs."""
# Requirements that are compiled, and may have no wheels for a build without the GIL. The tests that
# need them are skipped there, with this reason.
NOT_FREE_THREADED = ("aiohttp", "gevent", "litestar", "msgspec", "mypy", "uvloop")
SWITCHES = ("FLOWCACHE_DEBUG", "FLOWCACHE_SANITIZE", "FLOWCACHE_COVERAGE")

NOT_ONCE = ("-m", "not once")
"""For every interpreter after the first: no tests that say nothing about an interpreter."""
ONCE_ELSEWHERE = (
    f"the tests marked `once`, which say nothing about an interpreter and run on {FIRST}: the "
    "distributions, the stub, imports, most of the replay, the tier's model, the faults of its "
    "servers, broken examples; two thirds of the model's examples and of the guests' cases"
)
FEWER_EXAMPLES = {"FLOWCACHE_EXAMPLES": "40"}
"""On CI a machine of the model takes the same examples on each interpreter, 120 on the first."""
NO_PACKAGING = ("-m", "not packaging")
"""The tests that build the distributions do not depend on a switch of a build."""
OTHER_TOOLS = (
    "asan, ubsan, tsan, valgrind, fuzz, coverage, stress, evictions, histories, hostile, matrix: "
    "each is a target of make, and needs other tools or more time"
)

# ---------------------------------------------------------------------- environments


def install(session: nox.Session, *extras: str, version: str = FIRST) -> Path:
    """Install the requirements of the extras, then flowcache; return the folder of its build."""
    install_requirements(session, extras, free_threaded=version.endswith("t"))
    switches = [
        f"{switch.removeprefix('FLOWCACHE_').lower()}-{value}"
        for switch in SWITCHES
        if (value := session.env.get(switch) or os.environ.get(switch))
    ]
    folder = ROOT / ".venv" / "build" / "-".join([version, *switches])

    def build(*arguments: object) -> None:
        session.run_install("uv", "build", "--quiet", *map(str, arguments), log=False)

    wheel = build_wheel(folder, build)
    # uv would install an equal version again each time, or not at all.
    record, built = environment(session) / "flowcache.txt", f"{wheel} {wheel.stat().st_mtime_ns}"
    if not record.exists() or record.read_text(encoding="utf-8") != built:
        session.install("--quiet", "--no-deps", "--reinstall", str(wheel), log=False)
        record.write_text(built, encoding="utf-8")
    return folder


def install_requirements(
    session: nox.Session, extras: tuple[str, ...], *, free_threaded: bool = False
) -> None:
    """Install the requirements of the build and the extras, unless they are installed already.

    nox asks uv each time, which takes the network.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = set(project["build-system"]["requires"])
    for extra in extras:
        required.update(project["project"]["optional-dependencies"][extra])
    # Without the GIL the newest release of some is a source that needs a Rust compiler, and an
    # older one is a wheel. uv must choose the wheel.
    wheels = ["--only-binary", ":all:"] if free_threaded else []
    if free_threaded:
        required = {one for one in required if not one.startswith(NOT_FREE_THREADED)}
    record = environment(session) / "requirements.json"
    known = set(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else set()
    if required <= known:
        return
    say(f"installing what {session.name} needs into {environment(session).relative_to(ROOT)}")
    session.install("--quiet", *wheels, *sorted(required), log=False)
    record.write_text(json.dumps(sorted(required | known)), encoding="utf-8")


def environment(session: nox.Session) -> Path:
    """Return the folder of the session's environment."""
    return Path(session.virtualenv.location)


def python(session: nox.Session, *command: str, **environment: str) -> None:
    """Run a command with the session's Python; an interrupt leaves it time to end."""
    session.run("python", *command, env=environment, log=False, interrupt_timeout=60)


def say(line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)


# ---------------------------------------------------------------------- the two commands


@nox.session(python=FIRST_PYTHON)
def demo(session: nox.Session) -> None:
    """Show a dashboard for several tenants over real HTTP (--serve leaves it up)."""
    install(session, "demo")
    python(session, "examples/crm_dashboard.py", *session.posargs)


@nox.session(python=False)
def test(session: nox.Session) -> None:
    """Run the suite on each interpreter found, in parts that run side by side."""
    census = f"{', '.join(FOUND) or 'none'}; not found: {', '.join(MISSING) or 'none'}"
    say(f"interpreters: {census}")
    if not FOUND:
        session.error("no interpreter to run the suite on")
    suites = [Suite(version) for version in FOUND]
    for suite in suites[1:]:
        suite.options, suite.left_out = NOT_ONCE, [ONCE_ELSEWHERE]
        suite.variables = FEWER_EXAMPLES
    run_side_by_side(suites, session.posargs)
    say(f"\nran on: {census}")
    for suite in suites:
        say(f"Python {suite.version}, left out:")
        say("\n".join(suite.left_out or ["nothing"]))
    say(f"left out everywhere: {OTHER_TOOLS}")
    if any(suite.failures for suite in suites):
        # Last, since a long log is often cut at its beginning.
        for suite in suites:
            for failure in suite.failures:
                say(f"Python {suite.version}: {failure}")
        session.error(closing_line(suites))
    say(closing_line(suites))


def run_suite(session: nox.Session, version: str, *options: str, **variables: str) -> None:
    """Run the suite on one interpreter."""
    install(session, *SUITE, version=version)
    # Of a part there may be no test that was asked for: see scripts/suites.py.
    part = os.environ.get("FLOWCACHE_PART", "")
    cache = f"cache_dir=.pytest_cache/{session.name}{part and '-'}{part}"
    session.run(
        *("python", "-m", "pytest", "-o", cache, *options, *session.posargs),
        env=variables,
        log=False,
        interrupt_timeout=60,
        success_codes=[0, 5] if part else [0],
    )


def add_test_session(version: str, interpreter: str) -> None:
    """Add the session that runs the suite on this interpreter."""

    @nox.session(python=interpreter, name=f"test-{version}")
    def run(session: nox.Session) -> None:
        run_suite(session, version)


for version, interpreter in FOUND.items():
    add_test_session(version, interpreter)


# ---------------------------------------------------------------------- linters


@nox.session(python=FIRST_PYTHON)
def lint(session: nox.Session) -> None:
    """Run every linter, also after one has failed."""
    checks = (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("cython-lint", "src/_core.pyx", "src/_core"),
        ("codespell", "."),
    )
    install_requirements(session, ("lint",))
    failed = []
    for check in checks:
        say(f"--- {' '.join(check)}")
        try:
            session.run(*check, log=False)
        except CommandFailed:
            failed.append(" ".join(check))
    if failed:
        session.error(f"lint: {len(failed)} of {len(checks)} found faults: {', '.join(failed)}")
    say(f"lint: {len(checks)} of {len(checks)} passed")


@nox.session(python=FIRST_PYTHON, name="format")
def write_format(session: nox.Session) -> None:
    """Write the code as ruff formats it."""
    install_requirements(session, ("lint",))
    session.run("ruff", "check", "--fix", ".", log=False)
    session.run("ruff", "format", ".", log=False)


# ---------------------------------------------------------------------- sanitizers, fuzz, coverage


@nox.session(python=FIRST_PYTHON)
def asan(session: nox.Session) -> None:
    """Run the suite under AddressSanitizer."""
    # The runtime must be loaded before the first allocation. The C++ library must come before the
    # modules that use it, since the runtime watches its exceptions. Python's own allocator would
    # hide faults. Leaks are not reported: an interpreter frees little memory at its end. Reports go
    # to a file, because pytest captures output. Their exit status differs from that of a failed
    # test.
    libraries = [
        session.run("cc", f"-print-file-name={name}", external=True, silent=True, log=False)
        for name in ("libasan.so", "libstdc++.so")
    ]
    report = environment(session) / "report"
    sanitize(
        session,
        "address",
        LD_PRELOAD=" ".join(str(library).strip() for library in libraries),
        ASAN_OPTIONS=f"detect_leaks=0:exitcode=77:log_path={report}",
        PYTHONMALLOC="malloc",
    )


@nox.session(python=FIRST_PYTHON)
def ubsan(session: nox.Session) -> None:
    """Run the suite under UndefinedBehaviorSanitizer."""
    sanitize(session, "undefined")


def sanitize(session: nox.Session, sanitizer: str, **variables: str) -> None:
    """Run the suite with a sanitized core."""
    session.env["FLOWCACHE_SANITIZE"] = sanitizer
    # Sanitized code is several times slower, so the time-out of a test is longer.
    run_suite(session, FIRST, *NO_PACKAGING, PYTEST_TIMEOUT="1800", **variables)


@nox.session(python=shutil.which(TSAN_PYTHON) or TSAN_PYTHON)
def tsan(session: nox.Session) -> None:
    """Run the stress program under ThreadSanitizer, on the CPython that TSAN_PYTHON names."""
    flags = "import sysconfig; print(sysconfig.get_config_var('PY_CORE_CFLAGS'))"
    told = session.run("python", "-c", flags, silent=True, log=False)
    if "-fsanitize=thread" not in str(told):
        session.error("TSAN_PYTHON must be built --with-thread-sanitizer: its locks must be seen")
    session.env.update(FLOWCACHE_SANITIZE="thread", CC="clang")
    install(session, version="3.13t")
    options = f"suppressions={ROOT / 'scripts' / 'tsan.supp'}"
    program(session, "stress", "--seconds", "60", *session.posargs, TSAN_OPTIONS=options)


@nox.session(python=FIRST_PYTHON)
def valgrind(session: nox.Session) -> None:
    """Run tests of the core under memcheck, with a core that has symbols and no optimisation.

    Every block comes from malloc, so that a read past its end or after its release is seen. CPython
    reads an int's first digit before it knows that the int has one, and memcheck would follow that
    value everywhere. So CPython's debug hooks initialise its blocks. The structures of the core
    bypass these hooks and stay under watch. `tests/harness` tests for leaks: an interpreter frees
    little memory at its end.
    """
    session.env["FLOWCACHE_DEBUG"] = "1"
    install(session, *SUITE)
    memcheck = ["valgrind", "--tool=memcheck", "--quiet", "--error-exitcode=99", "--num-callers=30"]
    memcheck += ["--suppressions=scripts/valgrind.supp", str(Path(session.bin, "python"))]
    # A test takes some thirty times as long as without.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    pytest += ["-o", "timeout=3000", "-o", "faulthandler_timeout=2400"]
    variables = {"FLOWCACHE_EXAMPLES": "6"} | os.environ | {"PYTHONMALLOC": "malloc_debug"}
    tests = session.posargs or MEMCHECKED.split()
    session.run(*memcheck, *pytest, *tests, env=variables, external=True, log=False)


MEMCHECKED = """
tests/core/test_expiry.py tests/core/test_collector.py tests/core/test_tags.py
tests/core/test_lru.py tests/core/test_mapping.py tests/core/test_keyed.py
tests/core/test_namespaces.py tests/core/test_events.py tests/harness/test_interruptions.py
tests/harness/test_reentrancy.py tests/harness/test_model.py
"""
"""Tests that call the core in pytest's own process; its children are not watched."""


@nox.session(python=FIRST_PYTHON)
def fuzz(session: nox.Session) -> None:
    """Compare sequences of calls with the model, for three minutes."""
    install(session, "test", "fuzz")
    inputs = ROOT / ".fuzz"
    inputs.mkdir(exist_ok=True)
    limits = ("-max_total_time=180", *session.posargs)
    python(session, "fuzz/fuzz_calls.py", *limits, str(inputs), PYTHONPATH="tests")


@nox.session(python=FIRST_PYTHON)
def coverage(session: nox.Session) -> None:
    """Measure the lines and branches that the suite reaches, in Python and in the core."""
    session.env["FLOWCACHE_COVERAGE"] = "1"
    folder = install(session, *SUITE, "coverage")
    python(session, "scripts/measure_coverage.py", str(folder / "sources"), *session.posargs)


# ---------------------------------------------------------------------- programs of the harness


def program(session: nox.Session, name: str, *arguments: str, **variables: str) -> None:
    """Run a program of tests/harness."""
    variables["PYTHONPATH"] = "tests"
    python(session, "-W", "error", "-m", f"harness.{name}", *arguments, **variables)


def add_program(name: str, description: str, *extras: str) -> None:
    """Add the session that runs a program of tests/harness."""

    @nox.session(python=FIRST_PYTHON, name=name)
    def run(session: nox.Session) -> None:
        install(session, *extras)
        program(session, name, *session.posargs, PYTHONMALLOC="debug")

    run.__doc__ = description


add_program("stress", "Make every call in eight threads, for as long as --seconds says.")
add_program("evictions", "Evict at random, and compare each victim with the model's.", "test")
add_program("histories", "Load and invalidate in threads and tasks, and check each result.")
add_program("hostile", "Run random programs with guests that call back into the cache.")
add_program("matrix", "Make each call with each action of a guest at each place in it.")


# ---------------------------------------------------------------------- upstreams' own tests


@nox.session(python=FIRST_PYTHON)
def upstream(session: nox.Session) -> None:
    """Run the tests of the frameworks themselves, over flowcache's classes for them."""
    install(session, *SUITE, "upstream")
    python(session, "scripts/upstream/upstream.py", *session.posargs)


# ---------------------------------------------------------------------- figures, distributions


@nox.session(python=FIRST_PYTHON)
def bench(session: nox.Session) -> None:
    """Run the benchmarks, with results, plots and the README's table (--quick: rough)."""
    install(session, "bench", "demo")
    python(session, "bench/run.py", *session.posargs)


@nox.session(python=FIRST_PYTHON)
def wheel(session: nox.Session) -> None:
    """Build the sdist and the wheel, into dist/."""
    install_requirements(session, ("wheel",))
    python(session, "-m", "build", *session.posargs)
