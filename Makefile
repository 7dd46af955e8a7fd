# The commands of this project; `make` alone lists them.
#
# The machine needs Python 3.11+, make and a C/C++ compiler, nothing else. uv, pinned, goes into
# .cache/uv and the environment into .venv, both inside this clone.
#
# One lock serves every machine: requirements.lock holds version and hashes of every package of
# every extra, for Linux and macOS, and names no index, so packages come from wherever yours is set
# to. (uv.lock would hold the address of the index that it was made with.) It is used as a
# constraint: pyproject.toml and EXTRAS say what to install, the lock says which version, and
# --require-hashes makes uv refuse what the lock does not list.

PYTHON ?= python3
UV_VERSION := 0.13.9

# What this machine can do. MLX needs Apple silicon; Linux gets it too, for the tests (its CPU backend,
# 115 MB, glibc 2.35 or newer), and on an Intel Mac pyproject.toml leaves it out.
EXTRAS ?= host cpu cloud dashboard mlx

BENCHMARKS := pipeline history brain policy cloud cpu_engine mlx_engine spend dashboard scale

# What tests and checks need besides; an image leaves it out: make env DEV=
DEV ?= --group dev

UV := .cache/uv/bin/uv
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
UV_LOCK := build/uv.txt

empty :=
space := $(empty) $(empty)
# One stamp for each choice of extras, so that another choice installs and the same one does not.
INSTALLED := $(VENV)/.installed-$(subst $(space),-,$(strip $(EXTRAS)))

INSTALL := $(UV) pip install --quiet --require-build-hashes --build-constraints $(LOCK)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--fork-strategy fewest --custom-compile-command "make lock"

# uv takes the Python that it is told, and no environment that a shell happens to have active.
export UV_PYTHON_DOWNLOADS := never
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# --require-build-hashes is young; the uv that is pinned here has it.
export UV_PREVIEW_FEATURES := build-dependency-hashes

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test chaos check audit bench docs fix hooks env lock clean browser llama check-lock check-places

help:  ## list these commands
	@echo 'make COMMAND [PYTHON=python3.12] [EXTRAS="host cpu"]'
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / {printf "  %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: env  ## run a task of every profile on a real model, and show what Postgres has of it
	@$(BIN)/fleet demo

test: env browser  ## run the tests; ARGS="-k name" goes to pytest
	@$(BIN)/pytest $(ARGS)

chaos: env  ## kill and cut everything for minutes, then look that nothing was lost; ARGS="--seed 7 --minutes 3"
	@$(BIN)/python -m tests.chaos $(ARGS)

check: env  ## lint, format, types, layers, and that the lock is current
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "not formatted: make fix"; exit 1; }
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo
	@$(MAKE) check-lock check-places
	@echo "all checks passed"

audit:  ## ask OSV for known vulnerabilities of what is locked; says so where it cannot be asked
	@$(PYTHON) build/audit.py $(LOCK) $(UV_LOCK)

bench: env  ## measure the published numbers again; ARGS=--quick takes less than a minute each
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

docs: env  ## write the generated pages of docs/reference anew, and all of docs/ as HTML
	@$(BIN)/python -m docs.generate
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs .cache/docs
	@echo "open .cache/docs/index.html"

fix: env  ## format, and repair what lint can repair by itself
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

hooks: env  ## check every commit before it is made
	@$(BIN)/pre-commit install

browser: env  ## get a Chromium for the tests of the pages
	@$(BIN)/python -m tests.dashboard.browser || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && echo "installing Debian's chromium" && \
			apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium > /dev/null; } || \
		$(BIN)/playwright install chromium || \
		echo "no Chromium can be had here: the tests that open pages in it are skipped"

env: llama $(INSTALLED)  ## make the environment in .venv, or bring it up to date

lock: $(UV)  ## write the lock anew for what pyproject.toml asks; ARGS=--upgrade takes newer versions
	@$(COMPILE) pyproject.toml --all-extras --group dev --group build $(ARGS) -o $(OUT)$(LOCK)
	@echo "uv==$(UV_VERSION)" | $(COMPILE) --no-annotate - -o $(OUT)$(UV_LOCK)

clean:  ## remove the environment and all that was built here (not the fleet's data)
	@rm -rf $(VENV) .cache dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The steps below are for the commands above.

$(UV): $(UV_LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..."; exit 1; }
	@echo "fetching uv $(UV_VERSION)"
	@$(PYTHON) -m venv --clear .cache/uv
	@.cache/uv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $(UV_LOCK)
	@touch $@

$(BIN)/python: | $(UV)
	@$(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)

# Looks each time, because an environment can outlive its machine; takes 0.1 s if all is well.
llama: | $(BIN)/python
	@$(if $(filter cpu,$(EXTRAS)),$(BIN)/python build/llama.py $(UV) $(LOCK))

# After llama, or uv would build llama.cpp here without the settings that it needs.
$(INSTALLED): pyproject.toml $(LOCK) | llama
	@echo "installing the packages of requirements.lock for: $(EXTRAS)"
	@$(INSTALL) --require-hashes --constraints $(LOCK) -r pyproject.toml $(EXTRAS:%=--extra %) $(DEV)
	@$(INSTALL) --no-deps --editable .
	@touch $@

check-lock: $(UV)
	@rm -rf .cache/lock && mkdir -p .cache/lock/build && cp $(LOCK) .cache/lock/$(LOCK) && cp $(UV_LOCK) .cache/lock/$(UV_LOCK)
	@$(MAKE) lock ARGS= OUT=.cache/lock/
	@cmp -s $(LOCK) .cache/lock/$(LOCK) && cmp -s $(UV_LOCK) .cache/lock/$(UV_LOCK) || \
		{ echo "the lock is not what pyproject.toml asks for: make lock"; exit 1; }

# What is committed works anywhere: no index in the lock, nobody's home, not this clone's folder.
check-places:
	@! grep -n '://' $(LOCK) $(UV_LOCK)
	@! git grep -nIE '(/home|/root|/Users)/[a-z]|$(CURDIR)/'
