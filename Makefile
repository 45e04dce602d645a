# make sample   guided pictures from the shipped model
# make test     lint, types, tests
# make docs     the documentation as a site in out/docs
# All make .venv on the first run and install nothing on later ones.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: sample test docs clean

sample: $(INSTALLED)
	$(BIN)/diffusteer sample \
		"a large red star on a blue background" \
		"a small striped green ring on a yellow background" \
		"a blue heart on a white background"

# One torch thread per test process is the fastest on few cores.
test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS)

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "diffusteer needs Python 3.11 or newer as $(PYTHON); name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist out
