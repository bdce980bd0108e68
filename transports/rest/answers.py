"""What the door answers with, and how it is sent: under a deadline and within a bound of memory."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from starlette.types import Scope, Send

from core.errors import Overloaded, TriviumError
from core.messages import Greeting, Page, StaleGreeting, StaleMessage, StalePage, StoredMessage
from transports.documents import PROBLEM, STATUS, problem_document
from transports.rest.presence import ClientGone

JSON = "application/json"
#: Time for a client to take an answer, or a part of a stream. Longer, and it loses its connection.
SEND_SECONDS = 60.0
#: Answers above this are counted against the bound; the small ones are bounded by the number of requests.
_LARGE_BYTES = 64 * 1024


class Answer(Struct, frozen=True, kw_only=True):
    """A whole response. The length is not told where `body` stands for a stream that HEAD asked about."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    tell_length: bool = True

    def start(self) -> dict[str, Any]:
        """The ASGI event that begins the response."""
        headers = [(b"content-type", self.content_type.encode()), (b"cache-control", b"no-store"), *self.headers]
        if self.tell_length:
            headers.append((b"content-length", b"%d" % len(self.body)))
        return {"type": "http.response.start", "status": self.status, "headers": headers}


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
    instance = scope["raw_path"].decode("ascii", "replace")
    body = problem_document(error, status=status, instance=instance, members=members)
    return Answer(status=status, body=body, content_type=PROBLEM, headers=headers)


class Budget:
    """A number of bytes that may be in memory at once, over all connections."""

    def __init__(self, limit: int, what: str) -> None:
        self.used = 0
        self._limit = limit
        self._what = what

    def take(self, size: int) -> None:
        """Count `size` bytes in; `Overloaded`, and nothing counted, if they do not fit."""
        if self.used + size > self._limit:
            raise Overloaded(f"{self._limit} bytes of {self._what} are in memory, which is the most")
        self.used += size

    def give(self, size: int) -> None:
        self.used -= size


class Sender:
    """Sends whole answers. Slow readers of large ones hold memory, which is bounded over all of them."""

    def __init__(self, large_bytes: int) -> None:
        self._large = Budget(large_bytes, "answers")

    async def send(self, answer: Answer, scope: Scope, send: Send) -> None:
        """Send all of `answer`; a client that does not take it in time loses its connection (`ClientGone`)."""
        if len(answer.body) <= _LARGE_BYTES:
            await self._send(answer, scope, send)
            return
        try:
            self._large.take(len(answer.body))
        except Overloaded as error:
            await self._send(problem(error, scope), scope, send)
            return
        try:
            await self._send(answer, scope, send)
        finally:
            self._large.give(len(answer.body))

    async def begin(self, answer: Answer, scope: Scope, send: Send) -> None:
        """Send everything but the end: the client sees the whole answer, the connection stays open."""
        await self._send(answer, scope, send, more=True)

    async def end(self, scope: Scope, send: Send) -> None:
        await within_deadline(send, {"type": "http.response.body"}, scope)

    async def _send(self, answer: Answer, scope: Scope, send: Send, *, more: bool = False) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send(answer.start())
                await send({"type": "http.response.body", "body": answer.body, "more_body": more})
        except TimeoutError as error:
            cut(scope)
            raise ClientGone from error


async def within_deadline(send: Send, event: dict[str, Any], scope: Scope) -> None:
    """Send one event; a client that does not take it in time loses its connection (`ClientGone`)."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await send(event)
    except TimeoutError as error:
        cut(scope)
        raise ClientGone from error


def cut(scope: Scope) -> None:
    """Drop the connection with what is unsent. ASGI has no word for it, so the server leaves a function."""
    abort = scope.get("state", {}).get("abort")
    if abort is not None:
        abort()
