"""What one caller may use: so much a second, so many streams."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from core.errors import Overloaded
from core.messages import Message, size_of

Now = Callable[[], float]


class Bucket:
    """A token bucket, in debt after something that is larger than what it held.

    So nothing is refused for good because of its size, and the average holds all the same.
    """

    __slots__ = ("_at", "_burst", "_level", "_now", "rate")

    def __init__(self, rate: float, now: Now = time.monotonic, *, burst: float | None = None) -> None:
        """`rate` a second; it holds `burst`, or else one second's worth."""
        self.rate = rate
        self._burst = max(rate if burst is None else burst, 1.0)
        self._level = self._burst
        self._now = now
        self._at = now()

    def wait(self) -> float:
        """Seconds until something can be taken, 0 if it can now."""
        now = self._now()
        self._level = min(self._burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return 0.0 if self._level >= 1 else (1 - self._level) / self.rate

    def take(self, amount: float = 1) -> None:
        self._level -= amount


class Rates(Struct, frozen=True, kw_only=True):
    """What one principal may use; one address, where there are no principals. 0 is without a bound."""

    requests: float = 0
    messages: float = 0
    bytes: float = 0
    streams: int = 0

    @property
    def bounded(self) -> bool:
        return bool(self.requests or self.messages or self.bytes or self.streams)


class Allowance:
    """What is left of the rates to one caller, over all its connections and all doors."""

    def __init__(self, rates: Rates, now: Now = time.monotonic) -> None:
        self.streams = 0
        self._max_streams = rates.streams
        self._requests = Bucket(rates.requests, now) if rates.requests else None
        self._messages = Bucket(rates.messages, now) if rates.messages else None
        self._bytes = Bucket(rates.bytes, now) if rates.bytes else None
        self._unbounded = self._requests is None and self._messages is None and self._bytes is None

    def request(self) -> None:
        """Count one operation; `Overloaded` if there were too many."""
        if self._requests is not None:
            self._take((self._requests, 1, "requests"))

    def publish(self, messages: Sequence[Message]) -> None:
        """Count one operation that publishes these; `Overloaded`, and nothing is counted, if it is too much."""
        if self._unbounded:
            return
        size = 0 if self._bytes is None else sum(map(size_of, messages))
        self._take(
            (self._requests, 1, "requests"), (self._messages, len(messages), "messages"), (self._bytes, size, "bytes")
        )

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold a place among the caller's open streams and waiting reads."""
        if self._max_streams and self.streams >= self._max_streams:
            raise Overloaded(f"{self.streams} streams of this caller are open, which is the most", retry_after=5.0)
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def _take(self, *wanted: tuple[Bucket | None, int, str]) -> None:
        for bucket, _, what in wanted:
            if bucket is not None and (seconds := bucket.wait()):
                raise Overloaded(f"this caller may use {bucket.rate:g} {what} a second", retry_after=seconds)
        for bucket, amount, _ in wanted:
            if bucket is not None:
                bucket.take(amount)
