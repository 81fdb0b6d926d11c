# Two commands do everything: `make train` and `make test`. Both may be run again.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help install train test test-all lint docs wheel release clean

help:  # what there is
	@echo "make train    LeNet-5 on MNIST with configs/mnist.flags; ARGS adds flags"
	@echo "make test     the tests; make test-all those that take long, too"
	@echo "make lint     ruff and mypy"
	@echo "make docs     the site, into build/docs"
	@echo "make wheel    wheel and source distribution, into dist/"
	@echo "make release NAME=...   models/NAME made again from configs/NAME.flags"
	@echo "make clean    removes what was made"

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: Python 3.10 to 3.13 is needed. Received: $$($(PYTHON) --version). Say PYTHON=python3.12 or the like." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip  # older ones search for minutes
	$(RUN) -m pip install --quiet --editable '.[test,mcu,qat]'
	touch $@

# The main job; ARGS adds or overrides flags: make train ARGS="--epochs=5 --workdir=runs/short"
train: install
	$(RUN) -m tfsparse.train --flagfile=configs/mnist.flags --resume $(ARGS)

test: install
	$(RUN) -m pytest -n 2 --dist worksteal $(ARGS)

test-all: install
	$(RUN) -m pytest -n 2 --dist worksteal -m "slow or not slow" $(ARGS)

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: install
	$(RUN) -m pip install --quiet --editable '.[docs]'
	$(RUN) tools/pages.py
	$(RUN) -m sphinx -W --keep-going -q -b html docs build/docs

wheel: install
	$(RUN) -m build --outdir dist .

# make release NAME=lenet5_shrinknets: runs configs/NAME.flags and keeps its result in models/NAME.
release: install
	$(RUN) -m tfsparse.train --flagfile=configs/$(NAME).flags --resume
	$(RUN) tools/release.py runs/$(NAME) models/$(NAME)

clean:
	rm -rf $(VENV) runs build dist *.egg-info
