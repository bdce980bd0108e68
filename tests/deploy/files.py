"""What lies under deploy/, read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
YAML_FILES = sorted([ROOT / "compose.yaml", *DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml")])
POLICIES = sorted(DEPLOY.rglob("policy.toml"))
TOML_FILES = sorted(set(DEPLOY.rglob("*.toml")) - set(POLICIES))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def resources(kind: str, folder: Path = KUBERNETES) -> Iterator[Any]:
    """The resources of that kind, in every file of the folder."""
    for path in sorted(folder.rglob("*.yaml")):
        yield from (found for found in documents(path) if found["kind"] == kind)


def the(kind: str) -> Any:
    """The only resource of that kind."""
    (found,) = resources(kind)
    return found


def alerts() -> dict[str, Any]:
    """The alerts by name."""
    (rules,) = documents(DEPLOY / "prometheus/trivium.alerts.yml")
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
