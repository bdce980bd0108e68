"""Rates of one caller."""

import pytest

from core.allowance import Allowance, Bucket, Rates
from core.errors import Overloaded
from core.limits import Limits
from core.messages import new_message


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_refills_at_its_rate() -> None:
    """It holds one second's worth, and tells when the next can be taken."""
    time = Time()
    bucket = Bucket(4, time)
    for _ in range(4):
        assert bucket.wait() == 0
        bucket.take()
    assert bucket.wait() == pytest.approx(0.25)
    time.now += 0.25
    assert bucket.wait() == 0
    time.now += 100
    assert bucket.wait() == 0
    bucket.take(4)
    assert bucket.wait() > 0


def test_what_is_larger_than_the_bucket_is_paid_back() -> None:
    """Nothing is refused for good, and the average holds."""
    time = Time()
    bucket = Bucket(10, time)
    bucket.take(110)
    assert bucket.wait() == pytest.approx(10.1)


def test_a_refusal_costs_nothing() -> None:
    """A publish that one rate refuses does not use up the others."""
    time = Time()
    allowance = Allowance(Rates(requests=10, messages=2, bytes=1000), time)
    allowance.publish([new_message(b"x")] * 2)
    for _ in range(20):
        with pytest.raises(Overloaded, match="2 messages a second") as refused:
            allowance.publish([new_message(b"x")])
        assert refused.value.retry_after == pytest.approx(0.5)
    for _ in range(9):
        allowance.request()
    with pytest.raises(Overloaded, match="10 requests a second"):
        allowance.request()


def test_without_rates_nothing_is_refused() -> None:
    """0 is without a bound."""
    allowance = Allowance(Rates())
    messages = [new_message(bytes(10**6))] * 1000
    for _ in range(10_000):
        allowance.publish(messages)


def test_attributes_count_as_bytes() -> None:
    """As the limits of a message and a batch count: a message without data is not for nothing."""
    time = Time()
    message = new_message(b"", attributes={"region": "\u00e9" * 1000})
    allowance = Allowance(Rates(bytes=1000), time)
    allowance.publish([message])
    with pytest.raises(Overloaded, match="1000 bytes a second") as refused:
        allowance.publish([message])
    assert refused.value.retry_after == pytest.approx((Limits().check(message) - 999) / 1000)
