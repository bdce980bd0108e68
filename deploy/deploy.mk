# What is shipped, and the checks of it that need heavy tools. Included by the Makefile.

DEPLOY_ENV := .trivium/deploy
DEPLOY_BIN := $(CURDIR)/$(DEPLOY_ENV)/bin
# The newest that a Go of last year builds.
KUSTOMIZE := sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
ENGINE ?= $(shell command -v podman || command -v docker)
IMAGE ?= trivium
IMAGE_ARGS ?=

.PHONY: monitoring image binary sbom check-deploy check-alerts check-image

monitoring: venv
	@$(BIN)/python -m tools.monitoring

# The format of docker is the one that has HEALTHCHECK.
image:
	$(ENGINE) build -t $(IMAGE) $(if $(findstring podman,$(ENGINE)),--format docker) \
		--label org.opencontainers.image.version=$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' core/__init__.py) \
		--label org.opencontainers.image.revision=$$(git rev-parse HEAD) \
		--label org.opencontainers.image.created=$$(TZ=UTC git show -s --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd) \
		$(IMAGE_ARGS) .

# With podman, on the ports of this machine.
check-image: venv rabbitmq
	@$(BIN)/python -m tests.deploy.live.image $(IMAGE)

binary: $(DEPLOY_ENV)/requirements-deploy.txt
	@$(DEPLOY_BIN)/python -m tools.binary

sbom: $(DEPLOY_ENV)/requirements-deploy.txt
	@$(DEPLOY_BIN)/python -m tools.sbom

check-deploy: venv $(DEPLOY_ENV)/requirements-deploy.txt $(DEPLOY_ENV)/bin/kustomize
	@command -v promtool >/dev/null || tools/install_package.sh prometheus "Prometheus's promtool"
	@PATH="$(DEPLOY_BIN):$$PATH" tools/check_deploy.sh

# With a real Prometheus and a real RabbitMQ, in about ten minutes.
check-alerts: venv rabbitmq
	@command -v prometheus >/dev/null || tools/install_package.sh prometheus Prometheus
	@$(BIN)/python -m tests.deploy.live

$(DEPLOY_ENV)/requirements-deploy.txt: requirements-deploy.txt | $(DEPLOY_ENV)/pyvenv.cfg
	@echo 'Installing $< ...' >&2
	@$(DEPLOY_BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r $<
	@cp $< $@

$(DEPLOY_ENV)/pyvenv.cfg:
	@PYTHON='$(PYTHON)' VENV='$(DEPLOY_ENV)' sh tools/venv.sh

$(DEPLOY_ENV)/bin/kustomize: | $(DEPLOY_ENV)/pyvenv.cfg
	@command -v go >/dev/null || { echo 'error: install Go, or put kustomize into $(DEPLOY_ENV)/bin.' >&2; exit 1; }
	@echo 'Building kustomize ...' >&2
	@GOBIN=$(DEPLOY_BIN) go install $(KUSTOMIZE)
