# `make demo` and `make test` set up a virtual environment of their own first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Compiled programs are kept, so that only the first run of anything waits for the compiler, and
# are optimised less: on CPU that takes a third off the wait and costs no speed.
export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/compiled
export XLA_FLAGS ?= --xla_backend_optimization_level=1

TINY = runs/tiny
DEMO = runs/demo

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/ready: requirements.txt
	@echo "installing requirements.txt into $(VENV), one to two minutes"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: shipped trained ## refine a 4K picture with the shipped model, then train a small one: ten minutes on two cores

shipped: $(DEMO)/refined/scene0_depth.npy ## refine a 3840 x 2160 picture with the shipped model
	@echo
	@echo "refined with the shipped model scenes-small:"
	@echo "  $(DEMO)/scene0.png            a held-out scene of 3840 x 2160 pixels, its coarse and true maps"
	@echo "  $(DEMO)/refined/              its refined maps, .npy and .png"

trained: $(TINY)/metrics.json ## train and score a small model
	@echo
	@echo "trained from nothing:"
	@echo "  $(TINY)/weights.safetensors   the trained refiner"
	@echo "  $(TINY)/report.html           coarse, refined and true maps of held-out scenes, with scores"

$(TINY)/weights.safetensors: | $(VENV)/ready
	$(RUN) train.py configs/tiny.py --workdir $(TINY)

$(TINY)/metrics.json: $(TINY)/weights.safetensors
	$(RUN) eval.py --workdir $(TINY)

$(DEMO)/scene0.png: | $(VENV)/ready
	$(RUN) -m urgt_jax.data.example --seed 0 --split other --degrade middle --size 2160 3840 --out $(DEMO)

$(DEMO)/refined/scene0_depth.npy: $(DEMO)/scene0.png
	$(RUN) -m urgt_jax.predict $(DEMO)/scene0.png --weights scenes-small --out $(DEMO)/refined

test: $(VENV)/ready ## the tests, a few minutes on two cores
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready ## the tests that take longer than a minute each
	$(RUN) -m pytest -q -m slow

lint: $(VENV)/ready ## format and lint, as the pre-commit hooks do
	$(RUN) -m pip install --quiet --disable-pip-version-check ruff
	$(RUN) -m ruff format . && $(RUN) -m ruff check .

.PHONY: help demo shipped trained test test-slow lint
