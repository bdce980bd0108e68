"""Takes requests in whole, within bounds, before anything else looks at them but what answers pages of other origins.

What is not wanted over HTTP/1.1 is read all the same, and thrown away: else the connection would have to be closed. A
stream of HTTP/2 ends in each direction for itself, and what comes after the answer passes by.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import chain
from time import perf_counter
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from core.closing import Closing
from core.errors import DeadlineExceeded, Overloaded, TooLarge, TriviumError, Unavailable, let_go
from core.gate import Gate
from core.settings import Settings
from core.telemetry.figures import Figure
from core.telemetry.meter import Instrument
from core.telemetry.metrics import bound
from core.telemetry.requests import HEADER, RequestIds, brings_trace
from transports.rest.answers import REQUEST_ID, Answer, Budget, Sender, problem
from transports.rest.credentials import FIELDS, admit
from transports.rest.exchange import exchange_of
from transports.rest.parsing import HEADER_BYTES
from transports.rest.presence import ClientGone

log = structlog.get_logger("trivium.rest")

#: Where the body stands in the scope that the application gets.
BODY = "trivium.body"
_GIVEN_ID = HEADER.encode()
#: Requests at once beside the streams and waiting reads.
_REQUESTS = 1000
#: Requests that were refused, and whose bodies are thrown away until they end. Beyond, connections may suffer.
_REFUSED = 1000
#: To see whether a request over HTTP/2 has a body; where it has none, its head mostly says so.
_BEGIN_SECONDS = 1.0


class Intake:
    """Bounds the requests at once, their headers, and their bodies in size, time and sum over all connections."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        sender: Sender,
        settings: Settings,
        requests: RequestIds,
        refused: Instrument,
    ) -> None:
        """The instrument `refused` counts the requests that get no further than here."""
        self.requests = 0
        self.refused = 0
        self._request_ids = requests
        self._refused = refused
        self.bodies = Budget(settings.rest_inflight_bytes, "request bodies")
        self._app = app
        self._gate = gate
        self._sender = sender
        self._max_requests = settings.max_streams + _REQUESTS
        self._max_body = settings.rest_body_bytes
        self._body_seconds = settings.rest_body_seconds
        self._closing = Closing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        try:
            if not scope["raw_path"].startswith(b"/"):
                _to_origin_form(scope)
            refusal, has_body = self._judge(scope)
            if refusal is not None or has_body is None or (body := _here(scope, has_body=has_body)) is None:
                await self._receive(scope, receive, send, refusal, has_body=has_body)
            elif not body:
                scope[BODY] = body
                await self._app(scope, receive, send)
            else:
                await self._take(scope, body, receive, send)
        except (ClientGone, OSError):
            return
        except Exception:
            log.exception("an answer failed", method=scope["method"], path=scope["path"])
        finally:
            self.requests -= 1

    def close(self) -> None:
        """Wait for no more bodies: what has not arrived by now has had no effect."""
        self._closing.begin()

    def figures(self) -> Iterator[Figure]:
        yield from bound("rest_requests", self.requests, self._max_requests)
        yield from bound("rest_body_bytes", self.bodies.used, self.bodies.limit)
        yield from bound("rest_answer_bytes", self._sender.large.used, self._sender.large.limit)

    async def _take(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """A request whose body is here: there is nothing to wait for."""
        size = len(body)
        try:
            await admit(self._gate, scope)  # only whoever is known may fill our memory
            if size > self._max_body:
                raise _too_large(self._max_body)
            self.bodies.take(size)
        except TriviumError as error:
            await self._turn_away(problem(error, scope), scope, send)
            return
        scope[BODY] = body
        try:
            await self._app(scope, receive, send)
        finally:
            self.bodies.give(size)

    async def _receive(
        self, scope: Scope, receive: Receive, send: Send, refusal: Answer | None, *, has_body: bool | None
    ) -> None:
        """A request whose body has to be waited for, if only to be thrown away."""
        body = _Body(receive, self._max_body, self.bodies)
        until = asyncio.get_running_loop().time() + self._body_seconds
        try:
            if refusal is None:
                refusal = await self._arrival(scope, body, until, has_body=has_body)
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await self._turn_away(refusal, scope, send, body, until)
        finally:
            body.release()

    def _judge(self, scope: Scope) -> tuple[Answer | None, bool | None]:
        """Begin a request: what to answer instead if it breaks a bound before its body came, and whether it has one."""
        headers = scope["headers"]
        fields = scope.get(FIELDS)
        if fields is None:
            fields = scope[FIELDS] = dict(headers)
        traced = headers if brings_trace(fields) else ()
        scope[REQUEST_ID] = self._request_ids.begin(fields.get(_GIVEN_ID), traced).id
        declared, is_announced = _framing(fields)
        has_body: bool | None = is_announced
        if scope["http_version"] == "2":  # the parser of HTTP/1.1 bounds heads, and bodies are announced there
            has_body = is_announced or None
            if (size := _head_bytes(scope)) > HEADER_BYTES:
                error = TooLarge(f"{size} bytes of request line and headers, at most {HEADER_BYTES}", field="headers")
                return problem(error, scope, status=431), has_body
        if self.requests > self._max_requests:
            return problem(Overloaded(f"{self._max_requests} requests are open, which is the most"), scope), has_body
        if declared > self._max_body:
            return problem(_too_large(self._max_body), scope), has_body
        return None, has_body

    async def _arrival(self, scope: Scope, body: "_Body", until: float, *, has_body: bool | None) -> Answer | None:
        """Read the body into the scope; what to answer instead if it breaks a bound."""
        try:
            if has_body is None and not await _begins(body):
                scope[BODY] = b""
                return None
            await admit(self._gate, scope)
            async with self._deadline(until):
                await body.arrives()
            scope[BODY] = body.data
        except TimeoutError:
            if self._closing.begun:
                return problem(Unavailable("the service is ending"), scope)
            late = DeadlineExceeded(f"did not arrive within {self._body_seconds:g} seconds", field="body")
            return problem(late, scope, status=408)
        except TriviumError as error:
            return problem(error, scope)
        return None

    async def _turn_away(
        self, answer: Answer, scope: Scope, send: Send, body: "_Body | None" = None, until: float = 0.0
    ) -> None:
        """Answer at once; a connection of HTTP/1.1 is kept until the body, if there is more of it, is in or late.

        Closing a socket with unread input resets it, and the client would never see the answer. It counts no more as
        a request, so that those who have no business here take no places of others. Over HTTP/2 clients may wait for
        the end of the answer before they end the body, or reset it (RFC 9113, section 8.1).
        """
        self.requests -= 1
        self.refused += 1
        try:
            await self._refuse(answer, scope, send, body, until)
        finally:
            self.requests += 1
            self.refused -= 1

    async def _refuse(self, answer: Answer, scope: Scope, send: Send, body: "_Body | None", until: float) -> None:
        begun = perf_counter()
        unread = None if scope["http_version"] == "2" else body
        await (self._sender.send if unread is None else self._sender.begin)(answer, scope, send)
        self._refused.ended(answer.code, begun, (scope, answer.status))
        if unread is not None:
            unread.release()
            if self.refused <= _REFUSED:
                with suppress(TimeoutError):
                    async with self._deadline(until):
                        await unread.discard()
            await self._sender.end(send)

    @asynccontextmanager
    async def _deadline(self, until: float) -> AsyncIterator[None]:
        """Time for the client to send; `close` cuts it short."""
        try:
            async with asyncio.timeout_at(until) as deadline:
                with self._closing.ends(deadline):
                    yield
        except TimeoutError as error:
            let_go(error)
            raise


class _Body:
    """The body of one request on its way in."""

    def __init__(self, receive: Receive, limit: int, budget: Budget) -> None:
        self._receive = receive
        self._limit = limit
        self._budget = budget
        self._held = 0
        self._ended = False
        self._parts: list[bytes] = []

    @property
    def data(self) -> bytes:
        """What came so far."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def begins(self) -> bool:
        """Wait for the first part; False if there is none. Raises what `arrives` does."""
        while not (self._parts or self._ended):
            self._keep(await self._next())
        return bool(self._parts)

    async def arrives(self) -> None:
        """Wait for all of it. Raises `TooLarge`, `Overloaded` or `ClientGone`."""
        while not self._ended:
            self._keep(await self._next())
        self._parts = [self.data]  # whoever takes it holds no other bytes than are counted here

    async def discard(self) -> None:
        """Take in the rest and forget it."""
        while not self._ended:
            await self._next()

    def release(self) -> None:
        self._budget.give(self._held)
        self._held = 0
        self._parts = []

    def _keep(self, part: bytes) -> None:
        if part:
            if self._held + len(part) > self._limit:
                raise _too_large(self._limit)
            self._budget.take(len(part))
            self._held += len(part)
            self._parts.append(part)

    async def _next(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        self._ended = not event.get("more_body", False)
        body: bytes = event.get("body", b"")
        return body


def _here(scope: Scope, *, has_body: bool) -> bytes | None:
    """The whole body, if the server can tell that it is here. A deadline costs as much as all that is done here."""
    if not has_body:
        return b""
    exchange = exchange_of(scope)
    return None if exchange is None else exchange.rest()


async def _begins(body: _Body) -> bool:
    """Whether there is a body, or may be: who sends none and does not say so either is not waited for."""
    try:
        async with asyncio.timeout(_BEGIN_SECONDS):
            return await body.begins()
    except TimeoutError:
        return True


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"must be at most {limit} bytes", field="body")


def _to_origin_form(scope: Scope) -> None:
    """Take the absolute form of a target too, as RFC 9112, section 3.2.2 demands of servers."""
    scheme, _, rest = scope["raw_path"].partition(b"://")
    if scheme.lower() in (b"http", b"https"):
        scope["raw_path"] = b"/" + rest.partition(b"/")[2]
        scope["path"] = unquote(scope["raw_path"].decode("ascii"))


def _framing(fields: Mapping[bytes, bytes]) -> tuple[int, bool]:
    """The length that the body declares, and whether one is announced (RFC 9112, section 6.3)."""
    length = fields.get(b"content-length")
    if length is None:
        return 0, b"transfer-encoding" in fields
    declared = int(length) if length.isdigit() and len(length) < 20 else None  # HTTP/2 takes whatever it is given
    return declared or 0, declared != 0


def _head_bytes(scope: Scope) -> int:
    """Of the request line and the headers, without what stands between them."""
    return len(scope["raw_path"]) + len(scope["query_string"]) + sum(map(len, chain.from_iterable(scope["headers"])))
