# make demo    the main job on real photographs
# make test    the tests
# make help    the rest

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/installed

# What an extra of pyproject.toml brings along, so that nothing is installed twice.
BRINGS_test := demo
BRINGS_dev := demo test docs bench

.NOTPARALLEL:
.PHONY: help demo test lint format docs bench wheel matrix setup clean

help:
	@echo "make demo    adapt the shipped network to a camera, prove it, keep it, use it"
	@echo "make test    run the tests                        ARGS='tests/lora -k merge' for some"
	@echo "make lint    style and types"
	@echo "make format  put the style right"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   run every script in benchmarks/"
	@echo "make wheel   build the package, install it where nothing else is, use it"
	@echo "make matrix  the tests with several versions of Python and PyTorch (an hour and more)"
	@echo "make setup   install all of it, for development"
	@echo "make clean   remove what was built (.venv and runs/ stay)"
	@echo "Each installs into .venv what it needs. ARGS is handed on; PYTHON chooses the interpreter."

demo: $(INSTALLED)-demo
	$(BIN)/lorgnette demo $(ARGS)

# A process for each core, of one thread; the tests of a file stay together, since they share what they set up.
test: $(INSTALLED)-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(INSTALLED)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED)-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

bench: $(INSTALLED)-bench
	@for script in benchmarks/*.py; do \
		if [ -e "$$script" ]; then echo "$$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; fi \
	done

wheel: $(INSTALLED)-dev
	$(BIN)/python tools/check_wheel.py $(ARGS)

matrix:
	$(PYTHON) tools/matrix.py $(ARGS)

setup: $(INSTALLED)-dev

clean:
	rm -rf site demo-output dist build .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find src tests docs benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment; a stamp in it for each extra, older than the files that say what to install: once more.
$(INSTALLED)-%: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing lorgnette[$*] into .venv: 1.3 to 2 GB with PyTorch, once; it takes some minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $(addprefix $(INSTALLED)-,$* $(BRINGS_$*))

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Lorgnette needs Python 3.11 or newer: 'make PYTHON=python3.12 ...' chooses another than $(PYTHON)."; exit 1; }
	@$(PYTHON) -m venv .venv
