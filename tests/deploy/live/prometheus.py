"""A real Prometheus on a running Trivium, with the rules of deploy/ in a hurry."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.deploy.files import DEPLOY

#: What is waited for when something should happen within seconds.
PATIENCE_SECONDS = 120.0
#: So far ahead a disk must not be full, in a hurry.
HORIZON_SECONDS = 1440
#: Scraping and evaluating each second, minutes become seconds.
HURRY = (
    (re.compile(r"for: \d+m"), "for: 2s"),
    (re.compile(r"\[5m\]"), "[15s]"),
    (re.compile(r"\[15m\]"), "[30s]"),
    (re.compile(r"offset 15m"), "offset 30s"),
    # The pace of half a minute, and 24 minutes ahead.
    (re.compile(r"\[1h\], 14400"), f"[30s], {HORIZON_SECONDS}"),
    # Above the 64 MiB at which a busy writer folds it in; a gigabyte would take minutes to write.
    (re.compile(r"> 1073741824"), "> 100000000"),
)


class Prometheus:
    """A running one, asked over its API."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._begun = time.time()

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        answer = await self._get("query", query='ALERTS{alertstate="firing"}')
        return {series["metric"]["alertname"] for series in answer}

    async def has_told(self, expression: str) -> bool:
        """Whether the expression had a value, and not only NaN, at some time since the start."""
        times = {"start": f"{self._begun:.0f}", "end": f"{time.time():.0f}", "step": "1"}
        found = await self._get("query_range", query=expression, **times)
        return any(value not in ("NaN", "") for series in found for _, value in series["values"])

    async def wait_for(self, wanted: set[str], *, gone: bool = False) -> None:
        """Until all of these fire, or none of them does any more."""
        firing: set[str] = set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            firing = await self.firing()
            if not wanted & firing if gone else wanted <= firing:
                return
            await asyncio.sleep(0.5)
        raise AssertionError(f"{wanted} did not {'clear' if gone else 'fire'} within {PATIENCE_SECONDS:g} s: {firing}")

    async def _get(self, what: str, **parameters: str) -> list[dict[str, Any]]:
        answer = await self._http.get(f"/api/v1/{what}", params=parameters)
        document = answer.json()
        if document["status"] != "success":
            raise AssertionError(f"{parameters}: {document}")
        found: list[dict[str, Any]] = document["data"]["result"]
        return found


def write_configuration(folder: Path, targets: Sequence[str]) -> Path:
    """The configuration and the rules of deploy/, hurried, for these targets."""
    folder.mkdir()
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"}
    (job,) = (found for found in configuration["scrape_configs"] if found["job_name"] == "trivium")
    configuration["scrape_configs"] = [job | {"static_configs": [{"targets": list(targets)}]}]
    for name in configuration["rule_files"]:
        text = (DEPLOY / "prometheus" / name).read_text()
        for pattern, replacement in HURRY:
            text = pattern.sub(replacement, text)
        (folder / name).write_text(text)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    return path


@asynccontextmanager
async def prometheus(folder: Path, port: int, targets: Sequence[str]) -> AsyncIterator[Prometheus]:
    """Debian's Prometheus, up until the block ends."""
    options = [f"--config.file={write_configuration(folder, targets)}", f"--storage.tsdb.path={folder / 'data'}"]
    options += [f"--web.listen-address=127.0.0.1:{port}", "--query.lookback-delta=3s", "--log.level=warn"]
    process = await asyncio.create_subprocess_exec("prometheus", *options)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not await _is_ready(http):
                assert process.returncode is None, "prometheus has ended"
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            yield Prometheus(http)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _is_ready(http: httpx2.AsyncClient) -> bool:
    try:
        return (await http.get("/-/ready")).is_success
    except httpx2.TransportError:
        return False


def expressions() -> list[str]:
    """Every expression of the dashboard and of the recording rules, its variables set."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/trivium.json").read_text())
    queried = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = (("$job", "trivium"), ("$instance", ".+"), ("$__rate_interval", "15s"))
    for variable, value in variables:
        queried = [query.replace(variable, value) for query in queried]
    rules = yaml.safe_load((DEPLOY / "prometheus/trivium.rules.yml").read_text())
    return queried + [rule["record"] for group in rules["groups"] for rule in group["rules"]]
