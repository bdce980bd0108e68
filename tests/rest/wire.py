"""HTTP/1.1 by hand, for what a well-behaved client does not do."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec
from msgspec import Struct

from transports.rest.door import RestDoor


class Reply(Struct):
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Wire:
    """One connection, on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1024 * 1024)
        self._ask()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """The next whole response that is not informational."""
        response = None
        body = b""
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                self._parser.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
                return Reply(response.status_code, headers, body)

    def again(self) -> None:
        """Another response is to be read from the same connection."""
        self._parser.start_next_cycle()
        self._ask()

    def _ask(self) -> None:
        """Make the parser expect a response: what is really sent does not pass through it."""
        self._parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())

    async def closed(self) -> bytes:
        """What still comes until the other side closes."""
        try:
            return await self.reader.read(-1)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def connected(door: RestDoor, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    address = urlsplit(door.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=tls)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request; its length is told unless `headers` say how the body is framed."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


async def exchanged(host: str, port: int, data: bytes, crumb: int = 0) -> bytes:
    """Everything that is answered to a client that sends `data`, in pieces of `crumb` bytes, and closes its half."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), crumb or len(data)):
            writer.write(data[at : at + (crumb or len(data))])
            await asyncio.sleep(0)
        if not writer.is_closing():
            writer.write_eof()
        async with asyncio.timeout(20):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
