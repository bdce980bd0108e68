"""The listening sockets, and what is spoken on the connections that they accept."""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Iterable

import structlog
from starlette.types import ASGIApp

from core.telemetry.figures import Figure
from core.telemetry.metrics import bound
from transports.rest.connections import Connections
from transports.rest.http1 import Http1, Site
from transports.rest.http1_tls import Http1OverTls
from transports.rest.http2 import Http2
from transports.rest.responses import Dates
from transports.rest.tls import Handshakes

log = structlog.get_logger("trivium.rest")

_BACKLOG = 1024
#: Time for the tasks of connections that were dropped to notice.
_ABORT_SECONDS = 2.0


class HttpServer:
    """Serves an ASGI application over HTTP/1.1 and HTTP/2: by ALPN over TLS, by prior knowledge in clear (RFC 9113).

    Hypercorn's own `serve` has no bound on connections, no way to drop one, and on Python 3.12 and later does not end
    while one is open (https://github.com/pgjones/hypercorn/issues/308); so the sockets and their tasks are kept here.
    """

    def __init__(self, app: ASGIApp, *, max_connections: int, tls: ssl.SSLContext | None = None) -> None:
        """With `tls`, which has to offer `h2` and `http/1.1`, nothing is spoken in clear."""
        self._connections = Connections(min(max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4))
        self._http2 = Http2(app, self._connections)
        self._site = Site(app, self._connections, Dates(), self._http2.speak)
        self._handshakes = (
            None if tls is None else Handshakes(tls, self._connections, self._speak_http1_over_tls, self._http2.speak)
        )
        self._servers: list[asyncio.Server] = []
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []

    async def listen(self, host: str, port: int) -> int:
        """Listen on all addresses of `host`, and answer with the port; `OSError` names what is not free."""
        loop = asyncio.get_running_loop()
        self._listeners = await _bind(host, port)
        for listener in self._listeners:
            if self._handshakes is None:
                server = await loop.create_server(lambda: Http1(self._site), sock=listener, backlog=_BACKLOG)
                self._servers.append(server)
            else:
                accepting = asyncio.create_task(self._handshakes.accept(listener), name="rest-accept")
                self._accepting.append(accepting)
        self._sweeper = asyncio.create_task(self._connections.sweep(), name="rest-idle-connections")
        bound: int = self._listeners[0].getsockname()[1]
        return bound

    def figures(self) -> Iterable[Figure]:
        return bound("rest_connections", len(self._connections), self._connections.limit)

    async def wait(self) -> None:
        """Return when the server was closed; raises if it died."""
        done, _ = await asyncio.wait({self._sweeper, *self._accepting}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled():
                task.result()

    async def close(self, seconds: float) -> None:
        """Accept nothing more, let requests finish for so long, and drop what is left."""
        for server in self._servers:
            server.close()
        for accepting in self._accepting:
            accepting.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        for listener in self._listeners:
            listener.close()
        connections = self._connections
        connections.closing = True
        await self._http2.end()
        for connection in connections:
            connection.end()
        await connections.ended(seconds)
        for connection in connections:
            connection.abort()
        await connections.ended(_ABORT_SECONDS)
        for connection in connections:
            connection.cancel()
        await connections.ended(_ABORT_SECONDS)
        self._sweeper.cancel()
        await asyncio.wait((self._sweeper,))

    def _speak_http1_over_tls(self, transport: asyncio.Transport) -> None:
        protocol = Http1OverTls(self._site)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of `host`, all on one port."""
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(found):
                listener = undo.enter_context(socket.create_server((address[0], port), family=family, backlog=_BACKLOG))
                port = listener.getsockname()[1]
                _drop_the_dead(listener)
                listeners.append(listener)
        except OSError as error:
            raise OSError(error.errno, f"REST can't listen on {host}:{port}: {error.strerror}") from error
        undo.pop_all()
    return listeners


def _drop_the_dead(listener: socket.socket) -> None:
    """Let the kernel end connections whose other end takes nothing for a minute; accepted sockets inherit it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
