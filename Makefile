# Needs Python 3.11 or newer, make and git. `make` alone lists what there is.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The interpreter for .venv; empty means the first suitable one on PATH.
PYTHON ?=
# Passed on to what a target runs.
ARGS ?=

# Container images set it. Without byte code every process that a target starts compiles whatever it imports, and
# the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Packages that run the project and nothing else, unless those of developers are there already.
LIGHT := $(if $(wildcard $(STAMP)),$(VENV),.venv-demo)
WHEELS := build/wheels

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv as the lock says; quick when nothing changed. PYTHON=... picks the interpreter

# FORCE: a PYTHON that is named must be looked at, even when the files have not changed.
$(STAMP): pyproject.toml requirements/dev.txt tools/setup.sh $(if $(PYTHON),FORCE)
	@PYTHON='$(PYTHON)' tools/setup.sh
	@touch $@

.venv-demo/.installed: pyproject.toml requirements/demo.txt tools/setup.sh $(if $(PYTHON),FORCE)
	@PYTHON='$(PYTHON)' tools/setup.sh .venv-demo requirements/demo.txt
	@touch $@

.PHONY: FORCE
FORCE:

.PHONY: demo
demo: $(LIGHT)/.installed ## Watch three workers prove eight claims, with and without Redis
	@$(LIGHT)/bin/coordinator demo $(ARGS)

.PHONY: serve
serve: $(LIGHT)/.installed ## Serve the Runs API on this machine, with the demo assistant. Others: ARGS="--assistants mine:agents"
	@exec $(LIGHT)/bin/coordinator serve $(ARGS)

.PHONY: dev
dev: $(LIGHT)/.installed ## The same while assistants are written: one worker, restarted on every edit
	@exec $(LIGHT)/bin/coordinator dev $(ARGS)

# More than there are cores may be: half of their time tests wait for other processes, or for a lease to end. Each
# has a Valkey and a PostgreSQL of its own.
PROCESSES ?= 4

RUN_TESTS = $(BIN)/pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(STAMP) ## Run the tests but for those of make slow. A part of them: ARGS="tests/unit -k lease"
	$(RUN_TESTS) -m "not slow" $(ARGS)

.PHONY: slow
slow: $(STAMP) ## Run the long tests: simulation, model, browsers, kills, every engine and pooler
	$(RUN_TESTS) -m slow $(ARGS)

.PHONY: coverage
coverage: $(STAMP) ## Both, with branch coverage held at its floor, which takes half as long again
	@$(RUN_TESTS) --cov --cov-report=term $(ARGS)

# How many crashes, pauses, false burials, outages and deaf tasks a way through the model may have.
FAULTS ?= 2

.PHONY: model
model: $(STAMP) ## Explore every state of the protocol's model. FAULTS=3 takes minutes; ARGS="--weaken no_tick" breaks it
	@$(BIN)/python -m tests.model --faults $(FAULTS) $(ARGS)

.PHONY: plans
plans: $(STAMP) ## What statements read among a million runs, with JIT and without. COORDINATOR_TEST_POSTGRES_BIN picks the server
	COORDINATOR_FLEET_SHARE=1 $(BIN)/pytest -n 0 tests/integration/test_postgres_fleet.py --timeout 600 $(ARGS)

.PHONY: check
check: $(STAMP) ## Formatting, lint, types, imports, words, the image, workflows, and what the wheel holds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_words.py
	$(BIN)/python tools/check_any.py
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress --persona pedantic .github
	@rm -rf $(WHEELS)
	$(BIN)/python -m build --wheel --no-isolation --quiet --outdir $(WHEELS)
	$(BIN)/python tools/check_wheel.py $(WHEELS)

# A tenth of the work in two rounds, to try a benchmark out; its figures are rough.
QUICK ?=

.PHONY: bench
bench: $(STAMP) ## Measure, with floors beside the figures. Some of it: ARGS="http cancel"; roughly: QUICK=1
	$(if $(QUICK),COORDINATOR_BENCH_SCALE=0.1) $(BIN)/python -m bench $(if $(QUICK),--rounds 2) $(ARGS)

# http, library or postgres.
WHAT ?= http

.PHONY: flame
flame: $(STAMP) ## Draw a flame graph of a worker under load in build/flame: WHAT=http|library|postgres
	@$(BIN)/python -m bench.flame $(WHAT) $(ARGS)

# Empty: the suite draws one and prints it.
SEED ?=
MINUTES ?= 3

.PHONY: churn
churn: $(STAMP) ## Begin and end runs for MINUTES (10): memory flat, nothing left over. Report in build/churn
	@$(BIN)/python -m tests.churn $(ARGS)

KILLS ?= 500
RESTARTS ?= 100

.PHONY: attempts
attempts: $(STAMP) ## Kill owners of graphs (KILLS=500), restart workers in turn (RESTARTS=100): no step doubled or lost
	@$(BIN)/python -m tests.attempts --kills $(KILLS) --restarts $(RESTARTS) $(ARGS)

RECONNECTS ?= 1000

