# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := rayhaul tasks actors serve_app dashboards tests bench docs

.PHONY: help demo test lint fmt type unit web alerts ledger integration simulation cluster drill drill-rayup nulls soak bench simulate simulate-faults dashboards fuzz audit sbom docs site screenshots clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.cluster: $(VENV)/.base setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cluster]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.cluster

demo: $(VENV)/.cluster ## start a cluster, download a real file (or URL=…) into its bucket, verify it, stop
	$(BIN)/python -m serve_app.demo $(if $(URL),'$(URL)')

# Types and simulation have one process each: side by side they leave no core idle.
test: ## all that a commit must pass
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint simulation
	@$(MAKE) --no-print-directory unit alerts ledger integration cluster web
	@$(BIN)/python tests/log_watch.py

lint: $(VENV)/.dev ## style, types, import contracts
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache

fmt: $(VENV)/.dev ## put the code into house style
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

unit: $(VENV)/.dev ## pure parts: no network, no processes
	$(BIN)/pytest tests/unit -n 2

# promtool comes with Debian's prometheus; the server that comes with it is not started.
alerts: $(VENV)/.dev ## each alert as Prometheus evaluates it (promtool; installed where there is root and apt)
	@command -v promtool >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus; } \
	  || echo 'promtool could not be installed: its tests are skipped'
	$(BIN)/pytest tests/alerts -n 2

ledger: $(VENV)/.dev ## one suite on SQLite and on PostgreSQL
	$(BIN)/pytest tests/ledger -n 2 --dist loadfile

simulation: $(VENV)/.dev ## scheduler and agents on a fake clock, seeded faults
	$(BIN)/pytest tests/simulation

simulate-faults: $(VENV)/.dev ## thousands of seeded histories with faults; a seed that breaks is printed with its replay
	$(BIN)/python tests/simulation/run.py --seeds $(or $(SEEDS),2000)

integration: $(VENV)/.dev ## real HTTP, real S3 server, nft rules, shells (Debian's nftables, zsh, fish; installed where there is root and apt)
	@{ command -v nft && command -v zsh && command -v fish; } >/dev/null || \
	  [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nftables iproute2 zsh fish; } \
	  || echo 'nftables, zsh or fish could not be installed: the tests of rules and of completion are skipped'
	$(BIN)/pytest tests/integration -m 'not drill' -n 3

web: $(VENV)/.dev ## the page in a real browser (Debian's chromium; installed where there is root and apt)
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	  || echo 'chromium could not be installed: its tests are skipped'
	$(BIN)/pytest tests/web -n 2

cluster: $(VENV)/.dev ## a real Ray cluster
	$(BIN)/pytest tests/cluster -m 'not drill'

drill: $(VENV)/.dev ## slow drills: large files, faults one after the other
	$(BIN)/pytest tests -m drill -s

drill-rayup: $(VENV)/.dev ## `ray up` for real, on three hosts made of network namespaces (root; Debian's openssh-server, rsync)
	$(BIN)/pytest tests/cluster/test_rayup.py -m drill -s

nulls: $(VENV)/.dev ## switch off each check that keeps wrong bytes out, and each control of SECURITY.md: its test must go red
	$(BIN)/python tests/nulls.py

soak: $(VENV)/.dev ## SOAK_S seconds (1800) under a random mix of origin and store faults; prints its SEED
	$(BIN)/python tests/soak/soak.py

bench: $(VENV)/.dev ## what it costs, measured on this machine; writes bench/results/*.json and prints tables
	@failed=; for name in scheduler ledger moving small_files stripes api streams; do \
	  $(BIN)/python -m bench.$$name || failed="$$failed $$name"; done; \
	  [ -z "$$failed" ] || { echo "did not run:$$failed"; exit 1; }

simulate: $(VENV)/.dev ## replay loads against the scaling policy; writes bench/results/scaling
	$(BIN)/python -m bench.scaling

dashboards: $(VENV)/.dev ## write dashboards/generated: Prometheus rules from the alert files and objectives, Grafana's dashboards
	$(BIN)/python -m dashboards.build
	$(BIN)/python -m dashboards.grafana

fuzz: $(VENV)/.dev ## thousands of made-up requests through the checks of schemathesis (EXAMPLES of each operation and phase)
	$(BIN)/python tests/fuzz.py --examples $(or $(EXAMPLES),100)

audit: $(VENV)/.dev ## known holes in what is installed (pip-audit; needs PyPI, and says so where it has it not)
	$(BIN)/python tests/audit.py

sbom: $(VENV)/.dev ## the bill of materials of what is installed: dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	@# Apart: what it brings makes each Python process that imports Ray take seconds longer to start.
	@test -x $(VENV)/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv $(VENV)/sbom && \
	  $(VENV)/sbom/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7.5'; }
	$(VENV)/sbom/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --of JSON -o dist/sbom.cdx.json
	@$(BIN)/python -c "import json; print(len(json.load(open('dist/sbom.cdx.json'))['components']), 'components')"

docs: $(VENV)/.dev ## write the generated documents
	$(BIN)/python -m rayhaul.settings_doc > docs/settings.md
	$(BIN)/python -m dashboards.metrics_doc > docs/metrics.md
	$(BIN)/python -m rayhaul.errors_doc > docs/reference/errors.md
	$(BIN)/python -m rayhaul.cli.reference > docs/reference/cli.md
	$(BIN)/python -m serve_app.api_doc > docs/reference/api.md

site: docs ## the documents as a site, checked strictly: build/site
	$(BIN)/python docs/build_site.py

screenshots: $(VENV)/.dev ## the page's pictures in docs/img, of a real browser and real jobs (Debian's chromium)
	PYTHONPATH=tests $(BIN)/python tests/web/screenshots.py

clean: ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
