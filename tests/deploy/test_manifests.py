"""What is deployed agrees with what is in it. `make check-deploy` adds what needs heavy tools."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

from core.policy import read_policy
from core.settings import Settings, load, problems_of
from main import parser
from tests.deploy.files import DEPLOY, KUBERNETES, POLICIES, ROOT, TOML_FILES, YAML_FILES, documents, resources, the
from tools.binary import SOURCES

CONTAINERFILE = (ROOT / "Containerfile").read_text()


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", YAML_FILES, ids=names)
def test_yaml_parses(path: Path) -> None:
    """Every YAML file holds at least one document."""
    assert all(documents(path))


@pytest.mark.parametrize("path", TOML_FILES, ids=names)
def test_settings_are_valid(path: Path) -> None:
    """Every TOML file is one that Trivium starts with, on the addresses that the image sets."""
    image = dict(re.findall(r"(TRIVIUM_[A-Z_]+)=(\S+)", CONTAINERFILE))
    assert problems_of(load({}, image, path)) == []


@pytest.mark.parametrize("path", POLICIES, ids=names)
def test_policies_are_valid(path: Path) -> None:
    """And grant something, to a user of RabbitMQ too: else all that comes from there would be dead letters."""
    principals = read_policy(path).principals
    assert any(entry.publish and entry.rabbitmq_users for entry in principals.values())


def test_docker_finds_the_same_file() -> None:
    """`docker build` looks for Dockerfile, podman for Containerfile: they are one."""
    assert (ROOT / "Dockerfile").resolve() == ROOT / "Containerfile"


def test_image_and_binary_hold_the_same_sources() -> None:
    """What the image copies is what the single file holds, and nothing that is ignored on the way into the image."""
    copied = re.findall(r"^COPY ((?:[a-zA-Z.]+ )+)\S+$", CONTAINERFILE, re.MULTILINE)
    sources = {name for line in copied for name in line.split()} - {"LICENSE", "requirements.txt"}
    assert sources == set(SOURCES)
    let_in = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert let_in == sources | {"LICENSE", "requirements.txt"}


def test_ports_have_one_name() -> None:
    """Services, probes, network policy and monitor go by port names that the container has."""
    (container,) = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    probed = {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")}
    serviced = {
        port["targetPort"] for service in resources("Service", KUBERNETES / "base") for port in service["spec"]["ports"]
    }
    let_in = {port["port"] for rule in the("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    scraped = {endpoint["port"] for endpoint in the("ServiceMonitor")["spec"]["endpoints"]}
    assert ports == probed | serviced == let_in
    assert scraped <= serviced


def test_selectors_name_the_pods() -> None:
    """What is about Trivium's pods selects them by their label, which kustomize puts into templates and no selector.

    That it leaves the peers of the network policy alone is what `make check-deploy` sees to.
    """
    (added,) = documents(KUBERNETES / "base/kustomization.yaml")[0]["labels"]
    pods = added["pairs"]
    assert added == {"pairs": pods, "includeTemplates": True}
    assert [service["spec"]["selector"] for service in resources("Service", KUBERNETES / "base")] == [pods, pods]
    for kind, selector in (
        ("StatefulSet", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert the(kind)["spec"][selector] == {"matchLabels": pods}


def test_the_monitor_finds_the_service() -> None:
    """The ServiceMonitor selects by labels that one Service has; the name is a label that kustomize adds to all."""
    wanted = the("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    (added,) = (entry["pairs"] for entry in documents(KUBERNETES / "base/kustomization.yaml")[0]["labels"])
    labels = [service["metadata"].get("labels", {}) | added for service in resources("Service", KUBERNETES / "base")]
    assert sum(wanted.items() <= found.items() for found in labels) == 1


def test_ending_has_the_time_that_draining_takes() -> None:
    """Neither Kubernetes nor compose kills before the drain time is over, the pause before it included."""
    pod = the("StatefulSet")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    configured = [load({}, {}, path).drain_seconds for path in TOML_FILES]
    assert pod["terminationGracePeriodSeconds"] > pause + max(configured)
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert int(compose["services"]["trivium"]["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds


def test_the_unit_of_systemd_is_of_this_trivium() -> None:
    """Its flags exist, its variables name settings, and it kills only after the drain time."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    unit.read(DEPLOY / "systemd/trivium.service")
    service = unit["Service"]
    _, program, *flags = service["ExecStart"].split()
    assert (ROOT / program).exists()
    given = vars(parser().parse_args(flags))
    assert given["data_dir"] == f"/var/lib/{service['StateDirectory']}"
    name, _, _ = service["Environment"].partition("=")
    assert name.removeprefix("TRIVIUM_").removesuffix("_FILE").lower() in given
    assert int(service["TimeoutStopSec"]) > Settings().drain_seconds


def test_nothing_published_leaves_the_machine() -> None:
    """compose.yaml has passwords that everybody knows, so its ports are on loopback only."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_compose_mounts_exists() -> None:
    """Every file and folder that compose.yaml mounts from here is here."""
    mounted = re.findall(r"- (\./[^:]+):", (ROOT / "compose.yaml").read_text())
    assert mounted
    assert all((ROOT / path).exists() for path in mounted)
    assert (DEPLOY / "README.md").exists()
