"""What was measured, and what is computed from it."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, TypeAlias

from msgspec import Struct


class Sample(Struct, frozen=True, omit_defaults=True):
    """One contestant in one round. What a load does not tell is None."""

    #: Messages or requests per second.
    rate: float | None = None
    #: Latency as the load saw it.
    p50_ms: float | None = None
    p99_ms: float | None = None
    #: CPU time of all the server's processes per message, from the kernel's accounting of them.
    cpu_us: float | None = None
    #: Which part of its core the load took; near 1 it is the load that was measured. A broker beside it is not counted.
    load_share: float | None = None
    #: Resident memory of all the server's processes added up, as ps and top show it.
    memory_mib: float | None = None
    #: The same with what several processes share divided between them (proportional set size).
    pss_mib: float | None = None
    #: What one idle follower adds to it.
    follower_kib: float | None = None


Measure: TypeAlias = Literal[
    "rate", "p50_ms", "p99_ms", "cpu_us", "load_share", "memory_mib", "pss_mib", "follower_kib"
]
#: The rounds of each contestant, by its name.
Samples: TypeAlias = Mapping[str, Sequence[Sample]]


class Middle(Struct, frozen=True):
    """The median of some rounds, and their least and greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Middle":
        return cls(median(values), min(values), max(values))


class Target(Struct, frozen=True, kw_only=True):
    """One promise of the table: what is measured of `ours`, by itself or beside `theirs`, and its bound.

    `ratio` divides ours by theirs, `difference` subtracts theirs, `value` takes ours alone. Of several of
    `theirs` the slowest in that round counts.
    """

    text: str
    ours: str
    theirs: tuple[str, ...] = ()
    kind: Literal["ratio", "difference", "value"] = "ratio"
    measure: Measure = "rate"
    at_least: float | None = None
    at_most: float | None = None
    #: Wished for beyond the promise.
    stretch: bool = False
    unit: str = "x"

    @property
    def bound(self) -> float:
        bound = self.at_least if self.at_most is None else self.at_most
        if bound is None:
            raise ValueError(f"{self.text}: a target needs a bound")
        return bound


class Verdict(Struct, frozen=True):
    """How a target came out."""

    target: Target
    found: Middle

    @property
    def reached(self) -> bool:
        if self.target.at_most is not None:
            return self.found.median <= self.target.at_most
        return self.found.median >= self.target.bound

    @property
    def share(self) -> float:
        """1 where the bound was just met, above it beyond; 0 where that can't be said, as of a negative time."""
        if self.target.at_most is None:
            return self.found.median / self.target.bound
        return self.target.at_most / self.found.median if self.found.median > 0 else 0.0


def judge(target: Target, samples: Samples) -> Verdict | None:
    """The verdict over rounds that lie side by side; None where one of the contestants has no figures."""
    sides = [_values(samples.get(name, ()), target.measure) for name in (target.ours, *target.theirs)]
    rounds = min(len(side) for side in sides)
    if not rounds:
        return None
    return Verdict(target, Middle.of([_compared(target, *(side[index] for side in sides)) for index in range(rounds)]))


def middle(samples: Sequence[Sample], measure: Measure) -> Middle | None:
    """The median of one measure; None where it was not measured."""
    values = _values(samples, measure)
    return Middle.of(values) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which `share` of the sorted `values` lie (nearest rank)."""
    if not values:
        raise ValueError("no values")
    return values[min(len(values) - 1, int(len(values) * share))]


def shown(value: float) -> str:
    """A number for people: three digits that count, and thousands kept apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _compared(target: Target, ours: float, *theirs: float) -> float:
    match target.kind:
        case "value":
            return ours
        case "difference":
            return ours - min(theirs)
        case "ratio":
            return ours / min(theirs)


def _values(samples: Sequence[Sample], measure: Measure) -> list[float]:
    return [value for sample in samples if (value := getattr(sample, measure)) is not None]
