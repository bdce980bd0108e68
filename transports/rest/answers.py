"""What the door answers with, and how it is sent: within a bound of memory."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from starlette.types import Scope, Send

from core.errors import Overloaded, TriviumError, Unauthenticated
from core.messages import Greeting, Page, StaleGreeting, StaleMessage, StalePage, StoredMessage
from core.telemetry.meter import OK
from transports.documents import PROBLEM, STATUS, problem_document
from transports.rest.exchange import exchange_of

JSON = "application/json"
#: Where the scope holds the id of the request (`core.telemetry.requests`).
REQUEST_ID = "trivium.request_id"
#: Answers above this are counted against the bound; the small ones are bounded by the number of requests.
_LARGE_BYTES = 64 * 1024
#: With the content policy: what others publish is not run, framed, kept or taken for another type by a browser.
_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
#: RFC 6750, section 3: without a code for somebody who showed nothing.
_CHALLENGE = (b"www-authenticate", b'Bearer realm="trivium"')
_BAD_CREDENTIAL = (b"www-authenticate", b'Bearer realm="trivium", error="invalid_token"')


class Answer(Struct, frozen=True, kw_only=True):
    """A whole response. The length is not told where `body` stands for a stream that HEAD asked about."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_policy: bytes = b"default-src 'none'; frame-ancestors 'none'"
    tell_length: bool = True
    code: str = OK

    def head(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers of the response."""
        headers = [
            (b"content-type", self.content_type.encode()),
            (b"content-security-policy", self.content_policy),
            (b"x-request-id", scope[REQUEST_ID].encode()),
            *_ALWAYS,
            *self.headers,
        ]
        if self.tell_length:
            headers.append((b"content-length", b"%d" % len(self.body)))
        return headers

    def start(self, scope: Scope) -> dict[str, Any]:
        """The ASGI event that begins the response."""
        return {"type": "http.response.start", "status": self.status, "headers": self.head(scope)}


def json_answer(document: Mapping[str, Any]) -> Answer:
    return Answer(body=msgspec.json.encode(document))


def age_headers(answer: StoredMessage | Greeting | Page) -> tuple[tuple[bytes, bytes], ...]:
    """What marks an earlier answer: RFC 9111, section 5.1, and RFC 7234, section 5.5.1."""
    if not isinstance(answer, StaleMessage | StaleGreeting | StalePage):
        return ()
    return ((b"age", b"%d" % answer.age), (b"warning", b'110 - "Response is Stale"'))


def problem(
    error: TriviumError,
    scope: Scope,
    *,
    status: int | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    members: Mapping[str, Any] | None = None,
) -> Answer:
    """The problem document (RFC 9457) of an error; `status` overrides the one of its code."""
    status = int(STATUS[type(error)]) if status is None else status
    if error.retry_after is not None:  # RFC 9110, section 10.2.3: whole seconds
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers = (*headers, _CHALLENGE if error.field is None else _BAD_CREDENTIAL)
    instance = scope["raw_path"].decode("ascii", "replace")
    members = {"request_id": scope[REQUEST_ID], **(members or {})}
    body = problem_document(error, status=status, instance=instance, members=members)
    return Answer(status=status, body=body, content_type=PROBLEM, headers=headers, code=error.code)


class Budget:
    """A number of bytes that may be in memory at once, over all connections."""

    def __init__(self, limit: int, what: str) -> None:
        self.used = 0
        self.limit = limit
        self._what = what

    def take(self, size: int) -> None:
        """Count `size` bytes in; `Overloaded`, and nothing counted, if they do not fit."""
        if self.used + size > self.limit:
            raise Overloaded(f"{self.limit} bytes of {self._what} are in memory, which is the most")
        self.used += size

    def give(self, size: int) -> None:
        self.used -= size


class Sender:
    """Sends whole answers. Slow readers of large ones hold memory, which is bounded over all of them."""

    def __init__(self, large_bytes: int) -> None:
        self.large = Budget(large_bytes, "answers")

    async def send(self, answer: Answer, scope: Scope, send: Send) -> Answer:
        """Send all of `answer`; `ClientGone` where the client is not there to take it.

        Returns what was sent: the refusal if there was no memory for it.
        """
        if len(answer.body) > _LARGE_BYTES:
            return await self._send_large(answer, scope, send)
        await _send(answer, scope, send)
        return answer

    async def begin(self, answer: Answer, scope: Scope, send: Send) -> None:
        """Send everything but the end: the client sees the whole answer, the connection stays open."""
        await send(answer.start(scope))
        await send({"type": "http.response.body", "body": answer.body, "more_body": True})

    async def _send_large(self, answer: Answer, scope: Scope, send: Send) -> Answer:
        size = len(answer.body)
        try:
            self.large.take(size)
        except Overloaded as error:
            return await self.send(problem(error, scope), scope, send)
        try:
            await _send(answer, scope, send)
        finally:
            self.large.give(size)
        return answer

    async def end(self, send: Send) -> None:
        await send({"type": "http.response.body"})


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    exchange = exchange_of(scope)
    if exchange is not None and send == exchange.send:
        await exchange.respond(answer.status, answer.head(scope), answer.body)
    else:  # HTTP/2, or somebody between us and the server changes what is sent, as for pages of other origins
        await send(answer.start(scope))
        await send({"type": "http.response.body", "body": answer.body})
