"""How late the event loop is."""

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from core.telemetry import vocabulary
from core.telemetry.figures import Figure, Histogram

_PAUSE_SECONDS = 0.25


class LoopLag:
    """Looks, from entering until leaving, how much later than asked the loop calls back. It needs no task."""

    def __init__(self) -> None:
        self._lag = Histogram(vocabulary.SECONDS)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._again()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def figures(self) -> Iterator[Figure]:
        yield vocabulary.LOOP_LAG.of(self._lag)

    def _again(self) -> None:
        self._due = self._loop.time() + _PAUSE_SECONDS
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._lag.observe(max(0.0, self._loop.time() - self._due))
        self._again()
