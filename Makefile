# Every target does its own set-up: on a fresh Debian or Ubuntu machine with Python 3.11 or later and make, nothing else is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PEERS  := $(VENV)-peers
NODE   := examples/typescript
NPM_PEERS := tests/peers/npm/node_modules/stamp
SOURCE := $(shell git ls-files keyd backends pyproject.toml README.md 2>/dev/null)

.PHONY: help demo test contract faults audit-faults hostile simulate fuzz lifecycle fleet examples sessions bench-stores bench-cost bench-path bench-flood bench bench-quick bench-compare bench-profile rotations bench-scale bench-client hostile-http2 bench-workers lint format proto clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/keyd.stamp ## see it work: daemon, resource and agent as separate processes
	@$(BIN)/keyd demo

TESTED := env KEYD_PEERS_PYTHON=$(abspath $(PEERS))/bin/python KEYD_TEST_WHEEL=1 PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE= $(BIN)/coverage run $(BIN)/pytest

test: $(VENV)/test.stamp $(VENV)/keyd.stamp $(PEERS)/keyd.stamp $(NODE)/dist/.stamp $(NPM_PEERS) ## run every test against the installed wheel; ARGS= goes to pytest
	$(BIN)/coverage erase
	@rm -f .pytest_cache/v/cache/lastfailed
	$(TESTED) -n 2 --dist worksteal $(ARGS) || .ci/once-more $$? $(TESTED) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under=$(if $(ARGS),0,90)

contract: $(VENV)/test.stamp $(VENV)/keyd.stamp ## hold every backend to the contract, on real stores, and print the table
	PYTHONSAFEPATH=1 $(BIN)/pytest -n 2 -q -p backends.testing -p backends.testing.table tests/contract $(ARGS)

faults: $(VENV)/test.stamp $(VENV)/keyd.stamp ## break real stores under load; SECONDS= is how long each phase lasts
	PYTHONSAFEPATH=1 KEYD_FAULT_SECONDS=$(or $(SECONDS),5) $(BIN)/pytest -q tests/faults $(ARGS)

audit-faults: $(VENV)/test.stamp $(VENV)/keyd.stamp ## kill, fill and falsify a daemon's audit trail under load; KILLS= is how often it is killed
	PYTHONSAFEPATH=1 KEYD_AUDIT_KILLS=$(or $(KILLS),40) $(BIN)/pytest -q tests/faults/test_audit_trail.py $(ARGS)

rotations: $(VENV)/test.stamp $(VENV)/keyd.stamp ## sign with 32 clients while one key rotates; ROTATIONS= is how often
	PYTHONSAFEPATH=1 KEYD_ROTATIONS=$(or $(ROTATIONS),200) $(BIN)/pytest -q -s tests/e2e/test_rotation_under_load.py $(ARGS)

hostile: $(VENV)/test.stamp $(VENV)/keyd.stamp ## send a daemon valid inputs broken in every known way; CASES= is how many
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m hostile --cases $(or $(CASES),12000) $(ARGS)

hostile-http2: $(VENV)/test.stamp $(VENV)/keyd.stamp ## attack a daemon with HTTP/2 that nobody means well with, and print what it cost; SECONDS= of each
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m hostile.http2 --seconds $(or $(SECONDS),5) $(ARGS)

fleet: $(VENV)/test.stamp $(VENV)/keyd.stamp ## three replicas under load, rotations, kills and database restarts; MINUTES= is for how long
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m fleet --minutes $(or $(MINUTES),10) $(ARGS)

simulate: $(VENV)/test.stamp $(VENV)/keyd.stamp $(PEERS)/stamp ## a year of 1,000 keys and every real verifier on a clock that is set; KEYS=, DAYS=
	KEYD_PEERS_PYTHON=$(abspath $(PEERS))/bin/python PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m simulation --keys $(or $(KEYS),1000) --days $(or $(DAYS),365) $(ARGS)

fuzz: $(VENV)/fuzz.stamp $(VENV)/keyd.stamp ## look for inputs that nobody thought of; MINUTES= is for how long
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(MINUTES),10) $(ARGS)

lifecycle: $(VENV)/test.stamp $(VENV)/keyd.stamp ## the invariants of the lifecycle over random histories of two replicas; STEPS= is how many
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m lifecycle --steps $(or $(STEPS),20000) $(ARGS)

examples: $(VENV)/test.stamp $(VENV)/keyd.stamp $(PEERS)/keyd.stamp $(NODE)/dist/.stamp $(NPM_PEERS) ## run every example and every client library, and print what verified what
	KEYD_PEERS_PYTHON=$(abspath $(PEERS))/bin/python PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/pytest -n 2 -q -p examples_table tests/examples $(ARGS)

sessions: $(VENV)/test.stamp $(VENV)/keyd.stamp $(PEERS)/stamp ## agents whose issuer keys are in OpenBao and SoftHSM, and how often these have to sign; REQUESTS= of each
	KEYD_PEERS_PYTHON=$(abspath $(PEERS))/bin/python PYTHONSAFEPATH=1 PYTHONPATH=tests $(BIN)/python -m sessions --requests $(or $(REQUESTS),10000) $(ARGS)

