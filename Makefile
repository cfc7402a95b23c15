# Everything happens in .venv, made from $(PYTHON) on the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
OPENCODE := $(VENV)/opencode/node_modules/.bin/opencode

.PHONY: run test test-agents test-cluster test-web test-streamlit test-soak lint types format bench bench-nodes wheel-check clean

run: $(VENV)/.runtime
	@$(BIN)/agentline serve $(ARGS)

test: $(VENV)/.dev
	$(PYTEST) -m "not soak and not agents and not web and not cluster" --numprocesses 3 --dist loadfile $(ARGS)

# Against the real programs of Codex and Claude Code, and of OpenCode where npm can install it.
test-agents: $(VENV)/.agents
	@if [ -x $(OPENCODE) ] || ! command -v npm >/dev/null; then :; else \
	    npm install --silent --no-save --prefix $(VENV)/opencode opencode-ai@1.18.33; fi
	AGENTLINE_TEST_OPENCODE=$$([ -x $(OPENCODE) ] && echo $(abspath $(OPENCODE)) || true) \
	    $(PYTEST) -m "agents and not soak" --numprocesses 2 --dist loadfile $(ARGS)

# Many nodes: gateways that are killed, frozen and restarted over a real Postgres and a real Redis, both from wheels.
test-cluster: $(VENV)/.dev
	$(PYTEST) -m "cluster and not soak" --numprocesses 2 --dist loadfile $(ARGS)

# The console in Chromium, which must be on PATH.
test-web: $(VENV)/.dev
	$(PYTEST) -m "web and not soak" $(ARGS)

# The full doses of what `test` takes in small ones.
test-soak: $(VENV)/.agents
	$(PYTEST) -m soak $(ARGS)

# examples/streamlit_chat.py in Streamlit's own harness. Apart, because Streamlit brings pandas and pyarrow: 30 s, 350 MB.
test-streamlit: $(VENV)/.streamlit
	$(PYTEST) tests/agentline/test_streamlit.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.agents
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CPU per piece of text and added latency: the gateway, the usual ten-line relay, and the floor, in one run.
bench: $(VENV)/.dev
	$(BIN)/python -m bench.streams $(ARGS)

# The same for many nodes, with what they need of Redis and Postgres, beside one gateway on its own.
bench-nodes: $(VENV)/.dev
	$(BIN)/python -m bench.nodes $(ARGS)

# The built wheel holds the right packages and works outside the checkout.
wheel-check: $(VENV)/.dev
	$(BIN)/python tests/check_wheel.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Agentline needs Python 3.11 or newer; name one with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.runtime: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.runtime

$(VENV)/.agents: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group agents
	@touch $@

$(VENV)/.streamlit: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group streamlit
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
