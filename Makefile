# `make run` serves the dashboard, `make test` checks everything; both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test soak clean

run: .venv/run.stamp
	$(BIN)/streamlit run app.py

test: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not soak" -n 2 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

soak: .venv/test.stamp
	$(BIN)/python -m pytest -m soak --timeout 3600

.venv/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Earbench needs Python 3.11 or newer; $(PYTHON) is older. Say: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/test.stamp: tests/requirements.txt .venv/run.stamp
	$(BIN)/pip install --quiet -r tests/requirements.txt
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
