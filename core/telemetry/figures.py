"""What a part tells of itself when it is asked: plain numbers, each under a metric of the vocabulary."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(Struct, frozen=True, eq=False):
    """One name of the vocabulary. A counter is exposed as `<name>_total`, a histogram as `<name>_bucket` and so on."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    def of(self, value: "float | Histogram", *labels: str) -> "Figure":
        """A value of this metric, its labels in the order of their declaration."""
        return Figure(self, labels, value.copy() if isinstance(value, Histogram) else value)


class Histogram:
    """Counts values by size. Cheap enough for every request: a binary search and two additions."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ends of the buckets, which hold them; above the last there is one more."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def copy(self) -> "Histogram":
        """As it is now: what is told of it is written down beside the loop."""
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.sum = self.sum
        return other

    def add(self, other: "Histogram") -> None:
        """Count in what another one of the same buckets counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Figure(Struct, frozen=True):
    """What one metric is now, for one combination of labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


class Measured(Protocol):
    """A part that can be asked for its figures. It is asked on the loop, and answers from memory."""

    def figures(self) -> Iterable[Figure]:
        """Equal labels of one metric, told by several parts, are added up."""
