"""What is said over HTTP/2 (RFC 9113): Hypercorn's, with what it leaves open. Imported once somebody speaks it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import time
from typing import Any

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
from transports.rest.credentials import SHOWN, Shown
from transports.rest.http2 import Http2Connection
from transports.rest.http2_streams import Http2Streams
from transports.rest.presence import ClientGone
from transports.tls.clients import peer_names

#: Above the bound of the intake, so that it answers, and with more than hypercorn would say.
_HEADER_BYTES = 96 * 1024
#: Hypercorn would close connections after a thousand requests.
_MANY = 2**31


class HttpConfig(Config):
    """Hypercorn's configuration; the date header is made once a second."""

    _made = (0, [(b"", b"")])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time())
        if self._made[0] != second:
            self._made = (second, super().response_headers(protocol))
        return self._made[1]


class Talks:
    """What the connections of a server share."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = ASGIWrapper(_in_time(app))  # type: ignore[arg-type]  # the same ASGI in other words
        self.config = _config()
        self.context = WorkerContext(None)
        logging.getLogger("hpack").setLevel(logging.INFO)  # below it tells every header, credentials too

    async def hold(self, connection: Http2Connection, refusal: Overloaded | None) -> None:
        """Talk until the connection ends. With `refusal` it gets no more than that reason."""
        connection.talk = Talk(self, connection)
        await (connection.talk.run() if refusal is None else connection.talk.refuse(refusal))

    async def end(self) -> None:
        """Let connections close after the requests that they have."""
        await self.context.terminated.set()


class Talk(TCPServer):
    """What is said on one connection.

    Requests find `abort` in their scope's state: it drops the connection with what is unsent. `peer` beside it is
    the verified `ClientCertificate`, or None.
    """

    def __init__(self, talks: Talks, connection: Http2Connection) -> None:
        self._connection = connection
        writer = connection.writer
        state = {"abort": connection.abort, "peer": peer_names(writer), SHOWN: Shown()}
        loop = asyncio.get_running_loop()
        super().__init__(talks.app, loop, talks.config, talks.context, state, connection.reader, writer)

    async def run(self) -> None:
        """Serve until the connection ends. Raises what hypercorn makes of input that it did not expect."""
        socket = self.writer.get_extra_info("socket")
        is_tls = self.writer.get_extra_info("ssl_object") is not None
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with _Applications(self.loop) as tasks:
                state = ConnectionState(self.state)
                self.protocol = Http2Streams(  # type: ignore[assignment]  # the one of the two that is wanted here
                    self.app, self.config, self.context, tasks, state, is_tls, client, server, self.protocol_send
                )
                await self.protocol.initiate()
                await self._read_data()
        finally:
            await self._close()
            self.protocol = None  # type: ignore[assignment]  # there will be no more; it holds this

    async def refuse(self, error: Overloaded) -> None:
        """Say goodbye before the first request, so that the client knows that all can be repeated (RFC 9113, 6.8)."""
        goodbye = H2Connection(H2Configuration(client_side=False))
        goodbye.initiate_connection()
        goodbye.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, str(error).encode())
        self.writer.write(goodbye.data_to_send())
        await self._close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):  # hypercorn would start and cancel a task with a timer for each request
            self._connection.idle_since = self.loop.time() if event.idle else None
            if self.context.terminated.is_set():
                self._connection.end()
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        self._connection.idle_since = None
        try:
            async with asyncio.timeout(connections.FLUSH_SECONDS):
                await super()._close()
        finally:
            self._connection.abort()  # does nothing to a connection that is closed


class _Applications(TaskGroup):
    """The tasks of a connection, with inboxes for those of its applications."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        inbox = _Inbox(config.max_app_queue_size)

        async def serve(scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
            try:
                await app(scope, inbox.get, send, sync_spawn, call_soon)
            finally:
                inbox.close()

        await super().spawn_app(serve, config, scope, send)
        return inbox.put


class _Inbox:
    """The events of a stream for its application, which keeps the reader waiting while it leaves too many unread.

    Hypercorn's would keep it waiting for an application that has ended, for ever and with all of the connection; and
    the application with what it sends last, which puts a disconnect here.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._has_room = asyncio.Event()
        self._ended = False

    async def get(self) -> Any:
        event = await self._events.get()
        self._has_room.set()
        return event

    async def put(self, event: Any) -> None:
        self._events.put_nowait(event)
        if event["type"] != "http.disconnect":
            while self._events.qsize() >= self._bound and not self._ended:
                self._has_room.clear()
                await self._has_room.wait()

    def close(self) -> None:
        """The application has ended: nobody waits for it any more."""
        self._ended = True
        self._has_room.set()


def _config() -> HttpConfig:
    config = HttpConfig()
    config.errorlog = logging.getLogger("hypercorn.error")  # without a handler of its own: main sends lines on
    config.include_server_header = False
    config.keep_alive_max_requests = _MANY
    config.h2_max_header_list_size = _HEADER_BYTES
    return config


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
