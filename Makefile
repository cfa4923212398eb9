# Everything is set up in .venv; a second call installs nothing. Works offline once installed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BUDGET ?= 25s

.PHONY: demo test test-slow docs bench clean

demo: .venv/installed  ## every family on scikit-learn's digits, in one report
	$(BIN)/pofx compare digits --budget $(BUDGET)

test: .venv/installed-dev  ## lint, types, import contracts, all tests and doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

test-slow: .venv/installed-dev  ## the thorough forms: every model with every optimiser, 200 kills, 10,000 spoilt runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m slow

docs: .venv/installed-dev  ## build/docs/index.html, the examples executed
	OMP_NUM_THREADS=1 $(BIN)/python docs/build.py build/docs

bench: .venv/installed-dev  ## side by side with a loop written by hand; prints ratios
	$(BIN)/python benchmarks/engine

clean:  ## what can be made again, but for .venv and the runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	touch .venv/installed $@
