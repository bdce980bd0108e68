"""Connections that are still to agree on TLS, and on what is spoken inside (ALPN, RFC 7301)."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from transports.rest.connections import Connections

#: Time to agree, and to say goodbye.
_HANDSHAKE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 5.0

#: Takes a connection over, with what the client said already.
Opener = Callable[[asyncio.Transport, bytes], None]


class Handshake(asyncio.Protocol):
    """A connection on its way into TLS. It counts as soon as it is accepted: asyncio's own servers would not tell."""

    def __init__(self, context: ssl.SSLContext, connections: Connections, http1: Opener, http2: Opener) -> None:
        self.idle_since: float | None = None
        self.is_closing = False
        self._context = context
        self._connections = connections
        self._openers = {"h2": http2}
        self._otherwise = http1
        self._early = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        if self._task is not None:  # uvloop tells of the secured transport as well
            return
        self._raw: asyncio.Transport = transport
        if self._connections.overfull or self._connections.closing:
            transport.abort()
            return
        transport.pause_reading()
        self._connections.add(self)
        self._task = asyncio.create_task(self._secure(), name="rest-handshake")

    def data_received(self, data: bytes) -> None:
        """What a client says as soon as it may."""
        self._early += data

    def end(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.is_closing = True
        self._raw.abort()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _secure(self) -> None:
        try:
            found = await asyncio.get_running_loop().start_tls(
                self._raw,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except (OSError, ssl.SSLError):
            self._raw.abort()
            return
        finally:
            self._connections.leave(self)
        secured = cast(asyncio.Transport, found)
        chosen = secured.get_extra_info("ssl_object").selected_alpn_protocol()
        self._openers.get(chosen, self._otherwise)(secured, self._early)
