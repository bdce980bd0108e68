"""A TCP proxy between Trivium and RabbitMQ, whose links can be cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Passes everything on; `cut` ends all links, and while `away` none is made."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._links: set[asyncio.StreamWriter] = set()
        self._ended = asyncio.Event()
        self.away = False

    def cut(self) -> None:
        for writer in self._links:
            writer.transport.abort()

    async def closed(self) -> None:
        """Cuts all links, and returns when they have ended."""
        self.cut()
        if self._links:
            await self._ended.wait()

    async def link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.transport.abort()
            return
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._port)
        both = {writer, their_writer}
        self._links |= both
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(reader, their_writer))
                tasks.create_task(_pass_on(their_reader, writer))
        finally:
            self._links -= both
            for end in both:
                end.transport.abort()
            if not self._links:
                self._ended.set()
                self._ended = asyncio.Event()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


@asynccontextmanager
async def proxy(to_port: int) -> AsyncIterator[tuple[Proxy, int]]:
    """The proxy, and the port that it listens on."""
    found = Proxy(to_port)
    server = await asyncio.start_server(found.link, "127.0.0.1", 0)
    try:
        yield found, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await found.closed()
