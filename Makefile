# make demo   convert, run and verify the trained example
# make test   lint, types and tests, as CI runs them
# make clean  remove the environment and the demo's files

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test clean

demo: .venv/installed
	$(BIN)/python -m tools.demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=auto

clean:
	rm -rf .venv demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,convert,dev]'
	touch $@
