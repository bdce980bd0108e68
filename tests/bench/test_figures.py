"""What is computed from what was measured."""

import pytest

from bench.cases import CASES
from bench.figures import Middle, Sample, Target, judge, middle, percentile


def rates(*values: float) -> list[Sample]:
    return [Sample(rate=value) for value in values]


def test_middle_is_the_median_with_its_extremes() -> None:
    """One round that was disturbed moves an extreme, not the median."""
    assert middle(rates(100, 5, 110, 105, 102), "rate") == Middle(102, 5, 110)


def test_middle_of_what_was_not_measured_is_none() -> None:
    """A load that tells no latency leaves it out."""
    assert middle(rates(1, 2, 3), "p50_ms") is None


def test_ratio_is_taken_within_each_round() -> None:
    """What slows a whole round down slows both sides, and leaves the ratio alone."""
    target = Target(text="2x", ours="a", theirs=("b",), at_least=2.0)
    verdict = judge(target, {"a": rates(200, 20, 210), "b": rates(100, 10, 100)})
    assert verdict is not None
    assert verdict.found == Middle(2.0, 2.0, 2.1)
    assert verdict.reached


def test_ratio_to_several_takes_the_slowest_of_the_round() -> None:
    """ "The slower of the two alone" is decided in each round."""
    target = Target(text="0.6x", ours="a", theirs=("b", "c"), at_least=0.6)
    verdict = judge(target, {"a": rates(50, 50, 50), "b": rates(100, 200, 100), "c": rates(200, 100, 200)})
    assert verdict is not None
    assert verdict.found == Middle(0.5, 0.5, 0.5)
    assert not verdict.reached


@pytest.mark.parametrize(("ours", "reached"), [(0.55, True), (0.75, False)])
def test_difference_is_held_to_its_upper_bound(ours: float, reached: bool) -> None:
    """A latency may lie so far above that of the disk, and no further."""
    target = Target(text="", ours="a", theirs=("b",), kind="difference", measure="p50_ms", at_most=0.4)
    verdict = judge(target, {"a": [Sample(p50_ms=ours)], "b": [Sample(p50_ms=0.2)]})
    assert verdict is not None
    assert verdict.reached is reached


def test_share_is_one_at_the_bound_and_above_it_beyond() -> None:
    """Bounds from above and from below are told on one scale."""
    least = judge(Target(text="", ours="a", kind="value", at_least=10.0), {"a": rates(20)})
    most = judge(Target(text="", ours="a", kind="value", at_most=10.0), {"a": rates(20)})
    assert least is not None
    assert most is not None
    assert (least.share, most.share) == (2.0, 0.5)


def test_nothing_is_judged_without_figures_of_both_sides() -> None:
    """A case that failed half-way gives no verdict."""
    target = Target(text="", ours="a", theirs=("b",), at_least=1.0)
    assert judge(target, {"a": rates(1), "b": []}) is None
    assert judge(target, {}) is None


def test_percentile_is_the_nearest_rank() -> None:
    """The 99th percentile of a hundred values leaves one above it at most."""
    values = [float(value) for value in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_targets_are_about_contestants_of_their_case() -> None:
    """A renamed contestant can't silently lose its target; names of cases are unique."""
    for case in CASES:
        for target in case.targets:
            assert {target.ours, *target.theirs} <= set(case.contestants), case.name
            assert target.bound > 0
    assert len({case.name for case in CASES}) == len(CASES)
