"""A link that can be cut, frozen, slowed down and taken away."""

import asyncio
import ssl
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards TCP to `target` (host:port), which may change; with `tls` it terminates TLS before it."""

    def __init__(self, target: str, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.connections = 0
        self.port = 0
        self._host = host
        self._tls = tls
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_per_second = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server is not None:
            for listener in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
            await asyncio.sleep(0)  # a connection that was just accepted would be lost, and never closed (CPython 3.11)
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Drop the open connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def freeze(self) -> None:
        """Take and keep everything, pass on nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def trickle(self, bytes_per_second: int) -> None:
        """Pass on no more than that in each direction; 0: as it comes."""
        self._bytes_per_second = bytes_per_second

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():  # it was accepted, and then came `close`
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            host, _, port = self.target.rpartition(":")
            back, there = await asyncio.open_connection(host, int(port))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, there))
                group.create_task(self._copy(back, writer))
        except* (OSError, _Over):
            pass
        except* asyncio.CancelledError:  # by `cut`
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, there):
                if one is not None:
                    one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            chunk = await reader.read(self._bytes_per_second // 10 or _CHUNK_BYTES)
            await self._flowing.wait()
            if not chunk:
                raise _Over
            writer.write(chunk)
            await writer.drain()
            if self._bytes_per_second:
                await asyncio.sleep(0.1)


class _Over(Exception):
    """One end has closed."""
