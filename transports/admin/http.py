"""As much of HTTP/1.1 as probes, scrapers and curl need: one request per connection, all of it bounded."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus

import structlog
from msgspec import Struct

from core.errors import DeadlineExceeded, Internal, InvalidArgument, TooLarge, TriviumError
from transports.documents import PROBLEM, STATUS, problem_document

log = structlog.get_logger("trivium.admin")

_HEAD_BYTES = 8 * 1024
_BODY_BYTES = 1024
#: For the whole request, and for the client to take the answer.
_SECONDS = 10.0
#: A scraper, some probes, and people; whoever comes beyond that is turned away.
_CONNECTIONS = 64
_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\Z")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)\Z")


class Request(Struct, frozen=True):
    """`client` is an address; `headers` go by lower-case names, the values of a repeated one joined by commas."""

    client: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Answer]]


def problem(error: TriviumError, *, status: int | None = None, members: Mapping[str, object] | None = None) -> Answer:
    """As the REST door tells errors."""
    code = int(STATUS[type(error)]) if status is None else status
    return Answer(problem_document(error, status=code, members=members), PROBLEM, code)


class AdminServer:
    """Answers each request by `handler`, and closes its connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def listen(self, host: str, port: int) -> int:
        """Listen on the first address of `host`, and answer with the port; `OSError` says what to change."""
        try:
            ((family, _, _, _, address), *_) = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            listener = socket.create_server((address[0], port), family=family)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the admin listener can't listen on {host}:{port}: {error.strerror}; "
                "use another --admin-port, or --no-admin",
            ) from error
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_HEAD_BYTES)
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Take no more requests, and finish those that are in within a second."""
        self._server.close()
        tasks = [task for task in self._connections.values() if task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS:
            writer.transport.abort()
            return
        self._connections[writer] = asyncio.current_task()
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):  # the client went away, or stalls
                # without an address it was gone before it was served
                client = (writer.get_extra_info("peername") or ("::",))[0]
                answer, with_body = await self._answer(reader, client)
                async with asyncio.timeout(_SECONDS):
                    writer.write(_encode(answer, with_body))
                    await writer.drain()
                    writer.write_eof()
                    await reader.read(_BODY_BYTES)  # until the client closes: a reset would take the answer with it
        finally:
            del self._connections[writer]
            writer.transport.abort()  # what the client did not take by now is lost

    async def _answer(self, reader: asyncio.StreamReader, client: str) -> tuple[Answer, bool]:
        """The answer, and whether its body is sent."""
        try:
            async with asyncio.timeout(_SECONDS):
                request = await _read(reader, client)
        except TimeoutError:
            return problem(DeadlineExceeded("did not arrive in time", field="request"), status=408), True
        except asyncio.LimitOverrunError:
            return problem(TooLarge(f"more than {_HEAD_BYTES} bytes", field="headers"), status=431), True
        except TriviumError as error:
            return problem(error), True
        try:
            return await self._handler(request), request.method != "HEAD"
        except TriviumError as error:
            return problem(error), request.method != "HEAD"
        except Exception:
            log.exception("an admin request failed", method=request.method, path=request.path)
            return problem(Internal("an unexpected error; the log tells more")), True


async def _read(reader: asyncio.StreamReader, client: str) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
    first, *lines = head.split("\r\n")
    line = _REQUEST_LINE.match(first)
    if line is None:
        raise InvalidArgument("is not HTTP/1.1 as RFC 9112 has it", field="request")
    headers: dict[str, str] = {}
    for text in lines:
        header = _HEADER.match(text)
        if header is None:
            raise InvalidArgument("are not as RFC 9112 has them", field="headers")
        name, value = header[1].lower(), header[2].strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if "transfer-encoding" in headers:
        raise InvalidArgument("is not taken here; send a content-length", field="transfer-encoding")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise InvalidArgument("must be a number of bytes", field="content-length")
    if len(length) > 9 or int(length) > _BODY_BYTES:
        raise TooLarge(f"must be at most {_BODY_BYTES} bytes", field="body")
    path, _, query = line[2].partition("?")
    return Request(client, line[1], path, query, headers, await reader.readexactly(int(length)))


def _encode(answer: Answer, with_body: bool) -> bytes:
    headers = (
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *answer.headers,
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{lines}\r\n"
    return head.encode("latin-1") + (answer.body if with_body else b"")
