# SPDX-License-Identifier: GPL-3.0-or-later
# The one front door: what the README, the developers and CI run. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/sh
PY := build/venv/bin/python
WORKERS := 2
TESTS := tests/integration
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
STAGES := lint unit sanity galaxy integration molecule
PLATFORMS := tests/integration/platforms
MATRIX := tests/integration/test_matrix.py

export PATH := $(CURDIR)/build/venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build/collections
export ANSIBLE_HOME := $(CURDIR)/build/ansible
export PYTHONDONTWRITEBYTECODE := 1
export LC_ALL := C.UTF-8

.PHONY: help setup platform-tools go-tools demo test test-all test-matrix matrix-tools $(STAGES) thorough platforms promtool importer builder runner rulebook docs docs-test actionlint release-test manifests image browser bench-install bench-preflight bench-health bench-info bench-operator bench-truth bench-takeover bench-cost bench-refresh bench screenshots screenshots-docs build release lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' Makefile

setup: ## Prepare build/ and the cache, once; PYTHON=3.11 (or a path) chooses another Python
	@python3 tests/setup.py --python "$(PYTHON)"

demo: setup image ## Show it all on a cluster of its own, and clean up; KEEP=1 leaves the cluster
	@$(PY) -m tests.demo

test: setup ## Run every check below, up to the first that fails, with a summary
	@$(PY) -m tests.stages $(STAGES)

test-all: setup ## Run what "test" runs, "thorough", "platforms" and "test-matrix"; make -k goes on after a failure
	@$(PY) -m tests.stages $(STAGES) thorough platforms test-matrix

test-matrix: matrix-tools image ## On the oldest and newest of what is supported; ARGS=oldest: on that only
	@$(PY) -m tests.matrix $(ARGS)

lint: setup ## Formatting, types, YAML, Ansible's production profile, changelog
	ruff check
	ruff format --check
	$(PY) -m mypy
	yamllint --strict .
	ansible-lint
	antsibull-changelog lint

unit: setup ## Tests without a cluster
	$(PY) -m pytest tests/unit -n $(WORKERS) $(ARGS)

sanity: setup ## ansible-test sanity, all of it, on the built collection
	$(PY) -m tests.sanity $(ARGS)

galaxy: setup ## Build the collection, install it elsewhere, find everything there
	$(PY) -m pytest tests/integration/test_galaxy.py $(ARGS)

# Files are shared out to the workers, each of which has a cluster of its own. ARGS='-m ""' runs both kinds.
ON_CLUSTERS = $(PY) -m pytest $(TESTS) --ignore=tests/integration/test_galaxy.py --ignore=$(PLATFORMS) \
	  --ignore=$(MATRIX) $(SPREAD)

integration: setup image browser ## Tests on real clusters, which they start and stop; WORKERS=0: one after another
	$(ON_CLUSTERS) -m "not thorough" $(ARGS)

thorough: setup image browser ## More of these, which take long or show one more way to the same
	$(ON_CLUSTERS) -m thorough $(ARGS)

# Before the tests enter a cluster's network, which has no way out.
browser: setup ## Fetch Chromium and axe-core, if they are missing
	@$(PY) -c "import tests.browser; tests.browser.prepare()"

# For the same reason.
go-tools: setup
	@$(PY) -c "from tests.cluster.tools import program; [program(each) for each in ('promtool', 'actionlint')]"

molecule: setup image ## The scenarios of extensions/molecule, on a real cluster too
	molecule test --all

platforms: platform-tools docs-tools go-tools image browser ## The next eight, in one go
	$(PY) -m pytest $(PLATFORMS) $(ARGS)

promtool: platform-tools go-tools image ## The alerts, with promtool, also on what a real controller tells
	$(PY) -m pytest $(PLATFORMS)/test_promtool.py $(ARGS)

importer: platform-tools ## The tarball, with galaxy-importer, as Galaxy and automation hub take it in
	$(PY) -m pytest $(PLATFORMS)/test_importer.py $(ARGS)

builder: platform-tools ## The execution environment, with ansible-builder
	$(PY) -m pytest $(PLATFORMS)/test_builder.py $(ARGS)

