"""The end of something, as those see it who wait there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from core.errors import let_go


class Closing:
    """Ends what waits, now and from then on: an open call when its door closes, a stream when its credential ends."""

    def __init__(self) -> None:
        self.begun = False
        self._scopes: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Time out every scope, now and from now on."""
        self.begun = True
        for scope in self._scopes:
            if not scope.expired():  # it may be on its way out already, and would raise
                scope.reschedule(0)

    @contextmanager
    def ends(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Let `scope`, which was entered, time out when this begins."""
        if self.begun:
            scope.reschedule(0)
        self._scopes.add(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)

    @asynccontextmanager
    async def until(self, when: float | None = None) -> AsyncIterator[None]:
        """A block that is left at its next wait once this begins, or at `when` by the clock of the loop."""
        scope = asyncio.timeout_at(when)
        try:
            async with scope:
                with self.ends(scope):
                    yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            let_go(error)
