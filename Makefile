# make demo   compare the bundled models of digits: quality, coverage, speed
# make test   run the tests
# make check  formatting, lint, types, and the wheel
# Variables: PYTHON (interpreter), TORCH (pip requirement, default torch==2.13.0), VENV (.venv)

VENV ?= .venv
export VENV TORCH PYTHON

.PHONY: demo test check clean

demo:
	@tools/setup.sh ""
	@$(VENV)/bin/trilemma demo

test:
	@tools/setup.sh test
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --durations=10

check:
	@tools/setup.sh dev
	@$(VENV)/bin/ruff format --check src tests benchmarks
	@$(VENV)/bin/ruff check src tests benchmarks
	@$(VENV)/bin/mypy
	@tools/check_wheel.sh

clean:
	rm -rf $(VENV) build dist
