"""What the inbox acknowledges, and what it has to bury first."""

import asyncio
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Self

import structlog

from core.errors import TriviumError
from transports.amqp.channel import Channel, ChannelLost
from transports.amqp.deadletters import DeadLetters
from transports.amqp.frames import Delivery
from transports.amqp.window import BATCH_BYTES, Window, size_of

log = structlog.get_logger("trivium.amqp")

#: A burial that takes longer is told.
_LATE_SECONDS = 1.0


class Burials:
    """The dead letters of one channel, buried in their order, beside the batches, and acknowledged then.

    RabbitMQ may take none for as long as an alarm lasts. What is stored is acknowledged meanwhile: the queue of the
    inbox may be what the alarm is about, and has to shrink. `finished` is set while nothing waits.
    """

    def __init__(
        self, channel: Channel, window: Window, dead_letters: DeadLetters, tell: Callable[[str], None]
    ) -> None:
        """`tell` takes what is wrong, "" once nothing is."""
        self._channel = channel
        self._window = window
        self._dead_letters = dead_letters
        self._tell = tell
        self._waiting: deque[tuple[Delivery, TriviumError]] = deque()
        self._came = asyncio.Event()
        self.finished = asyncio.Event()
        self.finished.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="amqp burials")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is not buried is not acknowledged, and comes again."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self.finished.set()

    def settle(self, settled: Sequence[tuple[Delivery, TriviumError | None]]) -> None:
        """Acknowledge those that are stored, and have the others buried. Raises what ended the burials, a defect."""
        if self._task.done():
            self._task.result()
        dead = [(delivery, error) for delivery, error in settled if error is not None]
        if dead:
            log.warning("messages go to the dead letters", n=len(dead), code=dead[0][1].code, first=str(dead[0][1]))
            self._waiting += dead
            self.finished.clear()
            self._came.set()
        stored = [delivery for delivery, error in settled if error is None]
        self._acknowledge(stored)
        self._window.release(stored)

    def _acknowledge(self, stored: Sequence[Delivery]) -> None:
        """All up to the first that waits at once, and what comes after it one by one."""
        first = self._waiting[0][0].tag if self._waiting else math.inf
        before = bisect_left(stored, first, key=attrgetter("tag"))
        if before:
            self._channel.ack(stored[before - 1].tag, multiple=True)
        for delivery in stored[before:]:
            self._channel.ack(delivery.tag)

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while dead := self._first():
                await self._bury(dead)
                try:
                    self._buried([delivery for delivery, _ in dead])
                except ChannelLost:  # which ends the session
                    return
            self.finished.set()

    def _first(self) -> list[tuple[Delivery, TriviumError]]:
        """Those that waited longest, as many as are sent at once."""
        found = []
        size = 0
        for delivery, error in self._waiting:
            if size >= BATCH_BYTES:
                break
            found.append((delivery, error))
            size += size_of(delivery)
        return found

    def _buried(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._channel.ack(delivery.tag)
            self._waiting.popleft()
        self._window.release(deliveries)

    async def _bury(self, dead: Sequence[tuple[Delivery, TriviumError]]) -> None:
        late = asyncio.get_running_loop().call_later(_LATE_SECONDS, self._tell, "RabbitMQ does not take dead letters")
        try:
            await self._dead_letters.bury(dead)
        finally:
            late.cancel()
            self._tell("")
