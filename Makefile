# make setup   a .venv with the pinned versions        make demo   the main job end to end on generated lines
# make test    the everyday tests, minutes             make lint   ruff
# make test-slow   what takes longer: trainings, processes    make test-all   both, as CI does
# make types   mypy on the public surface              make docs   the site, into build/site
# make check-tpu   every preset through the TPU compiler, without a TPU (an hour, then cached)
# make release-check   the wheel in an empty environment, then the demo with it
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 -q --no-loadscope-reorder

.PHONY: setup demo test test-slow test-all lint types docs check-tpu release-check clean

setup: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: name a newer one, as in 'make $(MAKECMDGOALS) PYTHON=python3.11'"; exit 1; }
	@echo "installing the packages of requirements.txt into .venv: about 1.8 GB, some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true  # on all cores; pip takes one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" launch/demo.sh

test: setup
	$(BIN)/python -m ruff check .
	$(PYTEST) --dist loadfile -m "not slow"

test-slow: setup
	$(PYTEST) --dist worksteal -m slow

test-all: test test-slow

lint: setup
	$(BIN)/python -m ruff check .

types: setup
	$(BIN)/python -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

check-tpu: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tpu]'
	$(BIN)/python -m dig_jax.tools.perf.check_tpu

release-check: setup
	PYTHON=$(BIN)/python launch/release_check.sh

clean:
	rm -rf .venv runs records build *.egg-info
