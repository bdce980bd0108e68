"""The breaker's verdicts."""

from core.remote.breaker import Breaker, BreakerState


class Time:
    def __init__(self) -> None:
        self.now = 1000.0
        self.changes: list[BreakerState] = []
        self.breaker = Breaker(lambda: self.now, lambda: self.changes.append(self.breaker.state))

    def calls(self, outcomes: str, seconds: float = 0.1) -> None:
        """`.` is an answer, `x` is none."""
        for outcome in outcomes:
            self.now += seconds
            if outcome == ".":
                self.breaker.success()
            else:
                self.breaker.failure("gone")


def test_it_opens_after_failures_in_a_row() -> None:
    """Five open it; four and a success do not. It says why, and tells of the change once."""
    time = Time()
    time.calls("xxxx.xxxx")
    assert time.breaker.closed
    time.calls("xx")
    assert (time.breaker.state, time.breaker.reason) == (BreakerState.OPEN, "gone")
    assert time.changes == [BreakerState.OPEN]


def test_it_opens_when_half_of_the_calls_fail() -> None:
    """Ten of the last twenty are enough, if these are recent."""
    time = Time()
    time.calls(".x" * 9 + ".")
    assert time.breaker.closed
    time.calls("x")
    assert not time.breaker.closed
    slow = Time()
    slow.calls(".x" * 20, seconds=1.0)
    assert slow.breaker.closed


def test_only_a_probe_closes_it() -> None:
    """Answers to calls that were begun before do not; after a probe the past is forgotten."""
    time = Time()
    time.calls("xxxxx...")
    assert not time.breaker.closed
    time.breaker.half_open()
    assert time.breaker.state is BreakerState.HALF_OPEN
    time.breaker.close()
    time.calls("xxxx")
    assert time.breaker.closed
    assert time.changes == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]
