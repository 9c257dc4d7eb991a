PYTHON ?= python3
BIN := .venv/bin

venv: .venv/ready
.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

rebuild: venv
	$(BIN)/python setup.py -q build_ext --inplace

test: venv
	$(BIN)/pytest

lint docs sanitize portable abi3 coverage instructions long endurance wheel wheel-cross conda: venv
	ci/$@

benchmark: venv
	$(BIN)/python -m benchmarks --rust

media: venv
	$(BIN)/python -m benchmarks.media

interop: venv
	interop/run
	$(BIN)/pytest tests/test_interop*.py tests/test_abi.py

clean:
	rm -rf build dist *.egg-info igtl/_*.c igtl/_*.html igtl/*.so
	$(MAKE) -C interop clean

.PHONY: venv rebuild test lint docs docs sanitize portable abi3 coverage instructions long endurance wheel wheel-cross conda interop benchmark media clean
