# The door: `make demo` shows the mesh, `make test` checks everything. Both install what is missing first.
#
#   make demo    build, then run `meshdp demo`        make bench   beside nginx, HAProxy, Envoy (release build)
#   make test    lint, Rust tests, Python tests       make wheel   dist/meshdp-*.whl
#   make lint    every check that runs nothing        make attack  every flood beside honest traffic, in one table
#   make clean   remove what make made
#
# ARGS passes arguments on: make demo ARGS="--keep", make pytest ARGS="-k check", make attack ARGS="-o json".

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
MAKEFLAGS     += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON  ?=
PROFILE ?= fast
ARGS    ?=
VENV    := .venv
BIN     := $(VENV)/bin
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

rust_sources := $(shell find native initc -name "*.rs" -o -name Cargo.toml) Cargo.toml Cargo.lock .cargo/config.toml
native_built := $(CARGO_TARGET_DIR)/$(PROFILE)/lib_native.so
native       := src/meshdp/_native.abi3.so
init         := src/meshdp/bin/meshdp-init

.PHONY: help demo test lint bench build wheel clean pytest cargo-test packages install-native judges attack

help:
	@sed -n '2,9s/^# \{0,1\}//p' Makefile

demo: build
	@$(BIN)/meshdp demo $(ARGS)

# --- what is installed ---------------------------------------------------------------------------------------------

build: packages $(VENV)/installed $(init) install-native

$(VENV)/installed: requirements.txt Makefile | packages
	@echo "==> Python environment in $(VENV)"
	@python=$$(scripts/choose-python $(PYTHON)); base='import sys; print(sys.base_prefix, sys.version)'; \
	[ "$$($(BIN)/python -c "$$base" 2> /dev/null)" = "$$("$$python" -c "$$base")" ] || { rm -rf $(VENV); "$$python" -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "meshdp.pth").write_text(str(pathlib.Path("src").resolve()) + "\n")'
	@printf '#!%s\nimport sys\n\nfrom meshdp.cli import main\n\nsys.exit(main())\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/meshdp
	@chmod +x $(BIN)/meshdp
	@touch $@

$(native_built): $(rust_sources)
	@echo "==> native extension (profile $(PROFILE))"
	@cargo build --locked --package meshdp-boundary --profile $(PROFILE)
	@touch $@

# A copy and a rename: a process that runs the old extension keeps its file.
install-native: $(native_built)
	@cmp -s $(native_built) $(native) || { cp $(native_built) $(native).new && mv $(native).new $(native); }

$(init): $(shell find initc -name '*.rs' -o -name Cargo.toml) Cargo.toml build_backend/backend.py | $(VENV)/installed
	@echo "==> meshdp-init (static)"
	@$(BIN)/python build_backend/backend.py
	@touch $@

packages:
	@scripts/debian-packages "$$(scripts/choose-python $(PYTHON) 2> /dev/null)"

# --- what is checked -----------------------------------------------------------------------------------------------

test: lint judges cargo-test pytest

lint: build
	@echo "==> lint"
	@cargo fmt --all --check
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$said"; exit 1; }
	@MYPYPATH=src $(BIN)/python -m mypy.stubtest meshdp._native
	@$(BIN)/python -m pytest --quiet tests/unit/test_layout.py
	@cargo clippy --quiet --locked --workspace --all-targets --profile $(PROFILE) -- --deny warnings

cargo-test: build
	@echo "==> Rust tests"
	@cargo test --locked --workspace --profile $(PROFILE)

# The programs that tests/interop asks; without them those tests skip and say so.
judges: $(VENV)/installed
	@scripts/interop-tools $(BIN)/python

pytest: build
	@echo "==> Python tests"
	@$(BIN)/python -m pytest $(ARGS)

attack: build
	@$(BIN)/python -m tests.attack.floods $(ARGS)

bench:
	@$(MAKE) PROFILE=release build
	@scripts/debian-packages "$$(scripts/choose-python $(PYTHON) 2> /dev/null)" bench
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@$(BIN)/python bench/run.py $(ARGS)

# --- what is delivered ---------------------------------------------------------------------------------------------

wheel: $(VENV)/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:
	@rm -rf $(CARGO_TARGET_DIR) $(VENV) dist $(native) $(init) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .cache
