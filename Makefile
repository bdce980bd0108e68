# Everything is set up on demand: a virtual environment from the locks, and RabbitMQ unless AMQP_URL names a broker.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUNTIME_VENV := bench/.runtime
PEERS_VENV := bench/.venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r
ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check certs proto lock venv clean rabbitmq bench bench-quick bench-venv

help:
	@echo 'make run [ARGS="..."]         run the service, with a broker unless ARGS holds --no-amqp'
	@echo 'make test [PYTEST_ARGS="..."] run the tests'
	@echo 'make check                    format, lint, types, layers; is what is generated up to date?'
	@echo 'make bench [BENCH_ARGS="..."] measure beside every peer, about 33 minutes: docs/performance.md (needs 2 cores)'
	@echo 'make bench-quick              the same in three minutes, to see that it works'
	@echo 'make proto                    generate the Python of proto/'
	@echo 'make certs                    make certificates for development, and tell how to use them'
	@echo 'make lock [LOCK_ARGS=...]     lock what setup.cfg declares (--upgrade: with the newest versions)'
	@echo 'make venv                     make $(VENV) with everything that development takes'
	@echo 'make monitoring               generate the dashboard and the rules for Kubernetes'
	@echo 'make image [IMAGE=name:tag]   build the container image, with podman or docker (ENGINE=, IMAGE_ARGS="...")'
	@echo 'make binary                   make dist/trivium, one file that needs only a Python'
	@echo 'make sbom                     write dist/trivium.cdx.json, what is in it, in CycloneDX'
	@echo 'make check-deploy             check deploy/ and compose.yaml with the tools of those who read them'
	@echo 'make check-image [IMAGE=...]   run the image as it should be run, and use all doors'
	@echo 'make check-alerts             let a running Trivium suffer what each alert is about, before a real Prometheus'
	@echo 'make clean                    remove what make and the tools made, the broker'"'"'s queues included'
	@echo
	@echo 'AMQP_URL=amqp://... uses that broker; without it a private RabbitMQ is installed and started.'
	@echo 'PYTHON=...          is the Python (3.11 to 3.13) that makes $(VENV).'

ifneq (,$(findstring --no-amqp,$(ARGS)))
run: $(VENV)/requirements.txt
	@exec $(BIN)/python main.py $(ARGS)
else
run: $(VENV)/requirements.txt rabbitmq
	@exec $(BIN)/python -m tools.rabbitmq -- $(BIN)/python main.py $(ARGS)
endif

test: venv rabbitmq
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: venv
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.proto --check
	$(BIN)/python -m tools.lock --check
	$(BIN)/python -m tools.monitoring --check

proto: venv
	@$(BIN)/python -m tools.proto

certs: venv
	@$(BIN)/python -m tools.certs $(ARGS)

lock: venv
	@$(BIN)/python -m tools.lock $(LOCK_ARGS)

venv: $(VENV)/requirements-dev.txt
	@:

# The copy of a lock inside the environment says what was installed last.
$(VENV)/requirements.txt $(VENV)/requirements-dev.txt: $(VENV)/%: % | $(VENV)/pyvenv.cfg
	@echo 'Installing $< ...' >&2
	@$(INSTALL) $<
	@cp $< $@

$(VENV)/pyvenv.cfg:
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh tools/venv.sh

# Trivium runs as its users have it, without the tools of development, some of which its libraries would import;
# the peers run in an environment of their own.
bench: bench-venv rabbitmq
	@$(RUNTIME_VENV)/bin/python -m bench $(BENCH_ARGS)

bench-quick: bench-venv rabbitmq
	@$(RUNTIME_VENV)/bin/python -m bench --quick $(BENCH_ARGS)

bench-venv: $(RUNTIME_VENV)/requirements.txt $(PEERS_VENV)/requirements.txt
	@tools/install_load_tools.sh

$(RUNTIME_VENV)/requirements.txt: requirements.txt
$(PEERS_VENV)/requirements.txt: bench/requirements.txt
$(RUNTIME_VENV)/requirements.txt $(PEERS_VENV)/requirements.txt: %/requirements.txt: | %/pyvenv.cfg
	@echo 'Installing $< ...' >&2
	@$(subst $(BIN),$*/bin,$(INSTALL)) $<
	@cp $< $@

$(RUNTIME_VENV)/pyvenv.cfg $(PEERS_VENV)/pyvenv.cfg: %/pyvenv.cfg:
	@PYTHON='$(PYTHON)' VENV='$*' sh tools/venv.sh

rabbitmq:
	@tools/install_rabbitmq.sh

clean:
	rm -rf $(VENV) $(RUNTIME_VENV) $(PEERS_VENV) .trivium certs build dist *.egg-info .coverage* htmlcov .hypothesis .schemathesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

include deploy/deploy.mk