# What is measured is the installed wheel; benchmarks/__main__.py sees to it.
BENCH := PYTHONSAFEPATH=1 $(BIN)/python benchmarks

bench: $(VENV)/test.stamp $(VENV)/keyd.stamp ## measure every goal of docs/performance.md and write it anew; 20 minutes
	sh .ci/install-h2load
	$(BENCH) run $(ARGS)

bench-quick: $(VENV)/test.stamp $(VENV)/keyd.stamp ## the cost of a signature, OpenBao beside it, streams and batches; two minutes
	sh .ci/install-h2load
	$(BENCH) run --quick $(ARGS)

bench-compare: $(VENV)/test.stamp $(VENV)/keyd.stamp ## this tree against the commit BASE=, each in its own environment, in turn
	sh .ci/install-h2load
	$(BENCH) compare $(BASE) $(ARGS)

bench-profile: $(VENV)/test.stamp $(VENV)/keyd.stamp ## where the time of a signature goes, by py-spy
	sh .ci/install-h2load
	$(BIN)/pip install --quiet --group bench
	$(BENCH) profile $(ARGS)

bench-stores: $(VENV)/test.stamp $(VENV)/keyd.stamp ## signatures a second through keyd next to the same operation called directly
	$(BENCH) stores --seconds 1.2 --rounds 5 $(ARGS)

bench-cost: $(VENV)/test.stamp $(VENV)/keyd.stamp ## what each guard of the signing path costs, in CPU per signature
	sh .ci/install-h2load
	$(BENCH) cost $(ARGS)

bench-path: $(VENV)/test.stamp $(VENV)/keyd.stamp ## what keyd's own code costs for one signature, step by step, without a transport
	$(BENCH) path $(ARGS)

bench-scale: $(VENV)/test.stamp $(VENV)/keyd.stamp ## what many keys and many connected agents cost; KEYS=, AGENTS=
	sh .ci/install-h2load
	$(BENCH) scale --keys $(or $(KEYS),100000) --agents $(or $(AGENTS),1000) $(ARGS)

bench-flood: $(VENV)/test.stamp $(VENV)/keyd.stamp ## what one caller notices of another that floods the daemon
	sh .ci/install-h2load
	$(BENCH) flood $(ARGS)

bench-client: $(VENV)/test.stamp $(VENV)/keyd.stamp ## what an agent in Python can expect of the client, next to a bare grpcio stub
	$(BENCH) client $(ARGS)

bench-workers: $(VENV)/test.stamp $(VENV)/keyd.stamp ## how much more two worker processes sign than one
	sh .ci/install-h2load
	$(BENCH) workers $(ARGS)

lint: $(VENV)/lint.stamp $(VENV)/test.stamp $(VENV)/keyd.stamp ## style, types, architecture, protos, drift of generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint protos
	PATH=$(abspath $(BIN)):$$PATH sh .ci/proto-drift
	sh .ci/proto-breaking $(BIN)/buf

format: $(VENV)/lint.stamp ## rewrite the sources as lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/lint.stamp ## generate keyd/v1 and keyd/externaljwt/v1 from protos/
	PATH=$(abspath $(BIN)):$$PATH sh .ci/generate .

clean: ## remove what the other targets made
	rm -rf $(VENV) $(PEERS) $(NODE)/node_modules $(NODE)/dist dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/pip:
	PYTHON=$(PYTHON) sh .ci/make-venv $(VENV)

$(VENV)/deps.stamp: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet .
	@touch $@

# The wheel is what gets tested, not the tree: it is built anew whenever a source file changes.
$(VENV)/keyd.stamp: $(VENV)/deps.stamp $(SOURCE)
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	@touch $@

$(VENV)/test.stamp: $(VENV)/deps.stamp .ci/install-components
	sh .ci/install-components
	$(BIN)/pip install --quiet --group test
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet --group fuzz
	@touch $@

$(VENV)/lint.stamp: $(VENV)/deps.stamp
	$(BIN)/pip install --quiet --group lint
	@touch $@

# Libraries whose dependencies do not go together with ours, in an environment of their own.
$(PEERS)/stamp: pyproject.toml
	PYTHON=$(PYTHON) sh .ci/make-venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(PEERS)/bin/pip install --quiet --group peers
	@touch $@

# Before the tests, whose processes would write over each other. Node itself comes with what test.stamp installs.
$(NODE)/node_modules/.stamp: $(NODE)/package-lock.json | $(VENV)/test.stamp
	cd $(NODE) && npm ci --silent --no-audit --no-fund
	@touch $@

$(NODE)/dist/.stamp: $(NODE)/node_modules/.stamp $(NODE)/tsconfig.json $(wildcard $(NODE)/src/*.ts)
	cd $(NODE) && npm run --silent build
	@touch $@

# keyd's client, for those that sign with it. Its dependencies are in the group: those of the daemon stay out.
$(PEERS)/keyd.stamp: $(PEERS)/stamp $(SOURCE)
	$(PEERS)/bin/pip install --quiet --no-deps --force-reinstall .
	@touch $@

# Verifiers from npm.
$(NPM_PEERS): tests/peers/npm/package-lock.json | $(VENV)/test.stamp
	cd tests/peers/npm && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@
