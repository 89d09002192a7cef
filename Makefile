# Each target sets up all it needs on a fresh machine: a virtual environment, the right torch, the package.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A plain `pip install torch` brings gigabytes of CUDA; where there is no NVIDIA driver, take the CPU build.
TORCH = $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.6" || echo "torch==2.13.0")

.PHONY: demo test bench check format clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

# Triton for its interpreter, in which the kernels are tested where there is no GPU: some 290 MB, so not for the demo.
$(VENV)/triton: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[dev,triton]"
	touch $@

test: $(VENV)/triton
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --durations 30

# Times relative to the committed results of benchmarks/results, in under 15 minutes; on an idle machine.
bench: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/regressions.py

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info out
