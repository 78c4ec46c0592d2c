# The two commands: `make book` (read) and `make test` (check). Plain `make` lists the rest.
# Nothing is needed before them but Python 3.11 or newer, make and git. On Windows see README.md: `seqcourse` does the same without make.

PYTHON ?= python3
# Extra flags for pip, for instance an index with CPU-only builds of torch.
PIP_FLAGS ?=
VENV ?= .venv
SEQCOURSE = $(VENV)/bin/seqcourse
STAMP = $(VENV)/.seqcourse-installed

.DEFAULT_GOAL := help
.PHONY: help env book serve test lint notebooks exercises data clean distclean

help: ## list the commands
	@echo "seqcourse: make TARGET"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

env: $(STAMP) ## create or update the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"seqcourse needs Python 3.11 or newer, found {v[0]}.{v[1]}: try make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python came without venv: install it (Debian, Ubuntu: the package python3-venv)"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[book,grade,test]"
	touch $@

book: $(STAMP) ## fetch the data, run the notebooks, build the site in _build/html
	$(SEQCOURSE) book

serve: $(STAMP) ## build the site and serve it on http://localhost:8000
	$(SEQCOURSE) book
	$(SEQCOURSE) serve

test: $(STAMP) ## everything CI checks: lint, tests, site, notebooks, browser
	$(SEQCOURSE) test

lint: $(STAMP) ## style and static checks only
	$(SEQCOURSE) lint

notebooks: $(STAMP) ## run every notebook again and compare with the book's outputs
	$(SEQCOURSE) notebooks

exercises: $(STAMP) ## generate exercises/ from solutions/
	$(SEQCOURSE) release

data: $(STAMP) ## download the data sets the book uses
	$(SEQCOURSE) data fetch --book

clean: ## remove everything built; keeps .venv and the data cache
	rm -rf _build .pytest_cache .ruff_cache .coverage .coverage.*

distclean: clean ## remove the environment too
	rm -rf $(VENV) seqcourse.egg-info
