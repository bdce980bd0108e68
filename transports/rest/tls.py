"""Connections that are still to agree on TLS, and on what is spoken inside (ALPN, RFC 7301)."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import structlog

from transports.rest.connections import FLUSH_SECONDS, Connections

log = structlog.get_logger("trivium.rest")

#: Time to agree.
_HANDSHAKE_SECONDS = 10.0
#: Of an answer, what may wait inside TLS; it would take eight times as much.
_BUFFER_BYTES = 64 * 1024
#: Pause when the process has no file descriptors left.
_RETRY_SECONDS = 1.0


class Handshakes:
    """Accepts connections, and hands them over when TLS is agreed on: to `http2` where ALPN says so, else to `http1`.

    asyncio's servers tell of a connection only after its handshake, and have no bound on those before; so there is a
    task that accepts, and one for each handshake. Nobody else could count them.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        connections: Connections,
        http1: Callable[[asyncio.Transport], None],
        http2: Callable[[asyncio.Transport], None],
    ) -> None:
        self._context = context
        self._connections = connections
        self._http1 = http1
        self._http2 = http2

    async def accept(self, listener: socket.socket) -> None:
        """Accept for ever."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("a connection can't be accepted", error=repr(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._connections.overfull:
                accepted.close()
            else:
                self._begin(accepted)

    def _begin(self, accepted: socket.socket) -> None:
        handshake = _Handshake(self._made)
        handshake.task = asyncio.create_task(self._secure(handshake, accepted), name="rest-handshake")
        self._connections.add(handshake)

    async def _secure(self, handshake: "_Handshake", accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: handshake,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=FLUSH_SECONDS,
            )
        except OSError:  # also where TLS itself fails: the client was told
            accepted.close()
        finally:
            self._connections.leave(handshake)

    def _made(self, handshake: "_Handshake", transport: asyncio.Transport) -> None:
        self._connections.leave(handshake)
        transport.set_write_buffer_limits(_BUFFER_BYTES)
        is_http2 = transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        (self._http2 if is_http2 else self._http1)(transport)


class _Handshake(asyncio.Protocol):
    """One connection on its way; see `transports.rest.connections.Connection`."""

    def __init__(self, made: Callable[["_Handshake", asyncio.Transport], None]) -> None:
        self.idle_since: float | None = None
        self.is_closing = False
        self.task: asyncio.Task[None] | None = None
        self._made = made

    def connection_made(self, transport: Any) -> None:
        self._made(self, transport)

    def end(self) -> None:
        self.cancel()

    def abort(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
