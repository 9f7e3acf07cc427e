# Everything runs in .venv, made from the pinned lock; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: sweep test soak check format lock

## The main job on the embedded digits: search, confirm, connectivity, table.
sweep: $(INSTALLED)
	$(BIN)/python sweeps/mcsgd.py

## The test suite.
test: $(INSTALLED)
	$(BIN)/python -m pytest

## Slow tests: whole sweeps, kills, every command of the README.
soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak --durations=40

## Lint, format, types, and the direction of imports.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## Renew the lock (needs uv): newest versions that pyproject.toml allows, with their hashes.
lock:
	uv pip compile pyproject.toml --extra dev --extra cluster --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --upgrade --output-file requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "lmc-ray needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
