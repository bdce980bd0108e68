"""HTTP/2 (RFC 9113), by Hypercorn, with what it leaves open."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import time

import structlog
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import Overloaded
from transports.rest import connections
from transports.rest.connections import Connections
from transports.rest.credentials import SHOWN, Shown
from transports.rest.http2_streams import Http2Streams
from transports.rest.presence import ClientGone
from transports.tls.clients import peer_names

log = structlog.get_logger("trivium.rest")


class HttpConfig(Config):
    """Hypercorn's configuration; the date header is made once a second."""

    _made = (0, [(b"", b"")])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time())
        if self._made[0] != second:
            self._made = (second, super().response_headers(protocol))
        return self._made[1]


class Http2:
    """Opens the connections that speak HTTP/2."""

    def __init__(self, app: ASGIApp, config: HttpConfig, open_connections: Connections) -> None:
        self._app = ASGIWrapper(_in_time(app))  # type: ignore[arg-type]  # the same ASGI in other words
        self._config = config
        self._context = WorkerContext(None)
        self._connections = open_connections
        logging.getLogger("hpack").setLevel(logging.INFO)  # below it tells every header, credentials too

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
        connection = Http2Connection(self._app, self._config, self._context, reader, writer)
        talk = connection.refuse(others.refusal()) if others.full else connection.run()
        connection.task = asyncio.create_task(self._serve(connection, talk), name="rest-http2")
        others.add(connection)

    async def end(self) -> None:
        """Let connections close after the requests that they have."""
        await self._context.terminated.set()

    async def _serve(self, connection: "Http2Connection", talk: Coroutine[None, None, None]) -> None:
        try:
            await talk
        except OSError:
            return  # the client went away
        except Exception as error:  # noqa: BLE001 - one connection ends here, and must not take others along
            log.warning("a connection broke off", error=repr(error))
        finally:
            self._connections.leave(connection)


class Http2Connection(TCPServer):
    """One connection; see `transports.rest.connections.Connection`.

    Requests find `abort` in their scope's state: it drops the connection with what is unsent. `peer` beside it is
    the verified `ClientCertificate`, or None.
    """

    def __init__(
        self,
        app: ASGIWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.abort: Callable[[], None] = writer.transport.abort
        state = {"abort": self.abort, "peer": peer_names(writer), SHOWN: Shown()}
        super().__init__(app, loop, config, context, state, reader, writer)
        self.idle_since: float | None = loop.time()
        self.is_closing = False
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the connection ends. Raises what hypercorn makes of input that it did not expect."""
        socket = self.writer.get_extra_info("socket")
        is_tls = self.writer.get_extra_info("ssl_object") is not None
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup(self.loop) as tasks:
                state = ConnectionState(self.state)
                self.protocol = Http2Streams(  # type: ignore[assignment]  # the one of the two that is wanted here
                    self.app, self.config, self.context, tasks, state, is_tls, client, server, self.protocol_send
                )
                await self.protocol.initiate()
                await self._read_data()
        finally:
            await self._close()

    async def refuse(self, error: Overloaded) -> None:
        """Say goodbye before the first request, so that the client knows that all can be repeated (RFC 9113, 6.8)."""
        goodbye = H2Connection(H2Configuration(client_side=False))
        goodbye.initiate_connection()
        goodbye.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, str(error).encode())
        self.writer.write(goodbye.data_to_send())
        await self._close()

    def end(self) -> None:
        if self.idle_since is not None:
            self.writer.close()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):  # hypercorn would start and cancel a task with a timer for each request
            self.idle_since = self.loop.time() if event.idle else None
            if self.context.terminated.is_set():
                self.end()
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        self.idle_since = None
        try:
            async with asyncio.timeout(connections.FLUSH_SECONDS):
                await super()._close()
        finally:
            self.abort()  # does nothing to a connection that is closed


def _in_time(app: ASGIApp) -> ASGIApp:
    """A client that does not take an event in time loses its connection, as over HTTP/1.1."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(event: Message) -> None:
            try:
                async with asyncio.timeout(connections.SEND_SECONDS):
                    await send(event)
            except TimeoutError as error:
                scope["state"]["abort"]()
                raise ClientGone from error

        await app(scope, receive, send_in_time)

    return bounded
