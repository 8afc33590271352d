# make demo    set everything up and run the main job
# make test    set everything up and run the tests
# make bench   print the table of speed claims
# make docs    build the documentation into docs/_build
#
# Nothing else needs to be run first; a Python of 3.11 or later is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench docs clean

demo: $(VENV)/ready
	@$(BIN)/pinfold demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

check:
	./check

bench: $(VENV)/ready
	$(BIN)/python -m bench

docs: $(VENV)/docs-ready
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build --quiet --fail-on-warning docs docs/_build

# The environment is rebuilt whenever what it is made from changes.
$(VENV)/ready: pyproject.toml requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("pinfold needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -e '.[cli]'
	@touch $@

$(VENV)/docs-ready: $(VENV)/ready docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
