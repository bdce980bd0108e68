#!/bin/sh
# What `make check-deploy` runs: every file of deploy/ and compose.yaml is read by the tool that it is for, or by its schema.
set -eu

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT

echo '== kustomize, and the schemas of Kubernetes'
for overlay in deploy/kubernetes/overlays/*; do
    kustomize build "$overlay" >"$rendered/$(basename "$overlay").yaml"
done
kubernetes-validate --strict --quiet "$rendered"/*.yaml

echo '== compose.yaml'
check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

echo '== promtool'
promtool check config deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/tests/*.yml
