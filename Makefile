# Two commands: `make demo` (train, export, encode, decode, compare) and `make test`.
# Both create .venv on first use and reuse it afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers by default: the kernels are threaded themselves, and a test process needs about 1 GB.
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: demo test lint format install clean

demo: $(STAMP)
	$(BIN)/python scripts/demo.py

# The kernels are compiled once beforehand, not by every worker at the same time. Files in alphabetical order:
# xdist would put those of few tests last, which are long ones, and one worker would wait for the other.
test: lint
	$(BIN)/python -c 'from ambi_rl.codec.warmup import ensure_compiled; ensure_compiled("train", print)'
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again by the next command.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ambi-rl needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[train,bench,cluster,study,neural,atari,dev]'
	touch $(STAMP)

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
