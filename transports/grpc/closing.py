"""The end of the door, as its calls see it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from transports.grpc.arrivals import Arrivals


class Closing:
    """Ends what waits for a peer, so that open calls end by themselves when the door closes."""

    def __init__(self) -> None:
        self.begun = False
        self.arrivals = Arrivals()
        self._scopes: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Time out all of it, now and from now on."""
        self.begun = True
        self.arrivals.end()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(0)

    @asynccontextmanager
    async def until(self) -> AsyncIterator[None]:
        """A block that is left at its next wait once the door closes."""
        scope = asyncio.timeout(0 if self.begun else None)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            if not scope.expired():
                raise
