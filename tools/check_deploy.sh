#!/bin/sh
# What `make check-deploy` runs: the files of deploy/ and compose.yaml, each read by the tool that it is for, or by its schema.
set -eu

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

echo '== Kubernetes: kustomize, and the schemas of its API (the operator of Prometheus is not in them)'
for overlay in deploy/kubernetes/overlays/*; do
    kustomize build "$overlay" >"$made/$(basename "$overlay").yaml"
done
kubernetes-validate --strict --quiet --no-warn "$made"/*.yaml

echo '== Kubernetes: what kustomize built selects the pods and peers that the base says'
python - "$made" <<'CODE'
import sys
from pathlib import Path

import yaml


def selecting(paths):
    found = {}
    for path in paths:
        for one in yaml.safe_load_all(path.read_text()):
            if one["kind"] in ("Service", "StatefulSet", "PodDisruptionBudget"):
                found[one["kind"], one["metadata"]["name"]] = one["spec"]["selector"]
            elif one["kind"] == "NetworkPolicy":
                found[one["kind"], one["metadata"]["name"]] = one["spec"]
    return found


written = selecting(Path("deploy/kubernetes/base").glob("*.yaml"))
for overlay in Path(sys.argv[1]).glob("*.yaml"):
    built = selecting([overlay])
    for which, selector in written.items():
        if built[which] != selector:
            sys.exit(f"{overlay.stem}: {' '.join(which)}: {built[which]}, where the base says {selector}")
CODE

echo '== compose.yaml: the schema of the Compose Specification'
check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

echo '== Prometheus: promtool'
promtool check config deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/tests/*.yml

echo '== Grafana: promtool reads the expressions of the dashboard'
python - >"$made/dashboard.yml" <<'CODE'
import json
from pathlib import Path

dashboard = json.loads(Path("deploy/grafana/dashboards/trivium.json").read_text().replace("$__rate_interval", "1m"))
queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
rules = [{"record": f"query{number}", "expr": query} for number, query in enumerate(queries)]
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
CODE
promtool check rules "$made/dashboard.yml"
