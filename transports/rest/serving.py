"""The listening sockets and the connections on them."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Iterable

import structlog
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from starlette.types import ASGIApp

from core.errors import Overloaded
from core.telemetry.figures import Figure
from core.telemetry.metrics import bound
from transports.documents import PROBLEM, problem_document
from transports.rest.connections import Connection, HttpConfig

log = structlog.get_logger("trivium.rest")

#: Time for the head of a request, and between requests. Over the pauses of clients that keep a pool.
_IDLE_SECONDS = 30.0
_SWEEP_SECONDS = 5.0
_BACKLOG = 1024
#: Above the bound of the intake, so that it answers, and with more than hypercorn would say.
_HEADER_BYTES = 96 * 1024
#: Hypercorn would close connections after a thousand requests.
_MANY = 2**31
#: Time for the tasks of connections that were dropped to notice.
_ABORT_SECONDS = 2.0


class HttpServer:
    """Serves an ASGI application over HTTP/1.1 and HTTP/2 (prior knowledge, RFC 9113), with Hypercorn's protocols.

    Hypercorn's own `serve` has no bound on connections, no way to drop one, and on Python 3.12 and later does not end
    while one is open (https://github.com/pgjones/hypercorn/issues/308); so the sockets and their tasks are kept here.
    """

    def __init__(self, app: ASGIApp, *, max_connections: int) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]  # the same ASGI in other words
        self._config = _config()
        self._context = WorkerContext(None)
        self._max_connections = min(max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
        self._connections: dict[Connection, asyncio.Task[None] | None] = {}
        self._servers: list[asyncio.Server] = []
        self._full = False

    async def listen(self, host: str, port: int) -> int:
        """Listen on all addresses of `host`, and answer with the port; `OSError` names what is not free."""
        for listener in await _bind(host, port):
            self._servers.append(await asyncio.start_server(self._serve, sock=listener, backlog=_BACKLOG))
        self._sweeper = asyncio.create_task(self._sweep(), name="rest-idle-connections")
        bound: int = self._servers[0].sockets[0].getsockname()[1]
        return bound

    def figures(self) -> Iterable[Figure]:
        return bound("rest_connections", len(self._connections), self._max_connections)

    async def wait(self) -> None:
        """Return when the server was closed."""
        await asyncio.wait((self._sweeper,))
        if not self._sweeper.cancelled():
            self._sweeper.result()

    async def close(self, seconds: float) -> None:
        """Accept nothing more, let requests finish for so long, and drop what is left."""
        for server in self._servers:
            server.close()
        await self._context.terminated.set()  # tells connections to close after the request they have
        for connection in self._connections:
            connection.end()
        await self._ended(seconds)
        for connection in self._connections:
            connection.abort()
        await self._ended(_ABORT_SECONDS)
        for task in self._tasks():
            task.cancel()
        await self._ended(_ABORT_SECONDS)
        self._sweeper.cancel()
        await asyncio.wait((self._sweeper,))

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in self._connections.values() if task is not None]

    async def _ended(self, seconds: float) -> None:
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._context.terminated.is_set():  # accepted just before the sockets were closed
            writer.close()
            return
        if len(self._connections) >= self._max_connections:
            self._refuse(writer)
            return
        self._full = False
        connection = Connection(self._app, self._config, self._context, reader, writer)
        self._connections[connection] = asyncio.current_task()
        try:
            await connection.run()
        except OSError:
            return  # the client went away
        except Exception as error:  # noqa: BLE001 - one connection ends here, and must not take others along
            log.warning("a connection broke off", error=repr(error))
        finally:
            del self._connections[connection]

    def _refuse(self, writer: asyncio.StreamWriter) -> None:
        if not self._full:
            log.warning("no more connections are taken", open=len(self._connections))
        self._full = True
        writer.write(_refusal(len(self._connections)))
        writer.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = loop.time() - _IDLE_SECONDS
            for connection in self._connections:
                if connection.idle_since is not None and connection.idle_since < oldest:
                    connection.end()


def _config() -> HttpConfig:
    config = HttpConfig()
    config.errorlog = logging.getLogger("hypercorn.error")  # without a handler of its own: main sends lines on
    config.include_server_header = False
    config.keep_alive_max_requests = _MANY
    config.h11_max_incomplete_size = _HEADER_BYTES
    config.h2_max_header_list_size = _HEADER_BYTES
    return config


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


def _refusal(connections: int) -> bytes:
    """An answer to somebody who has no connection yet."""
    error = Overloaded(f"{connections} connections are open, which is the most")
    body = problem_document(error, status=429)
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: {PROBLEM}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body
