# Every target makes the environment first; a finished one costs a fraction of a second.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The CPU builds are for Python 3.11; the installer says so if only another one is here.
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3.12),$(shell command -v python3.13),python3)
VENV := .venv
RUN := $(VENV)/bin/python
TESTS := $(RUN) -m pytest -q
MARK ?= all
# pytest's 5 means that no test matched the markers, which is no failure.
SOME := { code=$$?; [ $$code -eq 5 ] || exit $$code; }

.PHONY: help install demo down test check fmt lock bench campaign

help:
	@echo "make demo          fine-tune, serve and compare a small model on this machine"
	@echo "make down          stop what the demo left running"
	@echo "make test          everything this machine can test; MARK=fast for the quick part"
	@echo "make check         format, lint, types, import contracts and the quick tests"
	@echo "make bench NAME=x  one benchmark: architectures, bf16, budsim, budsim_live, bytes_to_loss, churn, diloco_wire, demo, gateway_cost, gpu, messages, mutation, recovery, train or relay"
	@echo "make campaign NAME=x  hours of one kind of test: recovery or state_machines"
	@echo "make fmt, lock     format the code; compile the lock files"

install:
	@$(PYTHON) foundry/install/bootstrap.py --venv $(VENV)

demo: install
	@$(RUN) -m workflows.demo

down:
	@if [ -x $(RUN) ]; then $(RUN) -m foundry.cli.main down; else echo "nothing was running"; fi

test: install
	@echo "== fast tests: no services"
	@$(TESTS)
	@if [ "$(MARK)" = all ]; then $(MAKE) --no-print-directory test-services; fi

.PHONY: test-services
test-services:
	@marks="ray or engine"; \
	case "$$($(RUN) -c 'from foundry.infra.hardware import detect; print(detect().accelerator)')" in \
	  cpu) echo "== no accelerator here: tests marked gpu are rehearsed on the processor"; \
	       FOUNDRY_TEST_DEVICE=cpu $(TESTS) -m gpu tests/gpu ;; \
	  *) marks="$$marks or gpu" ;; \
	esac; \
	echo "== PostgreSQL"; \
	$(TESTS) -m "postgres and not (ray or engine or gpu)" || $(SOME); \
	echo "== Ray, the engine and the whole stack"; \
	$(TESTS) -m "$$marks" --durations=15 || $(SOME)

check: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(TESTS)

fmt: install
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock: install
	$(RUN) -m foundry.install.lock

bench: install
	@test -n "$(NAME)" || { echo "error: say which: make bench NAME=architectures, bf16, budsim, budsim_live, bytes_to_loss, churn, diloco_wire, demo, gateway_cost, gpu, messages, mutation, recovery, train or relay" >&2; exit 2; }
	@$(RUN) -m tests.bench.$(NAME)

campaign: install
	@test -n "$(NAME)" || { echo "error: say which: make campaign NAME=recovery or state_machines" >&2; exit 2; }
	@$(RUN) -m tests.campaign.$(NAME)
