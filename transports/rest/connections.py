"""Hypercorn's connections with what it leaves open: answers to broken HTTP, an end for those who stall."""

import asyncio
from collections.abc import Callable
from time import time
from typing import Any

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from core.errors import InvalidArgument, TooLarge
from transports.documents import PROBLEM, problem_document
from transports.tls.clients import peer_names

#: Time to hand over what is left to send when a connection closes.
_FLUSH_SECONDS = 10.0


class HttpConfig(Config):
    """Hypercorn's configuration; the date header is made once a second."""

    _made = (0, [(b"", b"")])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time())
        if self._made[0] != second:
            self._made = (second, super().response_headers(protocol))
        return self._made[1]


class Connection(TCPServer):
    """One connection. `idle_since` is None while it has a request; the server ends the ones that idle too long.

    Requests find `abort` in their scope's state: it drops the connection with what is unsent. `peer` beside it is
    the verified `ClientCertificate`, or None.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.abort: Callable[[], None] = writer.transport.abort
        super().__init__(app, loop, config, context, {"abort": self.abort}, reader, writer)
        self.idle_since: float | None = loop.time()

    async def run(self) -> None:
        """Serve until the connection ends. Raises what hypercorn makes of input that it did not expect."""
        socket = self.writer.get_extra_info("socket")
        tls = self.writer.get_extra_info("ssl_object")
        self.state["peer"] = peer_names(self.writer)
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup(self.loop) as tasks:
                state = ConnectionState(self.state)
                self.protocol = _Protocol(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    state,
                    tls is not None,
                    client,
                    server,
                    self.protocol_send,
                )
                if tls is not None and tls.selected_alpn_protocol() == "h2":
                    await self.protocol.begin_http2()
                await self._read_data()
        finally:
            await self._close()

    def end(self) -> None:
        """Close it if it has no request, as far as one can know."""
        if self.idle_since is not None:
            self.writer.close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):  # hypercorn would start and cancel a task with a timer for each request
            self.idle_since = self.loop.time() if event.idle else None
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        self.idle_since = None
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await super()._close()
        finally:
            self.abort()  # does nothing to a connection that is closed


class _Protocol(ProtocolWrapper):
    """HTTP/1.1 to begin with; HTTP/2 when the client says so."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._arguments = arguments
        self.protocol = _Http1(*arguments)

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            await self._upgrade(error.data)
        except H2CProtocolRequiredError as error:
            await self._upgrade(error.data, error.headers, error.settings)

    async def begin_http2(self) -> None:
        """As the handshake of TLS has settled it (ALPN, RFC 7301); the client's preface is yet to come."""
        await self._upgrade(b"")

    async def _upgrade(
        self, data: bytes, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        self.protocol = _Http2(*self._arguments)
        await self.protocol.initiate(headers, settings)
        await self.send(Updated(idle=self.protocol.idle))  # the upgrade itself counted as a request
        if data:
            await self.protocol.handle(RawData(data))


class _Http1(H11Protocol):
    """Sends the head of a response together with what follows, and tells what was wrong with broken HTTP."""

    _head = b""

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self._head + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        self._head = b""
        if isinstance(event, h11.Response):
            self._head = data
        elif data:
            await self.send(RawData(data))

    async def _send_error_response(self, status_code: int) -> None:
        error = (
            TooLarge(f"more than {self.config.h11_max_incomplete_size} bytes", field="headers")
            if status_code == 431
            else InvalidArgument("is not HTTP as RFC 9112 has it", field="request")
        )
        status_code = 431 if status_code == 431 else 400
        body = problem_document(error, status=status_code)
        headers = [
            (b"content-type", PROBLEM.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Http2(H2Protocol):
    """Lets data for a stream that was answered early pass by: hypercorn would lose the whole connection over it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.streams = _Streams()


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> "_Ended":
        return _ENDED


class _Ended:
    async def handle(self, event: object) -> None:
        """Nobody is there to take it."""


_ENDED = _Ended()
