# Everything happens in .venv, made from $(PYTHON) on the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: run test test-soak test-streamlit lint types format bench wheel-check clean

run: $(VENV)/.runtime
	@$(BIN)/agentline serve $(ARGS)

test: $(VENV)/.dev
	$(PYTEST) -m "not soak" $(ARGS)

# The full doses of what `test` takes in small ones.
test-soak: $(VENV)/.dev
	$(PYTEST) -m soak $(ARGS)

# examples/streamlit_chat.py in Streamlit's own harness. Apart, because Streamlit brings pandas and pyarrow: 30 s, 350 MB.
test-streamlit: $(VENV)/.streamlit
	$(PYTEST) tests/agentline/test_streamlit.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CPU per piece of text and added latency: the gateway, the usual ten-line relay, and the floor, in one run.
bench: $(VENV)/.dev
	$(BIN)/python -m bench.streams $(ARGS)

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

$(VENV)/.streamlit: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . --group streamlit
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
