# make demo    set everything up and run the main job
# make test    set everything up and run the tests
# make test-vfio
#              set everything up and run what needs real devices, in a guest that has them
# make bench   print the table of speed claims
# make docs    build the documentation into docs/_build
#
# Nothing else needs to be run first; a Python of 3.11 or later is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-vfio check bench docs clean

demo: $(VENV)/ready
	@$(BIN)/pinfold demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

# One guest for all of it: to start one takes longer than most tests. RIG= has more for the rig,
# such as a kernel (tests/rig/README.md); GUEST_TESTS= fewer tests. A test elsewhere that is marked
# vfio fails, see tests/vfio/plugin.py.
GUEST_TESTS := tests/buses tests/drivers tests/vfio
RIG :=

test-vfio: $(VENV)/ready
	$(BIN)/python -m tests.rig run $(RIG) --bind edu0,edu1,nvme --timeout 1800 \
		--env PINFOLD_REQUIRE_VFIO=1 -- python -m pytest -q -m vfio $(GUEST_TESTS)

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