.PHONY: reconnects
reconnects: $(STAMP) ## Kill workers while clients of threads come back (RECONNECTS=1000): no event lost or doubled
	@$(BIN)/python -m tests.reconnects --reconnects $(RECONNECTS) $(ARGS)

.PHONY: drains
drains: $(STAMP) ## Drain workers under load, COUNT (1000) times: no run that has returned is decided otherwise
	@$(BIN)/python -m tests.drains $(if $(filter command line environment,$(origin COUNT)),--count $(COUNT)) $(ARGS)

.PHONY: faults
faults: $(STAMP) ## Kill, pause, cut off and fill up real workers, check their histories. MINUTES=30 SEED=7
	@$(BIN)/python -m tests.faults --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: roll
roll: $(STAMP) ## Workers of the last release and of this tree on one store, old leaving, new coming. ARGS="--store sqlite"
	@$(BIN)/python -m tests.roll $(ARGS)

COUNT ?= 10000

.PHONY: hostile
hostile: $(STAMP) ## Send COUNT (10000) hostile requests and connections to a real server. SEED=7; one of them again: ARGS="--only 123"
	@$(BIN)/python -m tests.hostile --count $(COUNT) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: differential
differential: $(STAMP) ## Make the same random calls on every store: ARGS="--sequences 5000 --seed 7"; one again: ARGS="--only 123"
	@$(BIN)/python -m tests.differential $(ARGS)

# How many seeds, over how many processes; SEED= replays one step by step, BUG= plants a bug first.
SEEDS ?= 5000
JOBS ?= 2
BUG ?=

.PHONY: mutants
mutants: $(STAMP) ## Change the core in COUNT (300) places, one at a time: which changes does no test notice? SEED=7
	@$(BIN)/python -m tests.mutants $(if $(filter command line environment,$(origin COUNT)),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: simulate
simulate: $(STAMP) ## Run the real manager under seeded faults. SEEDS=100000, JOBS=2, FIRST=0; one step by step: SEED=123
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(JOBS) $(if $(FIRST),--first $(FIRST)) $(if $(SEED),--seed $(SEED)) $(if $(BUG),--bug $(BUG)) $(ARGS)

.PHONY: contract
contract: $(STAMP) ## Drive `coordinator serve --workers 3` with a folder of contract tests: CONTRACT=folder, WITHOUT=redis, WITH=graph
	@$(BIN)/python -m tests.contract $(CONTRACT) $(if $(filter redis,$(WITHOUT)),--without-redis) $(if $(filter graph,$(WITH)),--graph) $(ARGS)

.PHONY: newest
newest: $(STAMP) ## Checks and tests with the newest releases that the bounds allow, and without bounds. A part: ARGS="tests/unit"
	@failed=0; $(BIN)/python tools/newest.py $(ARGS) || failed=1; \
	$(BIN)/python tools/newest.py --unbounded $(ARGS) || failed=1; exit $$failed

.PHONY: matrix
matrix: $(STAMP) ## Run the tests on every Python from 3.11 to 3.14 that this machine has
	$(BIN)/nox $(ARGS)

.PHONY: agents
agents: $(STAMP) ## The same for agents as users write them, and how many of 3,000 cancels are lost. COUNT=300
	$(BIN)/nox -s agents $(ARGS) -- $(if $(filter command line environment,$(origin COUNT)),--count $(COUNT))

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --annotation-style line --custom-compile-command 'make lock'
TESTED := --constraint requirements/dev.txt

.PHONY: lock
lock: $(STAMP) ## Write the files in requirements again from pyproject.toml. Newer versions: ARGS=--upgrade
	$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt $(ARGS)
	$(COMPILE) pyproject.toml --extra gateway --group demo $(TESTED) --output-file requirements/demo.txt
	$(COMPILE) pyproject.toml --extra gateway --extra postgres $(TESTED) --output-file requirements/image.txt
	$(COMPILE) --group build $(TESTED) --output-file requirements/build.txt
	$(COMPILE) --group peers $(TESTED) --output-file requirements/peers.txt $(ARGS)

.PHONY: release
release: $(STAMP) ## Wheel, sdist, SBOM and checksums of the commit, in dist/. Build again and compare: ARGS=--compare
	@$(BIN)/python tools/release.py $(ARGS)

.PHONY: format
format: $(STAMP) ## Format, mend what ruff can mend, and write what is derived from the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/python tools/revise_functions.py
	$(BIN)/python tools/langgraph_api.py

.PHONY: page
page: ## Build the pages of examples/ and of tests from their sources; needs node and npm
	cd examples/chat/page && npm ci --no-audit --no-fund && node ../../page.mjs
	cd examples/langgraph/page && npm ci --no-audit --no-fund && node ../../page.mjs
	cd tests/clients/pages/assistant_ui && npm ci --no-audit --no-fund && node ../../../../examples/page.mjs

.PHONY: clean
clean: ## Remove all that was installed, built or cached
	rm -rf $(VENV) .venv-demo .nox build dist .setup.log
	rm -rf .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
