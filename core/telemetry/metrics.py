"""Everybody's figures, when somebody asks."""

from collections.abc import Iterable, Iterator

from core import VERSION
from core.telemetry import vocabulary
from core.telemetry.figures import Figure, Histogram, Measured, Metric


class Metrics:
    """Asks the parts that were added. Between two scrapes it costs nothing: the parts keep plain integers."""

    def __init__(self) -> None:
        self._parts: list[Measured] = [self]

    def add(self, part: object) -> None:
        """Ask `part` too, if it has figures."""
        if hasattr(part, "figures"):
            self._parts.append(part)

    def collect(self) -> list[Figure]:
        """All figures in the order of the vocabulary. What several parts tell under the same labels is added up."""
        found: dict[Metric, dict[tuple[str, ...], Figure]] = {metric: {} for metric in vocabulary.VOCABULARY}
        for part in self._parts:
            for figure in part.figures():
                by_labels = found[figure.metric]
                before = by_labels.get(figure.labels)
                by_labels[figure.labels] = figure if before is None else _sum(before, figure)
        return [figure for by_labels in found.values() for figure in by_labels.values()]

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.BUILD.of(1, VERSION)


def _sum(one: Figure, other: Figure) -> Figure:
    match one.value, other.value:
        case Histogram() as mine, Histogram() as its:
            mine.add(its)  # a copy of its own
            return one
        case (int() | float() as mine, int() | float() as its):
            return Figure(one.metric, one.labels, mine + its)
    raise TypeError(f"{one.metric.name} is told as two kinds of values")


def bound(name: str, used: float, limit: float) -> Iterable[Figure]:
    """How full a bounded place is."""
    return vocabulary.BOUND_USED.of(used, name), vocabulary.BOUND_LIMIT.of(limit, name)
