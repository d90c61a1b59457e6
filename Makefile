# make help says what each target does. Prerequisites: git, make, Python >= 3.11 with venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
EVIDENCE_HOME ?= var
EVIDENCE_PORT ?= 8000
export EVIDENCE_HOME EVIDENCE_PORT
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install run test lint bench lock clean

help:  ## say what each target does
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '%-14s %s\n' "$$name" "$$what"; done

# --- installing ------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { echo "could not make .venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# The stamp is as old as the last install, so a second `make` of anything installs nothing.
# A machine without a C compiler gets one as a wheel, for the native core of SM3; where that fails too, the core is left out.
.venv/.installed: pyproject.toml .lock/build.txt .lock/compiler.txt .lock/run.txt models/native/core.c models/native/build.py | $(BIN)/python
	@echo "installing the locked packages into .venv (only when they changed)"
	$(PIP) install --quiet --require-hashes -r .lock/build.txt -r .lock/run.txt
	command -v cc >/dev/null || $(PIP) install --quiet --require-hashes -r .lock/compiler.txt || true
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m models.native
	touch $@

.venv/.installed-dev: .lock/dev.txt .venv/.installed
	@echo "installing what tests and lint need into .venv (only when it changed)"
	$(PIP) install --quiet --require-hashes -r .lock/dev.txt
	touch $@

install: .venv/.installed  ## make .venv with the locked packages and the `evidence` command

# --- running ---------------------------------------------------------------------------------------------------------

define FREE_PORT
import socket, sys
port = sys.argv[1]
if not port.isdigit() or not 0 < int(port) < 65536:
    sys.exit(f"EVIDENCE_PORT is not a port number: expected 1 to 65535, got {port}")
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(port)))
    except OSError:
        sys.exit(f"port {port} is in use on 127.0.0.1: stop what listens there, or choose another: make run EVIDENCE_PORT={int(port) % 65535 + 1}")
endef
export FREE_PORT

define READY
import pathlib, sys, time, urllib.error, urllib.request
port, pid, give_up = sys.argv[1], sys.argv[2], time.monotonic() + 60
while time.monotonic() < give_up:
    try:
        if urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200:
            sys.exit(0)
    except (urllib.error.URLError, OSError):
        pass
    try:
        __import__("os").kill(int(pid), 0)
    except ProcessLookupError:
        sys.exit("the service ended before it was ready")
    time.sleep(0.1)
sys.exit("the service was not ready within 60 s")
endef
export READY

# One service at a time: the first is the demo's and ends with it, the second is the user's. All run as jobs of the shell,
# which waits for them, so that a signal stops them at once; whatever ends the shell, it leaves no job behind.
run: install  ## start the service, run the demo against it, then serve with the explorer until Ctrl-C
	@$(BIN)/python -c "$$FREE_PORT" "$$EVIDENCE_PORT"
	umask 077
	mkdir -p "$$EVIDENCE_HOME"
	$(BIN)/evidence init
	jobs=
	stop() { for job in $$jobs; do kill -TERM "$$job" 2>/dev/null || true; wait "$$job" || true; done; jobs=; }
	trap stop EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	log="$$EVIDENCE_HOME/run.log"
	$(BIN)/evidence serve --host 127.0.0.1 --port "$$EVIDENCE_PORT" >"$$log" 2>&1 &
	jobs=$$!
	$(BIN)/python -c "$$READY" "$$EVIDENCE_PORT" "$$jobs" &
	jobs="$$! $$jobs"
	wait "$$!" || { tail -n 20 "$$log" >&2; exit 1; }
	EVIDENCE_URL="http://127.0.0.1:$$EVIDENCE_PORT" $(BIN)/evidence demo &
	jobs="$$! $$jobs"
	wait "$$!" || { echo "the demo failed; the service's log is $$log" >&2; exit 1; }
	stop
	$(BIN)/evidence serve --quiet --host 127.0.0.1 --port "$$EVIDENCE_PORT" >/dev/null &
	jobs=$$!
	$(BIN)/python -c "$$READY" "$$EVIDENCE_PORT" "$$jobs" &
	jobs="$$! $$jobs"
	wait "$$!" || exit 1
	jobs="$${jobs#* }"
	echo "服务与浏览页 · the service and its explorer: http://127.0.0.1:$$EVIDENCE_PORT (Ctrl-C)"
	trap 'exit 0' INT TERM HUP
	wait "$$jobs"

# --- checking --------------------------------------------------------------------------------------------------------

test: .venv/.installed-dev  ## run every test; ARGS="-k name" is handed to pytest, JOBS=1 runs them one by one
	@unset EVIDENCE_HOME EVIDENCE_PORT
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: .venv/.installed-dev  ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	$(BIN)/mypy
	for conftest in $$(find tests -mindepth 2 -name conftest.py); do MYPYPATH=tests:$$(dirname "$$conftest") $(BIN)/mypy "$$conftest"; done
	$(BIN)/lint-imports

bench: .venv/.installed-dev  ## run every benchmark; each prints one JSON line
	@for script in benchmarks/g*.py benchmarks/commitment.py; do $(BIN)/python "$$script" $(ARGS); done

# --- the rest --------------------------------------------------------------------------------------------------------

# Universal: one file for Python 3.11 and later on every platform. No index address is written into a lock file.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: .venv/.installed-dev  ## write the lock files anew; UPGRADE=1 takes the newest versions
	@$(COMPILE) pyproject.toml --all-extras --group dev -o .lock/dev.txt
	$(COMPILE) pyproject.toml --all-extras -c .lock/dev.txt -o .lock/postgresql.txt
	$(COMPILE) pyproject.toml -c .lock/dev.txt -o .lock/run.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) - -c .lock/dev.txt -o .lock/build.txt
	$(COMPILE) --group compiler -o .lock/compiler.txt

clean:  ## remove what the other targets made: .venv, ./var (not one that is in production), caches, builds
	@if grep -q '"environment": *"production"' var/home.json 2>/dev/null; then
		echo "var is the home of a production service, with its keys: it stays; remove it by hand if you mean it" >&2
	else
		rm -rf var
	fi
	rm -f models/native/core.so models/native/core.dll
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
