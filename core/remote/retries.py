"""When to try again: how often in all, and after which pause."""

import random

#: A failed call may cost its address no more than this part of another call.
_PER_CALL = 0.1
#: What a process that just began may spend, and the most that quiet times save up.
_MOST = 10.0
_BASE_SECONDS = 0.05
_LONGEST_SECONDS = 2.0


class RetryBudget:
    """Retries are at most a tenth of the calls, and ten more: an outage is not answered with more load."""

    def __init__(self) -> None:
        self._left = _MOST

    def earn(self) -> None:
        """A call begins."""
        self._left = min(_MOST, self._left + _PER_CALL)

    def spend(self) -> bool:
        """Whether there is a retry left; it is taken."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def pause(failures: int, *, longest: float = _LONGEST_SECONDS) -> float:
    """Seconds before the next attempt after so many: exponential with full jitter, so that no two stay in step."""
    ceiling: float = min(longest, _BASE_SECONDS * 2 ** min(failures, 16))
    return random.uniform(0, ceiling)  # noqa: S311 - no secret
