# Everything a newcomer types. Each target works on a fresh machine with Python 3.11, 3.12 or 3.13.
# 3.11 and 3.12 come first, since tensorflow-io, which reads object stores, has nothing newer.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do \
  $$python -c "import venv, ensurepip" 2> /dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := build/demo
# Without bytecode on disk each of the processes that tests start compiles all modules again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo docs lint test test-all chaos clean

help:
	@echo "make demo      make a sample, convert it, train an Xception on it and evaluate it"
	@echo "make install   create $(VENV) with the pinned packages"
	@echo "make docs      build the site of docs/ into build/site"
	@echo "make lint      ruff, mypy and the order of imports"
	@echo "make test      lint and the fast tests"
	@echo "make test-all  the slow tests too: more than an hour"
	@echo "make chaos     random kills, damage and full disks, for MINUTES=30"
	@echo "make clean     remove what was built, and runs/; $(VENV) stays"

install: $(VENV)/installed

# Installed again only when the pins change.
$(VENV)/installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 with venv: install one (on Debian python3.13" \
	  "and python3.13-venv), or name yours with make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

demo: install
	rm -rf $(DEMO)
	$(RUN) -m tools.make_sample --output=$(DEMO)/images --images=240
	$(RUN) -m tools.make_tfrecords --source=$(DEMO)/images --output=$(DEMO)/tfrecords --size=96 --splits=folders
	$(RUN) -m cxr_train.main --backbone=xception --data=$(DEMO)/tfrecords --run_dir=$(DEMO)/run \
	  --weights=none --epochs=6 --batch_size=8 --learning_rate=5e-4

# The variable leaves out the theme's note on its own future, which is not a warning of ours.
docs: install
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

lint: install
	$(VENV)/bin/ruff check --config .ci/ruff.toml .
	$(VENV)/bin/ruff format --config .ci/ruff.toml --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Two processes, since each holds a TensorFlow; a file stays in one, since its tests share shards.
test: lint
	$(RUN) -m pytest --numprocesses=2 --dist=loadfile

# The long ones too: more than an hour on two cores, half of it all backbones through XLA.
test-all: test
	$(RUN) -m pytest -m "slow or ci" --numprocesses=2 --dist=loadfile

# No test: what it does is random, and it never ends by itself before its tries or its minutes do.
MINUTES ?= 30
chaos: install
	$(RUN) -m tools.chaos --minutes=$(MINUTES)

clean:
	rm -rf build runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
