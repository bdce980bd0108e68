"""Figures as Prometheus reads them, through its own client library."""

import gzip
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from core.telemetry.figures import Figure, Histogram, Kind
from core.telemetry.figures import Metric as Named
from core.telemetry.vocabulary import VOCABULARY

#: Above this an answer is compressed for who asks for it; beneath, it is not worth the time.
_COMPRESS_BYTES = 1024


class Exposition(Collector):
    """Writes figures down, with those of the process, of Python and of its garbage collector.

    Used from one thread at a time, beside the loop: a scrape of many figures takes milliseconds.
    """

    def __init__(self) -> None:
        self._figures: Sequence[Figure] = ()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def write(self, figures: Sequence[Figure], accept: str, *, compress: bool) -> tuple[bytes, str, bool]:
        """The text in the format that `accept` asks for, its content type, and whether it is compressed (gzip)."""
        self._figures = figures
        # not by the library's own choice, which fails at versions that it can't read
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            content_type = openmetrics.CONTENT_TYPE_LATEST
        else:
            text, content_type = generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
        if not compress or len(text) < _COMPRESS_BYTES:
            return text, content_type, False
        return gzip.compress(text, compresslevel=1), content_type, True

    def collect(self) -> Iterator[Metric]:
        families = {named: _family(named) for named in VOCABULARY}
        for figure in self._figures:
            _add(families[figure.metric], figure)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        """Names only: registering must not collect."""
        return [_family(named) for named in VOCABULARY]


def _family(named: Named) -> Metric:
    match named.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(named.name, named.help, labels=named.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(named.name, named.help, labels=named.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(named.name, named.help, labels=named.labels)


def _add(family: Metric, figure: Figure) -> None:
    labels = dict(zip(figure.metric.labels, figure.labels, strict=True))
    if not isinstance(figure.value, Histogram):
        suffix = "_total" if figure.metric.kind is Kind.COUNTER else ""
        family.add_sample(f"{family.name}{suffix}", labels, figure.value)
        return
    count = 0
    for bound, one in zip((*map(str, figure.value.bounds), "+Inf"), figure.value.counts, strict=True):
        count += one
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
    family.add_sample(f"{family.name}_count", labels, count)
    family.add_sample(f"{family.name}_sum", labels, figure.value.sum)
