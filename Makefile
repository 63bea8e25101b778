# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export UV_PYTHON_DOWNLOADS := never
IMAGES ?= auto
SOAK_SECONDS ?= 600
export IMAGES

DEV := uv run sensorpipeline-dev
CRD_COPIES := crds/sensorpipelines.yaml charts/sensorpipeline-operator/files/sensorpipelines.yaml
TYPED := crds/src operator/src workers/src simulators/src dev/src bench

.PHONY: help
help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  \033[36m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: bootstrap
bootstrap: ## Install what is missing on this machine (uv, Docker engine, …)
	@dev/bootstrap

.PHONY: up
up: bootstrap ## Bring up a cluster with the operator and the example pipeline, and show its first results
	@$(DEV) up

.PHONY: down
down: bootstrap ## Delete the cluster
	@$(DEV) cluster down

.PHONY: status
status: ## Show the cluster, the operator and the pipelines
	@$(DEV) status

.PHONY: images
images: bootstrap ## Build our own images and load them into the running cluster
	@$(DEV) images

.PHONY: test
test: test-unit test-integration test-chart test-e2e test-ledger ## Run every test

.PHONY: test-unit
test-unit: uv ## Pure parts and shells with small fakes
	@uv run pytest tests/unit

.PHONY: test-integration
test-integration: bootstrap ## Data plane parts, killed, against a real Kafka, Mosquitto and mongod in containers
	@$(DEV) components
	@uv run pytest tests/integration

.PHONY: test-chart
test-chart: bootstrap ## Helm chart, rendered manifests, rules and Alertmanager configuration
	@tests/chart/install.sh
	@uv run pytest tests/chart

.PHONY: test-e2e
test-e2e: bootstrap ## Whole pipelines on a kind cluster
	@$(DEV) cluster up
	@$(DEV) operator
	@uv run pytest tests/e2e --ignore=tests/e2e/ledger

.PHONY: test-ledger
test-ledger: bootstrap ## Every fault dealt to a pipeline under load, singly and all together (SOAK_SECONDS=600)
	@$(DEV) cluster up
	@$(DEV) operator
	@uv run pytest tests/e2e/ledger -s --soak-seconds $(SOAK_SECONDS) $(LEDGER)

.PHONY: reliability
reliability: ## The ledger of faults, and its results into docs/reliability.md
	@$(MAKE) test-ledger LEDGER=--write-reliability

.PHONY: fuzz
fuzz: uv ## Fuzz the decoding of records for FUZZ_SECONDS (60)
	@uv run --group fuzz python tests/fuzz/run.py -max_total_time=$(or $(FUZZ_SECONDS),60) -artifact_prefix=/tmp/

.PHONY: lint
lint: uv ## Format, lint, types, import contracts, generated files current
	@uv run ruff format --check .
	@uv run ruff check .
	@uv run mypy $(TYPED)
	@uv run lint-imports
	@uv run sensorpipeline-crd --check $(CRD_COPIES)

.PHONY: format
format: uv ## Format the code
	@uv run ruff format .
	@uv run ruff check --fix .

.PHONY: crds
crds: uv ## Generate the custom resource definition from the models
	@uv run sensorpipeline-crd $(CRD_COPIES)

.PHONY: update-golden
update-golden: uv ## Rewrite the golden files of the builders' tests
	@uv run pytest tests/unit/components --update-golden

.PHONY: uv
uv:
	@command -v uv >/dev/null || dev/bootstrap --uv-only

.PHONY: bench-engine
bench-engine: uv ## Measure the pure engine on one core, and write docs/performance.md
	@uv run python -m bench.engine

.PHONY: bench-ingest
bench-ingest: bootstrap ## Ingest beside a plain C subscriber and Telegraf: messages per second, CPU, latency, memory
	@$(DEV) components
	@PYTHONPATH=tests:. uv run python -m bench.ingest

.PHONY: bench-cluster
bench-cluster: bootstrap ## Throughput of a whole pipeline on the kind cluster, from publication to storage
	@$(DEV) cluster up
	@$(DEV) operator
	@PYTHONPATH=tests:. uv run python -m bench.cluster.measure

.PHONY: bench
bench: ## Run every benchmark; their results go to docs/performance.md
	@for target in $$(sed -n 's/^\(bench-[a-z]*\):.*/\1/p' $(MAKEFILE_LIST)); do $(MAKE) $$target; done

.PHONY: bench-worker
bench-worker: bootstrap ## The stream worker beside Kafka Streams and quixstreams, on a Kafka in a container
	@$(DEV) components
	@PYTHONPATH=tests:. uv run python -m bench.worker

.PHONY: bench-gateway
bench-gateway: bootstrap ## Readings over HTTP into Kafka, beside an endpoint that does nothing with them
	@$(DEV) components
	@PYTHONPATH=tests:. uv run python -m bench.gateway

.PHONY: bench-sink
bench-sink: bootstrap ## The sink against a bare MongoDB client, in containers
	@$(DEV) components
	@PYTHONPATH=tests:. uv run python -m bench.sink
