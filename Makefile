# make demo, make test: each does all of its own set-up. Everything else is in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_OPTIONS ?=
STAMP := $(VENV)/.installed

.PHONY: install demo test check bench lock clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 -p builder  # the plan stage runs there
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m loadtest bench --json bench.json

# Keeps every pin that is there and adds what pyproject.toml newly asks for; to raise a pin, edit or delete its line first.
lock:
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet $(PIP_OPTIONS) -c requirements.lock '.[builder,plan,serving,loadtest,dev]'
	{ head -1 requirements.lock; $(VENV)/lock/bin/pip freeze --all --exclude pip --exclude inception-triton | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(VENV)/lock

clean:
	rm -rf $(VENV) .cache .staging .releases demo_repository bench_repository run
