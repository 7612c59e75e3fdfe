# A thin layer over bootstrap.py, which does the work and needs nothing but a Python.
# Arguments go in ARGS: make test ARGS="-k resend". PYTHON=/path/to/python3 names one to use.

.DEFAULT_GOAL := help
.PHONY: run test check lint bench chaos soak lock help pythons

# The first Python that starts at all. Shims on PATH may fail; what they stand for lies beside them.
beside_shims = $(wildcard $(patsubst %/shims,%/versions/*/bin/python3,$(filter %/shims,$(subst :, ,$(PATH)))))
any_python = $(shell for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python $(beside_shims); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1 && echo "$$python" && break; done)
bootstrap = $(or $(any_python),$(error no Python that starts was found: install Python 3.11 or newer)) bootstrap.py

# `run` ends itself when this process is gone, however it went.
export OTPSVC_PARENT_PID := $(shell echo $$PPID)

run: ## start the service with its own stores (PORT=9000 moves it)
	@$(bootstrap) run $(ARGS)

test: ## run the tests
	@$(bootstrap) test $(ARGS)

check: ## lint, then test: what CI runs
	@$(bootstrap) check $(ARGS)

lint: ## check style, format and types
	@$(bootstrap) lint $(ARGS)

bench: ## measure send and verify against a no-op route
	@$(bootstrap) bench $(ARGS)

chaos: ## the long fault suite: kills, cuts and outages, about half an hour
	@$(bootstrap) chaos $(ARGS)

soak: ## send ten million codes and see that nothing grows (ARGS="--codes 100000" for fewer)
	@$(bootstrap) soak $(ARGS)

lock: ## write requirements/ anew from pyproject.toml (ARGS=--upgrade: with the newest versions)
	@$(bootstrap) lock $(ARGS)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

pythons:
	@$(bootstrap) pythons
