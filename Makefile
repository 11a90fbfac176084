# Two commands are enough: `make run` starts a server, `make test` checks everything.
# Both install what they need into .venv, from the lock files.

PYTHON ?= python3
PORT   ?= 8090
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help

# Images for containers like to switch this on. It would have every process of the tests compile everything anew.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: help run demo test check fast thorough postgresql e2e fire fire-quick bench client screenshots lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Only what the server itself needs, so that `make run` is up within a minute.
$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# A server to try things on: loopback only, mails shown in the terminal, the example terms in force.
run: $(VENV)/.run ## Start a server on SQLite in ./data, for a first look
	@IDENTITY_SERVER__GENERAL__SERVER_NAME=localhost:$(PORT) \
	IDENTITY_SERVER__GENERAL__TERMS_PATH=terms \
	IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_BIND_ADDRESS=127.0.0.1 \
	IDENTITY_SERVER__HTTP__CLIENT_HTTP_BASE=http://localhost:$(PORT) \
	IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_PORT=$(PORT) \
	IDENTITY_SERVER__EMAIL__EMAIL_TRANSPORT=console \
	IDENTITY_SERVER__EMAIL__EMAIL_FROM="Identity server <noreply@localhost>" \
	$(BIN)/python -m identity_server serve

# What the demo's sample homeserver and mail catcher need.
$(VENV)/.demo: requirements-demo.lock $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-demo.lock
	touch $@

demo: $(VENV)/.demo ## Watch the whole story, from registration to unbinding
	$(BIN)/python -m identity_server demo

check: $(VENV)/.dev docs ## Format, lint, types, and whether every link in the documentation leads somewhere
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Its warnings about its own future are none of ours; `strict` in mkdocs.yml makes errors of those about our pages.
.PHONY: docs
docs: $(VENV)/.dev ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Every odd input to every endpoint, every page in Chromium, every command, the specification's document, the real
# Sydent, processes that are killed under load, the benchmark: slower. Of the other folders, the files that start processes
# to see what is in them, bring every schema there ever was to the newest one, put a server under load, or tell
# long stories: whole databases that are moved or sealed anew, months that go by. Whatever is in none of these is in `fast`,
# where every behaviour is touched once: a test of hundreds of milliseconds for each of many cases belongs here. Properties
# are tried in both, with few examples and with many; their marker is Hypothesis's own.
THOROUGH := tests/api tests/bench tests/browser tests/clients tests/commands tests/contract tests/doctor tests/packaging \
  tests/sydent tests/is_tester tests/processes \
  tests/storage/schema/test_migrations.py tests/storage/engines/test_without_orm.py tests/server/test_what_is_loaded.py \
  tests/flows/test_root_key_under_load.py \
  tests/flows/test_root_key.py tests/flows/test_unaccepted_terms.py tests/storage/moving/test_copying.py

fast: tests-need ## The tests to run while working, in a minute at most
	$(BIN)/python -m pytest -n auto -m "not e2e" --hypothesis-profile quick --ignore=tests/fire $(THOROUGH:%=--ignore=%)

thorough: tests-need ## Every odd input, the specification document, the real Sydent
	$(BIN)/python -m pytest -n auto $(THOROUGH)
	$(BIN)/python -m pytest -n auto -m hypothesis --ignore=tests/fire --ignore=tests/e2e $(THOROUGH:%=--ignore=%)

# Everything that speaks to a database, once more on a PostgreSQL server that the tests start; of tests/api
# what gets as far as the database.
POSTGRESQL := tests/postgresql tests/storage tests/index tests/services tests/workers tests/flows tests/security \
  tests/commands tests/sydent $(foreach name,fields emails auth clients homeservers,tests/api/test_$(name).py)

postgresql: tests-need ## The same tests on PostgreSQL
	$(BIN)/python -m pytest -n auto --engine postgresql $(POSTGRESQL)

# In one process, because its tests share one Synapse.
e2e: tests-need ## The end-to-end tests: a real Synapse, the real matrix-js-sdk
	$(BIN)/python -m pytest -m e2e tests/e2e

# The page is written even if a part fails: then it says so.
FIRE ?= tests/fire
SHARE ?= 1
fire: tests-need ## Break everything as often as docs/reliability.md says, and write there what came of it; an hour
	$(BIN)/python -m pytest -n 2 --fire full --fire-share $(SHARE) $(FIRE); status=$$?; \
	  $(BIN)/python -m tests.fire.report && exit $$status

# By itself, because every server of theirs has two workers and a dozen people already.
fire-quick: tests-need ## A few rounds of it, in some minutes
	$(BIN)/python -m pytest -n 2 tests/fire

test: check fast thorough postgresql fire-quick e2e ## Everything: format, lint, types, tests

.PHONY: tests-need
tests-need: $(VENV)/.dev
	tests/install-needs

# More words for it: make bench BENCH="--quick"; bench/README.md has them all.
bench: $(VENV)/.dev ## Compare with the real Sydent on the same data, in a quarter of an hour
	bench/install-needs
	$(BIN)/python -m bench $(BENCH)

client: ## A typed client in Python, made from the API's document, in build/client
	PYTHON=$(PYTHON) contrib/python-client/install
	contrib/python-client/generate build/client

screenshots: tests-need ## Pictures of pages and mails, for docs/screens.md
	$(BIN)/python -m tests.rendering.screenshots docs/images

lock: ## Rewrite the lock files from pyproject.toml
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --python-version 3.11 -o requirements.lock
	uv pip compile pyproject.toml --extra demo --extra sentry --extra opentelemetry --group dev --universal --generate-hashes \
	  --no-header --python-version 3.11 -c requirements.lock -o requirements-dev.lock
	uv pip compile pyproject.toml --extra sentry --extra opentelemetry --universal --generate-hashes \
	  --no-header --python-version 3.11 -c requirements-dev.lock -o requirements-reporting.lock
	uv pip compile pyproject.toml --extra demo --universal --generate-hashes --no-header --python-version 3.11 \
	  -c requirements-dev.lock -o requirements-demo.lock

clean: ## Remove everything that was installed or built here
	rm -rf $(VENV) .venv-* tests/e2e/node_modules dist build .mypy_cache .ruff_cache
