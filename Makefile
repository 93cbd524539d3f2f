# make demo | test | lint | slow | drill | coverage | clean      Another Python: make PYTHON=python3.12 demo
PYTHON ?= python3

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# A file's tests stay together: they share what its fixtures trained. tests/conftest.py has the order of the files.
TWO_AT_ONCE := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.PHONY: demo test lint slow drill coverage clean

demo: $(STAMP)
	$(RUN) -m experiments demo

test: lint
	$(RUN) -m pytest $(TWO_AT_ONCE)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

slow: $(STAMP)
	$(RUN) -m pytest $(TWO_AT_ONCE) -m slow --ignore=tests/drill

# Harms small runs in hundreds of ways: docs/drill.md. TIMES=1 tries each random fault once.
drill: $(STAMP)
	DRILL_TIMES=$(or $(TIMES),8) $(RUN) -m pytest -m slow tests/drill

# Lines of abd_jax/ that the fast tests run, in this process and in those that they start.
coverage: $(STAMP)
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest $(TWO_AT_ONCE)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

# --no-build-isolation: setuptools is pinned in requirements-dev.txt, so nothing unpinned is fetched here.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'abd_jax needs Python 3.11 or newer and "$(PYTHON)" is not; try: make PYTHON=python3.12 demo' >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
