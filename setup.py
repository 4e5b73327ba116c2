"""Build the one extension, flowcache._core; all that is static stands in pyproject.toml.

Switches, read from the environment:

    FLOWCACHE_DEBUG=1             symbols, and no optimisation
    FLOWCACHE_SANITIZE=address    or `undefined` or `thread`: gcc's or clang's sanitizer
    FLOWCACHE_COVERAGE=1          counts which lines run, for gcov
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FLOWCACHE_DEBUG", "") not in ("", "0")
COVERAGE = os.environ.get("FLOWCACHE_COVERAGE", "") not in ("", "0")
SANITIZER = os.environ.get("FLOWCACHE_SANITIZE", "")
SANITIZERS = ("address", "undefined", "thread")

SYMBOLS = ("-g", "-fno-omit-frame-pointer")
# An error for gcc 14 and clang 16, so for older ones too: all compilers refuse the same code.
STRICT = "-Werror=incompatible-pointer-types"

if SANITIZER and SANITIZER not in SANITIZERS:
    sys.exit(f"FLOWCACHE_SANITIZE is {SANITIZER!r}; accepted: {', '.join(SANITIZERS)}")


class BuildCore(build_ext):
    """Translate only when there is something to compile: an sdist needs no Cython."""

    def build_extensions(self) -> None:
        """Add the flags that this compiler takes, then build."""
        msvc = self.compiler.compiler_type == "msvc"
        if msvc and (SANITIZER or COVERAGE):
            sys.exit("FLOWCACHE_SANITIZE and FLOWCACHE_COVERAGE need gcc or clang")
        for extension in self.extensions:
            extension.extra_compile_args += compile_flags(msvc=msvc)
            if SANITIZER:
                extension.extra_link_args.append(f"-fsanitize={SANITIZER}")
            if COVERAGE:
                extension.extra_link_args.append("--coverage")
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Translate to C, outside the source tree, and compile."""
        from Cython.Build import cythonize  # noqa: PLC0415 - an sdist needs none

        # Interpreters that share a checkout must not write each other's C. The compiler counts the
        # lines of the sources if the C names them. Cython's own tracing would run Python code and
        # make objects in the middle of the core's work, where no thread and no collection may come.
        (translated,) = cythonize(
            [ext],
            build_dir=str(Path(self.build_temp, "cython")),
            include_path=["src"],
            emit_linenums=COVERAGE,
            language_level=3,
        )
        ext.sources = translated.sources
        super().build_extension(ext)


def compile_flags(*, msvc: bool) -> list[str]:
    """Return the compiler's flags for the switches that are set."""
    if msvc:
        return ["/Od"] if DEBUG else ["/O2"]
    if SANITIZER:
        # Every finding ends the process: a report that scrolls by is not seen.
        return [f"-fsanitize={SANITIZER}", "-fno-sanitize-recover=all", *SYMBOLS, "-O1", STRICT]
    if COVERAGE:
        return ["--coverage", *SYMBOLS, "-O0", STRICT]
    if DEBUG:
        return [*SYMBOLS, "-O0", STRICT]
    # Without it an interpreter's own -g is added: a quarter of the compiler's time, and nine tenths
    # of the object, for a debugger's use alone. FLOWCACHE_DEBUG has symbols.
    return ["-O3", "-g0", STRICT]


setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Extension(
            "flowcache._core",
            sources=["src/_core.pyx"],
            depends=sorted(str(room.as_posix()) for room in Path("src/_core").glob("*.p*")),
            include_dirs=["src"],
        )
    ],
)
