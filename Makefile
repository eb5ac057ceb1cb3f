# `make` lists the targets. Each sets up what it needs in .venv: it takes a
# Python of at least 3.11, and network access for pip the first time.

VENV ?= .venv
# The tests run in this many processes; those that share compiled functions
# stay in one of them (tests/conftest.py).
JOBS ?= 2
ARGS ?=

# What was compiled once is kept beside the virtual environment: the second run
# of the tests then takes a third of the time.
TEST_ENV = JAX_PLATFORMS=cpu \
  JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/jax_cache \
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# Half of the time is the compiler's last optimizations, which change roundings
# alone; tests that are about them ask for them (tests/compiling.py). With
# COMPILER_FLAGS= everything is compiled as users' programs are, and so it is
# with the lowest and the newest versions. A jaxlib that does not know a flag
# does not start with it, and gets none.
COMPILER_FLAGS ?= --xla_backend_optimization_level=0 \
  --xla_cpu_use_fusion_emitters=false

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs check many-machines nightly \
  test-lowest test-newest generate clean

help:
	@echo "make demo         where methods tie, and where one decides; into out/"
	@echo "make test         run the whole test suite on the CPU"
	@echo "make lint         check the style"
	@echo "make types        check the types"
	@echo "make docs         build the documentation; into docs/_build/html"
	@echo "make check        all of lint, types, docs and test"
	@echo "make many-machines  two processes with four devices each, against one"
	@echo "make nightly      100,000 matrices a solver, 100,000 steps a method"
	@echo "make test-lowest  the tests with the lowest supported versions"
	@echo "make test-newest  the tests with the newest versions and Python"
	@echo "make generate     write the generated parts of README and docs"
	@echo "make clean        remove the virtual environments and all outputs"
	@echo
	@echo "ARGS='...' goes to the command that a target runs, JOBS=n sets the"
	@echo "number of test processes, PYTHON=... the Python to use."

demo: $(VENV)/.installed-bench
	$(VENV)/bin/python -m benchmarks.demo $(ARGS)

test: $(VENV)/.installed-test
	export $(TEST_ENV); \
	if XLA_FLAGS="$$XLA_FLAGS $(COMPILER_FLAGS)" $(VENV)/bin/python \
	    -c 'import jax; jax.devices()' >/dev/null 2>&1; then \
	  export XLA_FLAGS="$$XLA_FLAGS $(COMPILER_FLAGS)"; \
	fi; \
	$(VENV)/bin/python -m pytest \
	  -n $(JOBS) --dist loadscope $(ARGS)

lint: $(VENV)/.installed-lint
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(VENV)/.installed-types
	$(VENV)/bin/python -m basedpyright --pythonpath $(VENV)/bin/python

docs: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(VENV)/bin/python docs/generate.py --check
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx -W --keep-going \
	  -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

check: lint types docs test

many-machines: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n 0 tests/test_many_machines.py $(ARGS)

# Both run to their end, and either may fail it.
nightly: $(VENV)/.installed-bench
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m benchmarks.faults.fuzz $(ARGS); \
	fuzz=$$?; \
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m benchmarks.faults.soak && \
	exit $$fuzz

# The same suite in environments of their own.
test-lowest:
	$(MAKE) test VENV=.venv-lowest PYTHON=python3.11 COMPILER_FLAGS= \
	  INSTALL_ARGS='--constraint .ci/lowest.txt'

test-newest:
	$(MAKE) test VENV=.venv-newest COMPILER_FLAGS= \
	  PYTHON="python3.14 python3.13 python3.12" INSTALL_ARGS=--upgrade

generate: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(VENV)/bin/python docs/generate.py
	JAX_PLATFORMS=cpu $(VENV)/bin/python docs/mistakes.py

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest out docs/_build dist

# A Python counts if it runs at all, is recent enough, and can build a venv:
# version managers leave commands that do not run, some distributions leave out
# ensurepip.
$(VENV)/bin/python:
	@for candidate in $(PYTHON) \
	    python3.13 python3.12 python3.11 python3.14 python3 python; do \
	  if $$candidate -c 'import ensurepip, sys, venv; \
	      sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Using $$candidate for $(VENV)"; \
	    exec $$candidate -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python of at least 3.11 with the modules venv and ensurepip was" \
	  "found. Install one (on Debian and Ubuntu: python3 and python3-venv)," \
	  "or name it: make PYTHON=/path/to/python3." >&2; \
	exit 1

# pip runs again only if pyproject.toml has changed since.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(INSTALL_ARGS) --editable '.[$*]'
	@touch $@
