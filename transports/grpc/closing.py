"""The end of the door, as its calls see it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Closing:
    """Ends what waits for a peer, so that open calls end by themselves when the door closes."""

    def __init__(self) -> None:
        self.begun = False
        self._scopes: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Time out every scope, now and from now on."""
        self.begun = True
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(0)

    @contextmanager
    def ends(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Let `scope`, which was entered, time out when the door closes."""
        if self.begun:
            scope.reschedule(0)
        self._scopes.add(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)

    @asynccontextmanager
    async def until(self) -> AsyncIterator[None]:
        """A block that is left at its next wait once the door closes."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                with self.ends(scope):
                    yield
        except TimeoutError:
            if not scope.expired():
                raise
