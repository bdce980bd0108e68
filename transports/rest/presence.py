"""Work that is worth doing only while its client is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from core.errors import let_go


class ClientGone(Exception):
    """The client left: nobody is there to be answered."""


@asynccontextmanager
async def while_present(receive: Receive) -> AsyncIterator[None]:
    """Run the block; once the client has left it is cancelled and `ClientGone` raised."""
    scope = asyncio.timeout(None)
    try:
        async with scope:
            watcher = asyncio.create_task(_watch(receive, scope), name="rest-presence")
            try:
                yield
            finally:
                watcher.cancel()
                await asyncio.wait((watcher,))
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise ClientGone from let_go(error)


async def _watch(receive: Receive, scope: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.reschedule(asyncio.get_running_loop().time())
