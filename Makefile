# `make` lists the targets. Each sets up what it needs in .venv: it takes a
# Python of at least 3.11, and network access for pip the first time.

VENV ?= .venv
# The tests run in this many processes; those that share compiled functions
# stay in one of them (tests/conftest.py).
JOBS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test docs lint generate clean

help:
	@echo "make demo      train with every method and compare; into out/compare"
	@echo "make test      run the whole test suite on the CPU"
	@echo "make docs      build the documentation; into docs/_build/html"
	@echo "make lint      check the style"
	@echo "make generate  write the generated tables of the README and the docs"
	@echo "make clean     remove the virtual environment and all outputs"
	@echo
	@echo "ARGS='...' goes to the command that a target runs, JOBS=n sets the"
	@echo "number of test processes, PYTHON=... the Python to use."

demo: $(VENV)/.installed-bench
	$(VENV)/bin/python -m benchmarks.compare $(ARGS)

# What XLA has compiled stays in .venv, so that the next run takes a third of
# the time; three quarters of a first run are compiling.
test: export JAX_COMPILATION_CACHE_DIR = $(abspath $(VENV))/jax-cache
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
test: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES = -1
test: $(VENV)/.installed-test
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m pytest \
	  -n $(JOBS) --dist loadgroup $(ARGS)

docs: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(VENV)/bin/python docs/generate.py --check
	JAX_PLATFORMS=cpu $(VENV)/bin/python -m sphinx -W --keep-going \
	  -b html docs docs/_build/html $(ARGS)
	@echo "Open docs/_build/html/index.html"

lint: $(VENV)/.installed-lint
	$(VENV)/bin/python -m ruff check $(ARGS) .
	$(VENV)/bin/python -m ruff format --check .

generate: $(VENV)/.installed-docs
	JAX_PLATFORMS=cpu $(VENV)/bin/python docs/generate.py

clean:
	rm -rf $(VENV) out docs/_build dist

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
	  --editable '.[$*]'
	@touch $@
