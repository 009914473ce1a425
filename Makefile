# Two commands: `make demo` shows a trained model at work, `make test` runs every test.
# Both make their own virtual environment (.venv) with the versions of docker/constraints.txt.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
# What installs into $(VENV); another program of the same arguments may: .ci/run takes uv
PIP_INSTALL ?= $(BIN)/python -m pip install --quiet
OUTPUT ?= output/demo
TRAIN_OUTPUT ?= output/train_demo

.PHONY: demo train-demo test lint docs install clean

install: $(STAMP)

$(STAMP): setup.py docker/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "comics needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -c docker/constraints.txt torch torchvision
	$(PIP_INSTALL) -c docker/constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## forge photos, let the model find the forged faces, and write one page (under 3 minutes)
	$(BIN)/python tools/lab/demo.py --output $(OUTPUT)

train-demo: $(STAMP)  ## make a data set, train, evaluate, infer, and write one page (about 13 minutes on 2 cores)
	$(BIN)/python tools/lab/train_demo.py --output $(TRAIN_OUTPUT)

test: $(STAMP)  ## the whole test suite, on every core
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint --config .hadolint.yaml docker/Dockerfile
	$(BIN)/mypy

docs: $(STAMP)  ## the documentation as a site, in output/site; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) output
