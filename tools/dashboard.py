"""The Grafana dashboard: tools/panels.py as Grafana reads it."""

from collections.abc import Iterator
from typing import Any

from tools.panels import HEALTHY, ROWS, Panel
from tools.promql import CHOSEN

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    return {
        "uid": "trivium",
        "title": "Trivium",
        "description": "Is it healthy, what is slow, what is stuck? docs/operations.md tells what to do.",
        "tags": ["trivium"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_restarts()]},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, query, several in (
        ("job", "label_values(trivium_build_info, job)", False),
        ("instance", 'label_values(trivium_build_info{job="$job"}, instance)', True),
    ):
        found = {"name": name, "label": name.capitalize(), "type": "query", "datasource": DATASOURCE, "refresh": 2}
        chosen = {"current": {"text": ["All"], "value": ["$__all"]}} if several else {}
        yield found | {"query": {"query": query, "refId": name}, "multi": several, "includeAll": several} | chosen


def _restarts() -> dict[str, Any]:
    expression = f"changes(process_start_time_seconds{{{CHOSEN}}}[1m]) > 0"
    return {"name": "Starts", "datasource": DATASOURCE, "enable": True, "expr": expression, "iconColor": "blue"}


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in ROWS:
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _at(0, top, 24, 1),
        }
        number, top, left = number + 1, top + 1, 0
        height = 4 if panels is HEALTHY else 7
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left = top + height, 0
            yield _panel(panel, number, _at(left, top, panel.width, height))
            number, left = number + 1, left + panel.width
        top += height


def _at(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.steps:
        steps = [{"value": None if value == 0 else value, "color": colour} for value, colour in panel.steps]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.words:
        options = {value: {"text": word} for value, word in panel.words}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "stat":
        shown = {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    else:
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        shown = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": shown,
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query.expression, "legendFormat": query.legend}
            | ({"instant": True} if panel.kind == "stat" else {})
            for index, query in enumerate(panel.queries)
        ],
    }
