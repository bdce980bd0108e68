"""How contestants take turns."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.contests import Case, Contestant, Pace, Work, hold
from bench.figures import Sample
from bench.ground import Ground, Occupied


def recorder(name: str, happened: list[str]) -> Contestant:
    @contextmanager
    def contestant(_ground: Ground) -> Iterator[Work]:
        happened.append(f"{name} starts")

        def work(seconds: float) -> Sample:
            happened.append(f"{name} {seconds:g}")
            return Sample(rate=seconds)

        yield work
        happened.append(f"{name} stops")

    return contestant


def test_contestants_warm_up_once_and_then_take_turns(tmp_path: Path) -> None:
    """A B A B: what disturbs the machine for a while disturbs all alike. Warming up leaves no sample."""
    happened: list[str] = []
    case = Case(name="c", title="c", contestants={name: recorder(name, happened) for name in "AB"})
    with Ground(tmp_path / "ground", (0, 0), quick=True) as ground:
        found = hold(case, ground, Pace(rounds=2, seconds=3.0, warm_seconds=1.0), lambda _: None)
    warm = ["A starts", "A 1", "B starts", "B 1"]
    assert happened == [*warm, "A 3", "B 3", "A 3", "B 3", "B stops", "A stops"]
    assert found == {name: [Sample(rate=3.0)] * 2 for name in "AB"}


@pytest.mark.parametrize(("seconds", "expected"), [(4.0, ["A 2", "B 2"] * 4), (1.0, ["A 1", "B 1"] * 2)])
def test_rounds_are_cut_where_little_is_between_the_contestants(
    tmp_path: Path, seconds: float, expected: list[str]
) -> None:
    """More of them, and shorter; but no tool can load for less than a second."""
    happened: list[str] = []
    case = Case(name="c", title="c", contestants={name: recorder(name, happened) for name in "AB"}, slices=2)
    with Ground(tmp_path / "ground", (0, 0), quick=True) as ground:
        hold(case, ground, Pace(rounds=2, seconds=seconds, warm_seconds=0.0), lambda _: None)
    assert happened[2:-2] == expected


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    """They would measure each other, in one folder; afterwards the folder is gone."""
    folder = tmp_path / "ground"
    with Ground(folder, (0, 0), quick=True) as first:
        assert first.fresh("x") != first.fresh("x")
        with pytest.raises(Occupied), Ground(folder, (0, 0), quick=True):
            pass
        assert folder.exists()
    assert not folder.exists()
