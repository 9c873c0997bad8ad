# `make demo` and `make test` set up a virtual environment of their own first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
URGT = $(RUN) -m urgt_jax
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check
# Compiled programs are kept, so that only the first run of anything waits for the compiler. They are
# optimised less: on a CPU that takes a third off the wait and costs no speed.
export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/compiled
export XLA_FLAGS ?= --xla_backend_optimization_level=1

TINY = runs/tiny
DEMO = runs/demo

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/ready: requirements.txt
	@echo "installing requirements.txt into $(VENV), one to two minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

demo: shipped trained ## refine a 4K image with the shipped model, then train it further (ten minutes)

shipped: $(DEMO)/scene20.png ## refine a 3840 x 2160 image with the shipped model (two minutes)
	$(URGT) refine $(DEMO)/scene20.png --weights scenes --out $(DEMO)/refined --save npy png compare
	@echo
	@echo "$(DEMO)/scene20.png is a scene unlike those of training. Its coarse maps imitate those of a network"
	@echo "that sees 384 lines. Now try a photograph of your own: $(VENV)/bin/urgt refine photo.jpg"

trained: $(TINY)/metrics.json ## train the shipped model further, on coarser maps, and score it
	@echo
	@echo "trained further from the shipped model:"
	@echo "  $(TINY)/weights.safetensors   the trained refiner"
	@echo "  $(TINY)/report.html           coarse, refined and true maps of held-out scenes, with scores"

$(TINY)/weights.safetensors: | $(VENV)/ready
	$(URGT) train tiny --workdir $(TINY) --init scenes

$(TINY)/metrics.json: $(TINY)/weights.safetensors
	$(URGT) eval --workdir $(TINY)

$(DEMO)/scene20.png: | $(VENV)/ready
	$(URGT) scene --seed 20 --split other --degrade middle --size 2160 3840 --out $(DEMO)

test: $(VENV)/ready ## run the tests, ten to fifteen minutes on two cores the first time, less after that
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/ready ## run the tests that take longer than a minute each
	$(RUN) -m pytest -q -m slow

SCENES = scenes
scenes-train: $(VENV)/ready ## train a larger model on a GPU, or resume (SCENES=scenes_cpu: the shipped model, on a CPU)
	$(URGT) train $(SCENES) --workdir runs/$(SCENES)

test-hard: $(VENV)/ready ## kill commands, damage files and watch memory, for one to two hours (docs/reliability.md)
	JAX_PLATFORMS=cpu $(RUN) -m tests.hard

PLATFORM = cuda
SIZE = large
gpu-check: $(VENV)/ready ## check and measure everything on a GPU, in eight minutes (PLATFORM=cpu SIZE=tiny to try)
	$(if $(filter cuda,$(PLATFORM)),$(PIP) -r requirements.txt "jax[cuda13]")
	$(RUN) tests/gpu_check.py --platform $(PLATFORM) --size $(SIZE)

lint: $(VENV)/ready ## format and lint, as the pre-commit hooks do
	$(PIP) ruff
	$(RUN) -m ruff format . && $(RUN) -m ruff check .

docs: $(VENV)/ready ## build docs/ and the reference of the Python API as a site in site/
	$(PIP) "mkdocs-material>=9.7,<10" "mkdocstrings[python]>=1.0,<2" ruff
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "open site/index.html, or run: $(RUN) -m mkdocs serve"

PACKAGE = $(VENV)/package
package: $(VENV)/ready ## build wheel and sdist, and refine an image with the wheel outside the checkout
	$(PIP) build
	rm -rf dist build $(PACKAGE)
	$(RUN) -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	mkdir $(PACKAGE)/elsewhere
	cd $(PACKAGE)/elsewhere && ../bin/urgt scene --size 270 480 --out . \
		&& ../bin/urgt refine scene0.png --out refined && ls refined
	cd $(PACKAGE)/elsewhere && ../bin/urgt train tiny --help >/dev/null
	! $(PACKAGE)/bin/python -m pip list 2>/dev/null | grep -iE "pytest|xdist|tensorflow"
	@ls -l dist

.PHONY: help demo shipped trained test test-slow test-hard scenes-train gpu-check lint docs package
