# make install: .venv with the pinned versions. make demo: the pipeline on embedded data. make test: what CI runs. make bench: speed. make soak: kills.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := recipes/demo/recipe.yaml
# Another objective over the same pool: nothing is trained, and the demo's trials are ranked for it first.
FOR_JA := --objective '{mean: [ja]}' --from runs/demo --set search.n_trials=20

.PHONY: install demo test bench soak lint clean

install: $(STAMP)

# constraints.txt pins what was tested, torch's CPU build included where the index offers it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/mergekit-optimer run $(DEMO)
	$(BIN)/mergekit-optimer compare $(DEMO) --attribution > /dev/null
	$(BIN)/mergekit-optimer search $(DEMO) --slice ja,math > /dev/null
	$(BIN)/mergekit-optimer search $(DEMO) $(FOR_JA) > /dev/null
	$(BIN)/mergekit-optimer objectives runs/demo runs/demo-for-ja
	$(BIN)/mergekit-optimer report runs/demo > /dev/null
	@echo "To look at: runs/demo/report/index.html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# Ratios against the stock way, half an hour on 2 cores; the trials row wants a finished demo.
bench: demo
	$(BIN)/python -m tests.benchmarks

# 50 kills at chosen moments of trainings and studies, and what must hold after each; about 10 minutes on 2 cores.
soak: install
	$(BIN)/python -m tests.soak

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
