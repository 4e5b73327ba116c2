# Each target is a session of nox, which this puts into .venv/nox first: noxfile.py says what each
# does. `PYTHON`, 3.8 or newer, only starts it. `ARGS` goes to what the target runs: `make demo
# ARGS=--serve`, `make test ARGS="-k isolation"`. `PYTHONS` narrows the interpreters, which are
# looked for on PATH and among pyenv's versions: `make test PYTHONS="3.12 3.13"`.
PYTHON ?= python3
ARGS ?=
PYTHONS ?=
# Built with ./configure --disable-gil --with-thread-sanitizer, CC=clang.
TSAN_PYTHON ?= python3.13t
export PYTHONS TSAN_PYTHON

NOX := $(PYTHON) scripts/bootstrap.py

.PHONY: help demo test lint format bench asan ubsan tsan valgrind fuzz coverage upstream wheel clean
.PHONY: stress histories hostile matrix

help:
	@echo "make demo    a dashboard for several tenants over real HTTP (ARGS=--serve leaves it up)"
	@echo "make test    the suite on each Python of 3.11 to 3.15, and on 3.13t, that is found"
	@echo "make lint    ruff, mypy, cython-lint, codespell"
	@echo "make format  write the code as ruff formats it"
	@echo "make bench   the benchmarks, with results, plots and the README's table (ARGS=--quick: rough)"
	@echo "make asan    the suite under AddressSanitizer"
	@echo "make ubsan   the suite under UndefinedBehaviorSanitizer"
	@echo "make tsan    the stress program under ThreadSanitizer (TSAN_PYTHON: a build for it, without the GIL)"
	@echo "make valgrind  the tests of the core under memcheck"
	@echo "make fuzz    sequences of calls against the model, for three minutes"
	@echo "make coverage  which lines and branches the suite reaches, in Python and in the core"
	@echo "make stress, histories, hostile, matrix  the programs of tests/harness, for as long as ARGS says"
	@echo "make upstream  the tests of the frameworks themselves, over flowcache's classes"
	@echo "make wheel   sdist and wheel, in dist/"
	@echo "make clean   remove all that these leave behind"

demo test lint format bench asan ubsan valgrind fuzz coverage upstream wheel:
	@$(NOX) -s $@ -- $(ARGS)

stress histories hostile matrix:
	@$(NOX) -s $@ -- $(ARGS)

# ThreadSanitizer's shadow memory wants an address space that is not shuffled.
tsan:
	@setarch -R $(NOX) -s $@ -- $(ARGS)

clean:
	rm -rf .venv .fuzz build dist wheelhouse src/flowcache.egg-info src/_core.c src/flowcache/_core.*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
