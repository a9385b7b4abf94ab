# Each target sets up what it needs with Python 3.11 or newer and make; test also needs redis-server and pgbouncer; suites, clients, pages and e2e Node.js; e2e Chromium.
PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1
ARGS ?= -n auto
BENCH ?=
BIN := .venv/bin
READY := .venv/ready
SUITES := tests/suites
CLIENTS := tests/clients
# Each directory with a vite.config.ts is a page, which is built into the package.
PAGES := $(patsubst %/vite.config.ts,%,$(wildcard */vite.config.ts))
HAS_NODE := command -v npm >/dev/null && node -e 'process.exit(+((([a, b]) => a < 20 || (a === 20 && b < 19))(process.versions.node.split(".").map(Number))))' 2>/dev/null

.PHONY: run setup pages test pooled suites clients e2e bench check format lock schema clean

run: $(READY) ## Serve on PORT, with demo data where the database is empty
	@if $(HAS_NODE); then $(MAKE) --silent pages || echo 'The pages could not be built: serving what was built before, if anything.'; \
	  else echo 'Node.js 20.19 or newer and npm are missing: serving the API without the dashboard and GraphiQL.'; fi
	@$(BIN)/billing migrate
	@$(BIN)/billing seed-demo --if-empty
	@$(BIN)/billing serve --demo --host $(HOST) --port $(PORT)

setup: $(READY) ## Install into .venv

pages: $(PAGES:%=app/static/%/index.html) ## Build the dashboard and GraphiQL; needs Node.js 20.19 or newer and npm

test: $(READY) ## Every test, on SQLite and on a real PostgreSQL
	$(BIN)/pytest $(ARGS)

pooled: $(READY) ## The tests of PostgreSQL once more, through PgBouncer and with a replica
	$(BIN)/pytest $(ARGS) -k postgresql --pooled --replicated

suites: $(READY) $(SUITES)/.venv/ready $(SUITES)/node_modules/ready ## Public suites against a real server; needs Node.js and npm, too
	$(BIN)/python -m tests.suites

clients: $(READY) $(CLIENTS)/.venv/ready $(CLIENTS)/node_modules/ready ## Generated clients and real subscribers, against real servers; needs Node.js 20.19 or newer and npm
	$(BIN)/python -m tests.clients

e2e: $(READY) pages ## The pages in Chromium, on SQLite and on PostgreSQL
	@cd dashboard && npm test --silent
	$(BIN)/pytest tests/e2e

bench: $(READY) ## Our server against hand-written routes and stock Strawberry: one table, in seven minutes
	$(BIN)/python -m benchmarks $(BENCH)

check: $(READY) ## Style, types, architecture, dependencies, their known vulnerabilities and the committed schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python -m tests.suites.vulnerabilities requirements.lock
	$(BIN)/billing export-schema | diff schema.graphql - || (echo "schema.graphql is not what the code exports: run make schema"; exit 1)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(READY) ## Rewrite schema.graphql
	$(BIN)/billing export-schema > schema.graphql

lock: $(READY) ## Resolve the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --extra tracing --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile $(SUITES)/requirements.in --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o $(SUITES)/requirements.lock
	$(BIN)/uv pip compile $(CLIENTS)/requirements.in --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --quiet -o $(CLIENTS)/requirements.lock

$(READY): .venv/locked pyproject.toml
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	@echo 'Installing into .venv: about a minute.'
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

%/.venv/ready: %/requirements.lock
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

%/node_modules/ready: %/package-lock.json
	@command -v npm >/dev/null || (echo 'npm is missing: install Node.js 20.19 or newer.'; exit 1)
	@cd $* && npm ci --silent
	@touch $@

.SECONDEXPANSION:
$(PAGES:%=app/static/%/index.html): app/static/%/index.html: %/node_modules/ready schema.graphql $$(shell find $$* -name node_modules -prune -o -type f -print)
	@echo 'Building app/static/$*.'
	@cd $* && npm run --silent build
	@touch $@

clean: ## Remove what was installed and the development database
	rm -rf .venv $(SUITES)/.venv $(SUITES)/node_modules $(CLIENTS)/.venv $(CLIENTS)/node_modules $(PAGES:%=%/node_modules) app/static billing.db billing.db-shm billing.db-wal
