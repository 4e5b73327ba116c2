# Each target is a session of nox, which is installed into .venv/nox first; noxfile.py describes
# each. `PYTHON`, 3.8 or newer, only starts nox. `ARGS` is passed to the program of the target:
# `make demo ARGS=--serve`, `make test ARGS="-k isolation"`. `PYTHONS` narrows the interpreters,
# which are searched on PATH and among pyenv's versions: `make test PYTHONS="3.12 3.13"`.
PYTHON ?= python3
ARGS ?=
PYTHONS ?=
# Built with ./configure --disable-gil --with-thread-sanitizer, CC=clang.
TSAN_PYTHON ?= python3.13t
export PYTHONS TSAN_PYTHON

NOX := $(PYTHON) scripts/bootstrap.py

.PHONY: help demo test lint format bench asan ubsan tsan valgrind fuzz coverage upstream wheel clean
.PHONY: stress evictions histories hostile matrix

help:
	@echo "make demo    a dashboard for several tenants, in three workers (ARGS=--alone: in one; --serve leaves it up)"
	@echo "make test    the suite on each Python of 3.11 to 3.15, and on 3.13t, if found"
	@echo "make lint    ruff, mypy, cython-lint, codespell"
	@echo "make format  write the code as ruff formats it"
	@echo "make bench   the benchmarks, with results, plots and the README's table (ARGS=--quick: rough)"
	@echo "make asan    the suite under AddressSanitizer"
	@echo "make ubsan   the suite under UndefinedBehaviorSanitizer"
	@echo "make tsan    the stress program under ThreadSanitizer (TSAN_PYTHON: a build for it, without the GIL)"
	@echo "make valgrind  the tests of the core under memcheck"
	@echo "make fuzz    sequences of calls against the model, for three minutes"
	@echo "make coverage  the lines and branches that the suite reaches, in Python and in the core"
	@echo "make stress, evictions, histories, hostile, matrix  the programs of tests/harness, with options in ARGS"
	@echo "make upstream  the tests of the frameworks themselves, over flowcache's classes"
	@echo "make wheel   sdist and wheel, in dist/"
	@echo "make clean   remove the files of all of these"

demo test lint format bench asan ubsan valgrind fuzz coverage upstream wheel:
	@$(NOX) -s $@ -- $(ARGS)

stress evictions histories hostile matrix:
	@$(NOX) -s $@ -- $(ARGS)

# ThreadSanitizer's shadow memory needs an address space without randomisation.
tsan:
	@setarch -R $(NOX) -s $@ -- $(ARGS)

clean:
	rm -rf .venv .fuzz build dist wheelhouse src/flowcache.egg-info src/_core.c src/flowcache/_core.*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
