"""A case: contestants that do the same work in turns, and what is promised of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TypeAlias

from msgspec import Struct

from bench.figures import Sample, Samples, Target
from bench.ground import Ground

#: Does the work for about so many seconds.
Work: TypeAlias = Callable[[float], Sample]
#: Starts a contestant, for as long as the context is open.
Contestant: TypeAlias = Callable[[Ground], AbstractContextManager[Work]]

TRIVIUM = "Trivium"


class Case(Struct, frozen=True, kw_only=True):
    """A line of the table of targets, or a part of one."""

    name: str
    title: str
    contestants: Mapping[str, Contestant]
    targets: tuple[Target, ...] = ()
    #: What a rate counts.
    unit: str = "messages/s"
    #: Left out of a quick run: it repeats another at another size, or takes minutes to set up.
    only_full: bool = False
    #: Rounds are so many times as many, and as short: a machine changes less in between, where a few per cent count.
    slices: int = 1


class Pace(Struct, frozen=True):
    """How often and how long each contestant works."""

    rounds: int
    seconds: float
    warm_seconds: float


def hold(case: Case, ground: Ground, pace: Pace, tell: Callable[[str], None]) -> Samples:
    """Start and warm all contestants, then let them take turns: A B C A B C ...

    What disturbs the machine for a while then disturbs all of them alike.
    """
    found: dict[str, list[Sample]] = {name: [] for name in case.contestants}
    with ExitStack() as stack:
        works: dict[str, Work] = {}
        for name, contestant in case.contestants.items():
            tell(f"{name} starts")
            works[name] = stack.enter_context(contestant(ground))
            if pace.warm_seconds:
                works[name](pace.warm_seconds)
        slices = case.slices if pace.seconds >= case.slices else 1  # none below a second
        rounds = pace.rounds * slices
        for number in range(1, rounds + 1):
            for name, work in works.items():
                tell(f"round {number} of {rounds}: {name}")
                found[name].append(work(pace.seconds / slices))
    return found
