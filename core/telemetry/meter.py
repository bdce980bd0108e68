"""What a door counts: its operations, how they ended, how long they took, and what went through it."""

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any, Self

from core.ports import MessageService
from core.settings import Settings
from core.telemetry import vocabulary
from core.telemetry.access import AccessLog
from core.telemetry.figures import Figure, Histogram
from core.telemetry.requests import RequestIds
from core.telemetry.traffic import CountedService, Traffic

#: The codes of those that did not fail by an error of ours.
OK, CANCELLED = "ok", "cancelled"
#: The operation of what was for none, or refused before that was clear.
UNKNOWN = "Unknown"


class Instrument:
    """One operation at one door. Kept by who serves it, so that counting takes no look-up."""

    __slots__ = ("_access", "_describe", "_door", "codes", "name", "seconds")

    def __init__(self, door: str, name: str, access: AccessLog, describe: Callable[[Any], Mapping[str, Any]]) -> None:
        self.name = name
        self.codes: dict[str, int] = {OK: 0}
        self.seconds = Histogram(vocabulary.SECONDS)
        self._door = door
        self._access = access
        self._describe = describe

    def ended(self, code: str, begun: float, subject: object = None, *, times: int = 1) -> None:
        """Count an operation that began at `begun` (`perf_counter`); `subject` is what `describe` is called with."""
        seconds = perf_counter() - begun
        self.codes[code] = self.codes.get(code, 0) + times
        self.seconds.observe(seconds, times)
        if self._access.picks():
            self._access.write(self._door, self.name, code, seconds, self._describe(subject))

    def figures(self) -> Iterator[Figure]:
        for code, count in self.codes.items():
            yield vocabulary.OPERATIONS.of(count, self._door, self.name, code)
        if self.seconds.sum:  # most of the buckets of what nobody uses would be most of a scrape
            yield vocabulary.OPERATION_SECONDS.of(self.seconds, self._door, self.name)


class Meter:
    """The instruments of one door, each made once."""

    def __init__(self, door: str, access: AccessLog) -> None:
        self.requests = RequestIds()
        self.traffic = Traffic(door)
        self._door = door
        self._access = access
        self._instruments: list[Instrument] = []

    @classmethod
    def of(cls, door: str, settings: Settings) -> Self:
        """The meter that the settings describe."""
        return cls(door, AccessLog(settings.access_log, settings.access_log_rate))

    def operation(self, name: str, describe: Callable[[Any], Mapping[str, Any]] = lambda _: {}) -> Instrument:
        """An instrument. `describe` tells for the access log what is known of a request, in the names of ECS."""
        found = Instrument(self._door, name, self._access, describe)
        self._instruments.append(found)
        return found

    def counting(self, service: MessageService) -> MessageService:
        """`service`, with what goes through it counted."""
        return CountedService(service, self.traffic)

    def figures(self) -> Iterator[Figure]:
        yield from self.traffic.figures()
        for instrument in self._instruments:
            yield from instrument.figures()
