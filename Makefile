# Two commands from a bare clone, with nothing but Python >= 3.11 and make:
#   make tables   train what the tables need and write them under results/
#   make test     run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: tables test faults lint reference lock clean
.DELETE_ON_ERROR:

tables: $(VENV)/installed
	$(BIN)/python run_all.py $(ARGS)

# A process on every core, and one thread in each: more threads would wait for each other.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

faults: $(VENV)/installed
	$(BIN)/python -m tests.faults $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The lock is installed by hash. The package itself is linked, so that an edit needs no new installation.
$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and f"Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# For maintainers: copy the tables, figures, claims and small records of the runs of a preset to results/reference/,
# without weights, caches and executed notebooks. The report is made anew from the copy, so that all its links hold there,
# and links to the figures beside it instead of holding them a second time, which keeps it small.
PRESET ?= quick
reference: $(VENV)/installed
	mkdir -p results/reference/$(PRESET)
	cd results/$(PRESET) && find . -type f \( -name '*.csv' -o -name '*.md' -o -name '*.json' -o -name 'log.txt' -o -name '*.png' \
	  -o -name '*.pdf' \) -not -path './replaced/*' -not -path '*/pseudo_labels/*' | tar cf - -T - | tar xf - -C ../reference/$(PRESET)
	$(BIN)/agmm report --preset $(PRESET) --results results/reference --link-figures

# For maintainers: resolve the lock anew for all supported Pythons and copy its versions into environment.yml.
lock:
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	  --upgrade --all-extras pyproject.toml -o requirements.lock
	sed '/- pip:$$/q' environment.yml > environment.tmp
	grep -E '^[^ ]+==' requirements.lock | sed -E "s/ *\\\\$$//; s/^(.* ; .*)$$/\"\1\"/; s/^/      - /" >> environment.tmp
	echo '      - -e .' >> environment.tmp
	mv environment.tmp environment.yml

clean:
	rm -rf $(VENV) *.egg-info
