PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A lock is complete, so nothing is resolved: what is installed depends neither on the day nor on pip's version.
# tests/packaging/test_locks.py holds the Dockerfile and the test environments to the same options.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all:
COMPILE_LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate $(if $(UPGRADE),--upgrade)
# Most tests wait most of the time, so more of them run at once than there are processors. The tests of a module share a
# process, because they may share a control plane or a guest; modules are started in their order, because those of one
# folder share one too. Tests that need none are spread one by one.
PYTEST := $(BIN)/python -m pytest -q --durations=15
# Progress is to be seen as it happens.
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help venv test test-cluster e2e coverage lint type imports check fmt demo demo-cluster bench run request certs lock image clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it
demo: $(VENV)/.runtime ## The webhook answers recorded reviews of VMs: which hooks each gets, and who decided (a minute)
	@$(BIN)/python -m tests.demo $(if $(V),-v)

demo-cluster: venv ## The same on real etcd, kube-apiserver and virt-controller, built first; V=1 prints the annotations
	@$(BIN)/python -m tests.infra.prepare etcd kubernetes kubevirt
	@$(BIN)/python -m tests.demo.cluster $(if $(V),-v)

run: $(VENV)/.runtime certs/tls.crt ## The webhook alone, with the policy of POLICY=FILE and VMs and Namespaces of OBJECTS=DIR
	VM_CONSISTENCY_HOST=127.0.0.1 $(BIN)/python -m app serve --policy $(or $(POLICY),tests/demo/policy.yaml) --certs certs \
	  $(if $(OBJECTS),--objects $(OBJECTS))

request: ## Send the sample AdmissionReview to `make run`
	curl -sS --cacert certs/ca.crt -H 'Content-Type: application/json' \
	  --data-binary @tests/data/review.json https://localhost:8443/mutate/pods

certs: $(VENV)/.runtime ## Make self-signed certificates for `make run` in certs/
	$(BIN)/python -m app.tls certs

certs/tls.crt: | $(VENV)/.runtime
	$(BIN)/python -m app.tls certs

##@ Develop
venv: $(VENV)/.installed ## Make the virtual environment from the locked requirements

# The runtime lock is a subset of the development lock, so both install into one virtual environment.
$(VENV)/.runtime: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -r requirements.txt
	$(BIN)/python -m pip check
	@touch $@

$(VENV)/.installed: $(VENV)/.runtime
	$(INSTALL) -r requirements-dev.txt
	$(BIN)/python -m pip check
	@touch $@

test: check ## Static checks, and the tests that need no control plane (2 minutes)
	$(PYTEST) -n 4 --dist load -m "not cluster and not e2e"

test-cluster: venv ## The tests on a real control plane, built first if it is missing (10 minutes)
	$(BIN)/python -m tests.infra.prepare cluster
	$(PYTEST) -n 2 -m "cluster and not exclusive"
	$(PYTEST) -n 0 -m exclusive

e2e: venv ## Velero backs up real guests and databases; as root, with the Debian packages of .ci/packages (10 minutes)
	$(BIN)/python -m tests.infra.prepare cluster e2e
	$(PYTEST) -n 2 -m e2e

coverage: venv ## Which lines the tests without a control plane run
	$(PYTEST) -n 4 --dist load -m "not cluster and not e2e" --cov --cov-report=term:skip-covered

check: lint type imports ## Static checks

lint: venv ## Linter and formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: venv ## Strict type checking
	$(BIN)/mypy

imports: venv ## Dependencies point one way
	$(BIN)/lint-imports

fmt: venv ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## Throughput, latency, start-up, memory and scale against rivals (half an hour)
	$(BIN)/python -m tests.bench

lock: venv ## Write all locks after a change of pyproject.toml or a .in file; UPGRADE=1 takes newer versions as well
	$(COMPILE_LOCK) -o requirements.txt pyproject.toml
	$(COMPILE_LOCK) -c requirements.txt -o requirements-dev.txt pyproject.toml --group dev
	for input in $$(find tests -name 'requirements*.in'); do $(COMPILE_LOCK) -o $${input%.in}.txt $$input; done

##@ Ship
image: ## Build the container image
	docker build -t vm-consistency:dev .

clean: ## Remove what this Makefile made; built parts of the control plane stay in the cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage certs/*.crt certs/*.key
