# The two commands a newcomer needs are `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test reproduce mutants kills fuzz lint types docs wheel bench clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

# Tensors are small here: one thread a process is fastest, and processes do not fight for the cores.
docs test: export OMP_NUM_THREADS ?= 1

demo: $(STAMP)
	$(BIN)/ppl-vae demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

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

docs: $(STAMP)
	$(BIN)/python -m pytest --doctest-modules ppl_vae --ignore-glob='*/__main__.py' -p no:cacheprovider
	$(BIN)/python -m pytest --nbmake --nbmake-timeout 900 notebooks

# The wheel is built and imported away from the checkout: a subpackage left out shows here.
wheel: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tests/check_wheel.py dist/*.whl

bench: $(STAMP)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build dist $(VENV)
