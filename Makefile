# Everything runs in a virtual environment of its own, made from the pinned and hashed constraints.txt.
#   make demo    a whole night on a lakehouse of embedded parts
#   make test    format, lint, types, import rules, sizes, and the tests
#   make test-long    whole days, campaigns, benchmarks and the rest of large tables of cases, and how quickly the program answers
#   make test-packaging   builds the container image and boots a system with the unit (root, Debian)
#   make test-browser     drives Chromium through the page (Debian; as root it installs it); make screenshots keeps what it saw
#   make test-platforms   nights on platforms that are not the ten tables, by docs/own-platform.md (MariaDB, nginx: Debian, as root)
#   make chaos   hurts the program at random: RUNS=200 SEED=1
#   make damage  damages tables at random, and judges what audits say of it: RUNS=100 SEED=1
#   make soak    many nights in one process, and a chart of their memory: NIGHTS=200 OUT=soak.md
#   make bench   icekeeper and its rivals side by side, at most 90 minutes; writes docs/performance.md. In parts: what the
#                kept file holds is not measured again, and the page is written from all of it.
#                make bench ARGS="--parts compact --shapes 960 --stores s3 --rounds 1 --keep samples.jsonl --out taste.md"
#                ARGS="--parts audit" audits a day of 50 million rows in each way, --rows=200000 a smaller one
#                ARGS="--keep samples.jsonl" keeps the samples; the same again goes on where that has ended
#   make test-full   all of these, with the big worlds: hours
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/bench
RUNS   ?= 20
SEED   ?= 1
NIGHTS ?= 200

.PHONY: demo test classes test-long test-full test-packaging test-browser test-platforms screenshots chaos damage soak bench check lint unit lock jars clean

demo: $(READY)
	$(BIN)/icekeeper demo $(ARGS)

# Four workers keep two cores busy: tests of the real program wait for what it does. In the order of tests/conftest.py.
PARALLEL := --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations=15
test: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line check classes
	$(BIN)/pytest $(PARALLEL) -m "not (full or long or packaging or browser or platforms or timing)" $(ARGS)

# What measures how quickly the program answers runs alone, after the others.
test-long: $(READY) classes
	$(BIN)/pytest $(PARALLEL) -m "long and not full" $(ARGS)
	$(BIN)/pytest -m timing tests/process $(ARGS)

# What the JVMs of the tests share.
classes: $(READY)
	@$(BIN)/python -m tests.jvm

test-packaging: $(READY)
	$(BIN)/pytest -m packaging $(ARGS)

test-browser: $(READY)
	$(BIN)/pytest -m browser tests/browser $(ARGS)

# Each test is a night of one configuration: the next goes to whichever worker is free.
test-platforms: $(READY)
	$(BIN)/pytest --numprocesses 3 --dist worksteal --durations=9 -m platforms tests/platforms $(ARGS)

# The pictures of docs/page.md, taken by the same test.
screenshots: $(READY)
	SCREENSHOTS=docs/images $(BIN)/pytest -m browser tests/browser $(ARGS)

test-full: check
	$(BIN)/pytest -m 'full or not full' $(ARGS)

chaos: $(READY)
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED) $(ARGS)

damage: $(READY)
	$(BIN)/python -m tests.damage --runs $(RUNS) --seed $(SEED) $(ARGS)

soak: $(READY)
	SOAK_OUT=$(or $(OUT),soak.md) NIGHTS=$(NIGHTS) $(BIN)/pytest -m full tests/integration/test_soak.py

bench: $(BENCH)/.ready
	PYTHONPATH=daemon $(BENCH)/bin/python -m bench $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pytest tests/unit/test_house.py

unit: $(READY)
	$(BIN)/pytest tests/unit

# Pins the newest versions that fit pyproject.toml, for every supported Python, with their hashes; then the same
# versions again for the container image (what it runs, with the embedded ledger, and what it is built with), and for the benchmark as far as its
# rivals allow.
PIN := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
  --no-header --no-emit-index-url --no-annotate --quiet
lock: $(READY)
	$(PIN) --all-extras --upgrade -o constraints.txt pyproject.toml
	$(PIN) --extra embedded --upgrade -c constraints.txt -o constraints-runtime.txt pyproject.toml
	$(PIN) --upgrade -c constraints.txt -o constraints-build.txt --group build
	cp constraints.txt constraints-bench.txt
	$(PIN) --extra sandbox --group bench -o constraints-bench.txt pyproject.toml

# Writes the hashes of the jars that IMAGE_PACKAGES names: read the difference before you commit it.
MAVEN ?= $(shell sed -n "s/^ARG MAVEN=//p" Dockerfile)
jars: $(READY)
	mkdir -p .cache
	$(BIN)/python -c 'from icekeeper.adapters.spark.jars import maven_path; from icekeeper.core.catalogs.packages import IMAGE_PACKAGES; \
	  print(*map(maven_path, IMAGE_PACKAGES), sep="\n")' > .cache/jars.txt
	cd .cache && xargs -I{} curl --fail --silent --show-error --location --create-dirs -o jars/{} $(MAVEN)/{} < jars.txt
	cd .cache/jars && xargs sha256sum < ../jars.txt > ../../jars.sha256

# A virtual environment with the pinned packages of a file: $(call install,DIRECTORY,FILE). Spark comes as a source
# distribution: its wheel is made with the pinned tools of constraints-build.txt, and by the way (PEP 517) that older pips
# take only where they are told to.
PIP := -m pip install --quiet --disable-pip-version-check
define install
@echo "Creating a virtual environment in $(1)"
@$(PYTHON) -m venv $(1)
@echo "Installing $$(grep -c '^[a-z0-9]' $(2)) packages into it, 1 GB to download: this usually takes 1 to 3 minutes"
@$(1)/bin/python $(PIP) --require-hashes -r constraints-build.txt
@PIP_USE_PEP517=1 $(1)/bin/python $(PIP) --require-hashes --no-build-isolation -r $(2)
endef

$(READY): pyproject.toml constraints.txt constraints-build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "icekeeper needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(call install,$(VENV),constraints.txt)
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $(READY)

# It measures the code in daemon/, so that nothing of ours is installed.
$(BENCH)/.ready: $(READY) constraints-bench.txt
	$(call install,$(BENCH),constraints-bench.txt)
	@touch $(BENCH)/.ready

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
