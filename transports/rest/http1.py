"""HTTP/1.1 (RFC 9112), on llhttp by way of httptools."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import structlog
from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct
from starlette.types import ASGIApp

from core.errors import Internal, Overloaded, TooLarge, TriviumError
from transports.rest import connections
from transports.rest.connections import Connections
from transports.rest.exchange import BODY_BYTES, Exchange
from transports.rest.heads import BadRequest, Head, Headers, bad_request, read_head, unknown_method
from transports.rest.presence import ClientGone
from transports.rest.responses import Dates, refusal

log = structlog.get_logger("trivium.rest")

#: Request line and headers, with what HTTP puts between them.
HEADER_BYTES = 32 * 1024
#: Of a chunked body, what may come without a byte of data: extensions and trailers, which nobody here wants.
_FRAMING_BYTES = 16 * 1024
#: Time for a client to see why it is disconnected (RFC 9112, section 9.6): input that nobody reads resets connections.
_LINGER_SECONDS = 1.0
_EMPTY_LINE = b"\r\n\r\n"
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
    one request, one read of the socket, and one write buffer. None has a timer: the server looks after all together.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.idle_since: float | None = None
        self.is_closing = False
        #: Whether the write buffer is full.
        self.is_stuck = False
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._exchange: Exchange | None = None
        #: What was read and is not used up, from `_at` on; a head also from `_fed` on, where the parser stands.
        self._data = b""
        self._at = 0
        self._fed = 0
        self._headers: Headers = []
        #: Whether the request is all here, and what is missing of its body; None for a chunked one.
        self._complete = False
        self._left: int | None = 0
        #: The end of what the parser had of a chunked body, and the bytes since it last gave data.
        self._tail = b""
        self._framing = 0
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
        self._state = {"abort": self.abort, "peercert": transport.get_extra_info("peercert") or None}
        self.idle_since = self._loop.time()
        others = self.site.connections
        if others.closing or others.overfull:
            self.abort()
        elif others.full:
            self._refuse(Overloaded(f"{len(others)} connections are open, which is the most"), 429)
        others.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._has_eof = True
        self._wake_writers()
        if self._exchange is None:
            self.site.connections.leave(self)
        else:
            self._exchange.gone = True
            self._exchange.wake()

    def data_received(self, data: bytes) -> None:
        if self.is_closing:
            return
        if self._data:
            data = self._data[self._at :] + data
            self._fed = max(0, self._fed - self._at)
        self._data = data
        self._at = 0
        self._advance()

    def eof_received(self) -> bool:
        """Half-closed connections get their answers; TLS knows none (asyncio closes it itself)."""
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

    # -- the parser's side: it is fed one request at a time, and the head in one piece at the latest when it ends

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        if self._exchange is not None:
            self._exchange.arrived(body)

    def on_message_complete(self) -> None:
        self._complete = True

    # -- reading

    def _advance(self) -> None:
        """Go on until the data is used up, or waits for the response to be sent."""
        try:
            while self._at < len(self._data) and not self._complete:
                if not (self._read_head() if self._exchange is None else self._read_body(self._exchange)):
                    return
        except BadRequest as error:
            self._refuse(error.error, error.status)
            return
        except HttpParserError:
            broken = bad_request()
            self._refuse(broken.error, broken.status)
            return
        if self._at == len(self._data):
            self._data = b""
            self._at = 0
        self.adjust_reading()

    def _read_head(self) -> bool:
        """Whether there was a whole head."""
        data, at = self._data, self._at
        if self._is_first and self._switched(data):
            return False
        end = data.find(_EMPTY_LINE, max(at, self._fed - 3)) + 4
        is_whole = end > 3
        if not is_whole:
            end = len(data)
        if end - at > HEADER_BYTES:
            raise BadRequest(TooLarge(f"more than {HEADER_BYTES} bytes", field="headers"), 431)
        begin = max(at, self._fed)
        self._fed = end
        try:
            self._feed(data[begin:end])
        except HttpParserInvalidMethodError:
            method = unknown_method(data, at, end)
            self._parser = HttpRequestParser(self)
            if not is_whole:  # it is fed again, from the beginning
                self._fed = at
                return False
            self._feed(b"POST" + data[at:end].lstrip(b"\r\n")[len(method) :])
        if is_whole:
            self._begin(read_head(data, at, self._headers))
            self._at = end
            self._fed = 0
        return is_whole

    def _switched(self, data: bytes) -> bool:
        """Whether this is, or may become, HTTP/2 with prior knowledge (RFC 9113, section 3.3)."""
        if self._is_tls or not data.startswith(_HTTP2[: len(data)]):
            self._is_first = False
            return False
        if len(data) >= len(_HTTP2):
            self.site.speak_http2(self._transport, data)
            self.site.connections.leave(self)
        return True

    def _begin(self, head: Head) -> None:
        self._left = head.length
        self._headers = []  # trailers come in here, and are forgotten
        self._tail = b""
        self._framing = 0
        self.idle_since = None
        exchange = self._exchange = Exchange(self, head, complete=self._complete)
        exchange.gone = self._has_eof
        exchange.task = self._loop.create_task(self._serve(exchange, self._scope_of(head)), name="rest-request")

    def _scope_of(self, head: Head) -> dict[str, Any]:
        path, _, query = head.target.partition(b"?")
        text = path.decode()
        return {
            **self._scope,
            "http_version": head.version,
            "method": head.method,
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": self._state.copy(),
            "extensions": {},
        }

    def _read_body(self, exchange: Exchange) -> bool:
        data, at = self._data, self._at
        if self._left is None:
            end = _past_empty_line(data, at, self._tail)
            self._tail = data[max(at, end - 3) : end] if end - at >= 3 else (self._tail + data[at:end])[-3:]
            self._framing += end - at
        else:
            end = min(at + self._left, len(data))
            self._left -= end - at
        self._at = end
        self._feed(data[at:end])
        if self._framing > _FRAMING_BYTES and self._left is None:
            raise BadRequest(TooLarge(f"more than {_FRAMING_BYTES} bytes of extensions or trailers", field="body"), 431)
        if self._complete:
            exchange.complete = True
            exchange.wake()
        return True

    def _feed(self, data: bytes) -> None:
        # A request to upgrade is ignored (RFC 9110, section 7.8), but this parser will take no more.
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._parser = HttpRequestParser(self)

    def adjust_reading(self) -> None:
        """Read from the socket only while there is somebody to take it."""
        exchange = self._exchange
        pause = exchange is not None and (bool(self._data) or exchange.held > BODY_BYTES)
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
                self._refuse(Internal("an unexpected error; the log tells more"), 500)
        elif not self._complete:
            self._linger()
        elif exchange.closes or (self._has_eof and not self._data) or self.site.connections.closing:
            self._close()
        else:
            self._complete = False
            if self._data or self._is_paused:
                self._advance()

    def write(self, *data: bytes) -> None:
        """Raises `ClientGone` where the connection is lost."""
        if self._is_lost or self.is_closing:
            raise ClientGone
        if len(data) == 1:
            self._transport.write(data[0])
        else:
            self._transport.writelines(data)

    async def drained(self) -> None:
        """Wait until most of what was written was taken; past `SEND_SECONDS` the connection is lost (`ClientGone`)."""
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

    def _refuse(self, error: TriviumError, status: int) -> None:
        """Answer instead of the application, where no answer has begun."""
        exchange = self._exchange
        if exchange is not None and exchange.started:
            self.abort()
            return
        self._transport.write(refusal(error, status, self.site.dates.line()))
        self._linger()
        if exchange is not None:
            exchange.gone = True
            exchange.wake()

    def _linger(self) -> None:
        """Say that nothing more will come, and read on for a moment what the client still sends."""
        self._data = b""
        self.adjust_reading()
        if self.site.connections.closing:
            self._close()
            return
        self.is_closing = True
        if self._exchange is None:
            self.idle_since = self._loop.time()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)


def _past_empty_line(data: bytes, at: int, tail: bytes) -> int:
    """Where the next empty line from `at` on ends, or the data: no chunked body goes on after the one at its end.

    `tail` is what came before, since the line may have come in two parts.
    """
    if tail:
        end = (tail + data[at : at + 3]).find(_EMPTY_LINE)
        if end >= 0:
            return at + end + 4 - len(tail)
    end = data.find(_EMPTY_LINE, at)
    return len(data) if end < 0 else end + 4
