# `make demo` and `make test` set up a virtual environment of their own first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

test: $(VENV)/ready ## the tests, a few minutes on two cores
	$(RUN) -m pytest -q

.PHONY: help test
