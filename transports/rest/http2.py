"""The connections that speak HTTP/2 (RFC 9113); what they say is in `http2_talks.py`."""

import asyncio
from importlib import import_module
from typing import Any

import structlog
from starlette.types import ASGIApp

from core.errors import Overloaded
from transports.rest.connections import Connections

log = structlog.get_logger("trivium.rest")


class Http2:
    """Takes over the connections that speak HTTP/2.

    Its libraries take 3.7 MiB and some 70 ms to import, for which a door that is asked over HTTP/1.1 alone has no use.
    So the first connection that speaks it waits for them, on a thread: nobody else does.
    """

    def __init__(self, app: ASGIApp, open_connections: Connections) -> None:
        self._app = app
        self._connections = open_connections
        self._importing = asyncio.Lock()
        self._talks: Any = None

    def speak(self, transport: asyncio.Transport, data: bytes = b"") -> None:
        """Take a connection over; `data` is what it said already. Past the bound it gets no more than a reason."""
        others = self._connections
        if others.closing or others.overfull:
            transport.abort()
            return
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(data)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        connection = Http2Connection(reader, writer)
        serving = self._serve(connection, others.refusal() if others.full else None)
        connection.task = asyncio.create_task(serving, name="rest-http2")
        others.add(connection)

    async def end(self) -> None:
        """Let connections close after the requests that they have."""
        if self._talks is not None:
            await self._talks.end()

    async def _serve(self, connection: "Http2Connection", refusal: Overloaded | None) -> None:
        try:
            async with self._importing:
                if self._talks is None:
                    module = await asyncio.to_thread(import_module, "transports.rest.http2_talks")
                    self._talks = module.Talks(self._app)
            if not connection.writer.is_closing():  # the client may have left meanwhile
                await self._talks.hold(connection, refusal)
        except OSError:
            return  # the client went away
        except Exception as error:  # noqa: BLE001 - one connection ends here, and must not take others along
            log.warning("a connection broke off", error=repr(error))
        finally:
            connection.abort()  # does nothing to a connection that is closed
            self._connections.leave(connection)
            connection.talk = None  # else they would hold each other, and the buffers of TLS, until a collection


class Http2Connection:
    """One connection; see `transports.rest.connections.Connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self.is_closing = False
        self.task: asyncio.Task[None] | None = None
        #: The `http2_talks.Talk` on it, once there is one.
        self.talk: Any = None

    def end(self) -> None:
        if self.idle_since is None or self.writer.is_closing():
            return
        self.is_closing = True
        self.idle_since = asyncio.get_running_loop().time()
        if self.talk is not None:
            self.writer.write(self.talk.protocol.goodbye())
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
