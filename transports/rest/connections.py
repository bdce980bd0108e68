"""The open connections of the door, of any version of HTTP, and what bounds them."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import structlog

from core.errors import Overloaded

log = structlog.get_logger("trivium.rest")

#: Time for a client to take an answer, or a part of a stream. Longer, and it loses its connection.
SEND_SECONDS = 60.0
#: Time for the head of a request, and between requests. Over the pauses of clients that keep a pool.
_IDLE_SECONDS = 30.0
#: Time to hand over what is left to send when a connection closes.
FLUSH_SECONDS = 10.0
_SWEEP_SECONDS = 5.0
#: Connections past the bound that are told so at once; any more are dropped without a word.
_REFUSALS = 64


class Connection(Protocol):
    """What a server needs of a connection."""

    #: Since when it has no request, or is closing; None while it has one. In seconds of the loop's clock.
    idle_since: float | None
    is_closing: bool

    def end(self) -> None:
        """Close it if it has no request, as far as one can know."""

    def abort(self) -> None:
        """Drop it with what is unsent."""

    def cancel(self) -> None:
        """Cancel what it still works on."""


class Connections:
    """All that are open. Each adds itself, and leaves when it is closed and nothing works on it any more."""

    def __init__(self, limit: int) -> None:
        #: Whether each closes after the request that it has.
        self.closing = False
        self.limit = limit
        self._open: set[Connection] = set()
        self._emptied = asyncio.Event()
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open))

    @property
    def full(self) -> bool:
        """Whether no more are served."""
        return len(self._open) >= self.limit

    @property
    def overfull(self) -> bool:
        """Whether there is no room even to refuse one politely."""
        return len(self._open) >= self.limit + _REFUSALS

    def refusal(self) -> Overloaded:
        return Overloaded(f"{len(self._open)} connections are open, which is the most")

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        if len(self._open) > self.limit and not self._has_warned:
            log.warning("no more connections are taken", open=len(self._open))
            self._has_warned = True

    def leave(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self.full:
            self._has_warned = False
        if not self._open:
            self._emptied.set()

    async def ended(self, seconds: float) -> None:
        """Wait until none is left, at most for so long."""
        if self._open:
            self._emptied.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()

    async def sweep(self) -> None:
        """Close what idles, for ever: one task for all costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in self:
                since = connection.idle_since
                if since is None:
                    continue
                if connection.is_closing:
                    if since < now - FLUSH_SECONDS:
                        connection.abort()
                elif since < now - _IDLE_SECONDS:
                    connection.end()