runner: platform-tools image ## The job templates, with ansible-runner, as a job of Automation Platform runs
	$(PY) -m pytest $(PLATFORMS)/test_runner.py $(ARGS)

rulebook: platform-tools image ## The rulebook, with ansible-rulebook; it needs Java 17
	$(PY) -m pytest $(PLATFORMS)/test_rulebook.py $(ARGS)

docs-test: docs-tools image browser ## The documentation: its links, and its tutorial on a real cluster, as written
	$(PY) -m pytest $(PLATFORMS)/test_docs.py $(ARGS)

actionlint: setup ## The code host's workflows, with actionlint
	$(PY) -m pytest $(PLATFORMS)/test_actionlint.py $(ARGS)

release-test: setup ## A release, with stand-ins for all that it would be pushed to
	$(PY) -m pytest $(PLATFORMS)/test_releasing.py $(ARGS)

docs: docs-tools ## The documentation as a site, in build/docs
	build/docs-tools/bin/python -m docs.site.build

platform-tools: setup
	@python3 tests/setup.py --platform --python "$(PYTHON)"

matrix-tools: setup
	@python3 tests/setup.py --matrix --python "$(PYTHON)"

docs-tools: setup
	@python3 tests/setup.py --docs --python "$(PYTHON)"

manifests: setup ## Write deploy/ anew, from the collection's own objects
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m deploy

image: setup ## The controller's and the helper's image, as OCI archives in build/
	@$(PY) -m controller.image $(IMAGE_ARGS)

bench-preflight: setup ## How long it takes to look before an installation
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.preflight $(ARGS)

bench-install: setup image ## How long an installation takes, compared with other ways
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.install $(ARGS)

bench-health: setup image ## How fast the controller mends, and what it takes; ARGS="--nodes 5000 --runs 3 --idle 0"
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.health $(ARGS)

bench-operator: setup image ## How soon a changed resource reaches its DaemonSet, and what many cost
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.operator $(ARGS)

bench-info: setup image ## What it takes to tell the truth of many nodes, and how soon a wait is over
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.info $(ARGS)

bench-truth: setup ## How large the report is, and how fast it opens
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.truth $(ARGS)

bench-cost: setup image ## What a set costs a node, by strategy, and how soon it is there; ARGS="--only memory"
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.cost $(ARGS)

bench-refresh: setup image ## What unmoved and moved tags cost, and a changed list of a fleet
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.refresh $(ARGS)

bench-takeover: setup image ## What taking over from the known implementation costs the cache
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.benchmarks.takeover $(ARGS)

BENCHES := install preflight health info operator truth takeover cost refresh

bench: ## All of these, one after another; takes hours
	@for name in $(BENCHES); do echo "===== bench-$$name ====="; $(MAKE) --no-print-directory bench-$$name || exit; done

screenshots: setup ## Take those of docs/REPORT.md again
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.browser

screenshots-docs: docs ## Take some of the documentation's site, in build/screenshots
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m tests.browser --docs

build: setup ## The collection's tarball, in build/
	ansible-galaxy collection build --force --output-path build

release: setup ## Show what a release would publish, made in a clone; VERSION=1.2.3
	PYTHONPATH=$(CURDIR)/build/collections $(PY) -m deploy.release "$(VERSION)" $(if $(PUSH),--push)

lock: setup ## Pin the newest versions of what the checks install
	$(PY) -m pip install --quiet uv
	for name in requirements requirements-platform requirements-docs; do \
	  $(PY) -m uv pip compile $(LOCK) --output-file tests/$$name.txt tests/$$name.in || exit; done
	$(PY) -m uv pip compile $(LOCK:3.11=3.10) --output-file tests/requirements-oldest.txt tests/requirements-oldest.in
	for name in kubernetes-core kubernetes-core-6.2 ansible-core-2.19 ansible-core-2.20; do \
	  $(PY) -m uv pip compile $(LOCK) --no-deps \
	    --output-file tests/requirements-$$name.txt tests/requirements-$$name.in || exit; done

LOCK := --upgrade --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

clean: ## Remove what was made in the checkout; the cache stays
	rm -rf build tests/output .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible
	find . -name __pycache__ -prune -exec rm -rf {} +
