# The two commands a newcomer needs are `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test quick matrix reproduce mutants kills fuzz lint types docs notebooks links wheel release bench clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,docs]'
	touch $@

# Tensors are small here: one thread a process is fastest, and processes do not fight for the cores.
docs notebooks test quick: export OMP_NUM_THREADS ?= 1

demo: $(STAMP)
	$(BIN)/ppl-vae demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

# The suite without the tests that train for tens of seconds.
quick: $(STAMP)
	$(BIN)/python -m pytest -n auto -m "not slow"

# The first case of each quick test, on other Pythons and with the oldest dependencies:
# CELLS="3.11-oldest", see CONTRIBUTING.md.
matrix: $(STAMP)
	$(BIN)/python tests/matrix.py $(CELLS)

# Faults are put into copies of the tree: MUTANTS="--seed 1 --only kernels", see CONTRIBUTING.md.
mutants: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m mutants $(MUTANTS)

# Trainings are killed at random moments and gone on with: KILLS="100 7" is their number and a seed.
kills: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py $(KILLS)

# Inputs by chance, by their seeds; 2,000 of them are in the tests: FUZZ="--seed 0 --number 1000".
fuzz: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(FUZZ)

# Every claim at its small scale, three seeds, and the table of them all; what is kept in
# docs/reproductions is not done again. PPL_VAE_DATA names the folder of MNIST.
reproduce: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/ppl-vae reproduce all --seeds 3 --out docs/reproductions
	$(BIN)/ppl-vae reproduce table --out docs/reproductions

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The examples in docstrings, then the site in build/html: its notebooks are executed, a warning
# ends it, and its pages are looked at in a browser.
docs: $(STAMP)
	$(BIN)/python -m pytest --doctest-modules ppl_vae --ignore-glob='*/__main__.py' -p no:cacheprovider
	rm -rf docs/reference/names
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/html
	$(BIN)/python -m pytest tests/test_site.py

# Executes the notebooks and stores them with their pictures, for who reads them without the site:
# NOTEBOOKS="notebooks/infovae.ipynb" for some.
NOTEBOOKS ?= notebooks/*.ipynb
notebooks: export PYTHONWARNINGS = ignore:IProgress not found
notebooks: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter-execute --inplace $(NOTEBOOKS)

# The addresses that docs and docstrings name: asks the network, so no part of `make docs`.
links: $(STAMP)
	$(BIN)/python -m sphinx -b linkcheck --quiet -D nb_execution_mode=off docs build/links

# The wheel is built and imported away from the checkout: a subpackage left out shows here.
wheel: $(STAMP)
	rm -rf build/lib build/bdist* dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tests/check_wheel.py dist/*.whl

# Checks that the tree is clean and the changelog has the version, builds, tests the wheel and tags:
# RELEASE=--dry-run says what it would do and changes nothing.
release: $(STAMP)
	$(BIN)/python tests/release.py $(RELEASE)

bench: $(STAMP)
	for script in benchmarks/*.py; do PYTHONPATH=tests $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build dist docs/reference/names .matrix $(VENV)
