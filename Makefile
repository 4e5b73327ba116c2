# Each target sets up what it needs under .venv, builds, and runs. `PYTHON` only starts the scripts, which
# find the interpreters themselves; `ARGS` goes to what the target runs: `make demo ARGS=--serve`,
# `make test ARGS="-k isolation"`. `PYTHONS` narrows `make test`: `make test PYTHONS=3.12`.
PYTHON ?= python3
ARGS ?=
PYTHONS ?=

RUN := $(PYTHON) scripts/run.py
TEST := $(PYTHON) scripts/test.py

.PHONY: help demo test lint format bench asan ubsan tsan valgrind fuzz coverage wheel clean

help:
	@echo "make demo    a dashboard for several tenants over real HTTP (ARGS=--serve leaves it up)"
	@echo "make test    the suite on each Python of 3.11 to 3.15, and on 3.13t, that is found"
	@echo "make lint    ruff, mypy, cython-lint, codespell"
	@echo "make format  write the code as ruff formats it"
	@echo "make bench   the benchmarks, with results, plots and the README's table (ARGS=--quick: rough)"
	@echo "make asan    the suite under AddressSanitizer"
	@echo "make ubsan   the suite under UndefinedBehaviorSanitizer"
	@echo "make tsan    the stress suite under ThreadSanitizer (TSAN_PYTHON: a build for it, without the GIL)"
	@echo "make valgrind  the tests of the core under memcheck"
	@echo "make fuzz    sequences of calls against the model, for three minutes"
	@echo "make coverage  which lines and branches the suite reaches, in Python and in the core"
	@echo "make wheel   sdist and wheel, in dist/"
	@echo "make clean   remove all that these leave behind"

demo:
	@$(RUN) demo -- examples/crm_dashboard.py $(ARGS)

test:
	@$(TEST) $(foreach version,$(PYTHONS),--python $(version)) -- $(ARGS)

lint:
	@$(RUN) --no-build lint -- scripts/lint.py

format:
	@$(RUN) --no-build lint -- -m ruff check --fix .
	@$(RUN) --no-build lint -- -m ruff format .

bench:
	@$(RUN) bench -- bench/run.py $(ARGS)

# Sanitized code is several times slower, so a test that hangs is given longer to show it.
asan ubsan: export PYTEST_TIMEOUT = 1800
asan: export FLOWCACHE_SANITIZE = address
ubsan: export FLOWCACHE_SANITIZE = undefined
asan ubsan:
	@$(TEST) --first -- -m "not packaging" $(ARGS)

# Built with ./configure --disable-gil --with-thread-sanitizer, CC=clang. Its shadow memory wants an
# address space that is not shuffled.
TSAN_PYTHON ?= python3.13t
tsan: export FLOWCACHE_SANITIZE = thread
tsan: export CC = clang
tsan:
	@setarch -R $(TSAN_PYTHON) scripts/environment.py -- tests/harness/stress.py --seconds 60 $(ARGS)

valgrind: export FLOWCACHE_DEBUG = 1
valgrind:
	@$(RUN) test -- scripts/valgrind.py $(ARGS)

fuzz:
	@mkdir -p .fuzz
	@$(RUN) test fuzz -- fuzz/fuzz_calls.py -max_total_time=180 $(ARGS) .fuzz

coverage: export FLOWCACHE_COVERAGE = 1
coverage:
	@$(RUN) test demo replay coverage -- scripts/measure_coverage.py $(ARGS)

wheel:
	@$(RUN) --no-build test -- -m build $(ARGS)

clean:
	rm -rf .venv .fuzz build dist wheelhouse src/flowcache.egg-info src/_core.c src/flowcache/_core.*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
