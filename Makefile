# Everything is set up on demand: a virtual environment from the locks, and RabbitMQ unless AMQP_URL names a broker.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r
ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check certs proto lock venv clean rabbitmq

help:
	@echo 'make run [ARGS="..."]         run the service, with a broker unless ARGS holds --no-amqp'
	@echo 'make test [PYTEST_ARGS="..."] run the tests'
	@echo 'make check                    format, lint, types, layers; is what is generated up to date?'
	@echo 'make proto                    generate the Python of proto/'
	@echo 'make certs                    make certificates for development, and tell how to use them'
	@echo 'make lock [LOCK_ARGS=...]     lock what setup.cfg declares (--upgrade: with the newest versions)'
	@echo 'make venv                     make $(VENV) with everything that development takes'
	@echo 'make clean                    remove what make and the tools made, the broker'"'"'s queues included'
	@echo
	@echo 'AMQP_URL=amqp://... uses that broker; without it a private RabbitMQ is installed and started.'
	@echo 'PYTHON=...          is the Python (3.11 or later) that makes $(VENV).'

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

rabbitmq:
	@tools/install_rabbitmq.sh

clean:
	rm -rf $(VENV) .trivium certs build dist *.egg-info .coverage* htmlcov .hypothesis .schemathesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
