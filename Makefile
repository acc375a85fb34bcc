# `make ablation` and `make test` need nothing but Python 3.10+ and make: both set up .venv themselves.

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
STAMP := $(VENV)/.installed

.PHONY: help ablation results figures docs test lint clean

help:
	@echo "make ablation   set up .venv, then train and measure the paper's YLG row on real digits (a quarter of an hour of a core)"
	@echo "make results    tables, report and RESULTS.md again from the raw results in the repository"
	@echo "make figures    pictures again: README's, benchmark plots, sheets and pages of the shipped models"
	@echo "make docs       the API as pages, from the docstrings, in build/api"
	@echo "make test       set up .venv, then run the tests but for the slow ones, which .ci/run has too"
	@echo "make lint       ruff"
	@echo "make clean      remove .venv"

# constraints.txt pins the one torch / torchvision pair that the project is tested with; pyproject.toml is wider.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than Python 3.10; run 'make PYTHON=python3.11 ...'" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): PyTorch and what else is needed are downloaded, with pip's progress below"
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	@touch $(STAMP)

ablation: $(STAMP)
	$(VENV)/bin/python ablations/run.py --pattern ltr_rtl --esa

results: $(STAMP)
	$(VENV)/bin/python results.py

figures: $(STAMP)
	$(VENV)/bin/python analysis/patterns.py --overview docs/masks
	$(VENV)/bin/python benchmarks/attention.py --redraw benchmarks/results/attention-*.json
	$(VENV)/bin/python ablations/ship.py --refresh
	for model in $$($(VENV)/bin/python -c "from sagan_base.models import model_names; print(*model_names())"); do \
	  $(VENV)/bin/python analysis/attention_maps.py --model $$model --out runs/attention/$$model || exit 1; \
	  cp runs/attention/$$model/attention_maps.png analysis/results/attention_$$model.png; \
	  cp runs/attention/$$model/head_statistics.json analysis/results/attention_$$model.json; \
	done

docs: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	$(VENV)/bin/pdoc --docformat google -o build/api ylg sagan_base

test: $(STAMP)
	$(VENV)/bin/pytest -m 'not slow'

lint: $(STAMP)
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV)
