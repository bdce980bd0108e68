"""Writes what is generated under deploy/: the Grafana dashboard, and the rules of Prometheus for its operator.

python -m tools.monitoring            writes them
python -m tools.monitoring --check    exits 1 if what stands there is not what would be written
"""

import argparse
import json
import sys
from pathlib import Path
from textwrap import indent

from tools.dashboard import dashboard

DASHBOARD = Path("deploy/grafana/dashboards/trivium.json")
RULES = (Path("deploy/prometheus/trivium.rules.yml"), Path("deploy/prometheus/trivium.alerts.yml"))
OPERATOR_RULES = Path("deploy/kubernetes/components/monitoring/prometheus-rule.yaml")
HEAD = """\
# Made from deploy/prometheus by `make monitoring`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: trivium
spec:
  groups:
"""


def operator_rules() -> str:
    """The groups of the rule files in one resource, with their comments."""
    groups = (path.read_text().partition("\ngroups:\n")[2] for path in RULES)
    return HEAD + "".join(indent(text, "  ") for text in groups)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.monitoring", description="Writes dashboard and rules.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if they are out of date")
    only_check = parser.parse_args().check
    wanted = {DASHBOARD: json.dumps(dashboard(), indent=2) + "\n", OPERATOR_RULES: operator_rules()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if only_check:
            print(f"{path} is out of date: run `make monitoring`.", file=sys.stderr)
        else:
            path.write_text(wanted[path])
    return 1 if only_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
