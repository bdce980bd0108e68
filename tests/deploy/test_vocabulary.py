"""Dashboard, rules and manifests name only what there is: metrics of the vocabulary, and settings."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core.settings import ALIASES, Settings, options
from core.telemetry.figures import Kind, Metric
from core.telemetry.vocabulary import VOCABULARY
from tests.deploy.files import DEPLOY, ROOT, YAML_FILES, alerts, documents, the

SUFFIXES = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
#: Of Prometheus itself, and of its client library.
FOREIGN = {"up", "ALERTS", *(f"process_{name}" for name in (
    "cpu_seconds_total", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds",
))}  # fmt: skip
#: A name that has a selector or a range, or is long enough to be one of ours.
NAME = re.compile(r"\b([a-zA-Z_][\w:]*)(?=[{\[])|\b((?:trivium|grpc_server|messaging|process)_\w+|\w+:[\w:]+)")
SELECTOR = re.compile(r"\b([a-zA-Z_][\w:]*)\{([^}]*)\}")


def rules() -> Iterator[dict[str, str]]:
    for name in ("rules", "alerts"):
        (found,) = documents(DEPLOY / f"prometheus/trivium.{name}.yml")
        yield from (rule for group in found["groups"] for rule in group["rules"])


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/trivium.json").read_text())
    queried = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return queried + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


RECORDED = {rule["record"] for rule in rules() if "record" in rule}
EXPRESSIONS = [*(rule["expr"] for rule in rules()), *dashboard_expressions()]
EXPOSED: dict[str, Metric] = {
    f"{metric.name}{suffix}": metric for metric in VOCABULARY for suffix in SUFFIXES[metric.kind]
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_metrics_that_exist(expression: str) -> None:
    """Every name is one of the vocabulary, of a recording rule, or of the client library."""
    named = {one or other for one, other in NAME.findall(re.sub(r'"[^"]*"', '""', expression))}
    assert named
    assert named <= EXPOSED.keys() | RECORDED | FOREIGN


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_only_labels_that_exist(expression: str) -> None:
    """Who selects by a label of our own metrics selects by one that they have."""
    for name, selected in SELECTOR.findall(expression):
        if name in EXPOSED:
            labels = set(re.findall(r"(\w+)(?:=|!=)", re.sub(r'"[^"]*"', '""', selected)))
            assert labels <= {*EXPOSED[name].labels, "job", "instance", "le"}, name


def test_the_unit_tests_of_the_alerts_feed_what_exists() -> None:
    """A test that feeds a series which nobody exposes would prove nothing."""
    (found,) = documents(DEPLOY / "prometheus/tests/alerts.yml")
    for test in found["tests"]:
        for series in test["input_series"]:
            name, _, labels = series["series"].partition("{")
            if name in EXPOSED:
                given = set(re.findall(r"(\w+)=", labels))
                assert given - {"job", "instance", "le"} == set(EXPOSED[name].labels), name
            else:
                assert name in FOREIGN


def test_only_settings_that_exist() -> None:
    """Every variable TRIVIUM_X in image, compose and manifests is a setting, or the file of one."""
    known = {f"TRIVIUM_{option.name.upper()}" for option in options()} | set(ALIASES.values())
    known |= {f"{name}_FILE" for name in known} | {"TRIVIUM_CONFIG"}
    for path in (ROOT / "Containerfile", *YAML_FILES):
        uncommented = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        assert set(re.findall(r"\bTRIVIUM_[A-Z_]+", uncommented)) <= known, path


def test_ports_are_the_defaults() -> None:
    """Image, manifests and compose use the ports that Trivium has by itself, since nobody tells it others."""
    settings = Settings()
    ports = {"rest": settings.rest_port, "grpc": settings.grpc_port, "admin": settings.admin_port}
    (container,) = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert exposed is not None
    assert set(map(int, exposed[1].split())) == set(ports.values())
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert {int(port.rpartition(":")[2]) for port in compose["services"]["trivium"]["ports"]} <= set(ports.values())


def test_the_runbook_explains_every_bound_that_an_alert_is_about() -> None:
    """All that code tells of, but for those that are meant to be full."""
    sources = (path for folder in ("core", "transports") for path in (ROOT / folder).rglob("*.py"))
    told = {name for path in sources for name in re.findall(r'\bbound\("(\w+)"', path.read_text())}
    left_out = re.search(r'bound!~"([^"]+)"', alerts()["TriviumBoundNear"]["expr"])
    assert left_out is not None
    explained = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert set(explained) == {name for name in told if not re.fullmatch(left_out[1], name)}


def test_the_runbook_names_only_flags_that_exist() -> None:
    """docs/operations.md names no flag of Trivium that the command line does not know."""
    known = {option.flag for option in options()}
    text = Path(ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"`(--[a-z-]+)`", text)) <= known
