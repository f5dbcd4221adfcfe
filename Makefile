# What a newcomer runs: `make demo`, then `make test`. Everything lives in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo dev check test test-full test-k8s bench bench-peers proto docs lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(VENV)/.runtime: pyproject.toml constraints.txt tools/install.sh
	@PYTHON=$(PYTHON) tools/install.sh runtime

$(VENV)/.dev: $(VENV)/.runtime
	@PYTHON=$(PYTHON) tools/install.sh dev

demo: $(VENV)/.runtime ## Install, then run the demo flow through a control plane and an agent
	@$(BIN)/python -m examples.covid.run_demo

dev: $(VENV)/.dev ## Install everything that the tests need

check: $(VENV)/.dev ## Format, lint, types, import directions, API rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format -d --exit-code
	$(BIN)/python tools/generate_api.py --check
	$(BIN)/python tools/contract_table.py --check
	$(BIN)/python tools/agent_tables.py --check

test: $(VENV)/.dev ## Run the quick form of every test
	@tools/install.sh system
	@# Two at a time; what fails (1) in that crowd must pass alone, or it has failed. Anything else ends here.
	$(PYTEST) -n 2 --dist loadgroup -m "not full and not bench and not alone and not k8s" || { [ $$? -eq 1 ] && \
	  $(PYTEST) --last-failed --last-failed-no-failures none -m "not full and not bench and not alone and not k8s"; }
	@# Of the files that have such tests: to collect all others took longer than these.
	$(PYTEST) -m "alone and not full and not bench and not k8s" $$(grep -rlF pytest.mark.alone tests --include='test_*.py')

test-full: $(VENV)/.dev ## Run the long forms too
	@tools/install.sh system
	$(PYTEST) -m "not bench and not k8s"

test-k8s: $(VENV)/.dev ## Build a real Kubernetes cluster (once), and run its tests
	@tools/install.sh system
	@$(BIN)/python tools/kubernetes/build.py >/dev/null
	$(PYTEST) -m "k8s and not bench"

bench: $(VENV)/.dev ## Print the figures of docs/benchmarks.md
	$(PYTEST) -m bench -s tests/bench

bench-peers: $(VENV)/.dev ## Do the same on other orchestrators: PEERS="VENV..." names environments that hold them
	$(BIN)/python -m tests.bench.peers $(PEERS)

proto: $(VENV)/.dev ## Generate sdk/heliograph/api/v1 from proto/
	cd proto && ../$(BIN)/buf format -w && ../$(BIN)/buf lint
	$(BIN)/python tools/generate_api.py

docs: $(VENV)/.dev ## Write the generated parts of docs/
	$(BIN)/python tools/contract_table.py
	$(BIN)/python tools/agent_tables.py

lock: ## Pin the newest versions that fit into constraints.txt
	@PYTHON=$(PYTHON) tools/install.sh lock

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache
