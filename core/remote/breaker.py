"""A circuit breaker: calls keep away from an address that does not answer."""

from collections import deque
from collections.abc import Callable
from enum import StrEnum

#: So many failures in a row open it,
_FAILURES = 5
#: and so does half of the latest calls, if there were enough of them and they are not too old.
_LATEST_CALLS = 20
_LATEST_SECONDS = 10.0


class BreakerState(StrEnum):
    CLOSED = "closed"  # calls pass
    OPEN = "open"  # no call passes
    HALF_OPEN = "half-open"  # a probe is on its way, calls do not pass


class Breaker:
    """The verdict on one address. `changed` is called after each change of `state`."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        """`clock` counts seconds."""
        self.state = BreakerState.CLOSED
        self.reason = ""
        self.last_success = clock()
        self._clock = clock
        self._changed = changed
        self._in_a_row = 0
        self._latest: deque[tuple[float, bool]] = deque(maxlen=_LATEST_CALLS)

    @property
    def closed(self) -> bool:
        return self.state is BreakerState.CLOSED

    def success(self) -> None:
        """A call was answered. One that was begun before the breaker opened changes nothing any more."""
        self.last_success = self._clock()
        self._in_a_row = 0
        self._latest.append((self.last_success, True))

    def failure(self, reason: str) -> None:
        """A call was not answered."""
        now = self._clock()
        self._in_a_row += 1
        self._latest.append((now, False))
        recent = [well for at, well in self._latest if at > now - _LATEST_SECONDS]
        is_often = len(recent) == _LATEST_CALLS and 2 * recent.count(False) >= _LATEST_CALLS
        if self.closed and (self._in_a_row >= _FAILURES or is_often):
            self.open(reason)

    def open(self, reason: str) -> None:
        """Let no call pass."""
        self.reason = reason
        self._become(BreakerState.OPEN)

    def half_open(self) -> None:
        """A probe begins, which `open` or `close` ends."""
        self._become(BreakerState.HALF_OPEN)

    def close(self) -> None:
        """A probe was answered: forget the past, if it was open."""
        self.last_success = self._clock()
        self._in_a_row = 0
        if not self.closed:
            self._latest.clear()
        self._become(BreakerState.CLOSED)

    def _become(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._changed()
