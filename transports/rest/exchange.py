"""One request and its response on a connection of HTTP/1.1, as ASGI has them."""

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from transports.rest.heads import Head, Headers
from transports.rest.responses import BODILESS, CONTINUE, LAST_CHUNK, chunk, response_head

if TYPE_CHECKING:
    from transports.rest.http1 import Http1

#: Where an application finds the exchange, among the scope's extensions: for what is here, or is sent, in whole.
EXCHANGE = "trivium.exchange"
#: Of a body, what may wait for the application before the client has to.
BODY_BYTES = 64 * 1024
#: Larger parts are not copied to stand in one piece with what frames them.
_COPY_BYTES = 16 * 1024


class Exchange:
    """A request that arrives, and the response to it.

    `send` is done once the transport has room for more; a client that makes none in time loses its connection.
    `receive` tells that the client left even while a response is being sent.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_silent",
        "_start",
        "_told",
        "_waiter",
        "closes",
        "complete",
        "ended",
        "gone",
        "head",
        "held",
        "started",
        "task",
    )

    def __init__(self, connection: "Http1", head: Head, body: bytes, *, complete: bool) -> None:
        """`body` is what is here of it, and `complete` whether that is all."""
        self.task: asyncio.Task[None] | None = None
        #: Whether the request is all here, and whether the response is all sent.
        self.complete = complete
        self.ended = False
        #: Whether a part of the response was sent, so that there can be no other.
        self.started = False
        #: Whether the client will send nothing more.
        self.gone = False
        #: Whether the connection ends with it.
        self.closes = not head.keeps_alive
        #: The bytes of the body that wait for the application.
        self.held = len(body)
        self.head = head
        self._connection = connection
        self._body = [body] if body else []
        self._told = False
        self._waiter: asyncio.Future[None] | None = None
        self._start: tuple[int, Headers] | None = None
        self._chunked = False
        self._silent = False

    def arrived(self, data: bytes, *, complete: bool) -> None:
        """A part of the body came in, or the last of it."""
        self.complete = complete
        if not self.ended:  # the rest is thrown away
            self._body.append(data)
            self.held += len(data)
            self.wake()

    def rest(self) -> bytes | None:
        """What `receive` has not told of the body yet, if all of that is here."""
        if not self.complete or self._told:
            return None
        return self._take_out()

    def wake(self) -> None:
        """Let `receive` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> dict[str, Any]:
        """All of the body that is here, in one event; `http.disconnect` when the client or the response ended."""
        if self.head.waits and not (self.complete or self.held or self.started):
            self.head.waits = False
            self._connection.write(CONTINUE)
        while True:
            if (self._body or self.complete) and not self._told:
                return {"type": "http.request", "body": self._take_out(), "more_body": not self.complete}
            if self.gone or self.ended:
                return {"type": "http.disconnect"}
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _take_out(self) -> bytes:
        """All of the body that is here."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self.held = 0
        self._told = self.complete
        if not self.complete:
            self._connection.adjust_reading()
        return body

    async def send(self, event: Any) -> None:
        """Raises `ClientGone` where the connection is lost."""
        if self.ended:
            raise RuntimeError(f"{event['type']} after the end of the response")
        if event["type"] == "http.response.start":
            self._start = event["status"], event["headers"]
            return
        self._write(event.get("body", b""), more=event.get("more_body", False))
        if self._connection.is_stuck:
            await self._connection.drained()

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response: what takes `send` two events."""
        if self.ended or self._start is not None:
            raise RuntimeError("the response has begun")
        self._start = status, headers
        self._write(body, more=False)
        if self._connection.is_stuck:
            await self._connection.drained()

    def _write(self, data: bytes, *, more: bool) -> None:
        head = b"" if self.started else self._begin()
        if self._silent:
            data = b""
        if self._chunked:
            data = (chunk(data) if data else b"") + (b"" if more else LAST_CHUNK)
        if head and len(data) > _COPY_BYTES:
            self._connection.write(head, data)
        elif head or data:
            self._connection.write(head + data)
        if not more:
            self.ended = True
            self._body = []
            self.held = 0
            self.wake()

    def _begin(self) -> bytes:
        """The head of the response, which goes out with the first part of the body."""
        if self._start is None:
            raise RuntimeError("the response has no beginning")
        site = self._connection.site
        status, headers = self._start
        head, chunked, self.closes = response_head(
            status,
            headers,
            site.dates.line(),
            closes=self.closes or site.connections.closing,
            may_chunk=self.head.version == "1.1",
        )
        self._silent = self.head.method == "HEAD" or status in BODILESS
        self._chunked = chunked and not self._silent
        self.started = True
        return head


def exchange_of(scope: Scope) -> Exchange | None:
    """That of a request over HTTP/1.1."""
    extensions = scope.get("extensions")
    return extensions.get(EXCHANGE) if extensions else None
