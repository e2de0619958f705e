# make run    sets up and serves on http://127.0.0.1:8080
# make test   sets up and runs the tests
# make lint   style, types and the direction of dependence
# make bench  measured comparisons on this machine
.PHONY: run test lint bench setup setup-dev format
BIN := .venv/bin

run: setup
	@exec $(BIN)/dswbot serve

test: setup-dev
	$(BIN)/python -m pytest

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-dev
	$(BIN)/python -m bench

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup:
	@scripts/setup run

setup-dev:
	@scripts/setup dev
