"""A scrape of a running Trivium, read by Prometheus' own parsers."""

import asyncio
from collections.abc import Callable, Mapping

import httpx2
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from core.telemetry.vocabulary import VOCABULARY

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
LIBRARY = {
    *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds"),
    *("process_cpu_seconds", "process_open_fds", "process_max_fds", "python_info", "python_gc_objects_collected"),
    *("python_gc_objects_uncollectable", "python_gc_collections"),
}
NAMES = {metric.name for metric in VOCABULARY}
PATIENCE_SECONDS = 30.0


class Scrape:
    """The families by name; `value` of one sample, 0 for one that is not there."""

    def __init__(self, families: Mapping[str, Metric]) -> None:
        self.families = families

    def value(self, name: str, **labels: str) -> float:
        """A value by the name of its sample, summed over the labels that are not given."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, family: str, label: str) -> set[str]:
        """The values of a label."""
        return {sample.labels[label] for sample in self.families[family].samples}


async def scrape(admin: str, accept: str = OPENMETRICS) -> Scrape:
    async with httpx2.AsyncClient(base_url=admin, timeout=30) as http:
        answer = await http.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == accept
    parse = parse_openmetrics if accept == OPENMETRICS else parse_text
    families = list(parse(answer.text))
    assert len(families) == len({family.name for family in families})
    return Scrape({family.name: family for family in families})


async def scraped(admin: str, condition: Callable[[Scrape], bool]) -> Scrape:
    """A scrape for which the condition holds, as soon as there is one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition(found := await scrape(admin)):
            continue
        return found
