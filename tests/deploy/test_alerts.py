"""Every alert is explained and tested. That the tests pass is what `make check-deploy` sees to."""

import re

from tests.deploy.files import DEPLOY, ROOT, alerts, documents

RUNBOOK = (ROOT / "docs/operations.md").read_text()
(TESTS,) = documents(DEPLOY / "prometheus/tests/alerts.yml")


def test_every_alert_has_a_section() -> None:
    """The runbook has a section for each alert, in their order, and no other."""
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(alerts())


def test_every_alert_names_its_section() -> None:
    """The annotation leads to the section of its own name, and the severity is one of the two that are explained."""
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_seen_to_fire_and_to_clear() -> None:
    """For each alert there is a test in which it fires, and is silent before and after."""
    fired = set()
    for test in TESTS["tests"]:
        expected = [bool(check["exp_alerts"]) for check in test["alert_rule_test"]]
        if expected[0] is False and expected[-1] is False and any(expected):
            fired |= {check["alertname"] for check in test["alert_rule_test"]}
    assert fired == set(alerts())
