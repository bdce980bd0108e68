"""The connections that speak HTTP/1.1 (RFC 9112)."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import structlog
from msgspec import Struct
from starlette.types import ASGIApp

from core.errors import Internal, TriviumError
from transports.rest import connections
from transports.rest.connections import Connections
from transports.rest.credentials import FIELDS, SHOWN, Shown
from transports.rest.exchange import BODY_BYTES, EXCHANGE, Exchange
from transports.rest.heads import BadRequest, Head
from transports.rest.parsing import RequestParser
from transports.rest.presence import ClientGone
from transports.rest.responses import Dates, refusal
from transports.tls.clients import peer_names

log = structlog.get_logger("trivium.rest")

#: Time for a client to see why it is disconnected (RFC 9112, section 9.6): input that nobody reads resets connections.
_LINGER_SECONDS = 1.0
_HTTP2 = b"PRI"
_ASGI = {"version": "3.0", "spec_version": "2.4"}


class Site(Struct, frozen=True):
    """What the connections of a server share."""

    app: ASGIApp
    connections: Connections
    dates: Dates
    speak_http2: Callable[[asyncio.Transport, bytes], None]


class Http1(asyncio.Protocol):
    """One connection: one request after another, each answered by a task of its own.

    What a client sends ahead stays unparsed until the response before it was sent, so that a connection holds at most
    one request, one read of the socket, and one write buffer. The server looks after all together, so that none has a
    timer but for its last second.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.idle_since: float | None = None
        self.is_closing = False
        #: Whether the write buffer is full.
        self.is_stuck = False
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser()
        self._exchange: Exchange | None = None
        self._is_first = True
        self._is_lost = False
        self._is_paused = False
        self._has_eof = False
        self._writers: list[asyncio.Future[None]] = []

    # -- the transport's side

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._scope = {
            "type": "http",
            "asgi": _ASGI,
            "scheme": "https" if self._is_tls else "http",
            "root_path": "",
            "client": client and (client[0], client[1]),
            "server": server and (server[0], server[1]),
        }
        self._state = {"abort": self.abort, "peer": peer_names(transport), SHOWN: Shown()}
        self.idle_since = self._loop.time()
        others = self.site.connections
        if others.closing or others.overfull:
            self.abort()
        elif others.full:
            self._refuse(others.refusal(), 429)
        others.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._has_eof = True
        self._let_go()
        self._wake_writers()
        if self._exchange is None:
            self.site.connections.leave(self)
        else:
            self._exchange.gone = True
            self._exchange.wake()

    def data_received(self, data: bytes) -> None:
        if self.is_closing:
            return
        self._parser.add(data)
        if not (self._is_first and self._switched()):
            self._advance()

    def eof_received(self) -> bool:
        """Half-closed connections get the answers that are being made, but what waits for messages ends without one.

        They can't be told from those whose client left. TLS knows none: asyncio closes it itself.
        """
        self._has_eof = True
        if self._exchange is None or self.is_closing:
            return False
        self._exchange.gone = True
        self._exchange.wake()
        return not self._is_tls

    def pause_writing(self) -> None:
        self.is_stuck = True

    def resume_writing(self) -> None:
        self.is_stuck = False
        self._wake_writers()

    def _let_go(self) -> None:
        """Hold nothing that holds this: it would wait for a collection, with the buffers of TLS, and those are rare."""
        self._state.clear()
        self._parser.end()

    # -- reading

    def _advance(self) -> None:
        """Go on until the data is used up, or waits for the response to be sent."""
        parser = self._parser
        head = None
        try:
            while parser.has_more and not parser.complete:
                if self._exchange is None:
                    head = parser.read_head()
                    if head is None:
                        break
                    self._begin(head)
                else:
                    self._exchange.arrived(parser.read_body(), complete=parser.complete)
        except BadRequest as error:
            self._refuse(error.error, error.status, head)
        else:
            self.adjust_reading()

    def _switched(self) -> bool:
        """Whether this is, or may become, HTTP/2 with prior knowledge (RFC 9113, section 3.3)."""
        data = self._parser.unread[: len(_HTTP2)]
        self._is_first = not self._is_tls and _HTTP2.startswith(data)
        if self._is_first and len(data) == len(_HTTP2):
            self.site.connections.leave(self)
            self.site.speak_http2(self._transport, self._parser.unread)
            self._let_go()
        return self._is_first

    def _begin(self, head: Head) -> None:
        self.idle_since = None
        parser = self._parser
        body = parser.read_body() if parser.has_more and not parser.complete else b""
        exchange = self._exchange = Exchange(self, head, body, complete=parser.complete)
        exchange.gone = self._has_eof
        exchange.task = self._loop.create_task(
            self._serve(exchange, self._scope_of(head, exchange)), name="rest-request"
        )

    def _scope_of(self, head: Head, exchange: Exchange) -> dict[str, Any]:
        if head.scope is None:  # else the head is that of the request before
            path, _, query = head.target.partition(b"?")
            text = path.decode()
            head.scope = {
                **self._scope,
                "http_version": head.version,
                "method": head.method,
                "path": unquote(text) if "%" in text else text,
                "raw_path": path,
                "query_string": query,
                "headers": head.headers,
                FIELDS: dict(head.headers),
            }
        return {**head.scope, "state": self._state.copy(), "extensions": {EXCHANGE: exchange}}

    def adjust_reading(self) -> None:
        """Read from the socket only while there is somebody to take it."""
        exchange = self._exchange
        pause = exchange is not None and (exchange.held > BODY_BYTES or self._parser.has_more)
        if pause != self._is_paused and not self._is_lost:
            self._is_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- answering

    async def _serve(self, exchange: Exchange, scope: dict[str, Any]) -> None:
        try:
            await self.site.app(scope, exchange.receive, exchange.send)
        except (ClientGone, OSError):
            self.abort()
        except Exception:
            log.exception("an application failed", path=scope["path"])
        finally:
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        if self._is_lost:
            self.site.connections.leave(self)
            return
        self.idle_since = self._loop.time()
        if self.is_closing:
            return
        if not exchange.ended:
            if exchange.started or exchange.gone:
                self.abort()
            else:
                self._refuse(Internal("an unexpected error; the log tells more"), 500, exchange.head)
        elif exchange.closes or not self._parser.complete or self.site.connections.closing:
            self._linger()
        else:
            self._parser.next()
            if self._is_paused:
                self._advance()
            if self._has_eof and self._exchange is None:
                self._close()

    def write(self, *data: bytes) -> None:
        """Raises `ClientGone` where the connection is lost."""
        if self._is_lost or self.is_closing:
            raise ClientGone
        for part in data:  # asyncio's own `writelines` does not ask to pause in some 3.12 and 3.13 (gh-127655)
            self._transport.write(part)

    async def drained(self) -> None:
        """Wait until most of what was written was taken; past `SEND_SECONDS` the connection is lost (`ClientGone`)."""
        if self._is_lost:
            raise ClientGone
        writable = self._loop.create_future()
        self._writers.append(writable)
        try:
            async with asyncio.timeout(connections.SEND_SECONDS):
                await writable
        except TimeoutError as error:
            self.abort()
            raise ClientGone from error
        finally:
            with contextlib.suppress(ValueError):
                self._writers.remove(writable)
        if self._is_lost:
            raise ClientGone

    def _wake_writers(self) -> None:
        for writable in self._writers:
            if not writable.done():
                writable.set_result(None)

    # -- ending

    def end(self) -> None:
        if self._exchange is None:
            self._close()

    def abort(self) -> None:
        self.is_closing = True
        self._transport.abort()

    def cancel(self) -> None:
        if self._exchange is not None and self._exchange.task is not None:
            self._exchange.task.cancel()

    def _close(self) -> None:
        self.is_closing = True
        self.idle_since = self._loop.time()
        self._transport.close()

    def _refuse(self, error: TriviumError, status: int, head: Head | None = None) -> None:
        """Answer instead of the application, where none has begun. `head` is that of a request without an exchange."""
        exchange = self._exchange
        if exchange is not None:
            if exchange.started:
                self.abort()
                return
            head = exchange.head
        asks_head = self._parser.unread.lstrip(b"\r\n").startswith(b"HEAD ") if head is None else head.method == "HEAD"
        self._transport.write(refusal(error, status, self.site.dates.line(), bodiless=asks_head))
        self._linger()
        if exchange is not None:
            exchange.gone = True
            exchange.wake()

    def _linger(self) -> None:
        """Say that nothing more will come, and read on for a moment what the client still sends.

        TLS can say so only by closing, which it does at once where all of the request was read.
        """
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        can_half_close = self._transport.can_write_eof()
        is_all = self._exchange is None and self._parser.complete and not self._parser.has_more
        if self.site.connections.closing or (is_all and not can_half_close):
            self._close()
            return
        self.is_closing = True
        if self._exchange is None:
            self.idle_since = self._loop.time()
        if can_half_close:
            with contextlib.suppress(OSError):  # the client reset the connection
                self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)
