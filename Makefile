# Everything runs in a virtual environment of its own, made from the pinned and hashed constraints.txt.
#   make demo    a whole night on a lakehouse of embedded parts
#   make test    format, lint, types, import rules, and the tests
#   make test-packaging   builds the container image and boots a system with the unit (root, Debian)
#   make chaos   hurts the program at random: RUNS=200 SEED=1
#   make test-full   all of these, with the big worlds: hours
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-full test-packaging chaos check lint unit lock clean

demo: $(READY)
	$(BIN)/icekeeper demo $(ARGS)

test: check
	$(BIN)/pytest --durations=15 $(ARGS)

test-packaging: $(READY)
	$(BIN)/pytest -m packaging $(ARGS)

test-full: check
	$(BIN)/pytest -m 'full or packaging or not full' $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(READY)
	$(BIN)/pytest tests/unit

# Pins the newest versions that fit pyproject.toml, for every supported Python, with their hashes.
lock: $(READY)
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --upgrade \
	  --no-header --no-emit-index-url --no-annotate --quiet -o constraints.txt pyproject.toml

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "icekeeper needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
